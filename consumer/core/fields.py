"""Values of an event -> values of an order, in base units. Performs no I/O but for time zones' data.

Each field says where it stands, its unit, its time format and zone; a value that does
not fit is an error, never a guess.
"""

import re
import unicodedata
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from decimal import (
    ROUND_FLOOR,
    ROUND_HALF_EVEN,
    Clamped,
    Context,
    Decimal,
    DivisionByZero,
    Inexact,
    InvalidOperation,
    Overflow,
    Rounded,
    Subnormal,
    Underflow,
)
from enum import StrEnum
from functools import lru_cache
from html import unescape
from itertools import pairwise
from typing import NamedTuple, cast
from urllib.parse import unquote_to_bytes
from zoneinfo import ZoneInfo

from consumer.core.envelopes import connect_decimal
from consumer.core.events import Value
from consumer.core.formats import Event, Path, Refusal, first_at, placed_text, scalar_text
from consumer.core.outcomes import Reason
from consumer.core.templates import Template
from consumer.core.values import Memo

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
    "charging_seconds": FieldType.DURATION,
}
"""Fields that mean something to us; a source may name others."""

DERIVED_FIELDS = {
    "minutes": FieldType.INT,
    "event_id": FieldType.STRING,
    "zone": FieldType.STRING,
}
"""Fields that are made of others: whole minutes of `seconds`, the request's id, the zone of local times."""

IN_TEXT = "in_text"
"""The unit stands behind each number: `18.6 kWh`."""

CLOCK = "HH:MM:SS"
SHORT_CLOCK = "HH:MM"
SHORTEST_CLOCK = "MM:SS"
ISO_DURATION = "iso"
SCALES = Context(prec=200)
"""In which units are multiplied with each other."""

_JOULE = SCALES.divide(Decimal(1), Decimal(3600))
"""In Wh: of more digits than what is multiplied by it is rounded to, so that 5400 J are 1.5 Wh and no less."""

UNITS: Mapping[FieldType, Mapping[str, Decimal]] = {
    FieldType.ENERGY: {
        "Wh": Decimal(1),
        "kWh": Decimal(1000),
        "MWh": Decimal(1_000_000),
        "0.1kWh": Decimal(100),
        "0.01kWh": Decimal(10),
        "0.001kWh": Decimal(1),
        "0.0001kWh": Decimal("0.1"),
        "J": _JOULE,
        "kJ": _JOULE.scaleb(3, SCALES),
        "MJ": _JOULE.scaleb(6, SCALES),
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
        "us": Decimal("0.000001"),
        "ns": Decimal("0.000000001"),
        "min": Decimal(60),
        "h": Decimal(3600),
        "d": Decimal(86400),
        CLOCK: Decimal(1),
        SHORT_CLOCK: Decimal(1),
        SHORTEST_CLOCK: Decimal(1),
        ISO_DURATION: Decimal(1),
    },
}
"""A unit's size in the base unit."""

_SPELLINGS = {
    **dict.fromkeys(("wh", "瓦时"), "Wh"),
    **dict.fromkeys(
        ("kwh", "kw.h", "kw·h", "kw-h", "kw*h", "度", "度电", "千瓦时", "千瓦·时", "千瓦小时"), "kWh"
    ),
    **dict.fromkeys(("kj", "千焦"), "kJ"),
    **dict.fromkeys(("焦", "焦耳"), "J"),
    "兆焦": "MJ",
    **dict.fromkeys(("yuan", "元", "圆", "元整", "元正", "块", "cny", "rmb", "¥"), "yuan"),
    **dict.fromkeys(("jiao", "角"), "0.1yuan"),
    **dict.fromkeys(("fen", "分"), "fen"),
    **dict.fromkeys(("s", "sec", "second", "seconds", "秒", "秒钟"), "s"),
    **dict.fromkeys(("ms", "毫秒"), "ms"),
    **dict.fromkeys(("min", "mins", "minute", "minutes", "分钟"), "min"),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours", "时", "小时", "个小时"), "h"),
    **dict.fromkeys(("d", "day", "days", "天"), "d"),
}
_OF_DURATIONS = {"m": "min", "分": "min"}
"""Units as events write them beside their numbers, in lower case; but `MWh` and `mWh`, `MJ` and `mJ` differ in nothing else."""


def spelled_unit(text: str, type_: FieldType) -> str:
    """The unit as UNITS has it, of one that events write; perhaps one of another type, or empty."""
    spelled = text if text in UNITS[type_] else _SPELLINGS.get(text.lower(), "")
    return _OF_DURATIONS.get(text.lower(), spelled) if type_ is FieldType.DURATION else spelled


NOTHING = frozenset({"null", "(null)", "none", "nil", "undefined", "n/a", "-", "--"})
"""Texts that systems write where a number or a time has no value, in lower case."""


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


class NoUnitError(UnreadableError):
    """A number alone where its unit is expected behind it."""

    def __init__(self, raw: object) -> None:
        what = "text that is a number" if isinstance(raw, str) else "a number"
        super().__init__(Reason.SCHEMA, f"{what} without its unit")


@dataclass(frozen=True, slots=True)
class Computed:
    """A value made of two other fields, where the event has none: `ended_at - charging_seconds`."""

    left: str
    minus: bool
    right: str

    @property
    def text(self) -> str:
        """For people."""
        return f"{self.left} {'−' if self.minus else '+'} {self.right}"

    def of(self, values: Mapping[str, Value]) -> Value | None:
        """None where one of them is absent. May raise OverflowError."""
        left, right = values.get(self.left), values.get(self.right)
        if isinstance(left, datetime) and isinstance(right, datetime):
            return elapsed_seconds(right, left)
        if isinstance(left, datetime) and isinstance(right, int):
            moved = timedelta(seconds=-right if self.minus else right)
            return (left.astimezone(UTC) + moved).astimezone(left.tzinfo)
        if isinstance(left, int) and isinstance(right, int):
            return left - right if self.minus else left + right
        return None


def elapsed_seconds(started: datetime, ended: datetime) -> int:
    """Whole seconds, down. In UTC: two times of one zone would be subtracted by their wall clocks."""
    if type(started.tzinfo) is timezone and type(ended.tzinfo) is timezone:  # offsets that never change
        return (ended - started) // _SECOND
    return (ended.astimezone(UTC) - started.astimezone(UTC)) // _SECOND


def is_before(one: datetime, other: datetime) -> bool:
    """As instants, which two times of one zone are compared as only in UTC."""
    if one.tzinfo is other.tzinfo and type(one.tzinfo) is not timezone:
        return one.astimezone(UTC) < other.astimezone(UTC)
    return one < other


class Quantity(NamedTuple):
    """A number as a source has it, and what one of its units is in the base unit."""

    number: Decimal
    scale: Decimal
    unit: str


@dataclass(frozen=True, slots=True)
class Field:
    """One field of an order: where it stands and how it is read.

    Attributes:
        paths: fallbacks, the first with a value counts.
        template: the value is composed instead, over paths.
        minus: where the number stands that is subtracted; without it there is no value.
        value: where the number stands within what `paths` lead to, if that is an object.
        unit_from: where its unit stands in there; without `value`, in the row, where it has to be then.
        units: what the texts there, or behind numbers, mean that are no units as we know them: keys of UNITS.
        exponent_from: where the power of ten stands in there that it is multiplied by.
        decimals_from: where in there stands how many of its digits are decimals.
        rolls_over_at: the reading at which a meter begins anew, in the field's unit; 0 for one that never does.
        unit: the source's, as it was configured.
        scale: what one of them is in the base unit.
        multiplier: the part of `scale` that is not the unit.
        written: how a duration is written, if it is no number: a key of UNITS; or IN_TEXT.
        total: the numbers at all the places that the first path with any leads to, together.
        comma: numbers in text have a decimal comma.
        thousands: what stands between groups of three digits in text; empty for nothing.
        after: what stands in a text before the value; empty where the text begins with it. Without that there is no value.
        before: what ends the value; empty where the text does.
        split: what a text's parts are separated by; empty where it is taken whole.
        part: which of these parts the value is, from 0, from behind -1.
        encoding: what a text is encoded in, a key of ENCODINGS; empty where it is plain.
        charset: of the bytes that are encoded.
        connect_scale: the value is Kafka Connect's bytes of a decimal with so many places.
        formats: of a timestamp, tried in order.
        zone: of a timestamp that has none.
        station_zone: the station's zone is that of a timestamp that has none.
        zone_from: where in the row that zone stands, or an offset; where nothing does, the two above count.
        to_minutes: a timestamp's seconds are noise.
        computed: what it is where the event has none.
        not_before, not_after: a field; a time on its wrong side is one of the next, the previous day.
        empty: texts that mean "no value".
        default: the value where the event has none.
        required: an order without it is invalid.

    """

    name: str
    type: FieldType
    paths: tuple[Path, ...] = ()
    template: Template | None = None
    minus: tuple[Path, ...] = ()
    value: tuple[Path, ...] = ()
    unit_from: tuple[Path, ...] = ()
    units: Mapping[str, str] = field(default_factory=dict)
    exponent_from: tuple[Path, ...] = ()
    decimals_from: tuple[Path, ...] = ()
    rolls_over_at: Decimal = Decimal(0)
    unit: str = ""
    scale: Decimal = Decimal(1)
    multiplier: Decimal = Decimal(1)
    written: str = ""
    total: bool = False
    comma: bool = False
    thousands: str = ""
    after: str = ""
    before: str = ""
    split: str = ""
    part: int = 0
    encoding: str = ""
    charset: str = "utf-8"
    connect_scale: int | None = None
    formats: tuple["TimeFormat", ...] = ()
    zone: Zone | None = None
    station_zone: bool = False
    zone_from: tuple[Path, ...] = ()
    to_minutes: bool = False
    computed: Computed | None = None
    not_before: str | None = None
    not_after: str | None = None
    empty: frozenset[str] = frozenset()
    default: Value | None = None
    required: bool = False

    @property
    def is_made(self) -> bool:
        """It depends on other fields."""
        return (self.computed or self.not_before or self.not_after) is not None

    def find(self, row: object, event: Event) -> object:
        """The raw value, or None."""
        if self.template is not None:
            composed = self._compose(self.template, row, event)
            return None if composed in self.empty else composed
        found = self.first(self.paths, row, event)
        return None if found is None else found[1]

    def _compose(self, template: Template, row: object, event: Event) -> str | None:
        """None where a part of it is missing, or, in an order's number, the same for many orders."""
        identity = self.name == "order_id"

        def part(name: str) -> str | None:
            text = placed_text(name, row, event)
            return None if text is None or (identity and is_placeholder(text)) else text

        composed, missing = template.fill(part)
        return None if missing is not None else composed

    def first(self, paths: tuple[Path, ...], row: object, event: Event) -> tuple[Path, object] | None:
        """The first of these paths that has a value for this field, and the value."""
        for path in paths:
            for value in self.all_at(path, row, event):
                return path, value
        return None

    def all_at(self, path: Path, row: object, event: Event) -> Iterator[object]:
        """What the path leads to that is a value for this field."""
        for value in path.find_all(row, event) if path.many else (path.find(row, event),):
            if value is None:
                continue
            if self.is_cut and isinstance(value, str):
                value = self._cut_out(value)  # noqa: PLW2901  # no other is of use any more
            if isinstance(value, str):
                text = value.strip()
                if not text or (self.type is not FieldType.STRING and text.lower() in NOTHING):
                    continue
            if value is not None and not (self.empty and scalar_text(value) in self.empty):
                yield value

    @property
    def is_cut(self) -> bool:
        """It is a part of the text that stands there."""
        return bool(self.split or self.after or self.before)

    def _cut_out(self, text: str) -> str | None:
        """The part of the text that the value is; None where the text has no such part."""
        if self.after:
            _, found, text = text.partition(self.after)
            if not found:
                return None
        if self.before:
            text = text.partition(self.before)[0]
        return _part(text, self.split, self.part) if self.split else text

    def get(self, row: object, event: Event, station_zone: Zone | None) -> Value | None:
        """The value in our terms, or None. Raises UnreadableError."""
        found = self._get(row, event, station_zone)
        return self.default if found is None else found

    def _get(self, row: object, event: Event, station_zone: Zone | None) -> Value | None:
        if self.total:
            return self._total(row, event)
        raw = self.find(row, event)
        if raw is None:
            return None
        if self.zone_from:
            return self.moment(raw, self.zone_at(row, event, station_zone))
        if not self.minus:
            return self._rounded(self._amount(raw, row)) if self.is_beside else self.read(raw, station_zone)
        subtrahend = self.first(self.minus, row, event)
        if subtrahend is None:
            return None  # half of a difference is no difference
        used = _EXACT.subtract(self._amount(raw, row), self._amount(subtrahend[1], row))
        return self._rounded(self.rolled_over(used))

    def rolled_over(self, used: Decimal) -> Decimal:
        """What was used, of a meter that has begun anew meanwhile if it shows less than before."""
        return _EXACT.fma(self.rolls_over_at, self.scale, used) if used < 0 else used

    def _total(self, row: object, event: Event) -> Value | None:
        for path in self.paths:
            found = list(self.all_at(path, row, event))
            if found:
                total = _ZERO
                for raw in found:
                    total = _EXACT.add(total, self._amount(raw, row))
                return self._rounded(total)
        return None

    def read(self, raw: object, station_zone: Zone | None = None) -> Value:
        """A raw value in our terms. Raises UnreadableError."""
        match self.type:
            case FieldType.STRING:
                return _decoded(_text(raw), self.encoding, self.charset) if self.encoding else _text(raw)
            case FieldType.TIMESTAMP:
                return self.moment(raw, station_zone if self.station_zone else self.zone)
            case FieldType.BOOL:
                return _bool(raw)
            case _:
                return self._rounded(self._amount(raw))

    def moment(self, raw: object, zone: Zone | None) -> datetime:
        """A time, in this zone where it does not say its own. Raises UnreadableError."""
        found = _timestamp(raw, self.formats, zone)
        return found.replace(second=0, microsecond=0) if self.to_minutes else found

    def zone_at(self, row: object, event: Event, station_zone: Zone | None) -> Zone | None:
        """The zone of those of its times in this row that do not say their own. Raises UnreadableError."""
        told = first_at(self.zone_from, row, event)
        if told is None or (isinstance(told, str) and told.strip().lower() in NOTHING):
            return station_zone if self.station_zone else self.zone
        return _zone_told(scalar_text(told) or "", is_text=isinstance(told, str))

    def _amount(self, raw: object, row: object = None) -> Decimal:
        """In base units, exactly."""
        number, scale, _ = self.quantity(raw, row)
        return _EXACT.multiply(number, scale)

    @property
    def is_beside(self) -> bool:
        """What its numbers are in stands beside them in the row."""
        return bool(self.unit_from or self.exponent_from or self.decimals_from) and not self.value

    def quantity(self, raw: object, row: object = None) -> "Quantity":
        """The number that stands there, with its unit. Raises UnreadableError."""
        scale, unit = self.scale, self.unit
        reading = raw if self.value else row
        if isinstance(reading, dict) and (self.value or self.is_beside):
            event = Event(reading)
            if self.value:
                found = self.first(self.value, reading, event)
                if found is None:
                    raise UnreadableError(Reason.FIELD_MISSING, "a reading without a value")
                raw = found[1]
            own = first_at(self.unit_from, reading, event)
            if own is None and self.unit_from and not self.value:
                raise UnreadableError(Reason.FIELD_MISSING, f"no unit at {self.unit_from[0].text}")
            scale, unit = self._scale_of(own), scalar_text(own) or unit
            exponent = first_at(self.exponent_from, reading, event)
            if exponent is not None:
                scale = SCALES.multiply(scale, _power_of_ten(exponent))
            decimals = first_at(self.decimals_from, reading, event)
            if decimals is not None:
                scale = SCALES.divide(scale, _power_of_ten(decimals))
        if self.written == IN_TEXT:
            terms = [
                Quantity(self._plain(number), self._scale_of(unit), unit)
                for number, unit in _numbers_and_units(raw)
            ]
            return terms[0] if len(terms) == 1 else self._together(terms)
        return Quantity(self._number(raw), scale, "s" if self.written else unit)

    def _together(self, terms: "list[Quantity]") -> "Quantity":
        """`1小时30分`: each in a smaller unit than the one before, and only what is written in several."""
        falling = all(one.scale > other.scale and other.number >= 0 for one, other in pairwise(terms))
        if self.type not in (FieldType.DURATION, FieldType.MONEY) or not falling or terms[0].number < 0:
            raise UnreadableError(Reason.SCHEMA, "text that is no number with its unit")
        total = _ZERO
        for term in terms:
            total = _EXACT.add(total, _EXACT.multiply(term.number, term.scale))
        return Quantity(total, Decimal(1), "s" if self.type is FieldType.DURATION else "fen")

    def _scale_of(self, unit: object) -> Decimal:
        if unit is None:
            return self.scale
        text = scalar_text(unit) or ""
        size = UNITS[self.type].get(self.units.get(text) or spelled_unit(text, self.type))
        if size is None:
            detail = f"the unit `{text[:20]}` is no unit of {self.type}; if it is one, `units` can say which"
            raise UnreadableError(Reason.SCHEMA, detail)
        return SCALES.multiply(size, self.multiplier)

    def _number(self, raw: object) -> Decimal:
        if self.written:
            return _written_duration(raw, self.written)
        if self.connect_scale is not None and isinstance(raw, str):
            raw = connect_decimal(raw.strip(), self.connect_scale)
            if raw is None:
                raise UnreadableError(Reason.SCHEMA, "text that is no base64 of a decimal")
        return self._plain(raw)

    def _plain(self, raw: object) -> Decimal:
        return _number(raw, comma=self.comma, thousands=self.thousands)

    def _rounded(self, amount: Decimal) -> Value:
        match self.type:
            case FieldType.DECIMAL:
                return amount
            case FieldType.DURATION:
                # Down: who has charged for 29:59.999 has not charged for 30 minutes.
                return _whole(amount, ROUND_FLOOR)
            case FieldType.INT if amount != amount.to_integral_value():
                detail = "a number with a fraction where a whole one is expected"
                raise UnreadableError(Reason.SCHEMA, detail)
            case _:
                return _whole(amount, ROUND_HALF_EVEN)


# -- Row after row, with fewer steps ------------------------------------------------------------------

Read = Callable[[object], Value]
"""A raw value -> the value in our terms. Raises UnreadableError."""

Get = Callable[[dict[str, object], Event], Value | None]
"""A row, its event -> the value in our terms, or None. Raises UnreadableError."""

Moment = tuple[int, datetime, datetime | None]
"""A time: in microseconds since 1970, to be compared with others; by the clocks of the zone that it is shown in; as it was
written by the clocks of a zone, None of one with its offset."""

Minutes = Memo[str, Moment | None]
"""A text that may be a time of whole seconds, but for its seconds -> when the minute begins; None where it has to be
looked at. Charges of a day begin and end in a few hundred of them, in ever other seconds."""

ToWhole = Callable[[Decimal], int]

Number = tuple[int, Decimal | None, ToWhole, bool]
"""How many base units one of a whole number is, and one of a decimal (0, None: neither is read at a glance), how decimals
are rounded, and whether text of plain digits is a number."""

Look = Callable[[object, dict[str, object], Event], Value | UnreadableError | None]
"""What stands under a field's key, its row and event -> the value in our terms, wherever it stands."""

Reader = tuple[str, str, bool, Minutes | None, Number | None, bool, Look]
"""A field, with all made ready that no row changes.

The key under which it is looked for first; its name; whether text is what it is, and even `null` a value; what knows its
times of whole seconds; what is to be known of its numbers; whether it may stand elsewhere; what reads it where that takes
more than a glance. A bare tuple, since one with names takes four times as long to be taken apart.
"""

NOWHERE = cast("str", object())
"""The key of what is found by more than a name; no row has it."""


def readers_of(
    fields: Sequence[Field], station_zone: Zone | None, shown: tzinfo | None, *, moments: bool = True
) -> tuple[Reader, ...]:
    """What `Field.get` does for each, for `take`, at stations of this zone.

    Without `moments` no time is among these: all remain as they were written.
    """
    return tuple([_reader_of(field, station_zone, shown, moments=moments) for field in fields])


def _reader_of(field: Field, station_zone: Zone | None, shown: tzinfo | None, *, moments: bool) -> Reader:
    name, texts = field.name, field.type is FieldType.STRING and not field.encoding
    minutes, number = None, None
    if field.minus or field.total or field.is_beside or field.zone_from:

        def get(row: dict[str, object], event: Event) -> Value | None:
            return field.get(row, event, station_zone)

        return NOWHERE, name, texts, None, None, True, _look_of(name, _text, get, texts=texts)
    read = _text if texts else _plainly(field, station_zone)
    if field.type is FieldType.TIMESTAMP and field.formats and not field.to_minutes:
        zone = station_zone if field.station_zone else field.zone
        minutes, read = _time_readers_of(field, None if zone is None else zone.rules, shown, read)
        minutes = minutes if moments else None
    elif field.type in _NUMBERS and not field.written:
        number = _number_of(field)
        read = _number_reader_of(field, number)
    more = field.template is not None or field.empty or field.is_cut or field.encoding
    key = None if more or not field.paths else field.paths[0].name
    rest = _getter_of(field if key is None else replace(field, paths=field.paths[1:]), read)
    if field.default is not None:
        rest = _or_default(rest, field.default)
    look, elsewhere = _look_of(name, read, rest, texts=texts), rest is not _get_nothing
    return NOWHERE if key is None else key, name, texts, minutes, number, elsewhere, look


def take(  # noqa: C901, PLR0912  # one straight line: a call for each value would cost more than what is done with it
    readers: tuple[Reader, ...],
    row: dict[str, object],
    event: Event,
    values: dict[str, Value],
    problems: dict[str, UnreadableError],
) -> dict[str, Moment]:
    """What these can read goes into the values, by the fields' names; what they cannot, into the problems.

    A value as nearly all are is told and read at a glance, with no call; all else is looked at. Times that are read
    at a glance are in their zone already, and are returned.
    """
    moments: dict[str, Moment] = {}
    get = row.get
    for key, name, texts, minutes, number, elsewhere, look in readers:
        raw = get(key)
        if texts:
            if type(raw) is str:
                text = raw.strip()
                if text and len(text) <= MAX_TEXT:
                    values[name] = text
                    continue
        elif minutes is not None:
            if type(raw) is str and len(raw) in _WHOLE_SECONDS and (second := _PASSED.get(raw[17:19])):
                minute = minutes[raw[:17] + raw[19:]]
                if minute is not None:
                    since, local, written = minute
                    now = values[name] = local + second[1]
                    if written is not None:
                        written = now if written is local else written + second[1]
                    moments[name] = since + second[0], now, written
                    continue
        elif number is not None:
            units, scale, rounded, _ = number
            if type(raw) is Decimal and scale is not None:
                try:
                    values[name] = rounded(_multiply(raw, scale))
                    continue
                except ArithmeticError:
                    pass  # too long for this, not yet for us; or told as ever
            elif type(raw) is int:
                whole = raw * units
                if units and -_LARGEST <= whole <= _LARGEST:
                    values[name] = whole
                    continue
        if raw is None and not elsewhere:
            continue
        value = look(raw, row, event)
        if isinstance(value, UnreadableError):
            problems[name] = value
        elif value is not None:
            values[name] = value
    return moments


def _look_of(name: str, read: Read, rest: Get, *, texts: bool) -> Look:
    """For what may have no value under its key, or one that takes more than a glance."""

    def look(raw: object, row: dict[str, object], event: Event) -> Value | UnreadableError | None:
        absent = raw is None
        if type(raw) is str:
            text = raw.strip()
            absent = not text or (not texts and len(text) <= _LONGEST_NOTHING and text.lower() in NOTHING)
        try:
            return rest(row, event) if absent else read(raw)
        except UnreadableError as error:
            # A start that means none is none; an end that means none tells something.
            return error if error.reason is not Reason.NOT_FINISHED or name == "ended_at" else None

    return look


_LONGEST_NOTHING = max(map(len, NOTHING))


def _plainly(field: Field, station_zone: Zone | None) -> Read:
    def read(raw: object) -> Value:
        return field.read(raw, station_zone)

    return read


def _getter_of(field: Field, read: Read) -> Get:
    if not field.paths and field.template is None:
        return _get_nothing
    find = _finder_of(field)

    def get(row: dict[str, object], event: Event) -> Value | None:
        raw = find(row, event)
        return None if raw is None else read(raw)

    return get


def _or_default(get: Get, default: Value) -> Get:
    def get_or_default(row: dict[str, object], event: Event) -> Value | None:
        found = get(row, event)
        return default if found is None else found

    return get_or_default


def _get_nothing(_row: dict[str, object], _event: Event) -> None:
    return None


def _finder_of(field: Field) -> Callable[[dict[str, object], Event], object]:
    if field.template is not None or field.empty or field.is_cut or any(path.many for path in field.paths):
        return field.find
    finds = [path.find for path in field.paths]
    texts = field.type is FieldType.STRING

    def find(row: dict[str, object], event: Event) -> object:
        for at in finds:
            value = at(row, event)
            if value is None:
                continue
            if type(value) is str:
                text = value.strip()
                if not text or (not texts and text.lower() in NOTHING):
                    continue
            return value
        return None

    return find


_NUMBERS = (FieldType.ENERGY, FieldType.MONEY, FieldType.DURATION, FieldType.INT)
_HALF_EVEN: ToWhole = Decimal.__round__
_DOWN: ToWhole = Decimal.__floor__


def _number_of(field: Field) -> Number:
    scale = field.scale
    units = int(scale) if scale > 0 and scale == scale.to_integral_value() else 0
    # What comes out is bounded by `_SHORT`; of a scale of another size, the number itself would not be.
    decimals = field.type is not FieldType.INT and scale > 0 and abs(scale.adjusted()) <= _SHORT_EXPONENTS
    rounded = _DOWN if field.type is FieldType.DURATION else _HALF_EVEN
    digits = not field.comma and not field.thousands and field.connect_scale is None
    return units, scale if decimals else None, rounded, digits


def _number_reader_of(field: Field, number: Number) -> Read:
    units, scale, rounded, digits = number

    def read(raw: object) -> Value:
        if type(raw) is Decimal:
            number = raw
        elif type(raw) is int:
            whole = raw * units
            if units and -_LARGEST <= whole <= _LARGEST:
                return whole
            return field.read(raw)  # the error is told as ever
        elif digits and type(raw) is str and len(raw) <= MAX_DIGITS and _is_number(raw) is not None:
            number = Decimal(raw)
        else:
            return field.read(raw)
        if scale is not None:
            try:
                return rounded(_multiply(number, scale))
            except ArithmeticError:
                pass  # too long for this, not yet for us; or told as ever
        return field.read(raw)

    return read


_SHORT_EXPONENTS = 14
_SHORT = Context(
    prec=MAX_DIGITS,
    Emin=-_SHORT_EXPONENTS,
    Emax=_SHORT_EXPONENTS,
    traps=[Clamped, DivisionByZero, Inexact, InvalidOperation, Overflow, Rounded, Subnormal, Underflow],
)
"""What it multiplies without a complaint is exact, and within all bounds: less than 10 ** 15, of no more than MAX_DIGITS digits."""

_multiply = _SHORT.multiply


def _time_readers_of(
    field: Field, rules: tzinfo | None, shown: tzinfo | None, plainly: Read
) -> tuple[Minutes | None, Read]:
    """Without a pattern's match where a time is written as nearly all are."""
    # To an epoch's format such text is no number, and the next one's turn comes.
    written = next((each.text for each in field.formats if each.text not in EPOCHS), "")
    plain = _PLAIN_TIMES.get(written)
    minutes = None if plain is None else _minutes_in(written, rules, shown)
    size = EPOCHS.get(field.formats[0].text, _ZERO)
    first = field.formats[0].text
    micros = (
        int(size) if size == size.to_integral_value() and first.removesuffix(_LOCAL) not in _ORIGINS else 0
    )
    is_local = first.endswith(_LOCAL)

    def read(raw: object) -> Value:
        found = None
        if type(raw) is str:
            found = None if plain is None else plain(raw, rules)
        elif type(raw) is int and micros and 0 < raw < _IN_2286 // micros:
            found = _EPOCH + timedelta(0, 0, raw * micros)
            if is_local:
                found = None if rules is None else datetime.combine(found, found.time(), rules)
        return plainly(raw) if found is None else found

    return minutes, read


_PlainTime = Callable[[str, tzinfo | None], datetime | None]


def _plain_time_of(shapes: tuple[str, ...], *, tails: bool) -> _PlainTime:
    """What reads a time of such a shape; None is what is not quite so, or not so simple."""
    slashes = any("/" in shape for shape in shapes)

    def read(text: str, rules: tzinfo | None) -> datetime | None:
        if text[4:19:3] not in shapes:
            return None
        tail = text[19:]
        if tail and not (tails and _TAIL.fullmatch(tail) is not None):
            return None
        try:
            found = datetime.fromisoformat(text.replace("/", "-") if slashes else text)
        except ValueError:
            return None
        if not 999 < found.year < 3000:
            return None
        if found.tzinfo is not None:
            return found
        return None if rules is None else datetime.combine(found, found.time(), rules)

    return read


_SHAPES = {
    "iso": ("--T::", "-- ::"),
    "yyyy-MM-dd HH:mm:ss": ("-- ::",),
    "yyyy-MM-ddTHH:mm:ss": ("--T::",),
    "yyyy-MM-dd'T'HH:mm:ss": ("--T::",),
    "yyyy/MM/dd HH:mm:ss": ("// ::",),
}
"""What stands between the pairs of digits of a time, by its format."""

_TAIL = re.compile(r"(?:\.[0-9]{1,6})?(?:Z|[+-][0-9]{2}:[0-9]{2})?", re.ASCII)
_IN_2286 = 10**16
"""Microseconds since 1970."""

_MINUTES_KEPT = 4096
"""Minutes that are kept: a backlog's of some days."""

_PASSED = {f"{second:02}": (second * 1_000_000, timedelta(seconds=second)) for second in range(60)}
"""What a minute's second adds to the time when it begins; no minute of Unix has a 61st."""

_WHOLE_SECONDS = frozenset(
    map(len, ("2026-06-03T09:00:00", "2026-06-03T09:00:00Z", "2026-06-03T09:00:00+08:00"))
)
"""Lengths of times without a fraction."""

_PLAIN_TIMES: Mapping[str, _PlainTime] = {
    written: _plain_time_of(shapes, tails=written == "iso") for written, shapes in _SHAPES.items()
}
"""What reads them, by their format."""


@lru_cache(maxsize=32)
def _minutes_in(written: str, rules: tzinfo | None, shown: tzinfo | None) -> Minutes:
    """A memory of minutes that are written so, read in one zone and shown in another."""
    plain = _PLAIN_TIMES[written]

    def minute_of(text: str) -> Moment | None:
        begins, ends = (plain(f"{text[:17]}{second}{text[17:]}", rules) for second in ("00", "59"))
        if begins is None or ends is None:
            return None
        since, local = placed(begins, shown)
        last, at_last = placed(ends, shown)
        # Of a clock that is set within it each second has to be looked at, and of an hour that comes twice: a sum forgets
        # which of them it is in.
        is_even = last - since == 59_000_000 and at_last - local == timedelta(seconds=59)
        written = None if isinstance(begins.tzinfo, timezone) else begins
        return (since, local, written) if is_even and not local.fold else None

    return Memo(minute_of, _MINUTES_KEPT)


def placed(moment: datetime, rules: tzinfo | None) -> tuple[int, datetime]:
    """The same instant twice: in microseconds since 1970; by the clocks of a zone, or as it is without one."""
    return since_1970(moment), moment if rules is None or moment.tzinfo is rules else moment.astimezone(rules)


def since_1970(moment: datetime) -> int:
    """In microseconds."""
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


PLACEHOLDERS = frozenset(
    {"-1", "null", "(null)", "none", "nil", "undefined", "unknown", "nan", "n/a", "-", "--", "true", "false"}
)
LONGEST_PLACEHOLDER = max(map(len, PLACEHOLDERS))
NO_DIGITS_BUT_ZERO = "0_./:+-" + "".join(filter(str.isspace, map(chr, range(0x3001))))


def is_placeholder(identity: str) -> bool:
    """True for what systems write where they have no id: as an event id, all later cars would be "granted already"."""
    if len(identity) <= LONGEST_PLACEHOLDER and identity.casefold() in PLACEHOLDERS:
        return True
    return not identity.strip(NO_DIGITS_BUT_ZERO) and bool(identity)


def _text(raw: object) -> str:
    text = scalar_text(raw)
    if text is None and isinstance(raw, Decimal):
        detail = "a number that was rounded, of which others come to the same; let it be sent as text"
        raise UnreadableError(Reason.SCHEMA, detail)
    if text is None:
        raise UnreadableError(Reason.SCHEMA, f"{kind_of(raw)} where text is expected{_hint(raw)}")
    if len(text) > MAX_TEXT:
        raise UnreadableError(Reason.SCHEMA, f"a text of {len(text)} characters")
    return text


_ESCAPED = re.compile(r"\\u([0-9a-fA-F]{4})")

ENCODINGS: Mapping[str, Callable[[str], bytes]] = {
    "hex": lambda text: bytes.fromhex(text.removeprefix("0x")),
    "base64": lambda text: b64decode(text + "=" * (-len(text) % 4), validate=True),
    "url": unquote_to_bytes,
    "unicode": lambda text: _ESCAPED.sub(lambda match: chr(int(match[1], 16)), text).encode(),
    "html": lambda text: unescape(text).encode(),
}
"""What a text may be encoded in, and what gives its bytes. Raises ValueError."""

ENCODINGS_OF_TEXT = frozenset({"unicode", "html"})
"""Those that encode characters, whatever their bytes are."""


def _decoded(text: str, encoding: str, charset: str) -> str:
    try:
        plain = ENCODINGS[encoding](text).decode(charset).strip("\0 \t\r\n")
    except ValueError:
        plain = "\0"
    if not plain.isprintable():
        raise UnreadableError(Reason.SCHEMA, f"text that is no {encoding} of {charset}")
    return plain


def _bool(raw: object) -> bool:
    text = unicodedata.normalize("NFKC", scalar_text(raw) or "").lower()
    if text in _YES or text in _NO:
        return text in _YES
    what = f"{kind_of(raw)} that is neither true nor false"
    raise UnreadableError(Reason.SCHEMA, f"{what}; if it has words of its own for these, read it as a string")


_YES = frozenset({"true", "1", "yes", "y", "t", "on", "是"})
_NO = frozenset({"false", "0", "no", "n", "f", "off", "否"})


_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?", re.ASCII)
_is_number = _NUMBER.fullmatch
_GROUPED = re.compile(r"([+-]?[0-9]{1,3}(?=([,.' ])[0-9]{3})(?:\2[0-9]{3})+)((?:[.,][0-9]*)?)", re.ASCII)
_BY_LAKHS = re.compile(r"[+-]?[0-9]{1,2}(?:,[0-9]{2})+,[0-9]{3}(?:\.[0-9]*)?", re.ASCII)
"""As India groups digits: `1,23,456.50`."""
_NEGATIVE = re.compile(r"\(([0-9][^()+-]*)\)|([0-9][^()+-]*)-", re.ASCII)
"""As ledgers write what is less than nothing: `(12.50)`, `12.50-`."""
_COMMA_NUMBER = re.compile(r"([+-]?[0-9]+)(?:,([0-9]+))?", re.ASCII)


def _number(raw: object, *, comma: bool = False, thousands: str = "") -> Decimal:
    """A number, or text that is one in any width of digits; `4,00` is none unless a comma is what it should have."""
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
            text = _ungrouped(_with_plain_signs(raw[: MAX_TEXT + 1]), thousands)
            if comma:
                match = _COMMA_NUMBER.fullmatch(text)
                text = f"{match[1]}.{match[2] or 0}" if match else ""
            if _NUMBER.fullmatch(text) is None:
                raise UnreadableError(Reason.SCHEMA, f"text that is no number{_why_none(text)}")
            number = Decimal(text)
        case _:
            raise UnreadableError(Reason.SCHEMA, f"{kind_of(raw)} where a number is expected{_hint(raw)}")
    return _bounded(number)


def _ungrouped(text: str, thousands: str) -> str:
    """Its sign in front, and no more between its digits what they are grouped by."""
    negative = _NEGATIVE.fullmatch(text)
    if negative is not None:
        text = f"-{(negative[1] or negative[2]).strip()}"
    grouped = _GROUPED.fullmatch(text) if thousands else None
    if grouped is not None and grouped[2] == thousands:
        return grouped[1].replace(thousands, "") + grouped[3]
    return text.replace(",", "") if thousands == "," and _BY_LAKHS.fullmatch(text) else text


def _why_none(text: str) -> str:
    """What would have to be said of the field for such text to be one."""
    if _SEPARATED.fullmatch(text) is not None:
        return "; see `decimal` and `thousands`"
    beside = _TERM.fullmatch(text) is not None or _CURRENCY.match(text) is not None
    return "; if its unit stands beside it, say `unit: in_text`" if beside else ""


_SEPARATED = re.compile(r"[-+]?[0-9]+(?:[., '][0-9]+)+", re.ASCII)


def _hint(raw: object) -> str:
    """How a path that ends too early goes on."""
    if isinstance(raw, list):
        return "; end its path with `[0]` for the first in there, `[*]` where it is not always a list"
    return "; let its path lead on into it" if isinstance(raw, dict) else ""


_ZERO = Decimal(0)


def _bounded(number: Decimal) -> Decimal:
    if not number:
        return _ZERO  # 0E+999 has no digits to bound
    if not -MAX_DIGITS <= number.adjusted() <= MAX_DIGITS or len(number.as_tuple().digits) > MAX_DIGITS:
        raise UnreadableError(Reason.OVERFLOW, "a number with too many digits")
    return number


_CURRENCY = re.compile(r"([-+]?)\s*(?:(?:CN)?¥|CNY|RMB|人民币)\s*", re.IGNORECASE)
_ALONE = re.compile(r"[-+0-9.,'eE]*[0-9.]", re.ASCII)
_TERM = re.compile(r"([-+0-9.,'eE]*[0-9.])\s*([^0-9]*)", re.ASCII)


def _numbers_and_units(raw: object) -> list[tuple[str, str]]:
    """`18.6 kWh`, `￥4.20`, `1小时30分`: each number with the unit behind it."""
    text = _with_plain_signs(raw[:100]) if isinstance(raw, str) else ""
    if (isinstance(raw, int | Decimal) and not isinstance(raw, bool)) or _ALONE.fullmatch(text):
        raise NoUnitError(raw)
    currency = _CURRENCY.match(text)
    found: list[tuple[str, str]] = []
    if currency is not None:
        text = currency[1] + text[currency.end() :]
    position = 0
    while position < len(text):
        match = _TERM.match(text, position)
        unit = (match[2].strip(" ,\t") or ("元" if currency and not found else "")) if match else ""
        if match is None or not unit:
            raise UnreadableError(Reason.SCHEMA, f"{kind_of(raw)} that is no number with its unit")
        found.append((match[1], unit))
        position = match.end()
    if not found:
        raise UnreadableError(Reason.SCHEMA, f"{kind_of(raw)} that is no number with its unit")
    return found


def _with_plain_signs(text: str) -> str:
    """Digits, points and signs as arithmetic knows them, in whatever width they came; those in circles and raised ones are none."""
    if not text.isascii() and _ORNATE.search(text) is not None:
        return text.strip()
    return unicodedata.normalize("NFKC", text).replace("\u2212", "-").replace("\u2019", "'").strip()


_ORNATE = re.compile(
    "[\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u2089\u2150-\u2189\u2460-\u249b\u24ea-\u24ff\u2776-\u2793]"
)
"""NFKC would make 102 of 10² and 1 of ①."""


def _part(text: str, separator: str, number: int) -> str | None:
    """None where there are not so many."""
    parts = text.split(separator)
    return parts[number] if -len(parts) <= number < len(parts) else None


def _power_of_ten(raw: object) -> Decimal:
    exponent = _number(raw)
    if exponent != exponent.to_integral_value() or abs(exponent) > 12:
        raise UnreadableError(Reason.SCHEMA, "a multiplier that is no power of ten")
    return Decimal(1).scaleb(int(exponent))


def _whole(amount: Decimal, rounding: str) -> int:
    """Exact until it is rounded to a whole number, once."""
    whole = int(amount.to_integral_value(rounding=rounding))
    if abs(whole) > _LARGEST:
        raise UnreadableError(Reason.OVERFLOW, "a number that is too large")
    return whole


_DURATIONS = {
    CLOCK: re.compile(
        r"(?:(?P<d>[0-9]{1,4})(?:[. ]| days?,? | ?[天日] ?))?(?P<h>[0-9]{1,4}):(?P<min>[0-5][0-9]):(?P<s>[0-5][0-9](?:\.[0-9]{1,9})?)",
        re.ASCII,
    ),
    SHORTEST_CLOCK: re.compile(r"(?P<min>[0-9]{1,5}):(?P<s>[0-5][0-9](?:\.[0-9]{1,9})?)", re.ASCII),
    SHORT_CLOCK: re.compile(r"(?P<h>[0-9]{1,4}):(?P<min>[0-5][0-9])", re.ASCII),
    ISO_DURATION: re.compile(
        # Years and months have no length, but some systems write that there are none of them.
        r"P(?!$)(?:0+Y)?(?:0+M)?(?:(?P<w>[0-9]{1,3})W)?(?:(?P<d>[0-9]{1,4})D)?"
        r"(?:T(?!$)(?:(?P<h>[0-9]{1,5}(?:[.,][0-9]{1,9})?)H)?(?:(?P<min>[0-9]{1,7}(?:[.,][0-9]{1,9})?)M)?"
        r"(?:(?P<s>[0-9]{1,9}(?:[.,][0-9]{1,9})?)S)?)?",
        re.ASCII | re.IGNORECASE,
    ),
}
WRITTEN_DURATIONS = tuple(_DURATIONS)
"""Units of durations that are no numbers."""

_PARTS = {"w": 604800, "d": 86400, "h": 3600, "min": 60, "s": 1}


def _written_duration(raw: object, written: str) -> Decimal:
    text = unicodedata.normalize("NFKC", raw[:100]).strip() if isinstance(raw, str) else ""
    match = _DURATIONS[written].fullmatch(text)
    if match is None:
        shown = "ISO 8601 duration, such as PT1H30M" if written == ISO_DURATION else written
        detail = f"{kind_of(raw)} that is no {shown}; `unit` can say how else it is written"
        raise UnreadableError(Reason.SCHEMA, detail)
    parts = [
        Decimal(digits.replace(",", ".")) * _PARTS[unit]
        for unit, digits in match.groupdict().items()
        if digits
    ]
    return sum(parts, Decimal(0))


def kind_of(raw: object) -> str:
    """What kind of JSON value this is, for a message."""
    kinds = {dict: "an object", list: "a list", bool: "a truth value", str: "text", Refusal: "broken JSON"}
    return kinds.get(type(raw), "a number" if raw is not None else "null")


# -- Times ------------------------------------------------------------------------------------------

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)
_LOCAL = "_local"
TICKS = "ticks"
_EPOCH_UNITS = {
    "epoch_s": Decimal(1_000_000),
    "epoch_ms": Decimal(1000),
    "epoch_us": Decimal(1),
    "epoch_ns": Decimal("0.001"),
    "epoch_min": Decimal(60_000_000),
    "epoch_d": Decimal(86_400_000_000),
    "filetime": Decimal("0.1"),
    TICKS: Decimal("0.1"),
}
EXCEL = "excel"
"""A time format: days by the wall clock, as spreadsheets count them. What is less than a second in them is noise."""

EPOCHS: Mapping[str, Decimal] = {
    **_EPOCH_UNITS,
    **{f"{name}{_LOCAL}": size for name, size in _EPOCH_UNITS.items()},
    EXCEL: Decimal(86_400_000_000),
}
"""Time formats that are numbers, and their unit in microseconds. `_local`: read as UTC they show the wall clock."""

_ORIGINS = {
    "filetime": datetime(1601, 1, 1, tzinfo=UTC),
    TICKS: datetime(1, 1, 1, tzinfo=UTC),
    EXCEL: datetime(1899, 12, 30, tzinfo=UTC),
}
"""What they are counted from, if not from 1970."""

_FIRST_YEAR = 366 * 86_400_000_000
"""In microseconds. So few ticks are a number of another format, which would be taken for a time that means none."""

_SECONDS, _NANOS = ("seconds", "_seconds", "epochSecond"), ("nanos", "nanoseconds", "_nanoseconds", "nano")
"""What protobuf, Firestore and Java's Instant call the parts of a time that is an object."""

DOTNET = "dotnet"
"""A time format: `/Date(1772335800000+0800)/`, milliseconds since 1970; the offset is only how it was shown."""

_DOTNET = re.compile(r"/Date\((-?[0-9]{1,16})(?:[+-][0-9]{4})?\)/", re.ASCII)

CP56 = "cp56time2a"
"""A time format: seven bytes in hexadecimal, as IEC 60870-5 has them and charging piles send them."""

ARRAY = "array"
"""A time format: `[2026, 6, 3, 9, 0, 0]`, and nanoseconds, as Java writes local times."""

_ISO = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d)(:\d\d)?(?:(?<=:\d\d)[.,](\d{1,12}))?"
    r"(?: ?([Zz]|[+-]\d\d(?::?\d\d)?))?(?:\[([\w/+:-]+)\])?",
    re.ASCII,
)
# What means "no time" in Go, .NET and MySQL, and an end that is still open.
_NO_TIME = re.compile(r"(?:0{4}\D?00\D?00|0001\D?01\D?01|9999\D?12\D?31).*", re.ASCII | re.DOTALL)
_CHINESE_MONTHS = tuple(f"{number}月" for number in (*"一二三四五六七八九十", "十一", "十二"))
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_FROM_MIDNIGHT = {12: 0, **{hour: hour for hour in range(1, 12)}}
_FROM_NOON = {12: 12, **{hour: hour + 12 for hour in range(1, 12)}}
_MORNING = {hour: hour for hour in range(4, 12)}
_EVENING = {hour: hour + 12 for hour in range(4, 12)}
_PARTS_OF_THE_DAY: Mapping[str, Mapping[int, int]] = {
    **dict.fromkeys(("am", "a.m.", "上午", "凌晨"), _FROM_MIDNIGHT),
    **dict.fromkeys(("pm", "p.m.", "下午"), _FROM_NOON),
    **dict.fromkeys(("清晨", "早上", "早晨"), _MORNING),
    "中午": {11: 11, 12: 12, 1: 13, 2: 14},
    **dict.fromkeys(("傍晚", "晚上"), _EVENING),
}
"""Which hour of the day an hour is in each; at 12 in the evening a day ends or begins, and nobody can tell which."""

_PIECES = {
    "yyyy": r"(?P<year>\d{4})",
    "yy": r"(?P<short_year>\d\d)",
    "MMM": r"(?P<month_name>jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?|[一二三四五六七八九十]月|十[一二]月)",
    "MM": r"(?P<month>\d{1,2})",
    "dd": r"(?P<day>\d{1,2})",
    "HH": r"(?P<hour>\d{1,2})",
    "hh": r"(?P<half_hour>\d{1,2})",
    "mm": r"(?P<minute>\d\d)",
    "m": r"(?P<minute>\d{1,2})",
    "ss": r"(?P<second>\d\d)",
    "s": r"(?P<second>\d{1,2})",
    "EEE": r"(?P<weekday>(?:mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?|(?:周|星期|礼拜)[一二三四五六日天])",
    "a": rf"(?P<half>{'|'.join(map(re.escape, _PARTS_OF_THE_DAY))})",
    "Z": r"(?P<offset>z|[+-]\d{1,2}(?::?\d\d)?)",
    "z": r"(?P<utc>z|(?:utc|gmt)(?:[+-]\d{1,2}(?::?\d\d)?)?)",
    "VV": r"(?P<region>[a-z]+(?:/[a-z0-9_+-]+)+|utc)",
    **{"S" * digits: rf"(?P<fraction>\d{{{digits}}})" for digits in range(1, 10)},
}
_ALIASES = {
    "M": "MM",
    "d": "dd",
    "H": "HH",
    "h": "hh",
    **dict.fromkeys(("X", "XX", "XXX", "ZZZ"), "Z"),
    "E": "EEE",
    "EEEE": "EEE",
    "MMMM": "MMM",
    "zzz": "z",
}
_OF_ONE_DIGIT = frozenset({"MM", "dd", "HH", "hh", "m", "s"})
"""Pieces that may be written with a digit less."""

_DIGITS = _OF_ONE_DIGIT | {"yyyy", "yy", "mm", "ss", *("S" * digits for digits in range(1, 10))}
_FOLLOWS = {"mm": ("HH", "hh"), "m": ("HH", "hh"), "ss": ("mm", "m"), "s": ("mm", "m")}
"""What stands before a piece in each order that people write times in: elsewhere it is mistaken for another."""

_PIECE = re.compile(
    r"'([^']*)'|yyyy|yy|M{3,4}|MM?|dd?|HH?|hh?|mm?|ss?|S{1,9}|a|ZZZ|Z|X{1,3}|E{3,4}|E|zzz|z|VV|.", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class TimeFormat:
    """How a timestamp is written: `iso`, `epoch_s` and its kin, or a pattern like `yyyy-MM-dd HH:mm:ss`.

    Attributes:
        text: as written.

    """

    text: str
    _pattern: re.Pattern[str] | None = None

    @classmethod
    def parse(cls, text: str) -> "TimeFormat":
        """Raises ValueError."""
        if text in ("iso", ARRAY, CP56, DOTNET) or text in EPOCHS:
            return cls(text)
        known: list[str] = []
        body: list[str] = []
        touching: list[int] = []  # digits that have none but digits between them
        for match in _PIECE.finditer(text):
            piece = _ALIASES.get(match.group(), match.group())
            if piece not in _DIGITS:
                _widen(body, touching)
            if piece in _PIECES:
                known.append(piece)
                touching += [len(body)] if piece in _DIGITS else []
                body.append(_PIECES[piece])
            elif match[1] is None and piece.isalpha() and piece.isascii() and piece != "T":
                raise ValueError(f"`{text}` is no time format")
            else:
                body.append(re.escape(match[1] if match[1] is not None else piece))
        _widen(body, touching)
        names = {_PIECES[piece].split(">")[0] for piece in known}
        one_each = len(names) == len(known) and all(
            len(names & {f"(?P<{a}", f"(?P<{b}"}) == 1
            for a, b in (("year", "short_year"), ("month", "month_name"))
        )
        halves = {"hh", "a"} & set(known)
        if not one_each or "dd" not in known or len(halves) == 1 or (halves and "HH" in known):
            raise ValueError(f"`{text}` is no time format")
        for before, piece in pairwise(["", *known]):
            wanted = ("ss", "s") if piece.startswith("S") else _FOLLOWS.get(piece)
            if wanted is not None and before not in wanted:
                raise ValueError(
                    f"`{text}` is no time format: `MM` are months, `mm` minutes, `ss` seconds and `SSS` their fraction"
                )
        return cls(text, re.compile("".join(body), re.ASCII | re.IGNORECASE))

    @property
    def is_local(self) -> bool:
        """Nothing that is written so says its offset or its zone."""
        if self._pattern is not None:
            return self._pattern.groupindex.keys().isdisjoint(("offset", "utc", "region"))
        return self.text in (ARRAY, CP56) or self.text.endswith((_LOCAL, EXCEL))

    def read(self, raw: object) -> datetime | None:
        """Aware where the value says its offset; None if it is not written so. May raise ValueError, OverflowError."""
        size = EPOCHS.get(self.text)
        if size is not None:
            number = _number(_as_seconds(raw) if self.text == "epoch_s" else raw)
            elapsed = int(_EXACT.multiply(number, size).to_integral_value(ROUND_HALF_EVEN))
            if 0 < elapsed < _FIRST_YEAR and self.text.removesuffix(_LOCAL) == TICKS:
                raise ValueError("counted from elsewhere")
            if self.text == EXCEL:
                elapsed = (elapsed + 500_000) // 1_000_000 * 1_000_000
            found = _ORIGINS.get(self.text.removesuffix(_LOCAL), _EPOCH) + timedelta(microseconds=elapsed)
            return found.replace(tzinfo=None) if self.text.endswith((_LOCAL, EXCEL)) else found
        if self.text == ARRAY:
            return _of_array(raw)
        if not isinstance(raw, str | int) or isinstance(raw, bool):
            return None
        text = str(raw)[:100]
        text = (text if text.isascii() else unicodedata.normalize("NFKC", text)).strip()
        if self.text in (CP56, DOTNET):
            return _of_cp56(text) if self.text == CP56 else _of_dotnet(text)
        if self._pattern is None:
            match = _ISO.fullmatch(text) or _ISO.fullmatch(_extended(text))
            return None if match is None else _iso(match)
        match = self._pattern.fullmatch(text)
        return None if match is None else _composed(match.groupdict())


def _widen(body: list[str], touching: list[int]) -> None:
    """Two of these that may have a digit less could be read in two ways, as 2026113: so they have all."""
    narrow = [place for place in touching if "{1,2}" in body[place]]
    if len(narrow) > 1:
        for place in narrow:
            body[place] = body[place].replace("{1,2}", "{2}")
    touching.clear()


def _as_seconds(raw: object) -> object:
    """An object of seconds and nanoseconds as one number; whatever else, as it is."""
    seconds = next((raw[name] for name in _SECONDS if name in raw), None) if isinstance(raw, dict) else None
    if not isinstance(raw, dict) or seconds is None:
        return raw
    nanos = next((raw[name] for name in _NANOS if raw.get(name) is not None), 0)
    return _EXACT.add(_number(seconds), _EXACT.scaleb(_number(nanos), -9))


def _of_array(raw: object) -> datetime | None:
    if not isinstance(raw, list) or not 5 <= len(raw) <= 7 or not all(type(part) is int for part in raw):
        return None
    year, month, day, hour, minute, second, nanos = [*raw, 0, 0][:7]
    return datetime(year, month, day, hour, minute, second, nanos // 1000)  # noqa: DTZ001  # a wall clock, its zone comes later


def _of_dotnet(text: str) -> datetime | None:
    shown = _DOTNET.fullmatch(text)
    return None if shown is None else _EPOCH + timedelta(milliseconds=int(shown[1]))


def _of_cp56(text: str) -> datetime | None:
    """Milliseconds of the minute, minute, hour, day, month, year, the low bits of each: flags and the weekday are above them."""
    try:
        content = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        return None
    if len(content) != 7:
        return None
    if not any(content):
        raise UnreadableError(Reason.NOT_FINISHED, "a time that means none")
    millis, minute, hour = int.from_bytes(content[:2], "little"), content[2] & 63, content[3] & 31
    day, month, year = content[4] & 31, content[5] & 15, 2000 + (content[6] & 127)
    return datetime(year, month, day, hour, minute, millis // 1000, millis % 1000 * 1000)  # noqa: DTZ001  # a wall clock, its zone comes later


_ISO_OTHERWISE = re.compile(
    r"(\d{4})(?:-?W(\d\d)-?([1-7])|-?(\d{3})|(\d\d)(\d\d))[Tt ](\d\d):?(\d\d)(?::?(\d\d))?((?:[.,Zz+-].*)?)",
    re.ASCII,
)


def _extended(text: str) -> str:
    """A time in ISO 8601's other forms, `20260301T113000Z`, `2026-W09-7T11:30`, `2026-060T11:30`, in its usual one. Raises ValueError."""
    match = _ISO_OTHERWISE.fullmatch(text)
    if match is None:
        return ""
    year, week, weekday, day_of_year, month, day, hour, minute, second, rest = match.groups()
    if week is not None:
        shown = date.fromisocalendar(int(year), int(week), int(weekday)).isoformat()
    elif day_of_year is not None:
        found = date(int(year), 1, 1) + timedelta(int(day_of_year) - 1)
        shown = found.isoformat() if found.year == int(year) else ""
    else:
        shown = f"{year}-{month}-{day}"
    return f"{shown}T{hour}:{minute}{f':{second}' if second else ''}{rest}"


def _iso(match: re.Match[str]) -> datetime:
    date, time, second, fraction, offset, region = match.groups()
    next_day = time == "24:00"
    if next_day:
        if (second or ":00") != ":00" or (fraction or "").strip("0"):
            raise ValueError("after midnight")
        time = "00:00"
    leap = second == ":60"
    micro = f".{fraction[:6]:0<6}" if fraction else ""
    shown = ":59" if leap else second or ":00"
    found = datetime.fromisoformat(f"{date}T{time}{shown}{micro}{(offset or '').upper()}")
    if region is not None and found.tzinfo is None:
        found = found.replace(tzinfo=_region(region))
    return found + timedelta(days=next_day, seconds=leap)


def _region(name: str) -> tzinfo:
    """Of a zone's name, or what UTC is shifted by. Raises ValueError."""
    shifted = _SHIFTED.fullmatch(name)
    if shifted is not None:
        offset = timedelta(hours=int(shifted[2] or 0), minutes=int(shifted[3] or 0))
        return timezone(-offset if shifted[1] == "-" else offset)
    try:
        return ZoneInfo(name)
    except (KeyError, OSError) as error:
        raise ValueError(f"`{name}` is no zone") from error


_HOURS_AND_MINUTES = re.compile(r"[+-][0-9]{4}", re.ASCII)
_MOST_HOURS = 14
_OFFSETS = (
    (timedelta(hours=1), Decimal("0.25")),
    (timedelta(minutes=1), Decimal(15)),
    (timedelta(seconds=1), Decimal(900)),
    (timedelta(milliseconds=1), Decimal(900_000)),
)
"""What an offset may be counted in, and in how many of these a quarter of an hour is: none is more than 14 hours."""


@lru_cache(maxsize=256)
def _zone_told(text: str, *, is_text: bool) -> Zone:
    """Of a zone's name, `GMT+8`, `+0800`; or of a number, which can be an offset in one unit only. Raises UnreadableError."""
    try:
        if _is_number(text) is None or (is_text and _HOURS_AND_MINUTES.fullmatch(text)):
            return Zone(text, _region(text))
        number = _number(text)
        for unit, quarter in _OFFSETS:
            most = quarter * 4 * _MOST_HOURS
            if abs(number) <= most:
                if number % quarter:
                    break
                offset = timezone(unit * float(number))
                return Zone(str(offset), offset)
    except ValueError:
        pass
    detail = (
        f"`{text[:20]}` is no zone, nor an offset from UTC; if it always means the same, say `zone` instead"
    )
    raise UnreadableError(Reason.SCHEMA, detail)


_SHIFTED = re.compile(r"(?:z|utc|gmt)?(?:([+-])([0-9]{1,2})(?::?([0-5][0-9]))?)?", re.ASCII | re.IGNORECASE)


def _composed(parts: Mapping[str, str | None]) -> datetime:
    """A wall clock, or an instant where the pattern has an offset."""
    number = {name: int(digits) for name, digits in parts.items() if digits and digits.isdigit()}
    month_name, half = parts.get("month_name"), parts.get("half")
    hour = number.get("hour", 0)
    if half is not None:
        known = _PARTS_OF_THE_DAY[half.lower()]
        if number["half_hour"] not in known:
            raise ValueError("no hour of this part of the day")
        hour = known[number["half_hour"]]
    region = parts.get("offset") or parts.get("utc") or parts.get("region")
    leap = number.get("second") == 60  # to all other clocks, the first of the next minute
    next_day = hour == 24 and not number.get("minute") and not number.get("second")
    found = datetime(
        number["year"] if "year" in number else 2000 + number["short_year"],
        _month(month_name) if month_name else number["month"],
        number["day"],
        0 if next_day else hour,
        number.get("minute", 0),
        number.get("second", 0) - leap,
        int(f"{(parts.get('fraction') or '0')[:6]:0<6}"),
        tzinfo=_region(region) if region else None,
    )
    return found + timedelta(days=next_day, seconds=leap)


def _month(name: str) -> int:
    known, written = (_MONTHS, name[:3].lower()) if name.isascii() else (_CHINESE_MONTHS, name)
    return known.index(written) + 1


def _timestamp(raw: object, formats: tuple[TimeFormat, ...], zone: Zone | None) -> datetime:
    """An aware time: at its own offset, else in the zone that is configured for it."""
    for written in formats:
        try:
            found = written.read(raw)
        except (ValueError, OverflowError):
            break
        except UnreadableError:
            if written is formats[-1] or not isinstance(raw, str):
                raise
            continue  # text under an epoch's format: another may fit
        if found is None:
            continue
        if not 1 < found.year < 9999 or _is_zero(raw):
            raise UnreadableError(Reason.NOT_FINISHED, "a time that means none")
        if found.tzinfo is None:
            if zone is None:
                raise UnreadableError(Reason.ZONE_MISSING, _NO_ZONE)
            found = found.replace(tzinfo=zone.rules)
        return found
    if _is_zero(raw) or (isinstance(raw, str) and _NO_TIME.fullmatch(raw.strip()[:40])):
        raise UnreadableError(Reason.NOT_FINISHED, "a time that means none")
    names = [written.text for written in formats]
    detail = f"{kind_of(raw)} that is no time written as {' or '.join(names)}{_how_else(raw, names)}"
    raise UnreadableError(Reason.SCHEMA, detail)


def _how_else(raw: object, names: Sequence[str]) -> str:
    """In which format it may be written: of numbers, that is told by how large they are."""
    digits = len((scalar_text(raw) or "").partition(".")[0])
    meant = _BY_DIGITS.get(digits, "") if _is_number(scalar_text(raw) or "") else ""
    if meant and meant not in names:
        return f"; `format: {meant}` would read it, if it counts from 1970"
    return _hint(raw) if isinstance(raw, dict) else "; `format` says how else it may be written"


_BY_DIGITS = {10: "epoch_s", 13: "epoch_ms", 16: "epoch_us", 19: "epoch_ns"}


_NO_ZONE = (
    "a time without a zone, and none is configured: give the source `zone: Asia/Shanghai`, or `zone: station`"
)


def _is_zero(raw: object) -> bool:
    """Where no clock runs, systems write the number 0; a text that shows 1970 is a clock that was never set."""
    return raw == "0" if isinstance(raw, str) else not isinstance(raw, bool) and raw == 0
