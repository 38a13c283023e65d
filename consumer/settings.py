"""Settings file, environment and secret files -> Settings. Reads them, and does no other I/O.

A setting `kafka.group_id` stands in the YAML file as `kafka: {group_id: ...}` and in the
environment as `CHARGING_COUPON__KAFKA__GROUP_ID`; the environment wins. All mistakes are
reported at once, each with its line or variable.
"""

import difflib
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self, cast, get_args, get_origin
from urllib.parse import urlsplit

from annotated_types import Ge, Gt, Le
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError

from consumer import certificates
from consumer.core.documents import Document, DocumentError
from consumer.core.errors import ConfigurationError, Problem
from consumer.core.outcomes import PlateMode, Privacy

PREFIX = "CHARGING_COUPON__"
FILE_VARIABLE = f"{PREFIX}SETTINGS"
"""Names the settings file itself; the command line reads it."""

HIDDEN = "***"
PLATE_HASH_SECRET = "plate_hash"  # noqa: S105  # the name of a secret, not one

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"(\d+)\s*(B|KiB|MiB|GiB|kB|MB|GB)")
_BYTES = {
    "B": 1, "kB": 1000, "MB": 1000**2, "GB": 1000**3, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30,
}  # fmt: skip  # two rows of units read better than nine lines


# -- The values' types, in the order in which they are met below ------------------------------------


def _comma_list(value: object) -> object:
    """In a variable a list is written `a,b`."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _duration_seconds(value: object) -> object:
    if isinstance(value, bool) or value is None:
        raise ValueError("is not a duration; write 30s, 100ms, 5m, 2h, 7d, or seconds as a number")
    if isinstance(value, str) and not _is_number(value):
        found = _DURATION.fullmatch(value.strip())
        if found is None:
            raise ValueError(
                f"{value!r} is not a duration; write 30s, 100ms, 5m, 2h, 7d, or seconds as a number"
            )
        return float(found[1]) * _SECONDS[found[2]]
    return value


def _size_bytes(value: object) -> object:
    if isinstance(value, bool) or value is None:
        raise ValueError("is not a size; write 64KiB, 256MiB, 1GiB, or bytes as a number")
    if isinstance(value, str) and not value.strip().isdecimal():
        found = _SIZE.fullmatch(value.strip())
        if found is None:
            raise ValueError(f"{value!r} is not a size; write 64KiB, 256MiB, 1GiB, or bytes as a number")
        return int(found[1]) * _BYTES[found[2]]
    return value


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\d+(\.\d+)?", text.strip()) is not None


def _not_a_boolean(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("is not a number; write digits")  # noqa: TRY004  # pydantic collects ValueError only
    return value


def _web_address(url: str) -> str:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname is not None and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError("is not a web address; write https://host/path")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise ValueError("holds a user, a password or a fragment; write https://host/path")
    return url


def _secret_names(value: object) -> object:
    """A variable's name cannot hold a hyphen, and has no case: neither counts in a secret's name."""
    if not isinstance(value, Mapping):
        return value
    return {_canonical(name) if isinstance(name, str) else name: text for name, text in value.items()}


def _secret_text(secret: SecretStr) -> SecretStr:
    text = _without_newline(secret.get_secret_value())
    if not text:
        raise ValueError("is empty; give the secret's text")
    return SecretStr(text)


def _canonical(name: str) -> str:
    return name.lower().replace("-", "_")


def _without_newline(text: str) -> str:
    """Editors and `echo` end a file with a newline that no one meant."""
    return text.removesuffix("\n").removesuffix("\r")


def _start(value: object) -> object:
    """`earliest`, `latest`, or an instant: one without a zone would be another one on every machine."""
    if value in {"earliest", "latest"}:
        return value
    try:
        instant = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
        if isinstance(value, int):
            raise ValueError  # noqa: TRY301, TRY004  # 20260301 would pass as a day
    except ValueError:
        raise ValueError(
            "is no place to start from; write earliest, latest, or a time such as 2026-03-01T00:00:00+08:00"
        ) from None
    if instant.tzinfo is None:
        raise ValueError("is a time without a zone; write its offset too, such as 2026-03-01T00:00:00+08:00")
    return instant


Names = Annotated[tuple[str, ...], BeforeValidator(_comma_list), Field(min_length=1)]
Word = Annotated[str, Field(min_length=1)]
Duration = Annotated[float, BeforeValidator(_duration_seconds), Field(gt=0, le=7 * 86400)]
Retention = Annotated[float, BeforeValidator(_duration_seconds), Field(ge=3600, le=3650 * 86400)]
Size = Annotated[int, BeforeValidator(_size_bytes), Field(ge=1024, le=1 << 40)]
Count = Annotated[int, BeforeValidator(_not_a_boolean), Field(ge=1, le=1_000_000)]
Port = Annotated[int, BeforeValidator(_not_a_boolean), Field(ge=0, le=65535)]
Secret = Annotated[SecretStr, AfterValidator(_secret_text)]
SecretName = Annotated[str, Field(min_length=1, max_length=100)]
StartFrom = Annotated[Literal["earliest", "latest"] | datetime, BeforeValidator(_start)]


# -- The settings -----------------------------------------------------------------------------------


class Group(BaseModel):
    """Settings that belong together: never changed once read, unknown names refused."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )


class Topics(Group):
    """The topics, by what they are for."""

    events: Names
    """Topics with charging-completed events. No default: nothing is guessed."""

    outcomes: Word = "coupon-outcomes"
    """Topic of the outcomes, one for every order. Default `coupon-outcomes`."""

    dead_letters: Word = "coupon-dead-letters"
    """Topic of the originals that a person has to look at. Default `coupon-dead-letters`."""

    partitions: Count = 3
    """Partitions of these two, at least, as `topics` checks and creates them. Default 3: three readers can share."""

    outcomes_retention: Retention = 90 * 86400.0
    """How long outcomes are kept, as `topics` checks and creates it. Default 90d: a quarter's complaints and accounts."""

    dead_letters_retention: Retention = 30 * 86400.0
    """How long dead letters are kept, likewise. Default 30d: they hold whole plates, and are mended within days."""


class OAuth(Group):
    """Where the token for the mechanism OAUTHBEARER comes from: a file, or an endpoint that gives it to a client."""

    token_file: Path | None = None
    """File with the token, read again for every connection. Default none. In the settings file relative to its folder."""

    token_url: Annotated[str, AfterValidator(_web_address)] | None = None
    """Endpoint of the client-credentials grant. Default none. Its certificate may be of a CA in `ca_file`, too."""

    client_id: Word | None = None
    """Who asks there. Default none; needed with `token_url`."""

    client_secret: SecretName = "kafka_client_secret"  # noqa: S105  # the name of a secret, not one
    """Name of the secret that the client proves itself with. Default `kafka_client_secret`."""

    scope: Word | None = None
    """Scope that is asked for. Default none."""


class Security(Group):
    """How the connection to Kafka is protected, and who we are there."""

    protocol: Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"] = "plaintext"
    """`ssl`: TLS. `sasl_`: a user is told, too. Default `plaintext`."""

    ca_file: Path | None = None
    """PEM file of the CAs that sign the brokers' certificates. Default the system's. Paths in the settings file
    are relative to its folder."""

    certificate_file: Path | None = None
    """PEM file of our own certificate and its chain, where the brokers want one. Default none."""

    key_file: Path | None = None
    """PEM file of its private key. Default: in `certificate_file`."""

    key_password: SecretName | None = None
    """Name of the secret that decrypts the key. Default none: it is not encrypted."""

    check_hostname: bool = True
    """Whether a broker's certificate must be for the name that we reach it by. Default true."""

    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None = None
    """SASL mechanism; needed with `sasl_plaintext` and `sasl_ssl`. Default none."""

    username: Word | None = None
    """User of PLAIN and SCRAM. Default none."""

    password: SecretName = "kafka_password"  # noqa: S105  # the name of a secret, not one
    """Name of the secret that holds the user's password. Default `kafka_password`."""

    oauth: OAuth = OAuth()
    """Tokens of OAUTHBEARER."""

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.protocol in {"ssl", "sasl_ssl"}

    @property
    def sasl(self) -> bool:
        """Whether a user is told."""
        return self.protocol in {"sasl_plaintext", "sasl_ssl"}


class Kafka(Group):
    """How Kafka is reached, and the group's membership."""

    bootstrap_servers: Names
    """First contacts, `host:port`, a list or comma-separated. No default."""

    security: Security = Security()
    """TLS and SASL."""

    topics: Topics
    """The topics."""

    group_id: Word = "charging-coupon"
    """Consumer group, and prefix of the transactional ids. Default `charging-coupon`."""

    client_id: Word = "charging-coupon"
    """Name that the brokers' logs and quotas show. Default `charging-coupon`."""

    client_rack: Word | None = None
    """Where we stand (a zone, as in the brokers' `broker.rack`), to read from a replica near by. Default none."""

    group_instance_id: Word | None = None
    """Name of this one member, unlike any other's: restarted within `session_timeout`, it keeps its partitions
    without a rebalance. Default none."""

    start_from: StartFrom = "earliest"
    """Where a group without offsets begins: `earliest`, `latest`, or at the first record of a time with its zone,
    `2026-03-01T00:00:00+08:00`. Default `earliest`, so that no charge is passed over."""

    session_timeout: Duration = 30.0
    """Silence after which the group gives a member's partitions away. Default 30s."""

    rebalance_timeout: Duration = 60.0
    """Time that a rebalance leaves to drain. Default 60s; more than `drain_timeout`."""

    heartbeat_interval: Duration = 3.0
    """Time between heartbeats. Default 3s; at most a third of `session_timeout`."""

    transaction_timeout: Duration = 15.0
    """Age at which a broker ends a dead member's transaction, the last resort. Default 15s."""

    request_timeout: Duration = 20.0
    """Longest wait for a broker's reply. Default 20s."""

    max_message_size: Size = 1_000_000
    """Largest record that the brokers take (their `message.max.bytes`), in bytes. Default 1000000."""

    compression: Literal["gzip", "snappy", "lz4", "zstd", "none"] = "lz4"
    """Compression of what is written. Default `lz4`: cheap, and outcomes repeat themselves."""


class Gateway(Group):
    """How the parking platform is called."""

    url: Annotated[str, AfterValidator(_web_address)] = "https://api.4pyun.com/gate/1.0/parking/mcoupon/event"
    """Where coupons are asked for. Default the platform's documented address."""

    max_in_flight: Count = 256
    """Requests under way at once, per process. Default 256: ample for 1000 a second at 0.2 s each."""

    connect_timeout: Duration = 3.0
    """Longest wait for a connection. Default 3s."""

    total_timeout: Duration = 10.0
    """Longest duration of a whole call. Default 10s; the platform's slowest published answer took 2.9 s."""

    max_response_size: Size = 64 << 10
    """Bytes of a reply that are read; the rest is cut off. Default 64KiB; real replies are below 1 KiB."""


class Retries(Group):
    """Calls that are made again within seconds."""

    max_attempts_now: Count = 3
    """Calls for one order before its outcome is final. Default 3."""

    base: Duration = 0.5
    """First pause's upper end; it doubles with every try, and the pause is drawn from 0 to it. Default 500ms."""

    cap: Duration = 10.0
    """Upper end of any pause. Default 10s."""

    retry_after_cap: Duration = 30.0
    """Longest pause that the platform's Retry-After is granted. Default 30s."""


class Intake(Group):
    """What may be held in memory: what was taken in and is not yet committed."""

    max_records: Count = 2000
    """Records held at once; beyond it partitions are paused. Default 2000."""

    max_bytes: Size = 64 << 20
    """Their bytes. Default 64MiB; at least `kafka.max_message_size`."""


class Ledger(Group):
    """When outcomes and offsets are written, in one transaction."""

    flush_interval: Duration = 0.1
    """Longest wait of a finished record for its transaction. Default 100ms."""

    flush_records: Count = 300
    """Finished records at which the transaction is made at once. Default 300."""


class PrivacySettings(Group):
    """What of a plate leaves the service."""

    plates: PlateMode = PlateMode.BOTH
    """Plates in the outcome topic: `clear`, `hash` (keyed, HMAC-SHA256), `both` or `none`. Default `both`;
    `hash` and `both` need the secret `plate_hash`."""


class Web(Group):
    """The port for metrics and health."""

    host: Word = "0.0.0.0"  # noqa: S104  # a pod is scraped and probed from outside
    """Address to listen on. Default 0.0.0.0: all."""

    port: Port = 8080
    """Port to listen on; 0 takes any free one. Default 8080."""


class Log(Group):
    """What is logged, and in which form."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level that is logged; `debug` has a line for every final outcome. Default `info`."""

    format: Literal["auto", "json", "console"] = "auto"
    """`json`, `console`, or `auto`: console on a terminal, else JSON. Default `auto`."""


class Settings(Group):
    """Everything that a deployment sets. What a coupon is granted for stands in the rules file instead."""

    kafka: Kafka
    """Kafka."""

    rules: Path
    """The rules file, or a folder of them. No default. In the settings file relative to its folder."""

    gateway: Gateway = Gateway()
    """The parking platform."""

    retries: Retries = Retries()
    """Calls made again."""

    intake: Intake = Intake()
    """Bounds of memory."""

    ledger: Ledger = Ledger()
    """Writing outcomes."""

    drain_timeout: Duration = 20.0
    """Time for calls under way to end, when stopping and in a rebalance. Default 20s; twice the longest call."""

    secrets: Annotated[dict[str, Secret], BeforeValidator(_secret_names)] = Field({}, repr=False)
    """Secrets by name (the rules file names them), best as `CHARGING_COUPON__SECRETS__<NAME>`. Default none."""

    secrets_dir: Path | None = None
    """Folder with a file for each secret, as Kubernetes mounts them. Default none."""

    privacy: PrivacySettings = PrivacySettings()
    """Plates."""

    web: Web = Web()
    """Metrics and health."""

    log: Log = Log()
    """Logs."""

    guarantee: Literal["exactly_once", "at_least_once"] = "exactly_once"
    """`exactly_once`: one outcome an order, by transactions (Kafka 2.5 or later, and rights to them). `at_least_once`:
    without them; after a crash an outcome can come again under its `outcome_id`. Default `exactly_once`."""

    @model_validator(mode="after")
    def _agree_with_each_other(self) -> Self:
        findings = list(_disagreements(self))
        if findings:
            text = "; ".join(f"{'.'.join(finding.path)} {finding.message}" for finding in findings)
            raise PydanticCustomError("disagreement", "{text}", {"text": text, "findings": findings})
        return self

    def secret(self, name: str) -> str:
        """The secret's text: from `secrets`, else from its file in `secrets_dir`."""
        found = self.secrets.get(_canonical(name))
        return found.get_secret_value() if found is not None else self._secret_from_file(name)

    def check_secrets(self, names: Iterable[str]) -> None:
        """Refuses all at once the secrets that are named and not there."""
        problems: list[Problem] = []
        for name in dict.fromkeys(names):
            try:
                self.secret(name)
            except ConfigurationError as error:
                problems += error.problems
        if problems:
            raise ConfigurationError(problems)

    def plate_privacy(self) -> Privacy:
        """How outcomes show plates, with the key for their hashes."""
        plates = self.privacy.plates
        if not plates.hashed:
            return Privacy(plates)
        try:
            return Privacy(plates, self.secret(PLATE_HASH_SECRET).encode())
        except ConfigurationError as error:
            raise ConfigurationError([_hash_key_missing(plates, error.problems[0])]) from error

    def _secret_from_file(self, name: str) -> str:
        variable = f"{PREFIX}SECRETS__{_canonical(name).upper()}"
        if self.secrets_dir is None:
            raise _one_problem(
                variable, f"the secret {name!r} is nowhere", "set this variable, or secrets_dir"
            )
        file = self.secrets_dir / name
        if file.parent != self.secrets_dir or name.startswith("."):
            raise _one_problem(
                str(self.secrets_dir), f"{name!r} cannot be a secret's name", "use letters, digits and _"
            )
        try:
            text = _without_newline(file.read_text("utf-8-sig"))
        except FileNotFoundError:
            raise _one_problem(
                str(file), f"no file holds the secret {name!r}", f"write it, or set {variable}"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise _one_problem(str(file), f"cannot be read: {why}", "make it a readable UTF-8 file") from None
        if not text:
            raise _one_problem(str(file), f"the secret {name!r} is empty", "write its text into the file")
        return text


class _Finding(NamedTuple):
    path: tuple[str, ...]
    message: str
    remedy: str
    other: tuple[str, ...] = ()
    """The setting that it disagrees with: its place is told where `path` has its default."""


def _disagreements(settings: Settings) -> Iterator[_Finding]:
    """Each value is fine by itself, and two of them are not."""
    kafka = settings.kafka
    if settings.drain_timeout >= kafka.rebalance_timeout:
        yield _Finding(
            ("drain_timeout",),
            f"({settings.drain_timeout:g}s) is not below kafka.rebalance_timeout ({kafka.rebalance_timeout:g}s): "
            "a rebalance would throw the member out while it drains",
            "lower drain_timeout or raise kafka.rebalance_timeout",
            ("kafka", "rebalance_timeout"),
        )
    if kafka.heartbeat_interval * 3 > kafka.session_timeout:
        yield _Finding(
            ("kafka", "heartbeat_interval"),
            f"({kafka.heartbeat_interval:g}s) is more than a third of kafka.session_timeout "
            f"({kafka.session_timeout:g}s): one lost heartbeat would cost the membership",
            "lower kafka.heartbeat_interval or raise kafka.session_timeout",
            ("kafka", "session_timeout"),
        )
    if settings.gateway.connect_timeout > settings.gateway.total_timeout:
        yield _Finding(
            ("gateway", "connect_timeout"),
            "is longer than gateway.total_timeout",
            "lower gateway.connect_timeout or raise gateway.total_timeout",
            ("gateway", "total_timeout"),
        )
    if settings.retries.base > settings.retries.cap:
        yield _Finding(
            ("retries", "base"),
            "is longer than retries.cap",
            "lower retries.base or raise retries.cap",
            ("retries", "cap"),
        )
    if settings.intake.max_bytes < kafka.max_message_size:
        yield _Finding(
            ("intake", "max_bytes"),
            "is less than kafka.max_message_size: the largest record could never be taken in",
            "raise intake.max_bytes",
            ("kafka", "max_message_size"),
        )
    topics = kafka.topics
    if topics.outcomes == topics.dead_letters or {topics.outcomes, topics.dead_letters} & set(topics.events):
        yield _Finding(
            ("kafka", "topics"),
            "names one topic for two purposes",
            "give events, outcomes and dead_letters topics of their own",
        )
    yield from _security_findings(kafka.security, settings)


_SECURITY = ("kafka", "security")


def _security_findings(security: Security, settings: Settings) -> Iterator[_Finding]:
    """Protocol, files, user and token that do not go together, or cannot be used."""
    if security.tls:
        yield from _certificate_findings(security, settings)
    else:
        for name in ("ca_file", "certificate_file", "key_file", "key_password"):
            if getattr(security, name) is not None:
                yield _finding(
                    name,
                    f"is set, but kafka.security.protocol is {security.protocol}: nothing would be encrypted",
                    "set kafka.security.protocol to ssl or sasl_ssl, or remove it",
                )
    if not security.sasl:
        for name in ("mechanism", "username"):
            if getattr(security, name) is not None:
                yield _finding(
                    name,
                    f"is set, but kafka.security.protocol is {security.protocol}: no user would be told",
                    "set kafka.security.protocol to sasl_ssl or sasl_plaintext, or remove it",
                )
    elif security.mechanism is None:
        yield _finding(
            "mechanism",
            f"is missing: kafka.security.protocol is {security.protocol}",
            "set it to what the brokers offer: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER",
        )
    elif security.mechanism == "OAUTHBEARER":
        yield from _token_findings(security.oauth, settings)
    else:
        if security.username is None:
            yield _finding(
                "username", f"is missing: {security.mechanism} needs it", "set it to our Kafka user"
            )
        yield from _secret_findings(("password",), security.password, settings)


def _certificate_findings(security: Security, settings: Settings) -> Iterator[_Finding]:
    password: str | None = None
    if security.key_password is not None:
        missing = list(_secret_findings(("key_password",), security.key_password, settings))
        yield from missing
        password = "" if missing else settings.secret(security.key_password)
    for trouble in certificates.troubles(
        security.ca_file, security.certificate_file, security.key_file, password
    ):
        yield _finding(trouble.setting, trouble.message, trouble.remedy)


def _token_findings(oauth: OAuth, settings: Settings) -> Iterator[_Finding]:
    if (oauth.token_file is None) == (oauth.token_url is None):
        yield _finding(
            "oauth",
            "is to say where the token comes from: in one of token_file and token_url",
            "set the one, and not the other",
        )
    elif oauth.token_url is not None:
        if oauth.client_id is None:
            yield _finding(
                "oauth.client_id", "is missing: oauth.token_url needs it", "set it to our client's id"
            )
        yield from _secret_findings(("oauth", "client_secret"), oauth.client_secret, settings)


def _secret_findings(path: tuple[str, ...], name: str, settings: Settings) -> Iterator[_Finding]:
    """A secret that is named and not there. Its name may be the secret itself, by mistake: then it is not repeated."""
    default = _group_at((*_SECURITY, *path[:-1])).model_fields[path[-1]].default
    try:
        settings.secret(name)
    except ConfigurationError as error:
        if name == default:
            why = error.problems[0]
            yield _finding(".".join(path), f"needs a secret: {why.place}: {why.message}", why.remedy)
        else:
            yield _finding(
                ".".join(path),
                "names a secret that is neither in secrets nor in secrets_dir",
                f"write here only its name (such as {default or 'kafka_key_password'}), and its text there",
            )


def _finding(name: str, message: str, remedy: str) -> _Finding:
    return _Finding((*_SECURITY, *name.split(".")), message, remedy)


# -- Reading them -----------------------------------------------------------------------------------


Location = tuple[str | int, ...]


class _Sources:
    """The merged tree, and where each of its values stands."""

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self.tree: dict[str, object] = {}
        self.places: dict[Location, str] = {}

    def place(self, location: Location) -> str:
        """Where the value stands, else its group, else what is within it, else the file, else its variable."""
        for length in range(len(location), 0, -1):
            if location[:length] in self.places:
                return self.places[location[:length]]
        for inner, place in self.places.items():
            if inner[: len(location)] == location:
                return place
        return str(self.file) if self.file is not None else _variable(location)


def load_settings(file: Path | None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Reads the file, lays the environment over it, checks all of it.

    Raises:
        ConfigurationError: with every mistake that was found.

    """
    return _load(file, environ)[0]


class InForce(NamedTuple):
    """A setting as it is in force, in words of the settings file (a secret as `***`), and where it was set."""

    name: str
    value: str | int | float | list[str] | None
    source: str


def settings_in_force(file: Path | None, environ: Mapping[str, str] = os.environ) -> list[InForce]:
    """Every setting, and every secret by its name. Raises ConfigurationError as `load_settings` does."""
    settings, sources = _load(file, environ)
    return [*_in_force(settings, (), sources), *_secrets_in_force(settings, sources)]


def _load(file: Path | None, environ: Mapping[str, str]) -> "tuple[Settings, _Sources]":
    sources = _Sources(file)
    if file is not None:
        _read_file(file, sources)
        _anchor_paths(file, sources)
    problems = _lay_over(environ, sources)
    try:
        settings = Settings.model_validate(sources.tree)
    except ValidationError as error:
        for details in error.errors(include_input=False, include_url=False):
            problems += _problems(details, sources)
        raise ConfigurationError(sorted(problems, key=_reading_order)) from None
    if not problems:
        try:
            settings.plate_privacy()
        except ConfigurationError as error:
            problems += error.problems
    if problems:
        raise ConfigurationError(problems)
    return settings, sources


def _reading_order(problem: Problem) -> list[tuple[int, str]]:
    """By file, line and column."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in problem.place.split(":")]


def _in_force(group: Group, here: Location, sources: _Sources) -> Iterator[InForce]:
    for name, field in type(group).model_fields.items():
        location = (*here, name)
        value = getattr(group, name)
        if isinstance(value, Group):
            yield from _in_force(value, location, sources)
        elif location != ("secrets",):
            converters = {step.func for step in field.metadata if isinstance(step, BeforeValidator)}
            source = sources.places.get(location, "default")
            yield InForce(".".join(map(str, location)), _as_written(value, converters), source)


def _as_written(value: object, converters: Collection[object]) -> str | int | float | list[str] | None:
    written: str | int | float | list[str] | None
    match value:
        case SecretStr():
            written = HIDDEN
        case tuple():
            written = [str(item) for item in value]
        case float() if _duration_seconds in converters:
            written = _in_largest(value, _SECONDS)
        case int() if _size_bytes in converters:
            written = _in_largest(value, _BYTES)
        case datetime():
            written = value.isoformat()
        case None | bool() | int() | float():
            written = value
        case _:
            written = str(value)
    return written


def _in_largest(value: float, units: Mapping[str, float]) -> str:
    """In the largest unit that needs no fraction."""
    whole = [(size, unit) for unit, size in units.items() if value and (value / size).is_integer()]
    size, unit = max(whole, default=next((size, unit) for unit, size in units.items() if size == 1))
    return f"{value / size:.15g}{unit}"


def _secrets_in_force(settings: Settings, sources: _Sources) -> Iterator[InForce]:
    for name in settings.secrets:
        yield InForce(f"secrets.{name}", HIDDEN, sources.places["secrets", name])
    try:
        files = sorted(settings.secrets_dir.iterdir()) if settings.secrets_dir is not None else []
    except OSError:
        return  # whoever needs one of them says so
    for file in files:
        if file.is_file() and not file.name.startswith(".") and _canonical(file.name) not in settings.secrets:
            yield InForce(f"secrets.{file.name}", HIDDEN, str(file))


def _read_file(file: Path, sources: _Sources) -> None:
    try:
        document = Document(file.read_text("utf-8-sig"), str(file))
    except DocumentError as error:
        raise ConfigurationError(error.problems) from None
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8"
        remedy = "name a readable settings file in UTF-8"
        raise _one_problem(str(file), f"cannot be read: {why}", remedy) from None
    match document.data:
        case None:
            return
        case dict() as tree:
            sources.tree = tree
        case _:
            raise _one_problem(f"{file}:1:1", "is not a mapping", "write `kafka:`, `gateway:` ... at the top")
    for location in _locations(document.data, ()):
        line, column = document.key_spot(location)
        sources.places[location] = f"{file}:{line}:{column}"
        if location[0] == "secrets" and len(location) == 2:
            sources.places["secrets", _canonical(str(location[1]))] = sources.places[location]


def _locations(value: object, here: Location) -> Iterator[Location]:
    match value:
        case dict():
            steps = list(value.items())
        case list():
            steps = list(enumerate(value))
        case _:
            return
    for step, inner in steps:
        yield (*here, step)
        yield from _locations(inner, (*here, step))


def _anchor_paths(file: Path, sources: _Sources) -> None:
    """A path in the file is relative to the file, wherever the command is started."""
    for *groups, name in _paths(Settings, ()):
        group: object = sources.tree
        for part in groups:
            group = group.get(part) if isinstance(group, dict) else None
        path = group.get(name) if isinstance(group, dict) else None
        if isinstance(group, dict) and isinstance(path, str) and path:
            group[name] = str(file.parent / path)


def _paths(group: type[Group], here: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Which settings are paths."""
    for name, field in group.model_fields.items():
        if field.annotation in {Path, Path | None}:
            yield (*here, name)
        elif isinstance(field.annotation, type) and issubclass(field.annotation, Group):
            yield from _paths(field.annotation, (*here, name))


def _lay_over(environ: Mapping[str, str], sources: _Sources) -> list[Problem]:
    problems: list[Problem] = []
    seen: dict[Location, str] = {}
    for variable in sorted(environ):
        if not variable.startswith(PREFIX) or variable == FILE_VARIABLE:
            continue
        location = tuple(variable.removeprefix(PREFIX).lower().split("__"))
        if location in seen:
            problems.append(Problem(variable, f"says the same as {seen[location]}", "remove one of the two"))
            continue
        seen[location] = variable
        *groups, name = location
        group: object = sources.tree
        for part in groups:
            group = group.setdefault(part, {}) if isinstance(group, dict) else None
        if isinstance(group, dict):  # else the file is wrong there, and pydantic says so
            group[name] = environ[variable]
            sources.places[location] = variable
    return problems


def _problems(details: ErrorDetails, sources: _Sources) -> Iterator[Problem]:
    """One mistake as pydantic sees it -> in words, with its place."""
    location: Location = details["loc"]
    name = ".".join(str(part) for part in location)
    match details["type"]:
        case "disagreement":
            for finding in details["ctx"]["findings"]:
                path = finding.other if finding.path not in sources.places else finding.path
                place = sources.place(path if path in sources.places else finding.path)
                yield Problem(place, f"{'.'.join(finding.path)} {finding.message}", finding.remedy)
        case "missing":
            for leaf in _required(location):
                yield Problem(
                    sources.place(leaf),
                    f"{'.'.join(str(part) for part in leaf)} is missing",
                    f"set it in the settings file or as {_variable(leaf)}",
                )
        case "extra_forbidden":
            yield Problem(sources.place(location), f"there is no setting {name}", _nearest(location))
        case "value_error":
            message, _, remedy = str(details["ctx"]["error"]).partition("; ")
            yield Problem(sources.place(location), f"{name}: {message}", remedy)
        case "model_type" | "dict_type":
            known = ", ".join(_group_at(location).model_fields)
            remedy = "write `name: text` beneath it" if name == "secrets" else f"known beneath it: {known}"
            yield Problem(sources.place(location), f"{name} is a group of settings, not a value", remedy)
        case kind:
            wanted = _wanted(location)
            what = _WRONG.get(kind) or f"is not {re.split(' from | above |, ', wanted)[0]}"
            yield Problem(sources.place(location), f"{name}: {what}", f"write {wanted}")


_WRONG = {
    **dict.fromkeys(
        ("greater_than", "greater_than_equal", "less_than", "less_than_equal"), "is out of bounds"
    ),
    **dict.fromkeys(("too_short", "string_too_short"), "is empty"),
    **dict.fromkeys(("literal_error", "enum"), "no such choice"),
}
_TEXT = "text, in quotes where it looks like something else"


def _wanted(location: Location) -> str:
    """What a setting takes: `a duration above 0s to 7d`."""
    field = _field_at(location)
    if field is None:
        return _TEXT
    converters = {step.func for step in field.metadata if isinstance(step, BeforeValidator)}
    if _duration_seconds in converters:
        return f"a duration{_bounds(field, _SECONDS)}"
    if _size_bytes in converters:
        return f"a size{_bounds(field, _BYTES)}"
    kind: object = field.annotation
    if type(None) in get_args(kind):
        kind = get_args(kind)[0]
    if choices := get_args(kind) if get_origin(kind) is Literal else _members(kind):
        return f"one of {', '.join(map(str, choices))}"
    words: dict[object, str] = {
        int: f"a whole number{_bounds(field, {'': 1})}",
        bool: "true or false",
        Path: "a path, as text",
        tuple: "one or more names, in a list or separated by commas",
    }
    return words.get(get_origin(kind) or kind, _TEXT)


def _members(kind: object) -> list[str]:
    return [str(member) for member in kind] if isinstance(kind, type) and issubclass(kind, StrEnum) else []


def _bounds(field: FieldInfo, units: Mapping[str, float]) -> str:
    low, high = "", ""
    for step in field.metadata:
        match step:
            case Ge(ge=bound):
                low = f" from {_in_largest(cast('float', bound), units)}"
            case Gt(gt=bound):
                low = f" above {_in_largest(cast('float', bound), units)}"
            case Le(le=bound):
                high = f" to {_in_largest(cast('float', bound), units)}"
    return low + high


def _variable(location: Location) -> str:
    return PREFIX + "__".join(str(part).upper() for part in location)


def _required(location: Location) -> Iterator[Location]:
    """A group that is missing lacks those of its settings that have no default."""
    group = _group_at(location)
    if group is _group_at(location[:-1]):
        yield location
        return
    for name, field in group.model_fields.items():
        if field.is_required():
            yield from _required((*location, name))


def _nearest(location: Location) -> str:
    known = list(_group_at(location[:-1]).model_fields)
    close = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {'.'.join(str(part) for part in (*location[:-1], close[0]))}?"
    return f"known here: {', '.join(known)}"


def _field_at(location: Location) -> FieldInfo | None:
    """The setting there, also from within its value."""
    names = [part for part in location if isinstance(part, str)]
    for length in range(len(names), 0, -1):
        field = _group_at(tuple(names[: length - 1])).model_fields.get(names[length - 1])
        if field is not None:
            return field
    return None


def _group_at(location: Location) -> type[Group]:
    group: type[Group] = Settings
    for part in location:
        field = group.model_fields.get(str(part))
        inner: Any = field.annotation if field is not None else None
        if not (isinstance(inner, type) and issubclass(inner, Group)):
            break
        group = inner
    return group


def _hash_key_missing(plates: PlateMode, why: Problem) -> Problem:
    return Problem(
        why.place,
        f"privacy.plates is `{plates}`, whose hashes need the secret `{PLATE_HASH_SECRET}`: {why.message}",
        f"set {PREFIX}SECRETS__{PLATE_HASH_SECRET.upper()} to a long random text and keep it, "
        "or set privacy.plates to `clear` or `none`",
    )


def _one_problem(place: str, message: str, remedy: str) -> ConfigurationError:
    return ConfigurationError([Problem(place, message, remedy)])
