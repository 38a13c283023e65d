"""Parameters and a secret -> the signature and the signed form. Performs no I/O."""

import hashlib
from collections.abc import Mapping
from urllib.parse import urlencode


def signature_base(parameters: Mapping[str, str], app_secret: str) -> str:
    """The text that is hashed: raw values, sorted by name, the secret last (domain: signature 1-3)."""
    pairs = [f"{name}={value}" for name, value in sorted(parameters.items()) if value and name != "sign"]
    return "&".join([*pairs, f"app_secret={app_secret}"])


def sign(parameters: Mapping[str, str], app_secret: str) -> str:
    """The value of `sign`: 32 hex digits, upper case (domain: signature 4)."""
    base = signature_base(parameters, app_secret).encode()
    return hashlib.md5(base, usedforsecurity=False).hexdigest().upper()


def encode_form(parameters: Mapping[str, str], app_secret: str) -> bytes:
    """The body to post: the parameters in their order, then `sign`, percent-encoded once.

    Empty values are left out: that satisfies each of the three ways in which the
    documents word their treatment (domain: signature).
    """
    if "app_secret" in parameters:
        raise ValueError("`app_secret` is never sent: take it out of the rules' extra parameters")
    form = {name: value for name, value in parameters.items() if value and name != "sign"}
    form["sign"] = sign(parameters, app_secret)
    return urlencode(form).encode("ascii")
