"""How the events of a topic are read: split into rows, gated, read field by field. Performs no I/O."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from consumer.core import plates
from consumer.core.events import Order, Value
from consumer.core.fields import Field, FieldType, UnreadableError, Zone, kind_of
from consumer.core.formats import Path, fill_paths, found_at, scalar_text
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

    def test(self, row: object, event: object) -> tuple[Outcome, Reason, str] | None:
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
            return (self._invalid(0, Reason.SCHEMA, f"{kind_of(event)} where an object is expected"),)
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
            return self._invalid(index, Reason.SCHEMA, f"{kind_of(row)} where an order is expected")
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
        unfit = _unfit(event_id, MAX_ID)
        if unfit is not None:
            return self._invalid(index, unfit.reason, f"event id: {unfit.detail}", values)
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
    plate = _maybe(values, "plate")
    if plate is not None:
        values["plate"] = plates.normalise(plate[: 4 * MAX_PLATE])
        if not values["plate"]:
            del values["plate"]
    for name, longest in (("order_id", MAX_ID), ("plate", MAX_PLATE)):
        text = _maybe(values, name)
        unfit = _unfit(text, longest) if text is not None else None
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
