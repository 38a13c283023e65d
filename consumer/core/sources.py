"""How the events of a topic are read: unpacked, split into rows, gated, read field by field, doubted. Performs no I/O."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from enum import StrEnum

from msgspec.structs import replace

from consumer.core import plates
from consumer.core.envelopes import ENCRYPTED, SEALS, Envelope, is_encrypted
from consumer.core.events import Order, Span, Value
from consumer.core.fields import (
    LONGEST_PLACEHOLDER,
    MAX_TEXT,
    NO_DIGITS_BUT_ZERO,
    NOWHERE,
    PLACEHOLDERS,
    Field,
    FieldType,
    Moment,
    Reader,
    UnreadableError,
    Zone,
    is_before,
    is_placeholder,
    kind_of,
    placed,
    readers_of,
    since_1970,
    take,
)
from consumer.core.formats import Event, Path, Refusal, fill_paths, first_at, opened, scalar_text
from consumer.core.outcomes import Finding, Outcome, Reason
from consumer.core.templates import FieldText, Template
from consumer.core.values import Memo

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
        values: texts of scalars; none where it only asks whether anything is there.
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

    def finds(self, row: object, event: Event) -> str | None:
        """The value, as text; None where there is none."""
        return self._text_of(first_at(self.paths, row, event))

    def _text_of(self, found: object) -> str | None:
        """An object or a list counts as a value only for a gate that lists no values; an empty one never does."""
        text = scalar_text(found)
        return kind_of(found) if text is None and found and not self.values else text

    def test(self, row: object, event: Event) -> tuple[Outcome, Reason, str] | None:
        """Why the row is to be left out; None if it may pass."""
        found = first_at(self.paths, row, event)
        place = self.paths[0].text
        if isinstance(found, Refusal):
            return Outcome.INVALID, found.reason, f"`{place}`: {found.detail}"
        value = self._text_of(found)
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


_Glance = tuple[str, frozenset[str], bool, Gate]
"""A gate, behind the key under which it looks first, its values, and whether it skips the others."""


def _glance_of(gate: Gate) -> _Glance:
    name = gate.paths[0].name if gate.paths else ""  # none where each is wrong, which is told of later
    return name or NOWHERE, gate.values, gate.inverted, gate


# -- Plausibility -----------------------------------------------------------------------------------

_IN_2000 = since_1970(datetime(2000, 1, 2, tzinfo=UTC))
"""In every zone."""


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

    def is_fine(
        self,
        values: Mapping[str, Value],
        began: int | None,
        over: int | None,
        latest: int | None,
    ) -> bool:
        """True where nothing could be doubted but the plate, told without a word; False where `doubts` has to look.

        `began` and `over` are the values' start and end; like `latest`, when an end can be at the latest, in microseconds
        since 1970.
        """
        if over is None or latest is None or over > latest or (over if began is None else began) < _IN_2000:
            return False
        if began is not None and began > over:
            return False
        seconds = values.get("seconds")
        if not isinstance(seconds, int):
            return True
        energy, charged = values.get("energy_wh"), values.get("charging_seconds")
        return (
            seconds >= 0
            and (not isinstance(energy, int) or energy * 3600 <= self.watts * (seconds + 60))
            and (not isinstance(charged, int) or charged <= seconds + self.seconds)
        )

    def doubts(self, values: Mapping[str, Value], latest: int | None) -> Sequence[tuple[Reason, str]]:
        """Reason and detail of each, the weightiest first; `latest` as for `is_fine`."""
        found: list[tuple[Reason, str]] = []
        started, ended = values.get("started_at"), values.get("ended_at")
        for time in (started, ended):
            if isinstance(time, datetime):
                if time.year < 2000:
                    found.append((Reason.BEFORE_2000, "a time before the year 2000; is its `format` right?"))
                elif latest is not None and since_1970(time) > latest:
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
        *("无", "无牌", "无牌车", "无牌照", "无车牌", "无车牌号", "_无_", "空", "暂无", "没有", "默认"),
        *(
            "未知",
            "未知车牌",
            "未识别",
            "未录入",
            "未绑定",
            "未上牌",
            "未挂牌",
            "新车",
            "no plate",
            "noplate",
            "no_plate",
        ),
        *("临牌", "临时牌", "临时车", "临时车牌"),
    }
)
"""Texts that systems write where they have no plate, beside placeholders."""


@dataclass(frozen=True, slots=True)
class Directory:
    """Stations, as events name them.

    Attributes:
        stations: by their own number.
        connectors: the number of their station, by that of each.

    """

    stations: Mapping[str, Station]
    connectors: Mapping[str, str]

    def find(self, station_id: str | None, connector_id: str | None) -> Station | None:
        """By its own number, else by that of one of its connectors."""
        if station_id is None and connector_id is not None:
            station_id = self.connectors.get(connector_id)
        return None if station_id is None else self.stations.get(station_id)


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
        apart: names in an event that may make it no order by itself; None where that takes more than names.
        bounds: by what time it is, when an end can be too late.

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

    # Made ready for `read`, which no longer has to ask.
    apart: frozenset[str] | None = field(init=False, repr=False, compare=False)
    _station_key: str = field(init=False, repr=False, compare=False)
    _naming: tuple[Reader, ...] = field(init=False, repr=False, compare=False)
    bounds: Memo[datetime, "_Bounds"] = field(init=False, repr=False, compare=False)
    _endless: Memo[datetime, "_Bounds"] = field(init=False, repr=False, compare=False)
    _ready: dict[object, "_Ready"] = field(init=False, repr=False, compare=False)
    _event_id: FieldText = field(init=False, repr=False, compare=False)
    _times: tuple[str, ...] = field(init=False, repr=False, compare=False)
    _gates: tuple["_Glance", ...] = field(init=False, repr=False, compare=False)
    _required: tuple[str, ...] = field(init=False, repr=False, compare=False)
    _tells_seconds: bool = field(init=False, repr=False, compare=False)
    _has_made: bool = field(init=False, repr=False, compare=False)
    _is_positional: bool = field(init=False, repr=False, compare=False)
    _is_named_by_order: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        naming = readers_of(self.fields[: self._count_naming()], None, None)
        places = [place for fields in (self.fields, *self.overrides.values()) for place in fields]
        ready: dict[str, object] = {
            "apart": self._look_twice(),
            "_station_key": next(
                (key for key, name, texts, *_ in naming if texts and name == "station_id"), NOWHERE
            ),
            "_naming": naming,
            "bounds": _bounds_of(self.plausibility.future, self.deadline),
            "_endless": _bounds_of(self.plausibility.future, None),
            "_ready": {},
            "_event_id": FieldText(self.event_id),
            "_times": tuple(
                place.name
                for place in self.fields
                if place.type is FieldType.TIMESTAMP and place.name not in ("started_at", "ended_at")
            ),
            "_gates": tuple(map(_glance_of, self.gates)),
            "_required": tuple(place.name for place in self.fields if place.required),
            "_tells_seconds": any(place.name == "seconds" for place in places),
            "_has_made": any(place.is_made for place in places),
            "_is_positional": any(path.is_positional for place in places for path in place.paths),
            "_is_named_by_order": self.event_id.text == "{order_id}",
        }
        for name, value in ready.items():
            object.__setattr__(self, name, value)

    def _look_twice(self) -> frozenset[str] | None:
        """Names in an event that may make it no order by itself; None where that takes more than names."""
        names = [path.name for path in self.orders if not path.whole]
        last_is_whole = not self.orders or self.orders[-1].whole
        return frozenset(name for name in names if name) | SEALS if last_is_whole and all(names) else None

    def read(
        self,
        event: Event,
        directory: Directory,
        now: datetime | None = None,
        recorded_ms: int = -1,
        *,
        expires: bool = True,
        release: bool = False,
    ) -> tuple[Order | Finding, ...]:
        """At least one item; a row that cannot be read does not sink its siblings.

        Without `now` neither the deadline nor the future is looked at; without `expires` the
        deadline is not. With `release` nothing is set aside: its doubts only mark it.
        `recorded_ms` is when the record was written, in milliseconds since 1970; where it cannot be, nobody knows.
        """
        body = event.body
        oldest = latest = None
        late = False
        if now is not None:
            latest, oldest, oldest_ms = (self.bounds if expires else self._endless)[now]
            late = YEAR_2000_MS <= recorded_ms < oldest_ms
        window = oldest, latest, late, release
        if self.apart is not None and type(body) is dict and body.keys().isdisjoint(self.apart):
            return (self.read_order(0, body, event, directory, window),)
        if not isinstance(body, dict | list):
            detail = f"{kind_of(body)} where an object is expected"
            if isinstance(body, str):
                detail += "; if it holds JSON, add `unwrap: $` to the envelope"
            return (self._invalid(0, Reason.SCHEMA, detail),)
        if is_encrypted(body) and self._finds_nothing(body):
            return (self._invalid(0, ENCRYPTED.reason, ENCRYPTED.detail),)
        rows = self.rows(event)
        if not rows:
            detail = "the list of orders is empty"
            return (Finding(0, Outcome.SKIPPED, Reason.NOT_A_CHARGE, detail, source=self.name),)
        if len(rows) > MAX_ORDERS:
            detail = f"{len(rows)} orders in one record, more than {MAX_ORDERS}"
            return (self._invalid(0, Reason.TOO_LARGE, detail),)
        return tuple([self._read_row(index, *place, directory, window) for index, place in enumerate(rows)])

    def rows(self, event: Event) -> list[tuple[object, Event]]:
        """Its orders as they are read, of text what it holds, each with the event as its paths see it; none where it has no rows."""
        if not isinstance(event.body, dict | list):
            return []
        scalar: object = None
        for path in self.orders:
            if not path.many:
                value = opened(path.find(event.body, event))
                if isinstance(value, dict | list | Refusal):
                    return self._rows_in(value, event)
                scalar = scalar if value is None else value
                continue
            found = [
                (opened(value), above) for value, above in path.find_rows(event) if value not in (None, "")
            ]
            if any(isinstance(value, dict | list | Refusal) for value, _ in found):
                rows = [self._rows_in(value, replace(event, above=above)) for value, above in found]
                return [row for each in rows for row in each]
            if path.finds_empty_list(event):
                return []
            scalar = found[0][0] if found else scalar
        if self.orders:
            return [(_NO_ROW if scalar is None else scalar, event)]  # no order, but the gates may know why
        return self._rows_in(event.body, event)

    def _rows_in(self, value: object, event: Event) -> list[tuple[object, Event]]:
        rows = value if isinstance(value, list) else [value]
        if self._is_positional:
            rows = [opened(row) for row in rows]
            if isinstance(value, list) and not any(isinstance(row, dict | list) for row in rows):
                rows = [value]
            rows = [_by_place(row) if isinstance(row, list) else row for row in rows]
        return [(opened(row), event) for row in rows]

    def _read_row(
        self, index: int, row: object, event: Event, directory: Directory, window: "Window"
    ) -> Order | Finding:
        if isinstance(row, Refusal):
            return self._invalid(index, row.reason, row.detail)
        if not isinstance(row, dict):
            return self._invalid(index, Reason.SCHEMA, f"{kind_of(row)} where an order is expected")
        if row is not event.body and is_encrypted(row) and self._finds_nothing(row):
            return self._invalid(index, ENCRYPTED.reason, ENCRYPTED.detail)
        found = self.read_order(index, row, event, directory, window)
        if row is _NO_ROW and isinstance(found, Finding) and found.outcome is Outcome.INVALID:
            remedy = "if such a message tells of no charge, a gate can skip it"
            return replace(found, detail=f"no orders at {_several(self.orders)}; {remedy}")
        return found

    def read_order(  # noqa: C901, PLR0912, PLR0915  # one straight line, since each call would cost as much as what is done in it
        self, index: int, row: dict[str, object], event: Event, directory: Directory, window: "Window"
    ) -> Order | Finding:
        """The order that stands in a row, or what was found instead.

        What is as it nearly always is, is told at a glance; all else is asked of functions.
        """
        values: dict[str, Value] = {}
        problems: dict[str, UnreadableError] = {}
        raw = row.get(self._station_key)
        if type(raw) is str and (station_id := raw.strip()) and len(station_id) <= MAX_TEXT:
            station, named = directory.stations.get(station_id), True
        else:
            station, named = self._station_of(row, event, directory, values, problems), False
        if station is None:
            ready = self._ready.get(None) or self._ready_for(None, None)
        elif self.overrides and station.id in self.overrides:
            ready = self._ready_for(station.zone, station.id)
        else:
            zone = station.zone
            ready = self._ready.get(zone and zone.name) or self._ready_for(zone, None)
        whole, others, zone_name, rules = ready
        moments = take(whole if named else others, row, event, values, problems)

        order_id, plate = values.get("order_id"), values.get("plate")
        if not (
            type(order_id) is str
            and (len(order_id) > LONGEST_PLACEHOLDER or order_id.casefold() not in PLACEHOLDERS)
            and order_id.strip(NO_DIGITS_BUT_ZERO)
            and len(order_id) <= MAX_ID
            and (order_id.isalnum() or _ODD.search(order_id) is None)
        ):
            order_id = _tidy_order_id(values, problems)
        if type(plate) is not str or plates.plausible(plate) is None:
            plate = _tidy_plate(values, problems)
        if self._has_made:
            of_station = None if station is None else self.overrides.get(station.id)
            _make(of_station or self.fields, values, problems)
        if station is not None:
            if "station_id" not in values:
                values["station_id"] = station.id
            if station.api_store_code is not None:
                values["api_store_code"] = station.api_store_code

        start, end = moments.get("started_at"), moments.get("ended_at")
        if start is None or end is None or start[0] > end[0] or self._tells_seconds:
            began, over = _measure(values, moments, problems, rules)
            seconds = values.get("seconds")
        else:
            began, over = start[0], end[0]
            values["seconds"] = seconds = (over - began) // 1_000_000
        if type(seconds) is int:
            values["minutes"] = seconds // 60
        if zone_name is not None:
            values["zone"] = zone_name
        for name in self._times:
            if name not in moments:
                _placed(name, values, moments, rules)

        for key, texts, inverted, gate in self._gates:
            raw = row.get(key)
            if type(raw) is str and (text := raw.strip()) and (text in texts) is inverted:
                continue
            verdict = gate.test(row, event)
            if verdict is not None:
                outcome, reason, detail = verdict
                dead, reverses = outcome is Outcome.INVALID, _reversed(gate, row, event)
                return Finding(index, outcome, reason, detail, dead, values, reverses, source=self.name)
        fit = not problems and self._is_named_by_order
        for name in self._required:
            fit = fit and name in values
        if fit and order_id is not None and plate is not None:
            values["event_id"] = order_id
            order = Order(index, self.name, order_id, order_id, plate, values, (), (began, over))
        elif "ended_at" in problems and problems["ended_at"].reason is Reason.NOT_FINISHED:
            detail = "ended_at: a time that means none"
            return self._ended(index, Outcome.SKIPPED, Reason.NOT_FINISHED, detail, values)
        else:
            found = self._order(index, values, problems, (began, over))
            if isinstance(found, Finding):
                return found
            order = found
        oldest, latest, late, release = window
        # Counted from the earlier of the end of charging and the record's timestamp.
        late = late or (oldest is not None and over is not None and over < oldest)
        if plate is not None and not late and self.plausibility.is_fine(values, began, over, latest):
            return order
        return self._judged(order, latest, late=late, release=release)

    def _finds_nothing(self, row: object) -> bool:
        """What is encrypted would else look like a missing plate."""
        alone = Event(row)
        return all(place.find(row, alone) is None for place in self.fields)

    def _station_of(
        self,
        row: dict[str, object],
        event: Event,
        directory: Directory,
        values: dict[str, Value],
        problems: dict[str, UnreadableError],
    ) -> Station | None:
        """By all the fields that name it, which are read here."""
        take(self._naming, row, event, values, problems)
        station_id, connector_id = values.get("station_id"), values.get("connector_id")
        return directory.find(
            station_id if isinstance(station_id, str) else None,
            connector_id if isinstance(connector_id, str) else None,
        )

    def _ready_for(self, zone: Zone | None, station_id: str | None) -> "_Ready":
        """What reads the rows of all stations of a zone, or of one that is read in another way."""
        key = (zone and zone.name) if station_id is None else (zone and zone.name, station_id)
        ready = self._ready.get(key)
        if ready is None:
            naming = self._count_naming()
            fields = self.fields if station_id is None else self.overrides[station_id]
            others = fields[naming:]
            shown = zone or self.zone
            rules = None if shown is None else shown.rules
            parts = (*self.fields[:naming], *others), others
            whole, rest = (readers_of(part, zone, rules, moments=not self._has_made) for part in parts)
            ready = self._ready[key] = whole, rest, None if shown is None else shown.name, rules
        return ready

    def _count_naming(self) -> int:
        return sum(place.name in NAMING_FIELDS for place in self.fields)

    def _order(
        self, index: int, values: dict[str, Value], problems: Mapping[str, UnreadableError], span: Span
    ) -> Order | Finding:
        """The order, or what it lacks."""
        order_id = values.get("order_id")
        event_id = self._event_id.of(values)
        if event_id is None or (event_id != order_id and is_placeholder(event_id)):
            missing = self._event_id.missing(values) if event_id is None else ""
            error = problems.get(missing)
            what = (
                f"`{missing}` is absent{self._looked_at(missing, values)}"
                if missing
                else "a placeholder, the same for many orders"
            )
            detail = f"no event id: {error.detail if error else what}"
            return self._invalid(index, error.reason if error else Reason.ID_MISSING, detail, values)
        unfit = _unfit(event_id, MAX_ID)
        if unfit is not None:
            return self._invalid(index, unfit.reason, f"event id: {unfit.detail}", values)
        values["event_id"] = event_id
        if order_id is None:
            values["order_id"] = order_id = event_id
        for name in self._required:
            if name not in values:
                error = problems.get(name)
                reason = error.reason if error else Reason.FIELD_MISSING
                what = error.detail if error else f"absent, and required{self._looked_at(name, values)}"
                return self._invalid(index, reason, f"{name}: {what}", values)
        plate = values.get("plate")
        if plate is None and "plate" not in problems:
            return self._ended(index, Outcome.SKIPPED, Reason.PLATE_MISSING, "no plate", values)
        for name, error in problems.items():
            return self._invalid(index, error.reason, f"{name}: {error.detail}", values)
        return Order(index, self.name, str(order_id), event_id, str(plate), values, (), span)

    def _looked_at(self, name: str, values: Mapping[str, Value]) -> str:
        fields = self.overrides.get(str(values.get("station_id")), self.fields)
        return next((looked_at(place) for place in fields if place.name == name), "")

    def _judged(self, order: Order, latest: int | None, *, late: bool, release: bool) -> Order | Finding:
        """The order, or why it gets no coupon though it can be read."""
        doubts = self.plausibility.doubts(order.values, latest)
        aside = None
        if doubts and not release:
            aside = next((doubt for doubt in doubts if doubt[0] in self.plausibility.set_aside), None)
        # An end before 2000 is a wrong clock; other doubts are not worth a dead letter once it is too late.
        if late and (aside is None or aside[0] is not Reason.BEFORE_2000):
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
        return replace(order, suspicions=reasons)

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


def looked_at(place: Field) -> str:
    """Where an absent field was looked for: `: nothing at a, b`, to be put behind that it is absent."""
    if place.template is not None:
        return f': nothing for "{place.template.text}"'
    told = [f"at {_several(paths)}" for paths in (place.paths, place.minus) if paths]
    if place.computed is not None:
        told.append(f"for {place.computed.text}")
    return f": nothing {', or '.join(told)}" if told else ""


def _several(paths: Sequence[Path]) -> str:
    return ", ".join(path.text for path in paths[:_MOST_PATHS]) + (" ..." if len(paths) > _MOST_PATHS else "")


_MOST_PATHS = 6

_NO_ROW: dict[str, object] = {}
"""Where no orders stand: what the gates look at, and nobody writes to."""


def _by_place(row: Sequence[object]) -> dict[str, object]:
    """A row that is a list, as an object: its fields are found by names, which here are numbers."""
    return {str(place): value for place, value in enumerate(row)}


def _reversed(gate: Gate, row: object, event: Event) -> str | None:
    return fill_paths(gate.reverses, row, event) if gate.reverses else None


Window = tuple[int | None, int | None, bool, bool]
"""When a charge must have ended to get a coupon, in microseconds since 1970.

Earlier is too late by now (None: never too late); later cannot be (None: nobody knows what time it is); the record
was written too long ago, whatever stands in it; somebody has looked at the doubts, and wants the coupon granted.
"""

_Ready = tuple[tuple[Reader, ...], tuple[Reader, ...], str | None, tzinfo | None]
"""What reads all fields of a row, and what those that name no station; the zone in which its times are shown."""


_Bounds = tuple[int, int | None, int]


def _bounds_of(future: timedelta, lasts: timedelta | None) -> Memo[datetime, _Bounds]:
    """The same for all that is read at once: what an end may be, latest and, where it can be too late, oldest; this in milliseconds too."""

    def bounds(now: datetime) -> _Bounds:
        latest = since_1970(now + future)
        if lasts is None:
            return latest, None, 0
        oldest = since_1970(now - lasts)
        return latest, oldest, -(-oldest // 1000)

    return Memo(bounds, 16)


YEAR_2000_MS = 946_684_800_000
"""Records that seem to be older are of producers that write no time, or seconds for milliseconds."""


def _make(fields: tuple[Field, ...], values: dict[str, Value], problems: dict[str, UnreadableError]) -> None:
    """What depends on other fields; a time of day has to wait for the time that it is not before."""
    timely = [place for place in fields if place.not_before or place.not_after]
    timely = [place for place in timely if not _rolled(place, values)]
    for place in fields:
        if place.computed is None or place.name in values or place.name in problems:
            continue
        try:
            value = place.computed.of(values)
        except OverflowError:
            problems[place.name] = UnreadableError(Reason.OVERFLOW, "beyond the calendar")
            continue
        if value is not None:
            values[place.name] = value
            timely = [each for each in timely if not _rolled(each, values)]


def _rolled(place: Field, values: dict[str, Value]) -> bool:
    """A time of day after midnight belongs to the next day, one before it to the day before; False where it cannot be told yet."""
    told = False
    for other, step in ((place.not_before, 1), (place.not_after, -1)):
        moment, bound = values.get(place.name), values.get(other or "")
        if not isinstance(moment, datetime) or not isinstance(bound, datetime):
            continue
        told = True
        if (bound.astimezone(UTC) - moment.astimezone(UTC)) * step > _NOTHING:
            values[place.name] = moment + step * _DAY  # by the wall clock
    return told


_DAY, _NOTHING = timedelta(days=1), timedelta(0)


_UNSEEN = "\0\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"
"""From a buffer of fixed length, from a page, from the beginning of a file."""

_ODD = re.compile(f"[{_UNSEEN}\ufffd+]")
_ROUNDED = re.compile(r"[0-9](?:\.[0-9]+)?[eE]\+[0-9]{1,3}", re.ASCII)


def _tidy_order_id(values: dict[str, Value], problems: dict[str, UnreadableError]) -> str | None:
    """Bounded, or not there."""
    order_id = values.get("order_id")
    if not isinstance(order_id, str):
        return None
    seen = order_id.strip(f"{_UNSEEN} ")
    if seen != order_id:
        order_id = values["order_id"] = seen
    if is_placeholder(order_id) or not order_id:
        del values["order_id"]
        return None
    if _ROUNDED.fullmatch(order_id) is not None:
        detail = "a number that was rounded, as spreadsheets do: other orders have the same"
        problems["order_id"] = UnreadableError(Reason.SCHEMA, detail)
        del values["order_id"]
        return None
    return order_id if _is_bounded("order_id", order_id, MAX_ID, values, problems) else None


def _tidy_plate(values: dict[str, Value], problems: dict[str, UnreadableError]) -> str | None:
    """Normalised, bounded, or not there. It is returned if it is a mainland one then."""
    written = values.get("plate")
    if not isinstance(written, str):
        return None
    written = written[: 4 * MAX_PLATE]
    plate = plates.normalise(written)
    means_none = is_placeholder(written) or is_placeholder(plate)
    if not plate or means_none or written.lower() in NO_PLATE or plate.lower() in NO_PLATE:
        del values["plate"]
        return None
    values["plate"] = plate
    bounded = _is_bounded("plate", plate, MAX_PLATE, values, problems)
    return plate if bounded and plates.is_normal(plate) else None


def _is_bounded(
    name: str,
    identity: str,
    longest: int,
    values: dict[str, Value],
    problems: dict[str, UnreadableError],
) -> bool:
    """Else it is no value but a problem."""
    unfit = _unfit(identity, longest)
    if unfit is not None:
        problems[name] = unfit
        del values[name]
    return unfit is None


def _unfit(identity: str, longest: int) -> UnreadableError | None:
    """Why a text cannot name an order or a car."""
    if len(identity) > longest:
        return UnreadableError(Reason.SCHEMA, f"a text of more than {longest} characters")
    if "\ufffd" in identity:
        return UnreadableError(Reason.NOT_TEXT, "broken characters")
    return None


def _measure(
    values: dict[str, Value],
    moments: Mapping[str, Moment],
    problems: Mapping[str, UnreadableError],
    rules: tzinfo | None,
) -> Span:
    """Start and end, which the values show in this zone; and how long it took, if the source does not say so."""
    measured = "seconds" in values or "seconds" in problems
    began, _ = _placed("started_at", values, moments, rules)
    over, ended = _placed("ended_at", values, moments, rules)
    if began is not None and over is not None and ended is not None and over < began and not measured:
        # Of two equal hours in autumn it was the second one.
        second = placed(ended.replace(fold=1), rules)
        if second[0] >= began:
            over, values["ended_at"] = second
    if not measured:
        if began is not None and over is not None:
            values["seconds"] = (over - began) // 1_000_000
        elif "charging_seconds" in values:
            values["seconds"] = values["charging_seconds"]
    return began, over


def _placed(
    name: str, values: dict[str, Value], moments: Mapping[str, Moment], rules: tzinfo | None
) -> tuple[int | None, datetime | None]:
    """A time in microseconds since 1970, and as it was written; from here on the values show it in this zone."""
    moment = moments.get(name)
    if moment is not None:
        return moment[0], moment[2]
    written = values.get(name)
    if not isinstance(written, datetime):
        return None, None
    since, values[name] = placed(written, rules)
    return since, written
