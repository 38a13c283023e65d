"""How the events of a topic are read: unpacked, split into rows, gated, read field by field, doubted. Performs no I/O."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple

from consumer.core import plates
from consumer.core.envelopes import ENCRYPTED, Envelope, is_encrypted
from consumer.core.events import Order, Value
from consumer.core.fields import (
    Field,
    FieldType,
    Reader,
    UnreadableError,
    Zone,
    elapsed_seconds,
    is_before,
    is_placeholder,
    kind_of,
    reader_of,
)
from consumer.core.formats import Event, Path, Refusal, decode, fill_paths, found_at, scalar_text
from consumer.core.outcomes import Finding, Outcome, Reason
from consumer.core.templates import Template, text_of

MAX_ORDERS = 1000
"""Orders that one record may hold."""

MAX_ID = 200
"""Characters of an order number, an event id."""

MAX_PLATE = 32
"""Characters of a plate; real ones have 8."""


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

    def test(self, row: object, event: Event) -> tuple[Outcome, Reason, str] | None:
        """Why the row is to be left out; None if it may pass."""
        value = scalar_text(next(found_at(self.paths, row, event), None))
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


# -- Plausibility -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Plausibility:
    """What cannot be, and what then becomes of the order.

    Attributes:
        set_aside: reasons for which it gets no coupon; for the others it is only marked.
        future: how far from now an end may lie, since clocks differ.
        watts: what no charger gives.
        seconds: how much longer than from start to end it may have charged, since clocks are rounded.

    """

    set_aside: frozenset[Reason] = frozenset(
        {Reason.END_BEFORE_START, Reason.IN_FUTURE, Reason.BEFORE_2000, Reason.TOO_MUCH_ENERGY}
    )
    future: timedelta = timedelta(minutes=10)
    watts: int = 1_000_000
    seconds: int = 60

    def doubts(self, values: Mapping[str, Value], latest: datetime | None) -> Sequence[tuple[Reason, str]]:
        """Reason and detail of each, the weightiest first."""
        found: list[tuple[Reason, str]] = []
        started, ended = values.get("started_at"), values.get("ended_at")
        for time in (started, ended):
            if isinstance(time, datetime):
                if time.year < 2000:
                    found.append((Reason.BEFORE_2000, "a time before the year 2000"))
                elif latest is not None and time > latest:
                    found.append((Reason.IN_FUTURE, "it ends in the future; is the zone right?"))
        seconds = values.get("seconds")
        if isinstance(started, datetime) and isinstance(ended, datetime) and is_before(ended, started):
            found.append((Reason.END_BEFORE_START, "it ended before it started"))
        elif isinstance(seconds, int) and seconds < 0:
            found.append((Reason.END_BEFORE_START, "it lasted less than nothing"))
        elif isinstance(seconds, int):
            found += self._of_duration(values, seconds)
        if plates.is_doubtful(str(values["plate"])):
            found.append((Reason.PLATE_DOUBTFUL, "the plate looks like none"))
        return found

    def _of_duration(self, values: Mapping[str, Value], seconds: int) -> list[tuple[Reason, str]]:
        found: list[tuple[Reason, str]] = []
        energy, charged = values.get("energy_wh"), values.get("charging_seconds")
        # A minute more: some systems know no seconds.
        if isinstance(energy, int) and energy * 3600 > self.watts * (seconds + 60):
            found.append((Reason.TOO_MUCH_ENERGY, f"{energy} Wh in {seconds} s; is the unit right?"))
        if isinstance(charged, int) and charged > seconds + self.seconds:
            detail = f"it charged for {charged} s of {seconds} s"
            found.append((Reason.DURATIONS_DISAGREE, detail))
        return found


# -- A source ---------------------------------------------------------------------------------------

NO_PLATE = frozenset(
    {
        *("无", "无牌", "无牌车", "无牌照", "无车牌", "无车牌号", "_无_", "空", "暂无", "没有"),
        *("未知", "未识别", "未录入", "未绑定", "no plate", "noplate", "no_plate"),
    }
)
"""Texts that systems write where they have no plate, beside placeholders."""

FindStation = Callable[[str | None, str | None], Station | None]
"""By station_id, else by connector_id."""

NAMING_FIELDS = ("station_id", "connector_id")
"""Fields that find the station; a source has them first."""


@dataclass(frozen=True)
class Source:
    """How the events of some topics are read.

    Attributes:
        topics: none means any that no other source names.
        envelope: what is taken off first.
        orders: where the orders stand, the first that leads somewhere: a list of
            them, or one; none means the event is the order, or a list of them.
        gates: in order; the first that holds decides.
        fields: those that name the station first.
        event_id: over the field names.
        zone: wall clocks are in it, and times are shown in it.
        overrides: the fields, by station, where they are read in another way.
        deadline: how long after its end a charge is still granted; None means for ever.

    """

    name: str
    topics: tuple[str, ...]
    orders: tuple[Path, ...]
    gates: tuple[Gate, ...]
    fields: tuple[Field, ...]
    event_id: Template
    zone: Zone | None = None
    envelope: Envelope = field(default_factory=Envelope)
    overrides: Mapping[str, tuple[Field, ...]] = field(default_factory=dict)
    plausibility: Plausibility = field(default_factory=Plausibility)
    deadline: timedelta | None = None

    def read(
        self,
        event: Event,
        find_station: FindStation,
        now: datetime | None = None,
        recorded_at: datetime | None = None,
        *,
        expires: bool = True,
        release: bool = False,
    ) -> tuple[Order | Finding, ...]:
        """At least one item; a row that cannot be read does not sink its siblings.

        Without `now` neither the deadline nor the future is looked at; without `expires` the
        deadline is not. With `release` nothing is set aside: its doubts only mark it.
        """
        if not isinstance(event.body, dict | list):
            detail = f"{kind_of(event.body)} where an object is expected"
            if isinstance(event.body, str):
                detail += "; if it holds JSON, add `unwrap: $` to the envelope"
            return (self._invalid(0, Reason.SCHEMA, detail),)
        if is_encrypted(event.body) and self._finds_nothing(event.body):
            return (self._invalid(0, ENCRYPTED.reason, ENCRYPTED.detail),)
        rows = self.rows(event)
        if not rows:
            detail = "the list of orders is empty"
            return (Finding(0, Outcome.SKIPPED, Reason.NOT_A_CHARGE, detail, source=self.name),)
        if len(rows) > MAX_ORDERS:
            detail = f"{len(rows)} orders in one record, more than {MAX_ORDERS}"
            return (self._invalid(0, Reason.TOO_LARGE, detail),)
        window = self._window(now, recorded_at, expires=expires, release=release)
        return tuple(
            [self._read_row(index, row, event, find_station, window) for index, row in enumerate(rows)]
        )

    def _window(
        self, now: datetime | None, recorded_at: datetime | None, *, expires: bool, release: bool
    ) -> "_Window":
        if now is None:
            return _Window(release=release)
        oldest = None if self.deadline is None or not expires else now - self.deadline
        late = oldest is not None and recorded_at is not None and recorded_at < oldest
        return _Window(oldest, now + self.plausibility.future, late, release)

    def rows(self, event: Event) -> list[object]:
        """Where its orders stand, each of them still to be read."""
        scalar: object = None
        for path in self.orders:
            found = _opened(path.find(event.body, event))
            if isinstance(found, Refusal):
                return [found]
            if isinstance(found, list):
                return found
            if isinstance(found, dict):
                return [found]
            scalar = scalar if found is None else found
        if self.orders:
            return [{} if scalar is None else scalar]  # no order, but the gates may know why
        return event.body if isinstance(event.body, list) else [event.body]

    def _read_row(
        self, index: int, row: object, event: Event, find_station: FindStation, window: "_Window"
    ) -> Order | Finding:
        row = _opened(row)
        if isinstance(row, Refusal):
            return self._invalid(index, row.reason, row.detail)
        if not isinstance(row, dict):
            return self._invalid(index, Reason.SCHEMA, f"{kind_of(row)} where an order is expected")
        if row is not event.body and is_encrypted(row) and self._finds_nothing(row):
            return self._invalid(index, ENCRYPTED.reason, ENCRYPTED.detail)
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
        if "ended_at" in problems and problems["ended_at"].reason is Reason.NOT_FINISHED:
            detail = "ended_at: a time that means none"
            return self._ended(index, Outcome.SKIPPED, Reason.NOT_FINISHED, detail, values)
        order = self._order(index, values, problems)
        return order if isinstance(order, Finding) else self._judged(order, window)

    def _finds_nothing(self, row: object) -> bool:
        """What is encrypted would else look like a missing plate."""
        alone = Event(row)
        return all(place.find(row, alone) is None for place in self.fields)

    def _values(
        self, row: dict[str, object], event: Event, find_station: FindStation
    ) -> tuple[dict[str, Value], dict[str, UnreadableError]]:
        """What can be read, and what cannot."""
        reading = _Reading(row, event)
        values, problems = reading.values, reading.problems
        fields, readers = self.fields, self._readers
        reading.take(readers[: self._naming], None)
        station = find_station(_maybe(values, "station_id"), _maybe(values, "connector_id"))
        if station is not None and station.id in self.overrides:
            fields, readers = self.overrides[station.id], self._other_readers[station.id]
        zone = station.zone if station is not None else None
        reading.take(readers[self._naming :], zone)
        _tidy_identity(values, problems)
        if self._has_made:
            reading.make(fields)
        if station is not None:
            values.setdefault("station_id", station.id)
            if station.api_store_code is not None:
                values["api_store_code"] = station.api_store_code
        if "seconds" not in values and "seconds" not in problems:
            _measure(values)
        seconds = values.get("seconds")
        if isinstance(seconds, int):
            values["minutes"] = seconds // 60
        zone = zone or self.zone
        if zone is not None:
            values["zone"] = zone.name
            for name in self._times:
                moment = values.get(name)
                if isinstance(moment, datetime) and moment.tzinfo is not zone.rules:
                    values[name] = moment.astimezone(zone.rules)
        return values, problems

    @cached_property
    def _naming(self) -> int:
        """How many fields name the station; they stand first."""
        return sum(place.name in NAMING_FIELDS for place in self.fields)

    @cached_property
    def _readers(self) -> tuple[tuple[str, Reader], ...]:
        return tuple((place.name, reader_of(place)) for place in self.fields)

    @cached_property
    def _other_readers(self) -> Mapping[str, tuple[tuple[str, Reader], ...]]:
        """By station."""
        return {
            station: tuple((place.name, reader_of(place)) for place in fields)
            for station, fields in self.overrides.items()
        }

    @cached_property
    def _required(self) -> tuple[str, ...]:
        return tuple(place.name for place in self.fields if place.required)

    @cached_property
    def _times(self) -> tuple[str, ...]:
        return tuple(place.name for place in self.fields if place.type is FieldType.TIMESTAMP)

    @cached_property
    def _has_made(self) -> bool:
        """Some fields depend on others."""
        return any(place.is_made for fields in (self.fields, *self.overrides.values()) for place in fields)

    def _order(
        self, index: int, values: dict[str, Value], problems: dict[str, UnreadableError]
    ) -> Order | Finding:
        event_id, missing = self.event_id.fill(lambda name: text_of(values, name))
        if missing is not None or (event_id != values.get("order_id") and is_placeholder(event_id)):
            error = problems.get(missing or "")
            what = f"`{missing}` is absent" if missing else "a placeholder, the same for many orders"
            detail = f"no event id: {error.detail if error else what}"
            return self._invalid(index, error.reason if error else Reason.ID_MISSING, detail, values)
        unfit = _unfit(event_id, MAX_ID)
        if unfit is not None:
            return self._invalid(index, unfit.reason, f"event id: {unfit.detail}", values)
        values["event_id"] = event_id
        values.setdefault("order_id", event_id)
        for name in self._required:
            if name not in values:
                error = problems.get(name) or UnreadableError(Reason.FIELD_MISSING, "absent, and required")
                return self._invalid(index, error.reason, f"{name}: {error.detail}", values)
        if "plate" not in values and "plate" not in problems:
            return self._ended(index, Outcome.SKIPPED, Reason.PLATE_MISSING, "no plate", values)
        for name, error in problems.items():
            return self._invalid(index, error.reason, f"{name}: {error.detail}", values)
        return Order(index, self.name, str(values["order_id"]), event_id, str(values["plate"]), values)

    def _judged(self, order: Order, window: "_Window") -> Order | Finding:
        """The order, or why it gets no coupon though it can be read."""
        doubts = self.plausibility.doubts(order.values, window.latest)
        aside = None
        if doubts and not window.release:
            aside = next((doubt for doubt in doubts if doubt[0] in self.plausibility.set_aside), None)
        # An end before 2000 is a wrong clock; other doubts are not worth a dead letter once it is too late.
        wrong_clock = aside is not None and aside[0] is Reason.BEFORE_2000
        if not wrong_clock and window.is_past(order.values.get("ended_at")):
            detail = f"the charge ended more than {self.deadline} ago"
            return self._ended(order.index, Outcome.EXPIRED, Reason.DEADLINE, detail, order.values)
        if aside is not None:
            return Finding(
                order.index,
                Outcome.SUSPECT,
                *aside,
                dead_letter=True,
                values=order.values,
                source=self.name,
            )
        if not doubts:
            return order
        reasons = tuple(dict.fromkeys(reason for reason, _ in doubts))
        return Order(
            order.index, order.source, order.order_id, order.event_id, order.plate, order.values, reasons
        )

    def _ended(
        self, index: int, outcome: Outcome, reason: Reason, detail: str, values: Mapping[str, Value]
    ) -> Finding:
        return Finding(index, outcome, reason, detail, values=values, source=self.name)

    def _invalid(
        self, index: int, reason: Reason, detail: str, values: Mapping[str, Value] | None = None
    ) -> Finding:
        return Finding(
            index, Outcome.INVALID, reason, detail, dead_letter=True, values=values, source=self.name
        )


def _opened(found: object) -> object:
    """What stands where orders do: text there may be JSON again."""
    if isinstance(found, str) and found.lstrip()[:1] in ("{", "["):
        return decode(found)
    return found


class _Window(NamedTuple):
    """When a charge must have ended to get a coupon.

    Attributes:
        oldest: earlier is too late by now; None means never too late.
        latest: later cannot be.
        late: the record was written too long ago, whatever stands in it.
        release: somebody has looked at the doubts, and wants the coupon granted.

    """

    oldest: datetime | None = None
    latest: datetime | None = None
    late: bool = False
    release: bool = False

    def is_past(self, ended: Value | None) -> bool:
        """Counted from the earlier of the end of charging and the record's timestamp."""
        return self.late or (self.oldest is not None and isinstance(ended, datetime) and ended < self.oldest)


@dataclass(slots=True)
class _Reading:
    """What can be read of a row so far, and what cannot."""

    row: dict[str, object]
    event: Event
    values: dict[str, Value] = field(default_factory=dict)
    problems: dict[str, UnreadableError] = field(default_factory=dict)

    def take(self, readers: tuple[tuple[str, Reader], ...], zone: Zone | None) -> None:
        row, event, values = self.row, self.event, self.values
        for name, reader in readers:
            try:
                value = reader(row, event, zone)
            except UnreadableError as error:
                # A start that means none is none; an end that means none tells something.
                if error.reason is not Reason.NOT_FINISHED or name == "ended_at":
                    self.problems[name] = error
                continue
            if value is not None:
                values[name] = value

    def make(self, fields: tuple[Field, ...]) -> None:
        """What depends on other fields."""
        for place in fields:
            self._roll(place)
        for place in fields:
            if place.computed is None or place.name in self.values or place.name in self.problems:
                continue
            try:
                value = place.computed.of(self.values)
            except OverflowError:
                self.problems[place.name] = UnreadableError(Reason.OVERFLOW, "beyond the calendar")
                continue
            if value is not None:
                self.values[place.name] = value

    def _roll(self, place: Field) -> None:
        """A time of day after midnight belongs to the next day, one before it to the day before."""
        for other, step in ((place.not_before, 1), (place.not_after, -1)):
            moment, bound = self.values.get(place.name), self.values.get(other or "")
            if not isinstance(moment, datetime) or not isinstance(bound, datetime):
                continue
            if (bound.astimezone(UTC) - moment.astimezone(UTC)) * step > _NOTHING:
                self.values[place.name] = moment + step * _DAY  # by the wall clock


_DAY, _NOTHING = timedelta(days=1), timedelta(0)


def _maybe(values: Mapping[str, Value], name: str) -> str | None:
    value = values.get(name)
    return value if isinstance(value, str) else None


def _tidy_identity(values: dict[str, Value], problems: dict[str, UnreadableError]) -> None:
    """Order number and plate: normalised, bounded, or not there."""
    order_id = _maybe(values, "order_id")
    if order_id is not None:
        if "\0" in order_id:  # from a buffer of fixed length
            order_id = values["order_id"] = order_id.strip("\0 ")
        if is_placeholder(order_id) or not order_id:
            del values["order_id"]
        else:
            _bound(values, problems, "order_id", order_id, MAX_ID)
    plate = _maybe(values, "plate")
    if plate is not None and not plates.is_normal(plate):
        written = plate[: 4 * MAX_PLATE]
        plate = plates.normalise(written)
        if not plate or is_placeholder(written) or is_placeholder(plate) or written.lower() in NO_PLATE:
            del values["plate"]
        else:
            values["plate"] = plate
            _bound(values, problems, "plate", plate, MAX_PLATE)


def _bound(
    values: dict[str, Value],
    problems: dict[str, UnreadableError],
    name: str,
    identity: str,
    longest: int,
) -> None:
    unfit = _unfit(identity, longest)
    if unfit is not None:
        problems[name] = unfit
        del values[name]


def _unfit(identity: str, longest: int) -> UnreadableError | None:
    """Why a text cannot name an order or a car."""
    if len(identity) > longest:
        return UnreadableError(Reason.SCHEMA, f"a text of more than {longest} characters")
    if "\ufffd" in identity:
        return UnreadableError(Reason.NOT_TEXT, "broken characters")
    return None


def _measure(values: dict[str, Value]) -> None:
    """From start to end; else what the source itself says."""
    started, ended = values.get("started_at"), values.get("ended_at")
    if isinstance(started, datetime) and isinstance(ended, datetime):
        seconds = elapsed_seconds(started, ended)
        if seconds < 0 <= elapsed_seconds(started, ended.replace(fold=1)):
            # Of two equal hours in autumn it was the second one.
            values["ended_at"] = ended.replace(fold=1)
            seconds = elapsed_seconds(started, ended.replace(fold=1))
        values["seconds"] = seconds
    elif "charging_seconds" in values:
        values["seconds"] = values["charging_seconds"]
