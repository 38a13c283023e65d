"""Settings -> what aiokafka's clients are given; why Kafka lets nobody in, in our words. Does I/O.

aiokafka logs the reason of a failed connection and raises that it failed. So whoever connects
calls `reach` first: it tries the same, and raises what is wrong, where, and what to do.
"""

import asyncio
import errno
import json
import random
import socket
import ssl
import time
import weakref
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import aiokafka.conn
from aiokafka.abc import AbstractTokenProvider
from aiokafka.conn import AIOKafkaConnection, CloseReason, OAuthAuthenticator, collect_hosts, create_conn
from aiokafka.errors import (
    IllegalSaslStateError,
    KafkaConnectionError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.admin import SaslAuthenticateRequest, SaslHandShakeRequest
from aiokafka.protocol.metadata import MetadataRequest

from consumer import certificates
from consumer.core.errors import BrokerUnavailableError, ConfigurationError, Problem, RefusedError
from consumer.settings import Kafka, OAuth, Security

METADATA_SECONDS = 30
"""A new partition is found within this time."""

IDLE_SECONDS = 180
"""A connection that nothing was sent on for so long is closed by us. Later, what stands between may have forgotten it without
a word (load balancers of clouds after four minutes or less), and the first request after a quiet night would wait in vain."""

TOKEN_SECONDS = 10.0
"""Longest wait for the token endpoint."""

RENEWED_AT = (0.75, 0.9)
"""A connection that the broker ends after a while (`connections.max.reauth.ms`, or its token's end) is renewed at this
part of its time, so that the broker never ends one on which an answer is awaited."""

TOKEN_FRESH = 0.7
"""Part of its time after which an endpoint is asked for the next token: before connections are renewed, see `RENEWED_AT`."""

_LONGEST_REPLY = 64 << 10


class Entry(NamedTuple):
    """What a connection is let in with.

    Attributes:
        trusted: the file with the brokers' CAs, as it was read.

    """

    context: ssl.SSLContext | None
    trusted: bytes
    password: str | None
    tokens: "FileToken | ClientToken | None"

    @classmethod
    def of(cls, security: Security, secret: Callable[[str], str]) -> Self:
        """As files and secrets are now. Reads the files.

        Raises:
            ConfigurationError: a file or a secret is no longer there, or no longer good.

        """
        context, trusted, password, tokens = None, b"", None, None
        if security.tls:
            context = _tls(security, secret)
            trusted = security.ca_file.read_bytes() if security.ca_file is not None else b""
        if security.sasl and security.mechanism == "OAUTHBEARER":
            tokens = _tokens(security, secret)
        elif security.sasl:
            password = secret(security.password)
        return cls(context, trusted, password, tokens)

    def arguments(self) -> dict[str, Any]:
        """By the names that aiokafka has for them."""
        found = {
            "ssl_context": self.context,
            "sasl_plain_password": self.password,
            "sasl_oauth_token_provider": self.tokens,
        }
        return {name: value for name, value in found.items() if value is not None}


def arguments(kafka: Kafka, secret: Callable[[str], str]) -> dict[str, Any]:
    """Keyword arguments that aiokafka's client, consumer, producer and admin client all take.

    Raises:
        ConfigurationError: a file or a secret is no longer there, or no longer good.

    """
    return _arguments(kafka, Entry.of(kafka.security, secret).arguments())


def _arguments(kafka: Kafka, entry: Mapping[str, Any]) -> dict[str, Any]:
    security = kafka.security
    found: dict[str, Any] = {
        "bootstrap_servers": list(kafka.bootstrap_servers),
        "client_id": kafka.client_id,
        "request_timeout_ms": int(kafka.request_timeout * 1000),
        "metadata_max_age_ms": METADATA_SECONDS * 1000,
        "connections_max_idle_ms": IDLE_SECONDS * 1000,
        "security_protocol": security.protocol.upper(),
        **entry,
    }
    if security.sasl:
        found["sasl_mechanism"] = security.mechanism
        if security.mechanism != "OAUTHBEARER":
            found["sasl_plain_username"] = security.username
    return found


class Access:
    """How clients that stay connected are let in to Kafka, while passwords, tokens and certificates may change.

    Attributes:
        entry: of connections that are opened from now on.

    """

    def __init__(self, kafka: Kafka, secret: Callable[[str], str]) -> None:
        """Raises ConfigurationError as `Entry.of`."""
        self.kafka = kafka
        self.entry = Entry.of(kafka.security, secret)
        self._open: weakref.WeakSet[_Connection] = weakref.WeakSet()

    def arguments(self) -> dict[str, Any]:
        """As the function `arguments` gives them; each connection is let in by the entry that is in force when it is opened."""
        return _arguments(self.kafka, dict.fromkeys(self.entry.arguments(), self))

    def arguments_of(self, entry: Entry) -> dict[str, Any]:
        """Likewise, to try this entry."""
        return _arguments(self.kafka, entry.arguments())

    def opened(self, connection: "_Connection") -> None:
        """It is one of those that `renew` renews."""
        self._open.add(connection)

    def renew(self) -> int:
        """Ends each connection of an earlier entry once no answer is awaited on it, so that its client opens a new one.

        No request is lost by it, and a member stays in its group. Returns how many such connections there are.
        """
        old = [each for each in self._open if each.entry is not self.entry and each.connected()]
        for connection in old:
            connection.renew()
        return len(old)


def member_arguments(kafka: Kafka) -> dict[str, Any]:
    """Those of a consumer in addition: where it stands, and who it is."""
    return {"client_rack": kafka.client_rack, "group_instance_id": kafka.group_instance_id}


def secrets_named(security: Security) -> list[str]:
    """The names of the secrets that an `Entry` is made of."""
    names = [security.key_password] if security.tls else []
    if security.sasl:
        asks = security.oauth.token_url is not None
        oauth = security.mechanism == "OAUTHBEARER"
        names.append((security.oauth.client_secret if asks else None) if oauth else security.password)
    return [name for name in names if name is not None]


def files_named(security: Security) -> list[Path]:
    """The files that an `Entry` is made of."""
    tls, oauth = security.tls, security.sasl and security.mechanism == "OAUTHBEARER"
    files = [
        security.ca_file if tls or oauth else None,
        security.certificate_file if tls else None,
        security.key_file if tls else None,
        security.oauth.token_file if oauth else None,
    ]
    return [file for file in files if file is not None]


def secrets_in_use(kafka: Kafka, secret: Callable[[str], str]) -> list[str]:
    """What `arguments` makes use of, and no line may hold."""
    return [secret(name) for name in secrets_named(kafka.security)]


def _tls(security: Security, secret: Callable[[str], str]) -> ssl.SSLContext:
    password = secret(security.key_password) if security.key_password is not None else None
    files = (security.ca_file, security.certificate_file, security.key_file, password)
    try:
        return certificates.context(*files, check_hostname=security.check_hostname)
    except ValueError as error:
        raise ConfigurationError(
            [
                Problem(f"kafka.security.{trouble.setting}", trouble.message, trouble.remedy)
                for trouble in certificates.troubles(*files)
            ]
        ) from error


class _OAuthAuthenticator(OAuthAuthenticator):  # type: ignore[misc]  # aiokafka has no types
    """A broker that refuses a token says so in an answer without an error code; aiokafka takes that for a yes."""

    async def step(self, payload: bytes | None) -> tuple[bytes, bool] | None:
        if payload:
            raise SaslAuthenticationFailed(payload[:200].decode("utf-8", "replace"))
        found: tuple[bytes, bool] | None = await super().step(payload)
        return found


aiokafka.conn.OAuthAuthenticator = _OAuthAuthenticator


class _Connection(AIOKafkaConnection):  # type: ignore[misc]  # aiokafka has no types
    """A connection that is let in by the entry of its `Access`, as that is when it is opened, and that can be renewed.

    To write to one that was reset is a connection error also on uvloop, which raises a RuntimeError where the reset
    has not been noticed yet.
    """

    def __init__(self, *place: Any, **options: Any) -> None:
        self._access = next((each for each in options.values() if isinstance(each, Access)), None)
        self.entry = self._access.entry if self._access is not None else None
        if self.entry is not None:
            options |= self.entry.arguments()
        self._session_seconds = 0.0
        self._outdated = False
        super().__init__(*place, **options)

    async def connect(self) -> Any:
        """As aiokafka does; then it can be renewed."""
        found = await super().connect()
        if self._access is not None:
            self._access.opened(self)
            if self._session_seconds > 0:
                after = self._session_seconds * random.uniform(*RENEWED_AT)  # noqa: S311  # jitter, not cryptography
                self._loop.call_later(after, _renew, weakref.ref(self))
        return found

    def renew(self) -> None:
        """It ends when nothing is awaited on it. Whoever sends something next does so on a new one."""
        self._outdated = True
        self._end_if_outdated()

    def _end_if_outdated(self) -> None:
        if self._outdated and not self._requests:
            self.close(reason=CloseReason.IDLE_DROP)

    def _handle_frame(self, answer: bytes) -> None:  # as aiokafka has it
        super()._handle_frame(answer)
        self._end_if_outdated()

    def send(self, request: Any, expect_response: bool = True) -> Awaitable[Any]:  # likewise
        answer = self._written(super().send, request, expect_response)
        if isinstance(request, SaslAuthenticateRequest):
            return self._authenticated(answer)
        if isinstance(request, MetadataRequest) and self._on_close_cb is None:
            return self._else_closed(answer)
        return answer

    async def _else_closed(self, answer: Awaitable[Any]) -> Any:
        """Closes a client's first connection if the client is cancelled while it asks on it: aiokafka would leave it open."""
        try:
            return await answer
        except asyncio.CancelledError:
            self.close()
            raise

    async def _authenticated(self, answer: Awaitable[Any]) -> Any:
        """The broker tells how long it holds for (KIP-368); 0: for ever."""
        reply = await answer
        self._session_seconds = getattr(reply, "session_lifetime_ms", 0) / 1000
        return reply

    def _send_sasl_token(
        self, payload: bytes, expect_response: bool = True
    ) -> Awaitable[Any]:  # as aiokafka has it
        return self._written(super()._send_sasl_token, payload, expect_response)

    def _written(self, send: Callable[..., Awaitable[Any]], *arguments: Any) -> Awaitable[Any]:
        try:
            return send(*arguments)
        except RuntimeError as error:
            self.close(reason=CloseReason.CONNECTION_BROKEN)
            raise KafkaConnectionError(f"the connection to {self.host}:{self.port} is closed") from error


def _renew(connection: "weakref.ref[_Connection]") -> None:
    if (alive := connection()) is not None:
        alive.renew()


aiokafka.conn.AIOKafkaConnection = _Connection


# -- Tokens -----------------------------------------------------------------------------------------


class TokenError(KafkaError):  # type: ignore[misc]  # aiokafka has no types
    """There is no token. One of Kafka's errors, so that aiokafka takes it for a failed connection and goes on."""

    def __init__(self, trouble: str, remedy: str) -> None:
        super().__init__(trouble)
        self.trouble = trouble
        self.remedy = remedy


def _tokens(security: Security, secret: Callable[[str], str]) -> "FileToken | ClientToken":
    oauth = security.oauth
    if oauth.token_file is not None:
        return FileToken(oauth.token_file)
    trust = ssl.create_default_context()
    if security.ca_file is not None:
        trust.load_verify_locations(security.ca_file)
    return ClientToken(oauth, secret(oauth.client_secret), trust)


class FileToken(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka has no types
    """The token that stands in a file, which something else renews."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._last = ""

    async def token(self) -> str:
        """As it stands there now; where none does, the last that did. Raises TokenError."""
        try:
            self._last = await self._read()
        except TokenError:
            if not self._last:
                raise
        return self._last

    async def _read(self) -> str:
        try:
            text = (await asyncio.to_thread(self._file.read_text, "utf-8")).strip()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise TokenError(
                f"the token in {self._file} cannot be read: {why}",
                "correct kafka.security.oauth.token_file, or look at what writes it",
            ) from error
        if not text or not text.isascii() or any(character.isspace() for character in text):
            raise TokenError(
                f"{self._file} " + ("holds no token" if text else "is empty"),
                "it is to hold the token and nothing else",
            )
        return text


class ClientToken(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka has no types
    """The token that an endpoint gives to us as a client (RFC 6749, client credentials).

    The next is asked for well before it expires. Where the endpoint gives none it serves until shortly before.
    """

    def __init__(
        self,
        oauth: OAuth,
        client_secret: str,
        trust: ssl.SSLContext,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = str(oauth.token_url)
        self._scope = oauth.scope
        user = b64encode(f"{oauth.client_id}:{client_secret}".encode()).decode()
        self._headers = {"Accept": "application/json", "Authorization": f"Basic {user}"}
        self._trust = trust
        self._clock = clock
        self._asking = asyncio.Lock()
        self._token = ""
        self._fresh_until = self._good_until = float("-inf")

    async def token(self) -> str:
        """The one that we have while it is good, else a new one. Raises TokenError."""
        async with self._asking:  # several connections open at once, and one token serves them all
            asked_at = self._clock()
            if asked_at >= self._fresh_until:
                try:
                    self._token, seconds = await self._ask()
                except TokenError:
                    if self._clock() >= self._good_until:
                        raise
                else:
                    self._fresh_until = asked_at + seconds * TOKEN_FRESH
                    self._good_until = asked_at + seconds - min(30.0, seconds / 5)
            return self._token

    async def _ask(self) -> tuple[str, float]:
        import aiohttp  # noqa: PLC0415  # a tenth of the service's memory, and who has no token endpoint needs none of it

        form = {"grant_type": "client_credentials"} | ({"scope": self._scope} if self._scope else {})
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TOKEN_SECONDS)) as session,
                session.post(
                    self._url,
                    data=form,
                    headers=self._headers,
                    ssl=self._trust,
                    allow_redirects=False,
                ) as response,
            ):
                status, body = response.status, await response.content.read(_LONGEST_REPLY)
        except TimeoutError as error:
            raise self._failed(
                f"does not answer within {TOKEN_SECONDS:g} s", "look whether it runs, and at the address"
            ) from error
        except aiohttp.ClientConnectorCertificateError as error:
            raise self._failed(
                f"shows a certificate that we do not trust ({_verification(error.certificate_error)})",
                "put its CA into kafka.security.ca_file, or correct kafka.security.oauth.token_url",
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise self._failed(
                f"cannot be reached ({error})", "look whether it runs, and at the address"
            ) from error
        return self._read(status, body)

    def _read(self, status: int, body: bytes) -> tuple[str, float]:
        try:
            reply = json.loads(body)
        except (ValueError, RecursionError):
            reply = None
        if not isinstance(reply, dict):
            reply = {}
        token = reply.get("access_token")
        if status == 200 and isinstance(token, str) and token:
            seconds = reply.get("expires_in", 300)
            if isinstance(seconds, str) and seconds.isdecimal():
                seconds = int(seconds)
            return token, float(seconds) if isinstance(seconds, int | float) else 300.0
        code = reply.get("error")
        said = (
            f"{status} {code}" if isinstance(code, str) and code.isascii() and len(code) < 80 else str(status)
        )
        if status in {400, 401, 403}:
            raise self._failed(
                f"refuses our client ({said})",
                "correct kafka.security.oauth.client_id, scope, or the secret of client_secret",
            )
        raise self._failed(f"answers {said} and gives no token", "correct kafka.security.oauth.token_url")

    def _failed(self, what: str, remedy: str) -> TokenError:
        return TokenError(f"the token endpoint {self._url} {what}", remedy)


# -- Why nobody is let in ---------------------------------------------------------------------------


class Trouble(NamedTuple):
    """What keeps us from one server, without its address.

    Attributes:
        refused: it is there, and waiting would not help.

    """

    what: str
    remedy: str
    refused: bool = True


async def reach(options: Mapping[str, Any]) -> None:
    """Returns once a server of `arguments` lets us in, and one of the brokers that it names does too.

    Raises:
        RefusedError: they are there, and do not accept us, or we not them.
        BrokerUnavailableError: no one is there.

    """
    troubles: dict[Trouble, list[str]] = {}
    for host, port, _ in collect_hosts(options["bootstrap_servers"]):
        trouble = await _try(host, port, options)
        if trouble is None:
            return
        troubles.setdefault(trouble, []).append(f"{host}:{port}")
    lines = [
        f"Kafka at {', '.join(sorted(at))} {what}; {remedy}" for (what, remedy, _), at in troubles.items()
    ]
    refused = any(trouble.refused for trouble in troubles)
    raise (RefusedError if refused else BrokerUnavailableError)(" / ".join(sorted(lines)))


async def reach_all(options: Mapping[str, Any]) -> None:
    """Returns once `reach` does, and none of the brokers refuses us; those that are not there refuse nobody.

    Raises as `reach`.
    """
    await reach(options)
    brokers: list[tuple[str, int]] = []
    for host, port, _ in collect_hosts(options["bootstrap_servers"]):
        try:
            connection = await _connect(host, port, options)
        except (KafkaError, OSError, TimeoutError, ValueError):
            continue
        try:
            reply = await connection.send(MetadataRequest([]))
        except (KafkaError, OSError, TimeoutError):
            continue
        finally:
            await connection.close()
        brokers = [(broker[1], broker[2]) for broker in reply.brokers]
        break
    troubles = await asyncio.gather(*(_try_broker(*broker, options) for broker in brokers))
    refused = [
        f"Kafka at {host}:{port} {trouble.what}; {trouble.remedy}"
        for (host, port), trouble in zip(brokers, troubles, strict=True)
        if trouble is not None and trouble.refused
    ]
    if refused:
        raise RefusedError(" / ".join(sorted(refused)))


async def _try(host: str, port: int, options: Mapping[str, Any]) -> Trouble | None:
    connection = None
    try:
        connection = await _connect(host, port, options)
        reply = await connection.send(MetadataRequest([]))
    except (KafkaError, OSError, TimeoutError, ValueError) as error:
        if isinstance(error, UnsupportedSaslMechanismError):
            return await _mechanisms(host, port, options)
        return _trouble(error, host, options, connected=connection is not None)
    finally:
        if connection is not None:
            await connection.close()
    brokers = [(broker[1], broker[2]) for broker in reply.brokers]
    return None if not brokers or (host, port) in brokers else await _try_brokers(brokers, options)


async def _try_brokers(brokers: list[tuple[str, int]], options: Mapping[str, Any]) -> Trouble | None:
    """Clients are sent on to the addresses that the brokers advertise: those have to let us in, too."""
    tries = {asyncio.ensure_future(_try_broker(*broker, options)): broker for broker in brokers[:5]}
    waiting = set(tries)
    try:
        while waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if any(task.result() is None for task in done):
                return None
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    task, (host, port) = next(iter(tries.items()))
    trouble = task.result()
    assert trouble is not None
    remedy = (
        trouble.remedy
        if trouble.refused
        else "name a listener that is meant for this network, or have the brokers' advertised.listeners corrected"
    )
    return Trouble(f"sends us on to {host}:{port}, which {trouble.what}", remedy, trouble.refused)


async def _try_broker(host: str, port: int, options: Mapping[str, Any]) -> Trouble | None:
    try:
        connection = await _connect(host, port, options)
        await connection.close()
    except (KafkaError, OSError, TimeoutError, ValueError) as error:
        return _trouble(error, host, options, connected=False)
    return None


async def _connect(host: str, port: int, options: Mapping[str, Any]) -> Any:
    others = {"bootstrap_servers", "metadata_max_age_ms", "connections_max_idle_ms"}
    return await create_conn(
        host, port, **{name: value for name, value in options.items() if name not in others}
    )


async def _mechanisms(host: str, port: int, options: Mapping[str, Any]) -> Trouble:
    """The broker has another mechanism. It tells which, and aiokafka does not."""
    offered = "others"
    try:
        protocol = str(options["security_protocol"]).removeprefix("SASL_")
        without = {"security_protocol": "SSL" if protocol == "SSL" else "PLAINTEXT"}
        connection = await _connect(host, port, {**options, **without})
        try:
            reply = await connection.send(SaslHandShakeRequest(options["sasl_mechanism"]))
            offered = ", ".join(sorted(reply.enabled_mechanisms)) or offered
        finally:
            await connection.close()
    except (KafkaError, OSError, TimeoutError):
        pass  # the line is good enough without the list
    return Trouble(
        f"does not offer the mechanism {options['sasl_mechanism']}, but {offered}",
        "correct kafka.security.mechanism",
    )


def _trouble(error: BaseException, host: str, options: Mapping[str, Any], *, connected: bool) -> Trouble:
    root = error
    while isinstance(root, KafkaConnectionError) and root.__cause__ is not None:
        root = root.__cause__
    match root:
        case TokenError():
            return Trouble(f"wants a token, and {root.trouble}", root.remedy)
        case SaslAuthenticationFailed() | IllegalSaslStateError() | ValueError() if not isinstance(
            root, ssl.SSLError
        ):
            return _not_authenticated(root, options)
        case ssl.SSLError():
            return _no_trust(root, host)
        case socket.gaierror() | ConnectionRefusedError() | TimeoutError():
            return _not_there(root, options)
        case EOFError() | ConnectionError() | KafkaConnectionError():
            return _hung_up(options, connected=connected)
        case _:
            return _not_there(root, options)


def _not_there(error: BaseException, options: Mapping[str, Any]) -> Trouble:
    if isinstance(error, socket.gaierror):
        what, remedy = (
            "has no address: its name is unknown here",
            "correct kafka.bootstrap_servers, or look at the DNS",
        )
    elif f"[Errno {errno.ECONNREFUSED}]" in str(error):  # also of several addresses, all of which refused
        what, remedy = (
            "is not there: nothing listens on this port",
            "look whether it runs, or correct kafka.bootstrap_servers",
        )
    elif isinstance(error, TimeoutError):
        what, remedy = (
            f"does not answer within {options['request_timeout_ms'] / 1000:g} s",
            "look at the network between, whether it runs, or correct kafka.bootstrap_servers",
        )
    else:
        words = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        what, remedy = f"cannot be reached ({words})", "look whether it runs, and at the network"
    return Trouble(what, remedy, refused=False)


def _not_authenticated(error: BaseException, options: Mapping[str, Any]) -> Trouble:
    mechanism = options.get("sasl_mechanism")
    if isinstance(error, IllegalSaslStateError):
        return Trouble(
            "asks for no user on this port",
            "name its SASL port, or set kafka.security.protocol to plaintext or ssl",
        )
    if mechanism == "OAUTHBEARER":
        return Trouble(
            "does not accept our token (OAUTHBEARER)",
            "look whether it has expired, and at issuer, audience and scope (kafka.security.oauth)",
        )
    return Trouble(
        f"does not accept the user {options.get('sasl_plain_username')!r} with its password ({mechanism})",
        "correct kafka.security.username, or the secret that kafka.security.password names",
    )


def _hung_up(options: Mapping[str, Any], *, connected: bool) -> Trouble:
    """It closed the connection without a word. What it did not like, follows from what we said last."""
    protocol = str(options["security_protocol"])
    if connected and not protocol.startswith("SASL"):
        return Trouble(
            "wants to be told a user",
            f"set kafka.security.protocol to sasl_{protocol.lower()}, or name another port",
        )
    if protocol.endswith("PLAINTEXT"):
        encrypted = "sasl_ssl" if protocol.startswith("SASL") else "ssl"
        return Trouble(
            "ends the connection at once, as it does where TLS is expected",
            f"set kafka.security.protocol to {encrypted}, or name its port without TLS",
        )
    return _speaks_no_tls()


def _speaks_no_tls() -> Trouble:
    return Trouble(
        "does not speak TLS on this port",
        "name its TLS port, or set kafka.security.protocol to plaintext or sasl_plaintext",
    )


def _no_trust(error: ssl.SSLError, host: str) -> Trouble:
    if isinstance(error, ssl.SSLCertVerificationError):
        return _not_trusted(error, host)
    reason = error.reason or ""
    if "CERTIFICATE_REQUIRED" in reason or reason in {
        "SSLV3_ALERT_HANDSHAKE_FAILURE",
        "SSLV3_ALERT_BAD_CERTIFICATE",
    }:
        return Trouble(
            "wants a certificate of ours",
            "set kafka.security.certificate_file and key_file to one that it accepts",
        )
    if "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason):
        words = reason.partition("ALERT_")[2].replace("_", " ").lower()
        return Trouble(
            f"does not accept our certificate ({words})",
            "look at kafka.security.certificate_file: who signed it, and whether it has expired",
        )
    if "PROTOCOL" in reason and "UNEXPECTED" not in reason:
        return Trouble(
            "has no TLS version in common with us",
            "TLS 1.2 or 1.3 is to be enabled there (ssl.enabled.protocols)",
        )
    return _speaks_no_tls()


def _not_trusted(error: ssl.SSLCertVerificationError, host: str) -> Trouble:
    why = _verification(error)
    match error.verify_code:
        case 10:
            remedy = "have it renewed, or look at this machine's clock"
        case 9:
            remedy = "look at this machine's clock"
        case 62 | 64:
            return Trouble(
                f"shows a certificate that is not for {host!r}",
                "name the brokers as their certificate does, have it issued for this name, "
                "or set kafka.security.check_hostname to false",
            )
        case 18 | 19 | 20 | 21:
            return Trouble(
                f"shows a certificate of a CA that we do not trust ({why})",
                "put that CA's certificate into kafka.security.ca_file",
            )
        case _:
            remedy = "look at the certificate, and at kafka.security.ca_file"
    return Trouble(f"shows a certificate that is not good ({why})", remedy)


def _verification(error: BaseException) -> str:
    return str(getattr(error, "verify_message", None) or error)
