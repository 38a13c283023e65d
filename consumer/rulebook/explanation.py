"""How a record is read and what the rules do with it, step by step. Performs no I/O.

What it says of results (values, outcome, request) comes from the very calls that the service makes; what it says
of the way there (which path, which gate, which rule) asks the same parts one by one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal

from consumer.core.coupons import CouponRequest
from consumer.core.envelopes import Envelope
from consumer.core.events import Order, Record, Value
from consumer.core.expressions import Expression, ExpressionError, Failure
from consumer.core.fields import Field, FieldType, Quantity, UnreadableError, Zone, since_1970
from consumer.core.formats import Event, Refusal, opened, scalar_text
from consumer.core.outcomes import Finding, Outcome
from consumer.core.rules import RuleBook
from consumer.core.sources import Source, looked_at
from consumer.core.syntax import Kind, names_in, parts_of
from consumer.core.templates import text_of
from consumer.rulebook.review import unfit_keys

BASE_UNITS = {FieldType.ENERGY: "Wh", FieldType.MONEY: "fen", FieldType.DURATION: "s"}

DERIVATIONS = {
    "zone": "of the station, or of the source",
    "event_id": "as the source's `event_id` says",
    "api_store_code": "of the station",
}


@dataclass(frozen=True, slots=True)
class FieldReading:
    """How one field came to its value.

    Attributes:
        value: as the rules see it; None where it has none.
        path: where it stands; None where it was made of others, or stands nowhere.
        raw: what stands there.
        how: unit, arithmetic, zone; or why there is no value.

    """

    name: str
    value: Value | None
    path: str | None
    raw: object
    how: str


@dataclass(frozen=True, slots=True)
class GateReading:
    """What a gate said of a row: why it is left out; or that it may pass, `said` None."""

    path: str
    value: str | None
    said: str | None


@dataclass(frozen=True, slots=True)
class Doubt:
    """Something implausible, and whether it sets the order aside."""

    reason: str
    detail: str
    set_aside: bool


@dataclass(frozen=True, slots=True)
class RuleReading:
    """What a rule said of an order.

    Attributes:
        matched: None where its `when` failed.
        keys: those of its indexed keys that are not the order's.
        when: its condition; None where it has none, or was not asked.
        conditions: the parts of it, each with its value, or why it has none.
        values: of the fields that it looks at.

    """

    name: str
    matched: bool | None
    keys: tuple[str, ...] = ()
    when: str | None = None
    conditions: tuple[tuple[str, str], ...] = ()
    values: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class OrderReading:
    """All that became of one row.

    Attributes:
        rules: those that were asked, in order, up to the one that decided.
        rules_left: how many come after it.
        deadline: when it is too late for a coupon; None if it never is, or nobody knows.
        is_over: that is before the moment of asking, and the plan, a request, leaves it out of account.
        plan: what the service would do.

    """

    index: int
    item: Order | Finding
    gates: tuple[GateReading, ...]
    fields: tuple[FieldReading, ...]
    doubts: tuple[Doubt, ...]
    deadline: datetime | None
    is_over: bool
    rules: tuple[RuleReading, ...]
    rules_left: int
    plan: CouponRequest | Finding


@dataclass(frozen=True, slots=True)
class Explanation:
    """A record, step by step.

    Attributes:
        source: who reads it; None where nobody does.
        envelope: what was taken off, and what was found.
        orders: one for each row, and for what stands in place of one.

    """

    record: Record
    source: Source | None
    envelope: tuple[str, ...]
    orders: tuple[OrderReading, ...]


def explain(
    book: RuleBook,
    record: Record,
    now: datetime | None,
    source: Source | None = None,
    asked_at: datetime | None = None,
) -> Explanation:
    """By the source that reads its topic, or another one. Without `now` nothing is too late or in the future.

    `asked_at` is for this case: an order whose deadline was before that is marked.
    """
    known = source or book.source_for(record.origin.topic)
    if known is None:
        items = book.read(record, now or _LONG_AGO)
        return Explanation(record, None, (), tuple(map(_alone, items)))
    # As the service does, if that is asked for: only the order that comes back, as it was sent.
    as_it_does = source is None and now is not None
    items = book.read(record, now or _LONG_AGO) if as_it_does else book.read_as(known, record, now)
    envelope, event = _opened(known.envelope, record)
    rows = [] if event is None else known.rows(event)
    if event is not None:
        rows_found = f"{len(rows)} row{'' if len(rows) == 1 else 's'}{_where(known, event)}"
        envelope.append(_nowhere(known, event) or rows_found)
    orders = [
        _Row(book, known, record, rows[item.index][1], rows[item.index][0], now, asked_at).read(item)
        if item.index < len(rows) and isinstance(rows[item.index][0], dict)
        else _alone(item)
        for item in items
    ]
    return Explanation(record, known, tuple(envelope), tuple(orders))


_LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


def _alone(item: Order | Finding) -> OrderReading:
    """Something in place of a row."""
    assert isinstance(item, Finding)
    return OrderReading(item.index, item, (), (), (), None, False, (), 0, item)


def _where(source: Source, event: Event) -> str:
    found = (
        path.text for path in source.orders if isinstance(opened(path.find(event.body, event)), dict | list)
    )
    path = next(found, None)
    return "" if path is None else f" at `{path}`"


def _nowhere(source: Source, event: Event) -> str | None:
    """That none of the paths of `orders` leads anywhere, which is most probably a slip; None where one does."""
    if not source.orders or not isinstance(event.body, dict):
        return None
    for path in source.orders:
        found = path.find_rows(event) if path.many else [(path.find(event.body, event), None)]
        if any(value is not None for value, _ in found) or path.finds_empty_list(event):
            return None
    paths = " or ".join(f"`{path.text}`" for path in source.orders)
    names = [str(name) for name in event.body]
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    has = f"the event has: {', '.join(names[:_MOST_NAMES])}{more}" if names else "the event is empty"
    return f"nothing at {paths}: is `orders` right? {has}"


_MOST_NAMES = 20


def _opened(envelope: Envelope, record: Record) -> tuple[list[str], Event | None]:
    """What is taken off, one after the other; no event where it cannot be read."""
    if record.value is None:
        return ["no value: a tombstone"], None
    said: list[str] = []
    if envelope.skip:
        said.append(f"skip_bytes: {envelope.skip} bytes left out")
    if envelope.registry:
        framed = record.value[envelope.skip :][:1] == b"\0"
        said.append(f"schema_registry: {'a frame of 5 bytes left out' if framed else 'there is no frame'}")
    if envelope.gzip:
        said.append("gzip: unpacked, where it is packed")
    if envelope.charset:
        said.append(f"charset: {envelope.charset}")
    if envelope.lines:
        said.append("lines: each a text of its own")
    event = replace(envelope, steps=(), words=()).open(record)
    if isinstance(event, Refusal):
        return [*said, f"{event.reason}: {event.detail}"], None
    for word, step in zip(envelope.words, envelope.steps, strict=True):
        body = step(event)
        if isinstance(body, Refusal):
            return [*said, f"{word}: {body.detail}"], None
        said.append(f"{word}: {'there is none' if body is event.body else 'taken off'}")
        event = Event(body, event.message, record.key, record.headers)
    return said, event


@dataclass(frozen=True, slots=True)
class _Row:
    """One row, looked at again part by part."""

    book: RuleBook
    source: Source
    record: Record
    event: Event
    row: object
    now: datetime | None
    asked_at: datetime | None

    def read(self, item: Order | Finding) -> OrderReading:
        values = item.values or {}
        order = self._in_time(item)
        rules = tuple(self._rules(order)) if order is not None else ()
        plan = self.book.plan(item) if isinstance(item, Order) else item
        deadline = self.book.deadline(order, self.record, "") if order is not None else None
        late = False
        if (
            self.now is None
            and isinstance(plan, CouponRequest)
            and deadline is not None
            and self.asked_at is not None
        ):
            late = deadline < self.asked_at
        return OrderReading(
            index=item.index,
            item=item,
            gates=tuple(self._gates()),
            fields=tuple(self._fields(values)),
            doubts=tuple(self._doubts(values)),
            deadline=deadline,
            is_over=late,
            rules=rules,
            rules_left=len(self.book.rules) - len(rules) if order is not None else 0,
            plan=plan,
        )

    def _in_time(self, item: Order | Finding) -> Order | None:
        """The order; also that which came too late, since whoever asks wants to know what the rules would say."""
        if isinstance(item, Order):
            return item
        if item.outcome not in (Outcome.EXPIRED, Outcome.UNMATCHED) and item.rule is None:
            return None
        items = self.book.read_as(self.source, self.record, None)
        return next((each for each in items if isinstance(each, Order) and each.index == item.index), None)

    def _gates(self) -> Iterator[GateReading]:
        for gate in self.source.gates:
            verdict = gate.test(self.row, self.event)
            said = None if verdict is None else f"{verdict[0]} ({verdict[1]})"
            yield GateReading(gate.paths[0].text, gate.finds(self.row, self.event), said)
            if verdict is not None:
                return

    def _doubts(self, values: Mapping[str, Value]) -> Iterator[Doubt]:
        if "plate" not in values:
            return
        plausibility = self.source.plausibility
        latest = None if self.now is None else since_1970(self.now + plausibility.future)
        for reason, detail in plausibility.doubts(values, latest):
            yield Doubt(reason, detail, reason in plausibility.set_aside)

    # -- fields

    def _fields(self, values: Mapping[str, Value]) -> Iterator[FieldReading]:
        station_id, connector_id = values.get("station_id"), values.get("connector_id")
        station = self.book.directory.find(
            station_id if isinstance(station_id, str) else None,
            connector_id if isinstance(connector_id, str) else None,
        )
        fields = self.source.fields
        if station is not None:
            fields = self.source.overrides.get(station.id, fields)
        zone = station.zone if station is not None else None
        for field in fields:
            yield self._field(field, values, zone)
        known = {field.name for field in fields}
        for name, value in values.items():
            if name not in known:
                yield FieldReading(name, value, None, None, _derived(name, values))

    def _field(self, field: Field, values: Mapping[str, Value], zone: Zone | None) -> FieldReading:
        value = values.get(field.name)
        path, raw = self._found(field)
        if raw is None:
            return FieldReading(field.name, value, None, None, _without(field, value, values))
        try:
            how = self._how(field, raw, value, zone)
        except UnreadableError as error:
            how = f"{error.reason}: {error.detail}"
        if value is None and not how:
            how = "means no value"
        return FieldReading(field.name, value, path, raw, how)

    def _found(self, field: Field) -> tuple[str | None, object]:
        if field.template is not None:
            return f'"{field.template.text}"', field.find(self.row, self.event)
        if field.total:
            for path in field.paths:
                found = list(field.all_at(path, self.row, self.event))
                if found:
                    return path.text, found
        found_first = field.first(field.paths, self.row, self.event)
        return (None, None) if found_first is None else (found_first[0].text, found_first[1])

    def _how(self, field: Field, raw: object, value: Value | None, zone: Zone | None) -> str:
        match field.type:
            case FieldType.STRING | FieldType.BOOL:
                field.read(raw, zone)
                return "normalised" if value is not None and scalar_text(raw) != scalar_text(value) else ""
            case FieldType.TIMESTAMP:
                return _time(field, raw, value, field.zone_at(self.row, self.event, zone))
            case _:
                return self._arithmetic(field, raw, value)

    def _arithmetic(self, field: Field, raw: object, value: Value | None) -> str:
        parts = raw if field.total and isinstance(raw, list) else [raw]
        added = [field.quantity(each, self.row) for each in parts]
        taken: list[Quantity] = []
        if field.minus:
            subtrahend = field.first(field.minus, self.row, self.event)
            if subtrahend is None:
                return f"nothing at `{field.minus[0].text}` to be subtracted"
            taken.append(field.quantity(subtrahend[1], self.row))
        amounts = [_EXACT.multiply(part.number, part.scale) for part in added]
        amounts += [-_EXACT.multiply(part.number, part.scale) for part in taken]
        measured = sum(amounts, Decimal(0))
        amount = field.rolled_over(measured)
        first, several = added[0], len(amounts) > 1
        alike = len({part.scale for part in (*added, *taken)}) == 1
        terms = " + ".join(_term(part, alone=alike) for part in added)
        terms += "".join(f" − {_term(part, alone=alike)}" for part in taken)
        unit = f" {first.unit}" if first.unit and alike else ""
        base = BASE_UNITS.get(field.type, "")
        text = f"({terms}){unit}" if several and alike else f"{terms}{unit}"
        if first.scale != 1 or several or field.exponent_from or field.decimals_from:
            shifted = first.scale != field.scale
            factor = f" × {_short(first.scale)}" if (first.scale != 1 or shifted) and alike else ""
            text = f"{text}{factor} = {_short(amount)}{f' {base}' if base else ''}"
        if amount != measured:
            text += f", the meter having begun anew at {_short(field.rolls_over_at)}"
        if isinstance(value, int) and amount != value:
            down = field.type is FieldType.DURATION
            text += f", rounded {'down' if down else 'half to even'} to {value}"
        return text

    # -- rules

    def _rules(self, order: Order) -> Iterator[RuleReading]:
        binding = self.book.compiler.bind(order.values)
        for rule in self.book.rules:
            keys = tuple(unfit_keys(rule, order))
            if keys:
                yield RuleReading(rule.name, False, keys)
                continue
            if rule.when is None:
                yield RuleReading(rule.name, True)
                return
            found = rule.when.evaluate(binding)
            matched = None if isinstance(found, Failure) else bool(found)
            conditions = tuple(self._conditions(rule.when.source, order))
            names = sorted(names_in(rule.when.source) & order.values.keys())
            values = tuple((name, text_of(order.values, name) or "") for name in names)
            yield RuleReading(rule.name, matched, (), rule.when.source.strip(), conditions, values)
            if matched is not False:
                return

    def _conditions(self, when: str, order: Order) -> Iterator[tuple[str, str]]:
        compiled = [(part, self._compiled(part)) for part in parts_of(when)]
        binding = self.book.compiler.bind(order.values)
        for part, expression in compiled:
            found = None if expression is None else expression.evaluate(binding)
            failed = f"fails: {found.message}" if isinstance(found, Failure) else ""
            yield " ".join(part.split()), failed or ("true" if found else "false")

    def _compiled(self, part: str) -> Expression | None:
        try:
            return self.book.compiler.compile(part, Kind.BOOL)
        except ExpressionError:
            return None


_EXACT = Context(prec=100)


_LONG = 50


def _term(part: Quantity, *, alone: bool) -> str:
    return f"{part.number:f}" + ("" if alone or not part.unit else f" {part.unit}")


def _short(number: Decimal) -> str:
    if len(number.as_tuple().digits) > _LONG:  # what a joule is in Wh has no end
        number = number.normalize(Context(prec=12))
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _without(field: Field, value: Value | None, values: Mapping[str, Value]) -> str:
    """Why a field has its value, or none, though nothing stands there."""
    if value is not None and field.computed is not None:
        return field.computed.text
    if value is not None and field.default is not None:
        return "the default"
    if value is not None:
        return _derived(field.name, values)
    return f"absent{looked_at(field)}"


def _derived(name: str, values: Mapping[str, Value]) -> str:
    match name:
        case "seconds":
            both = {"started_at", "ended_at"} <= values.keys()
            return "from started_at to ended_at" if both else "charging_seconds"
        case "minutes":
            return f"{values.get('seconds')} s // 60"
        case "station_id":
            return "of the connector"
        case "order_id":
            return "the event id"
    return DERIVATIONS.get(name, "")


def _time(field: Field, raw: object, value: Value | None, zone: Zone | None) -> str:
    read = field.moment(raw, zone)  # raises what is wrong with it
    for written in field.formats:
        try:
            found = written.read(raw)
        except (ValueError, OverflowError, UnreadableError):
            continue
        if found is None:
            continue
        place = "its own offset" if found.tzinfo is not None else f"in {zone.name}" if zone else ""
        text = f"{written.text}, {place}"
        if isinstance(value, datetime):
            text += f" = {value.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
            days = (value.astimezone(UTC) - read.astimezone(UTC)) // timedelta(hours=20)
            text += {1: ", of the next day", -1: ", of the day before"}.get(days, "")
        return text
    return ""
