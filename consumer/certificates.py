"""TLS files -> a context for connections, or what is wrong with them. Reads the files.

Python's own checks are used, and its errors put into words: they name neither the file nor the remedy.
"""

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Trouble(NamedTuple):
    """What is wrong with one file, under the name of its setting."""

    setting: str
    message: str
    remedy: str


def troubles(
    ca: Path | None, certificate: Path | None, key: Path | None, password: str | None
) -> list[Trouble]:
    """All that keeps these files from being used; `password` decrypts the key."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return [*_trust(context, ca), *_identify(context, certificate, key, password)]


def context(
    ca: Path | None,
    certificate: Path | None = None,
    key: Path | None = None,
    password: str | None = None,
    *,
    check_hostname: bool = True,
) -> ssl.SSLContext:
    """For files that have no `troubles`.

    Not `ssl.create_default_context`: from Python 3.13 on it refuses what companies' own CAs
    often sign (certificates without a key identifier), and Kafka's other clients take.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # whatever stands in ca_file is trusted, roots or not
    made.check_hostname = check_hostname
    if ca is None:
        made.load_default_certs()
    found = [*_trust(made, ca), *_identify(made, certificate, key, password)]
    if found:
        raise ValueError(f"{found[0].setting} {found[0].message}; {found[0].remedy}")
    return made


def _trust(context: ssl.SSLContext, ca: Path | None) -> Iterator[Trouble]:
    if ca is None:
        return
    if unreadable := _unreadable(ca):
        yield Trouble("ca_file", f"{ca} {unreadable}", "name a PEM file with the brokers' CA certificates")
        return
    try:
        context.load_verify_locations(ca)
    except ssl.SSLError:
        yield Trouble(
            "ca_file",
            f"{ca} holds no certificate in PEM form",
            "it is to hold -----BEGIN CERTIFICATE----- blocks; a Java keystore has to be exported first",
        )


def _identify(
    context: ssl.SSLContext, certificate: Path | None, key: Path | None, password: str | None
) -> Iterator[Trouble]:
    if certificate is None:
        if key is not None:
            yield Trouble("key_file", "is set without certificate_file", "set both, or neither")
        return
    missing = False
    for setting, file in (("certificate_file", certificate), ("key_file", key)):
        if file is not None and (unreadable := _unreadable(file)):
            missing = True
            yield Trouble(setting, f"{file} {unreadable}", "name a readable PEM file")
    if not missing:
        yield from _load_chain(context, certificate, key, password)


def _load_chain(
    context: ssl.SSLContext, certificate: Path, key: Path | None, password: str | None
) -> Iterator[Trouble]:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(certificate)
    except ssl.SSLError:
        yield Trouble(
            "certificate_file",
            f"{certificate} holds no certificate in PEM form",
            "it is to begin with our certificate's -----BEGIN CERTIFICATE----- block",
        )
        return
    asked = False

    def tell() -> str:
        nonlocal asked
        asked = True
        return password or ""

    place, holder = ("key_file", key) if key is not None else ("certificate_file", certificate)
    try:
        context.load_cert_chain(certificate, key, tell)  # without it OpenSSL would ask on the terminal
    except (ssl.SSLError, ValueError) as error:
        if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            message, remedy = (
                f"{holder} is not the key of the certificate in {certificate}",
                "name the two that belong together",
            )
        elif asked and password is None:
            message, remedy = f"{holder} is encrypted", "name the secret with its password in key_password"
        elif asked:
            message, remedy = (
                f"{holder} is not decrypted by the secret of key_password",
                "correct the secret",
            )
        else:
            message, remedy = (
                f"{holder} holds no private key in PEM form",
                "it is to hold a -----BEGIN ... PRIVATE KEY----- block",
            )
        yield Trouble(place, message, remedy)


def _unreadable(file: Path) -> str:
    """Why, or nothing."""
    try:
        file.read_bytes()
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return ""
