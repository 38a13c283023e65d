"""The values' types: how a duration, a size, a list or a start is written. Performs no I/O."""

import re
from collections.abc import Mapping
from datetime import datetime
from ipaddress import IPv6Address
from itertools import pairwise
from typing import Annotated, Literal
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

PREFIX = "CHARGING_COUPON__"

_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}")
_SERVER = re.compile(r"(?:\[(?P<ip6>[^\]]+)\]|[\w.-]+):(?P<port>[0-9]{1,5})")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"(\d+)\s*(B|KiB|MiB|GiB|kB|MB|GB)")
BYTES = {
    "B": 1, "kB": 1000, "MB": 1000**2, "GB": 1000**3, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30,
}  # fmt: skip  # two rows of units read better than nine lines


def _comma_list(value: object) -> object:
    """In a variable a list is written `a,b`."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def duration_seconds(value: object) -> object:
    """`30s` -> 30.0; what pydantic is to judge is left as it is."""
    if isinstance(value, bool) or value is None:
        raise ValueError("is not a duration; write 30s, 100ms, 5m, 2h, 7d, or seconds as a number")
    if isinstance(value, str) and not _is_number(value):
        found = _DURATION.fullmatch(value.strip())
        if found is None:
            raise ValueError("is not a duration; write 30s, 100ms, 5m, 2h, 7d, or seconds as a number")
        return float(found[1]) * SECONDS[found[2]]
    return value


def size_bytes(value: object) -> object:
    """`64KiB` -> 65536, likewise."""
    if isinstance(value, bool) or value is None:
        raise ValueError("is not a size; write 64KiB, 256MiB, 1GiB, or bytes as a number")
    if isinstance(value, str) and not value.strip().isdecimal():
        found = _SIZE.fullmatch(value.strip())
        if found is None:
            raise ValueError("is not a size; write 64KiB, 256MiB, 1GiB, or bytes as a number")
        return int(found[1]) * BYTES[found[2]]
    return value


def _ascending(delays: tuple[float, ...]) -> tuple[float, ...]:
    """An order goes from one to the next; each has a topic of its own."""
    if any(later <= earlier for earlier, later in pairwise(delays)):
        raise ValueError("do not ascend; write the shortest first, each once, such as 1m, 5m, 30m")
    return delays


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\d+(\.\d+)?", text.strip()) is not None


def _not_a_boolean(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("is not a number; write digits")  # noqa: TRY004  # pydantic collects ValueError only
    return value


def web_address(url: str) -> str:
    """The address, if it is one that holds no credentials."""
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


def _host_and_port(server: str) -> str:
    found = _SERVER.fullmatch(server)
    try:
        usable = found is not None and 1 <= int(found["port"]) <= 65535
        if usable and found is not None and found["ip6"]:
            IPv6Address(found["ip6"])
    except ValueError:
        usable = False
    if not usable:
        raise ValueError(
            "is not host:port; write kafka-1:9092, an IPv6 address in brackets: [2001:db8::1]:9092, ports 1 to 65535"
        )
    return server


def _topic(name: str) -> str:
    """The name, if Kafka takes it for a topic's."""
    if _TOPIC.fullmatch(name) is None or name in {".", ".."}:
        raise ValueError(
            "is no name that a Kafka topic can have; write 1 to 249 letters, digits, `.`, `_` and `-`; "
            "in a variable a list is written with commas: a,b"
        )
    return name


def _each_once(names: tuple[str, ...]) -> tuple[str, ...]:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice!r} is listed twice; keep one")
    return names


def secret_names(value: object) -> object:
    """A variable's name cannot hold a hyphen, and has no case: neither counts in a secret's name."""
    if not isinstance(value, Mapping):
        return value
    return {canonical(name) if isinstance(name, str) else name: text for name, text in value.items()}


def _secret_text(secret: SecretStr) -> SecretStr:
    text = without_newline(secret.get_secret_value())
    if not text:
        raise ValueError("is empty; give the secret's text")
    wrong = unseen_in(text)
    if wrong is not None:
        raise ValueError(f"{wrong}; write the secret's text alone")
    return SecretStr(text)


def canonical(name: str) -> str:
    """A secret's name, in the one form that a variable's name can hold too."""
    return name.lower().replace("-", "_")


def without_newline(text: str) -> str:
    """Editors and `echo` end a file with newlines that no one meant."""
    return text.rstrip("\r\n")


def unseen_in(secret: str) -> str | None:
    """What nobody sees and nobody meant to be in a secret: each signature with it would be refused."""
    if not secret.isprintable():
        return "holds a line break, a control character or a blank that nobody sees"
    return "begins or ends with a space" if secret != secret.strip() else None


def headers_of(text: str) -> dict[str, str]:
    """HTTP headers as OpenTelemetry's variables write them: `name=value,name=value`, values percent-encoded or not.

    Raises ValueError, which repeats nothing of them.
    """
    found: dict[str, str] = {}
    for part in text.split(","):
        name, equals, value = part.strip().partition("=")
        value = unquote(value.strip())
        if (
            not equals
            or _TOKEN.fullmatch(name.strip()) is None
            or not (value.isascii() and value.isprintable())
        ):
            raise ValueError("is not of the form name=value,name=value")
        found[name.strip()] = value
    return found


_TOKEN = re.compile(r"[!#$%&'*+.^_`|~\w-]+", re.ASCII)


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


# What a schema says of a value that a validator of ours makes of another one.
_Listed = list[str] | str
_Measured = float | Annotated[str, Field(pattern=r"^\d+(\.\d+)? *(ms|s|m|h|d)?$")]
_Sized = int | Annotated[str, Field(pattern=r"^\d+ *(B|KiB|MiB|GiB|kB|MB|GB)?$")]

TopicName = Annotated[str, Field(min_length=1), AfterValidator(_topic)]
TopicNames = Annotated[
    tuple[TopicName, ...],
    BeforeValidator(_comma_list, json_schema_input_type=_Listed),
    Field(min_length=1),
    AfterValidator(_each_once),
]
Servers = Annotated[
    tuple[Annotated[str, AfterValidator(_host_and_port)], ...],
    BeforeValidator(_comma_list, json_schema_input_type=_Listed),
    Field(min_length=1),
    AfterValidator(_each_once),
]
Word = Annotated[str, Field(min_length=1)]
Duration = Annotated[
    float, BeforeValidator(duration_seconds, json_schema_input_type=_Measured), Field(gt=0, le=7 * 86400)
]
Delays = Annotated[
    tuple[Duration, ...],
    BeforeValidator(_comma_list, json_schema_input_type=list[_Measured] | str),
    Field(max_length=10),
    AfterValidator(_ascending),
]
Retention = Annotated[
    float,
    BeforeValidator(duration_seconds, json_schema_input_type=_Measured),
    Field(ge=3600, le=3650 * 86400),
]
Size = Annotated[int, BeforeValidator(size_bytes, json_schema_input_type=_Sized), Field(ge=1024, le=1 << 40)]
Count = Annotated[int, BeforeValidator(_not_a_boolean), Field(ge=1, le=1_000_000)]
Rate = Annotated[float, BeforeValidator(_not_a_boolean), Field(gt=0, le=100_000)]
Port = Annotated[int, BeforeValidator(_not_a_boolean), Field(ge=0, le=65535)]
Secret = Annotated[SecretStr, AfterValidator(_secret_text)]
NAMES_A_SECRET = "the value is a secret's name"  # noqa: S105  # no secret
SecretName = Annotated[str, Field(min_length=1, max_length=100), NAMES_A_SECRET]
StartFrom = Annotated[
    Literal["earliest", "latest"] | datetime, BeforeValidator(_start, json_schema_input_type=str)
]


def in_largest(value: float, units: Mapping[str, float]) -> str:
    """In the largest unit that needs no fraction."""
    whole = [(size, unit) for unit, size in units.items() if value and (value / size).is_integer()]
    size, unit = max(whole, default=next((size, unit) for unit, size in units.items() if size == 1))
    return f"{value / size:.15g}{unit}"
