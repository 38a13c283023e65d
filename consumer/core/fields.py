"""Values of an event -> values of an order, in base units. Performs no I/O.

Each field says where it stands, its unit, its time format and zone; a value that does
not fit is an error, never a guess.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import ROUND_FLOOR, ROUND_HALF_EVEN, Context, Decimal
from enum import StrEnum

from consumer.core.events import Value
from consumer.core.formats import Path, fill_paths, found_at, scalar_text
from consumer.core.outcomes import Reason
from consumer.core.templates import Template

MAX_TEXT = 1000
"""Characters of a text field."""

MAX_DIGITS = 40
"""Digits, and powers of ten, of a number: `int(Decimal("1E+1000000"))` runs for 20 seconds."""

_LARGEST = 2**53 - 1
_EXACT = Context(prec=2 * MAX_DIGITS + 10)


# -- Fields -----------------------------------------------------------------------------------------


class FieldType(StrEnum):
    """How a field is read. Energies become Wh, money fen, durations seconds: all whole numbers."""

    STRING = "string"
    INT = "int"
    BOOL = "bool"
    DECIMAL = "decimal"
    TIMESTAMP = "timestamp"
    ENERGY = "energy"
    MONEY = "money"
    DURATION = "duration"


KNOWN_FIELDS = {
    "order_id": FieldType.STRING,
    "plate": FieldType.STRING,
    "station_id": FieldType.STRING,
    "connector_id": FieldType.STRING,
    "api_store_code": FieldType.STRING,
    "stop_reason": FieldType.STRING,
    "started_at": FieldType.TIMESTAMP,
    "ended_at": FieldType.TIMESTAMP,
    "energy_wh": FieldType.ENERGY,
    "fee_fen": FieldType.MONEY,
    "seconds": FieldType.DURATION,
}
"""Fields that mean something to us; a source may name others."""

DERIVED_FIELDS = {
    "minutes": FieldType.INT,
    "event_id": FieldType.STRING,
    "zone": FieldType.STRING,
}
"""Fields that are made of others: whole minutes of `seconds`, the request's id, the zone of local times."""

CLOCK = "HH:MM:SS"
UNITS: Mapping[FieldType, Mapping[str, Decimal]] = {
    FieldType.ENERGY: {
        "Wh": Decimal(1),
        "kWh": Decimal(1000),
        "0.1kWh": Decimal(100),
        "0.01kWh": Decimal(10),
        "0.001kWh": Decimal(1),
        "0.0001kWh": Decimal("0.1"),
    },
    FieldType.MONEY: {
        "yuan": Decimal(100),
        "0.1yuan": Decimal(10),
        "fen": Decimal(1),
        "0.001yuan": Decimal("0.1"),
        "0.0001yuan": Decimal("0.01"),
    },
    FieldType.DURATION: {
        "s": Decimal(1),
        "ms": Decimal("0.001"),
        "min": Decimal(60),
        "h": Decimal(3600),
        CLOCK: Decimal(1),
    },
}
"""A unit's size in the base unit."""


@dataclass(frozen=True, slots=True)
class Zone:
    """A time zone, by the name that CEL and people know it by."""

    name: str
    rules: tzinfo


class UnreadableError(Exception):
    """A value that is there and cannot be what its field says."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Field:
    """One field of an order: where it stands and how it is read.

    Attributes:
        paths: fallbacks, the first with a value counts.
        template: the value is composed instead, over paths.
        scale: what one of the source's units is in the base unit.
        clock: a duration as `HH:MM:SS`.
        formats: of a timestamp, tried in order.
        zone: of a timestamp that has none.
        station_zone: the station's zone is that of a timestamp that has none.
        empty: texts that mean "no value".
        required: an order without it is invalid.

    """

    name: str
    type: FieldType
    paths: tuple[Path, ...] = ()
    template: Template | None = None
    scale: Decimal = Decimal(1)
    clock: bool = False
    formats: tuple["TimeFormat", ...] = ()
    zone: Zone | None = None
    station_zone: bool = False
    empty: frozenset[str] = frozenset()
    required: bool = False

    def find(self, row: object, event: object) -> object:
        """The raw value, or None."""
        if self.template is not None:
            composed = fill_paths(self.template, row, event)
            return None if composed in self.empty else composed
        for value in found_at(self.paths, row, event):
            if not self.empty or scalar_text(value) not in self.empty:
                return value
        return None

    def read(self, raw: object, station_zone: Zone | None) -> Value:
        """A raw value in our terms. Raises UnreadableError."""
        match self.type:
            case FieldType.TIMESTAMP:
                return _timestamp(raw, self.formats, station_zone if self.station_zone else self.zone)
            case FieldType.ENERGY | FieldType.MONEY:
                return _base(_number(raw), self.scale, ROUND_HALF_EVEN)
            case FieldType.DURATION:
                # Down: who has charged for 29:59.999 has not charged for 30 minutes.
                return _base(_clock(raw) if self.clock else _number(raw), self.scale, ROUND_FLOOR)
            case _:
                return _PLAIN[self.type](raw)


def _text(raw: object) -> str:
    text = scalar_text(raw)
    if text is None:
        raise UnreadableError(Reason.SCHEMA, f"{kind_of(raw)} where text is expected")
    if len(text) > MAX_TEXT:
        raise UnreadableError(Reason.SCHEMA, f"a text of {len(text)} characters")
    return text


def _bool(raw: object) -> bool:
    match scalar_text(raw):
        case "true" | "1":
            return True
        case "false" | "0":
            return False
    raise UnreadableError(Reason.SCHEMA, f"{kind_of(raw)} that is neither true nor false")


_NUMBER = re.compile(r"[+-]?[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]{1,4})?", re.ASCII)


def _number(raw: object) -> Decimal:
    """A number, or text that is one in any width of digits; `4,00` is none."""
    match raw:
        case bool():
            raise UnreadableError(Reason.SCHEMA, "a truth value where a number is expected")
        case int():
            if raw.bit_length() > 4 * MAX_DIGITS:
                raise UnreadableError(Reason.OVERFLOW, "a number with too many digits")
            number = Decimal(raw)
        case Decimal():
            number = raw
        case str():
            text = unicodedata.normalize("NFKC", raw[: MAX_TEXT + 1]).strip()
            if _NUMBER.fullmatch(text) is None:
                raise UnreadableError(Reason.SCHEMA, "text that is no number")
            number = Decimal(text)
        case _:
            raise UnreadableError(Reason.SCHEMA, f"{kind_of(raw)} where a number is expected")
    if len(number.as_tuple().digits) > MAX_DIGITS or (number and abs(number.adjusted()) > MAX_DIGITS):
        raise UnreadableError(Reason.OVERFLOW, "a number with too many digits")
    return number or Decimal(0)  # 0E+999 has no digits to bound


def _whole(number: Decimal) -> int:
    if number != number.to_integral_value():
        raise UnreadableError(Reason.SCHEMA, "a number with a fraction where a whole one is expected")
    return _base(number, Decimal(1), ROUND_HALF_EVEN)


def _base(number: Decimal, scale: Decimal, rounding: str) -> int:
    """In base units: exact until it is rounded to a whole one, once."""
    whole = int(_EXACT.multiply(number, scale).to_integral_value(rounding=rounding))
    if abs(whole) > _LARGEST:
        raise UnreadableError(Reason.OVERFLOW, "a number that is too large")
    return whole


_CLOCK_TEXT = re.compile(r"([0-9]{1,4}):([0-5][0-9]):([0-5][0-9])(\.[0-9]{1,9})?", re.ASCII)


def _clock(raw: object) -> Decimal:
    match = _CLOCK_TEXT.fullmatch(raw.strip()) if isinstance(raw, str) else None
    if match is None:
        raise UnreadableError(Reason.SCHEMA, f"{kind_of(raw)} that is no {CLOCK}")
    return Decimal(int(match[1]) * 3600 + int(match[2]) * 60 + int(match[3])) + Decimal(match[4] or 0)


def kind_of(raw: object) -> str:
    """What kind of JSON value this is, for a message."""
    kinds = {dict: "an object", list: "a list", bool: "a truth value", str: "text"}
    return kinds.get(type(raw), "a number")


_PLAIN: Mapping[FieldType, Callable[[object], Value]] = {
    FieldType.STRING: _text,
    FieldType.BOOL: _bool,
    FieldType.INT: lambda raw: _whole(_number(raw)),
    FieldType.DECIMAL: _number,
}


# -- Times ------------------------------------------------------------------------------------------

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EPOCHS = {"epoch_s": Decimal(1), "epoch_ms": Decimal("0.001"), "epoch_min": Decimal(60)}
_ISO = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(?::\d\d(?:[.,]\d{1,12})?)?(?: ?(?:[Zz]|[+-]\d\d(?::?\d\d)?))?", re.ASCII
)
_PIECES = {
    "yyyy": r"(?P<year>\d{4})",
    "MM": r"(?P<month>\d{1,2})",
    "dd": r"(?P<day>\d{1,2})",
    "HH": r"(?P<hour>\d{1,2})",
    "mm": r"(?P<minute>\d\d)",
    "ss": r"(?P<second>\d\d)",
    "SSS": r"(?P<milli>\d{3})",
}
_PIECE = re.compile("yyyy|SSS|MM|dd|HH|mm|ss|.", re.DOTALL)


@dataclass(frozen=True, slots=True)
class TimeFormat:
    """How a timestamp is written: `iso`, `epoch_s`, `epoch_ms`, `epoch_min`, or a pattern like `yyyy-MM-dd HH:mm:ss`.

    Attributes:
        text: as written.

    """

    text: str
    _pattern: re.Pattern[str] | None = None

    @classmethod
    def parse(cls, text: str) -> "TimeFormat":
        """Raises ValueError."""
        if text == "iso" or text in EPOCHS:
            return cls(text)
        pieces = _PIECE.findall(text)
        digits = [piece for piece in pieces if piece in _PIECES]
        letters = [piece for piece in pieces if piece not in _PIECES and piece.isalpha() and piece != "T"]
        if letters or len(set(digits)) < len(digits) or not {"yyyy", "MM", "dd"} <= set(digits):
            raise ValueError(f"`{text}` is no time format")
        # Digits that touch have their full width, or 2026113 could be read in two ways.
        tight = "MMdd" in text
        body = "".join(_PIECES.get(piece, re.escape(piece)) for piece in pieces)
        return cls(text, re.compile(body.replace("{1,2}", "{2}") if tight else body, re.ASCII))

    def read(self, raw: object) -> datetime | None:
        """Aware where the value says its offset; None if it is not written so. May raise ValueError, OverflowError."""
        if self.text in EPOCHS:
            return _EPOCH + _seconds(_base(_number(raw), EPOCHS[self.text] * 1_000_000, ROUND_HALF_EVEN))
        if not isinstance(raw, str):
            return None
        text = unicodedata.normalize("NFKC", raw[:100]).strip()
        if self._pattern is None:
            return _iso(text) if _ISO.fullmatch(text) else None
        match = self._pattern.fullmatch(text)
        if match is None:
            return None
        parts = {name: int(digits) for name, digits in match.groupdict().items()}
        milliseconds = parts.pop("milli", 0)
        return datetime(**parts, microsecond=1000 * milliseconds)  # type: ignore[arg-type]  # noqa: DTZ001  # a wall clock, its zone comes later


def _seconds(microseconds: int) -> timedelta:
    return timedelta(microseconds=microseconds)


def _iso(text: str) -> datetime:
    head, fraction, tail = text.replace(",", ".").partition(".")
    if fraction:
        digits = re.match(r"\d+", tail)
        assert digits is not None
        text = f"{head}.{digits.group()[:6].ljust(6, '0')}{tail[digits.end() :]}"
    return datetime.fromisoformat(
        text.replace(" +", "+").replace(" -", "-").replace(" Z", "Z").replace("z", "Z")
    )


def _timestamp(raw: object, formats: tuple[TimeFormat, ...], zone: Zone | None) -> datetime:
    """An aware time: at its own offset, else in the zone that is configured for it."""
    for written in formats:
        try:
            found = written.read(raw)
        except (ValueError, OverflowError):
            break
        if found is None:
            continue
        if found.tzinfo is None:
            if zone is None:
                raise UnreadableError(Reason.ZONE_MISSING, "a time without a zone, and none is configured")
            found = found.replace(tzinfo=zone.rules)
        try:
            if 1 < found.astimezone(UTC).year < 9999:
                return found
        except OverflowError:
            break
        break
    names = " or ".join(written.text for written in formats)
    raise UnreadableError(Reason.SCHEMA, f"{kind_of(raw)} that is no time written as {names}")
