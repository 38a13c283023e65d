"""From bytes to orders: decode, split, gate, fields. Performs no I/O.

Each step does what the rules file's source says and guesses nothing: where a value is
found, its unit, its format, its zone. A value that is missing, null or empty text is
absent; 0 and false are values.
"""

import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import ROUND_FLOOR, ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from enum import StrEnum
from typing import NoReturn

import msgspec

from consumer.core import plates
from consumer.core.events import Order, Value
from consumer.core.outcomes import Finding, Outcome, Reason
from consumer.core.templates import Template, text_of

MAX_ORDERS = 1000
"""Orders that one record may hold."""

MAX_TEXT = 1000
"""Characters of a text field; an order number or event id has at most `MAX_ID`."""

MAX_ID = 200
MAX_DIGITS = 40
"""Digits, and powers of ten, of a number: `int(Decimal("1E+1000000"))` runs for 20 seconds."""

_LARGEST = 2**53 - 1
_EXACT = Context(prec=2 * MAX_DIGITS + 10)
_BOM = b"\xef\xbb\xbf"


# -- Decode -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Refusal:
    """Bytes that are no event, and why."""

    reason: Reason
    detail: str


_decoder = msgspec.json.Decoder(
    float_hook=Decimal
)  # exact: orjson turns a 27-digit order number into a float


def decode(value: bytes) -> object | Refusal:
    """JSON with its numbers exact: whole ones as int, others as Decimal. Of repeated keys the last wins."""
    value = value.removeprefix(_BOM)
    try:
        event: object = _decoder.decode(value)
    except RecursionError:
        return Refusal(Reason.TOO_DEEP, "objects or lists are nested too deeply")
    except (msgspec.ValidationError, InvalidOperation):
        return Refusal(Reason.OVERFLOW, "a number has too many digits")
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return _explain_or_mend(value, str(error))
    return event


def _explain_or_mend(value: bytes, complaint: str) -> object | Refusal:
    """The slow path of what msgspec refuses: say why, or read it without its broken characters."""
    try:
        text = value.decode()
    except UnicodeDecodeError as error:
        if value.lstrip()[:1] in (b"{", b"[", b'"'):
            return Refusal(Reason.NOT_TEXT, f"not UTF-8 at byte {error.start}")
        return Refusal(Reason.NOT_JSON, "neither JSON nor text")
    try:
        json.loads(text, parse_constant=_refuse_constant)
        # What is left are halves of surrogate pairs, from names that were cut: they cannot be encoded again.
        event: object = _decoder.decode(_ESCAPE.sub(_mend, text))
    except _NotFiniteError as error:
        return Refusal(Reason.NOT_FINITE, f"{error} is not a number of JSON")
    except RecursionError:
        return Refusal(Reason.TOO_DEEP, "objects or lists are nested too deeply")
    except (ValueError, InvalidOperation):
        return Refusal(Reason.NOT_JSON, f"not JSON: {complaint}" if text.strip() else "empty")
    return event


class _NotFiniteError(ValueError):
    pass


def _refuse_constant(name: str) -> NoReturn:
    raise _NotFiniteError(name)


_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u([dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)


def _mend(escape: re.Match[str]) -> str:
    return "\\ufffd" if escape.group(1) else escape.group()


# -- Find -------------------------------------------------------------------------------------------

_STEP = re.compile(r"\[(\d{1,6})\]|\[([^\[\]=]+)=([^\[\]]*)\]|\[\"([^\"]*)\"\]|(?:^|\.)([^.\[\]\"]+)")


@dataclass(frozen=True, slots=True)
class Path:
    """Where in a row a value stands: `cdr_location.id`, `list[0].id`, `usage[type=ENERGY].volume`, `["a.b"]`.

    `$` is the whole event, `$.header.id` a place in it, also where the row is a part of it.

    Attributes:
        text: as written.

    """

    text: str
    _from_event: bool
    _steps: tuple[str | int | tuple[str, str], ...]

    @classmethod
    def parse(cls, text: str) -> "Path":
        """Raises ValueError."""
        from_event = text == "$" or text.startswith(("$.", "$["))
        rest = text[1:].removeprefix(".") if from_event else text
        steps: list[str | int | tuple[str, str]] = []
        position = 0
        while position < len(rest):
            match = _STEP.match(rest, position)
            if match is None:
                raise ValueError(f"`{text}` is no path: see character {position + 1}")
            index, name, value, quoted, plain = match.groups()
            if index is not None:
                steps.append(int(index))
            elif name is not None:
                steps.append((name, value))
            else:
                steps.append(plain if plain is not None else quoted)
            position = match.end()
        if not steps and not from_event:
            raise ValueError("an empty path leads nowhere")
        return cls(text, from_event, tuple(steps))

    def find(self, row: object, event: object) -> object:
        """The value there; None where there is none, or null."""
        here = event if self._from_event else row
        for step in self._steps:
            match step:
                case str():
                    here = here.get(step) if isinstance(here, dict) else None
                case int():
                    here = here[step] if isinstance(here, list) and step < len(here) else None
                case (name, value):
                    here = _first(here, name, value)
            if here is None:
                return None
        return here


def _first(items: object, name: str, value: str) -> object:
    if not isinstance(items, list):
        return None
    return next(
        (item for item in items if isinstance(item, dict) and scalar_text(item.get(name)) == value), None
    )


def scalar_text(value: object) -> str | None:
    """A scalar as text, so that 3 and "3" compare equal; None for absent values, objects and lists."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return value.strip() or None
        case int():
            return str(value)
        case Decimal():
            return f"{value:f}" if abs(value.adjusted()) <= MAX_DIGITS else str(value)
        case _:
            return None


# -- Gate -------------------------------------------------------------------------------------------


class Missing(StrEnum):
    """What a gate does where its value is absent."""

    KEEP = "keep"
    SKIP = "skip"
    INVALID = "invalid"


@dataclass(frozen=True, slots=True)
class Gate:
    """One reason for which a row is no finished, real charge.

    Attributes:
        paths: where the value stands; the first that has one counts.
        values: texts of scalars.
        inverted: skip what is not among the values.
        missing: what to do where there is no value.
        reverses: number of the order that a reversal takes back, over paths.

    """

    paths: tuple[Path, ...]
    values: frozenset[str]
    inverted: bool
    reason: Reason
    missing: Missing
    reverses: Template | None = None

    def test(self, row: object, event: object) -> tuple[Outcome, Reason, str] | None:
        """Why the row is to be left out; None if it may pass."""
        value = scalar_text(next(_found(self.paths, row, event), None))
        place = self.paths[0].text
        if value is None:
            match self.missing:
                case Missing.KEEP:
                    return None
                case Missing.SKIP:
                    return Outcome.SKIPPED, self.reason, f"`{place}` is absent"
                case Missing.INVALID:
                    return (
                        Outcome.INVALID,
                        Reason.FIELD_MISSING,
                        f"`{place}` is absent, which tells {self.reason}",
                    )
        if (value in self.values) is self.inverted:
            return None
        return Outcome.SKIPPED, self.reason, f"`{place}` is `{value[:40]}`"


def _found(paths: tuple[Path, ...], row: object, event: object) -> Iterator[object]:
    for path in paths:
        value = path.find(row, event)
        if value is not None and not (isinstance(value, str) and not value.strip()):
            yield value


def fill_paths(template: Template, row: object, event: object) -> str | None:
    """A template whose placeholders are paths; None where one leads nowhere."""
    text, missing = template.fill(lambda path: scalar_text(Path.parse(path).find(row, event)))
    return None if missing is not None else text


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


@dataclass(frozen=True, slots=True)
class Station:
    """A charging station, as far as coupons are concerned.

    Attributes:
        id: the charging platform's number for it.
        api_store_code: the parking platform's code of its lot.
        zone: its local time.
        parameters: fields of the request for this lot.

    """

    id: str
    api_store_code: str | None = None
    zone: Zone | None = None
    name: str | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)


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
        for value in _found(self.paths, row, event):
            if not self.empty or scalar_text(value) not in self.empty:
                return value
        return None

    def read(self, raw: object, station_zone: Zone | None) -> Value:
        """A raw value in our terms. Raises UnreadableError."""
        match self.type:
            case FieldType.STRING:
                return _text(raw)
            case FieldType.BOOL:
                return _bool(raw)
            case FieldType.INT:
                return _whole(_number(raw))
            case FieldType.DECIMAL:
                return _number(raw)
            case FieldType.TIMESTAMP:
                zone = station_zone if self.station_zone else self.zone
                return _timestamp(raw, self.formats, zone)
            case FieldType.ENERGY | FieldType.MONEY:
                return _base(_number(raw), self.scale, ROUND_HALF_EVEN)
            case FieldType.DURATION:
                # Down: who has charged for 29:59.999 has not charged for 30 minutes.
                return _base(_clock(raw) if self.clock else _number(raw), self.scale, ROUND_FLOOR)


def _text(raw: object) -> str:
    text = scalar_text(raw)
    if text is None:
        raise UnreadableError(Reason.SCHEMA, f"{_kind(raw)} where text is expected")
    if len(text) > MAX_TEXT:
        raise UnreadableError(Reason.SCHEMA, f"a text of {len(text)} characters")
    return text


def _bool(raw: object) -> bool:
    match scalar_text(raw):
        case "true" | "1":
            return True
        case "false" | "0":
            return False
    raise UnreadableError(Reason.SCHEMA, f"{_kind(raw)} that is neither true nor false")


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
            raise UnreadableError(Reason.SCHEMA, f"{_kind(raw)} where a number is expected")
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
        raise UnreadableError(Reason.SCHEMA, f"{_kind(raw)} that is no {CLOCK}")
    return Decimal(int(match[1]) * 3600 + int(match[2]) * 60 + int(match[3])) + Decimal(match[4] or 0)


def _kind(raw: object) -> str:
    kinds = {dict: "an object", list: "a list", bool: "a truth value", str: "text"}
    return kinds.get(type(raw), "a number")


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
_PIECE = re.compile("yyyy|SSS|MM|dd|HH|mm|ss|[A-Za-z]+|.", re.DOTALL)


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
        unknown = [
            piece
            for piece in pieces
            if piece.isascii() and piece.isalpha() and piece not in _PIECES | {"T": ""}
        ]
        if (
            unknown
            or not {"yyyy", "MM", "dd"} <= set(pieces)
            or len(set(pieces) & set(_PIECES)) != sum(piece in _PIECES for piece in pieces)
        ):
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
        text = unicodedata.normalize("NFKC", raw[:MAX_ID]).strip()
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
    raise UnreadableError(Reason.SCHEMA, f"{_kind(raw)} that is no time written as {names}")


# -- A source ---------------------------------------------------------------------------------------

PLACEHOLDERS = frozenset({"-1", "null", "none", "nil", "undefined", "unknown", "nan", "n/a", "-"})
_NO_DIGITS_BUT_ZERO = re.compile(r"[0\s_./:-]+")

FindStation = Callable[[str | None, str | None], Station | None]
"""By station_id, else by connector_id."""


@dataclass(frozen=True, slots=True)
class Source:
    """How the events of some topics are read.

    Attributes:
        topics: none means any that no other source names.
        orders: where the orders stand, the first that leads somewhere: a list of
            them, or one; none means the event is the order.
        gates: in order; the first that holds decides.
        event_id: over the field names.
        zone: wall clocks are in it, and times are shown in it.

    """

    name: str
    topics: tuple[str, ...]
    orders: tuple[Path, ...]
    gates: tuple[Gate, ...]
    fields: tuple[Field, ...]
    event_id: Template
    zone: Zone | None = None

    def read(self, event: object, find_station: FindStation) -> tuple[Order | Finding, ...]:
        """At least one item; a row that cannot be read does not sink its siblings."""
        if not isinstance(event, dict | list):
            return (self._invalid(0, Reason.SCHEMA, f"{_kind(event)} where an object is expected"),)
        rows = self._rows(event)
        if not rows:
            detail = "the list of orders is empty"
            return (Finding(0, Outcome.SKIPPED, Reason.NOT_A_CHARGE, detail, source=self.name),)
        if len(rows) > MAX_ORDERS:
            detail = f"{len(rows)} orders in one record, more than {MAX_ORDERS}"
            return (self._invalid(0, Reason.TOO_LARGE, detail),)
        return tuple(self._read_row(index, row, event, find_station) for index, row in enumerate(rows))

    def _rows(self, event: object) -> list[object]:
        for path in self.orders:
            found = path.find(event, event)
            if isinstance(found, list):
                return found
            if found is not None:
                return [found]
        return [event]

    def _read_row(self, index: int, row: object, event: object, find_station: FindStation) -> Order | Finding:
        if not isinstance(row, dict):
            return self._invalid(index, Reason.SCHEMA, f"{_kind(row)} where an order is expected")
        if self._is_encrypted(row):
            return self._invalid(
                index, Reason.ENCRYPTED, "an encrypted envelope, not an order; decrypt it upstream"
            )
        values, problems = self._values(row, event, find_station)
        for gate in self.gates:
            verdict = gate.test(row, event)
            if verdict is not None:
                outcome, reason, detail = verdict
                reverses = fill_paths(gate.reverses, row, event) if gate.reverses else None
                return Finding(
                    index,
                    outcome,
                    reason,
                    detail,
                    dead_letter=outcome is Outcome.INVALID,
                    values=values,
                    reverses=reverses,
                    source=self.name,
                )
        return self._order(index, values, problems)

    def _is_encrypted(self, row: dict[str, object]) -> bool:
        """CEC's envelope as it came (domain: events): without this, it would look like a missing plate."""
        if not (isinstance(row.get("Data"), str) and "Sig" in row and "OperatorID" in row):
            return False
        return all(field.find(row, row) is None for field in self.fields)

    def _values(
        self, row: object, event: object, find_station: FindStation
    ) -> tuple[dict[str, Value], dict[str, UnreadableError]]:
        """What can be read, and what cannot."""
        values: dict[str, Value] = {}
        problems: dict[str, UnreadableError] = {}
        station: Station | None = None
        for place in self.fields:  # those that name the station stand first
            if station is None and place.type is FieldType.TIMESTAMP:
                station = find_station(_maybe(values, "station_id"), _maybe(values, "connector_id"))
            try:
                raw = place.find(row, event)
                if raw is not None:
                    values[place.name] = place.read(raw, station.zone if station else None)
            except UnreadableError as error:
                problems[place.name] = error
        station = station or find_station(_maybe(values, "station_id"), _maybe(values, "connector_id"))
        _tidy_identity(values, problems)
        _complete(values, problems, station, self.zone)
        return values, problems

    def _order(
        self, index: int, values: dict[str, Value], problems: dict[str, UnreadableError]
    ) -> Order | Finding:
        event_id, missing = self.event_id.fill(lambda name: text_of(values, name))
        if missing is not None or is_placeholder(event_id):
            error = problems.get(missing or "")
            what = f"`{missing}` is absent" if missing else "a placeholder, the same for many orders"
            detail = f"no event id: {error.detail if error else what}"
            return self._invalid(index, error.reason if error else Reason.ID_MISSING, detail, values)
        if len(event_id) > MAX_ID:
            return self._invalid(index, Reason.SCHEMA, f"an event id of {len(event_id)} characters", values)
        values["event_id"] = event_id
        values.setdefault("order_id", event_id)
        if "plate" not in values and "plate" not in problems:
            return Finding(
                index, Outcome.SKIPPED, Reason.PLATE_MISSING, "no plate", values=values, source=self.name
            )
        for name, error in problems.items():
            return self._invalid(index, error.reason, f"{name}: {error.detail}", values)
        for place in self.fields:
            if place.required and place.name not in values:
                return self._invalid(index, Reason.FIELD_MISSING, f"{place.name} is absent", values)
        plate = str(values["plate"])
        doubts = (Reason.PLATE_DOUBTFUL,) if plates.is_doubtful(plate) else ()
        return Order(index, self.name, str(values["order_id"]), event_id, plate, values, doubts)

    def _invalid(
        self, index: int, reason: Reason, detail: str, values: Mapping[str, Value] | None = None
    ) -> Finding:
        return Finding(
            index, Outcome.INVALID, reason, detail, dead_letter=True, values=values, source=self.name
        )


def is_placeholder(identity: str) -> bool:
    """True for what systems write where they have no id: as an event id, all later cars would be "granted already"."""
    return identity.casefold() in PLACEHOLDERS or _NO_DIGITS_BUT_ZERO.fullmatch(identity) is not None


def _maybe(values: Mapping[str, Value], name: str) -> str | None:
    value = values.get(name)
    return value if isinstance(value, str) else None


def _tidy_identity(values: dict[str, Value], problems: dict[str, UnreadableError]) -> None:
    """Order number and plate: normalised, bounded, or not there."""
    order_id = _maybe(values, "order_id")
    if order_id is not None and is_placeholder(order_id):
        del values["order_id"]
    for name in ("order_id", "plate"):
        text = _maybe(values, name)
        if text is not None and (len(text) > MAX_ID or "\ufffd" in text):
            problems[name] = UnreadableError(Reason.NOT_TEXT, "broken characters")
            if len(text) > MAX_ID:
                problems[name] = UnreadableError(Reason.SCHEMA, f"a text of {len(text)} characters")
            del values[name]
    plate = _maybe(values, "plate")
    if plate is not None:
        values["plate"] = plates.normalise(plate)
        if not values["plate"]:
            del values["plate"]


def _complete(
    values: dict[str, Value],
    problems: dict[str, UnreadableError],
    station: Station | None,
    source_zone: Zone | None,
) -> None:
    """What follows from the fields and the station table."""
    if station is not None:
        values.setdefault("station_id", station.id)
        if station.api_store_code is not None:
            values["api_store_code"] = station.api_store_code
    started, ended = values.get("started_at"), values.get("ended_at")
    known = "seconds" in values or "seconds" in problems
    if not known and isinstance(started, datetime) and isinstance(ended, datetime):
        # In UTC: two times of one zone would be subtracted by their wall clocks.
        elapsed = ended.astimezone(UTC) - started.astimezone(UTC)
        values["seconds"] = elapsed // timedelta(seconds=1)
    seconds = values.get("seconds")
    if isinstance(seconds, int):
        values["minutes"] = seconds // 60
    zone = station.zone if station is not None and station.zone is not None else source_zone
    if zone is not None:
        values["zone"] = zone.name
        for name, value in values.items():
            if isinstance(value, datetime):
                values[name] = value.astimezone(zone.rules)
