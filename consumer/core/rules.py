"""The rules in force: a record -> its orders, an order -> the coupon to ask for. Performs no I/O.

A rule book is compiled once (`consumer.rulebook`) and never changes; new rules are a
new book.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import NamedTuple

from consumer.core.coupons import (
    LARGEST_VALUE,
    Account,
    CouponRequest,
    Datum,
    State,
    parameters,
)
from consumer.core.events import Order, Record, Value
from consumer.core.expressions import Binding, Compiler, Expression, ExpressionError, Failure
from consumer.core.formats import Refusal, scalar_text
from consumer.core.outcomes import Finding, Outcome, Reason
from consumer.core.replies import ReplyTable
from consumer.core.retries import excused_seconds
from consumer.core.sources import Source, Station
from consumer.core.syntax import Kind
from consumer.core.templates import Template, text_of

__all__ = ["Account", "Metadatum", "Rule", "RuleBook"]

MAX_DETAIL = 300
FEW, MANY = 3, 32
"""Rules without keys that are asked together; fewer are as quickly asked one by one."""

NO_TEXT = Template.parse("")


@dataclass(frozen=True, slots=True)
class Metadatum:
    """One metadata entry of a rule: the name shown beside the value, and how the value is computed."""

    key: str
    name: str
    value: Expression


@dataclass(frozen=True, slots=True)
class Rule:
    """Which orders get which coupon.

    Attributes:
        sources, stations: only orders of these; empty means all.
        equals: only orders whose fields have one of these texts.
        when: only orders for which this holds; None means all that got here.
        account: None where the rule skips.
        skip: end the order without a request, for this reason.
        subject: what the coupon is for, over field names; empty where the rule skips.
        api_type: instead of the account's.
        api_store_code: for orders whose station has none.
        parameters: further fields of the request, the same in all.

    """

    name: str
    sources: frozenset[str] = frozenset()
    stations: frozenset[str] = frozenset()
    equals: Mapping[str, frozenset[str]] = field(default_factory=dict)
    when: Expression | None = None
    account: Account | None = None
    skip: Reason | None = None
    subject: Template = NO_TEXT
    metadata: tuple[Metadatum, ...] = ()
    api_type: str | None = None
    api_store_code: str | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    state: State = State.ON

    def expressions(self) -> Iterator[tuple[str, Expression]]:
        """All of them, with the name that messages call them by: `when`, `metadata.minutes`."""
        if self.when is not None:
            yield "when", self.when
        for datum in self.metadata:
            yield f"metadata.{datum.key}", datum.value


class RuleBook:
    """Everything a rules file says, compiled.

    Attributes:
        hash: 12 hex digits of SHA-256 over what was read.
        accounts: by name.
        replies: how the platform's answers are understood.
        sources: in the file's order.
        stations: by id.
        rules: in the file's order.
        compiler: of their expressions.

    """

    def __init__(
        self,
        *,
        hash: str,  # noqa: A002  # the word of the outcome's field; nothing here hashes
        accounts: Mapping[str, Account],
        sources: Sequence[Source],
        stations: Mapping[str, Station],
        connectors: Mapping[str, str],
        rules: Sequence[Rule],
        replies: ReplyTable,
        compiler: Compiler,
    ) -> None:
        self.hash = hash
        self.accounts = accounts
        self.replies = replies
        self.sources = tuple(sources)
        self.rules = tuple(rules)
        self.stations = stations
        self._connectors = connectors
        self.compiler = compiler
        self._by_topic = {topic: source for source in self.sources for topic in source.topics}
        self._any_topic = next((source for source in self.sources if not source.topics), None)
        self._index = {source.name: _Index(self.rules, source.name, compiler) for source in self.sources}
        self._lasts = {source.name: source.deadline for source in self.sources}
        self._states = {rule.name: rule.state for rule in self.rules}

    def topics(self) -> tuple[str, ...]:
        """The topics that sources name."""
        return tuple(self._by_topic)

    def source_for(self, topic: str) -> Source | None:
        """The source that reads this topic; None if none does."""
        return self._by_topic.get(topic, self._any_topic)

    def parts(self) -> list[object]:
        """What is long in it, for whoever wants to empty it little by little once nobody needs the book."""
        indexes = [part for index in self._index.values() for part in index.parts()]
        return [[*self.rules], self.stations, self._connectors, *indexes, *self.compiler.parts()]

    # -- A record ------------------------------------------------------------------------------------

    def read(self, record: Record, now: datetime) -> tuple[Order | Finding, ...]:
        """The record's orders, and what was found instead of one. At least one item; never raises.

        Of a record that comes back (a retry, a replay) only the order that it is about, as it was sent.
        """
        if record.refused:
            return (_invalid(Reason.SCHEMA, record.refused),)
        topic = record.coordinates.topic if record.retry is None else record.retry.origin.topic
        source = self._by_topic.get(topic, self._any_topic)
        if source is None:
            return (_invalid(Reason.SCHEMA, f"no source reads the topic {topic}", index=record.only or 0),)
        if record.retry is None and record.replay is None:
            return self.read_as(source, record, now)
        excused = excused_seconds(record.retry, now)
        items = self.read_as(source, record, now - timedelta(seconds=excused) if excused else now)
        if record.only is None:
            return items
        found = next((item for item in items if item.index == record.only), None)
        if found is None:
            detail = "the event holds no such order any more: it is read in another way than before"
            return (_invalid(Reason.SCHEMA, detail, source=source.name, index=record.only),)
        return (_as_sent(found, record) if isinstance(found, Order) else found,)

    def read_as(self, source: Source, record: Record, now: datetime | None) -> tuple[Order | Finding, ...]:
        """As `read`, by a source of one's own choice; without `now` nothing is too late or in the future."""
        if record.value is None:
            return (Finding(0, Outcome.SKIPPED, Reason.TOMBSTONE, "no value", source=source.name),)
        # `expired` says that there never was an attempt; and whoever replays an order wants it sent.
        tried = record.retry is not None and record.retry.attempts.count > 0
        try:
            event = source.envelope.open(record)
            if isinstance(event, Refusal):
                return (_refused(event, source.name),)
            items = source.read(
                event,
                self.find_station,
                now,
                _recorded_ms(record),
                expires=not tried and record.replay is None,
                release=record.replay is not None and record.replay.release,
            )
            for item in items:
                if isinstance(item, Finding) and item.outcome is Outcome.EXPIRED:
                    return tuple([self._unless_unwanted(each) for each in items])
            return items
        except RecursionError:
            return (_invalid(Reason.TOO_DEEP, "objects or lists are nested too deeply", source=source.name),)
        except Exception as error:  # noqa: BLE001  # whatever the bytes: a record has an outcome, and is not read again
            return (_invalid(Reason.SCHEMA, f"cannot be read: {type(error).__name__}", source=source.name),)

    def _unless_unwanted(self, item: Order | Finding) -> Order | Finding:
        """A charge that no rule wants, or one leaves out, ends so however late it comes: no driver missed a coupon."""
        if isinstance(item, Order) or item.outcome is not Outcome.EXPIRED:
            return item
        values, source = item.values, item.source
        assert values is not None
        assert source is not None
        names = ("order_id", "event_id", "plate")
        order_id, event_id, plate = (str(values[name]) for name in names)
        plan = self.plan(Order(item.index, source, order_id, event_id, plate, values))
        if not isinstance(plan, Finding) or plan.reason is Reason.HOLD:
            return item
        return plan if plan.outcome in (Outcome.UNMATCHED, Outcome.SKIPPED) else item

    def deadline(self, order: Order, record: Record, label: str) -> datetime | None:
        """When it is too late for another call after the reply of this label; None if it never is.

        Counted from the earlier of the end of charging and the event's timestamp; for a replay from its own.
        """
        row = self.replies.rows.get(label)
        own = None if row is None or row.deadline_seconds is None else timedelta(seconds=row.deadline_seconds)
        lasts = min((bound for bound in (own, self._lasts[order.source]) if bound is not None), default=None)
        ended_at = None if record.replay is not None else order.values.get("ended_at")
        times = (ended_at, _recorded_at(record))
        since = min((time for time in times if isinstance(time, datetime)), default=None)
        return None if since is None or lasts is None else since + lasts

    def terms(self, account: str, rule: str) -> object:
        """What must be equal in other rules, for an order that waits under these to go on as it is."""
        return self.accounts.get(account), self._states.get(rule)

    def find_station(self, station_id: str | None, connector_id: str | None) -> Station | None:
        """By its own number, else by that of one of its connectors."""
        if station_id is None and connector_id is not None:
            station_id = self._connectors.get(connector_id)
        return None if station_id is None else self.stations.get(station_id)

    # -- An order ------------------------------------------------------------------------------------

    def plan(self, order: Order, *, as_on: bool = False) -> CouponRequest | Finding:
        """What the first rule that matches says, or would say `as_on`, with no account or rule on trial or on hold. Never raises."""
        try:
            return self._plan(order, as_on=as_on)
        except Exception as error:  # noqa: BLE001  # as for reading: no order may stop its partition
            return _ended(order, Reason.RULE_ERROR, f"a rule failed: {type(error).__name__}")

    def _plan(self, order: Order, *, as_on: bool = False) -> CouponRequest | Finding:
        values = order.values
        binding = self.compiler.bind(values)
        for rule in self._index[order.source].candidates(values, binding):
            if rule.when is None:
                return self._apply(rule, order, binding, as_on=as_on)
            matched = rule.when.evaluate(binding)
            if isinstance(matched, Failure):
                # Never on to the next rule: who would know that this one does not work?
                return _ended(order, Reason.RULE_ERROR, f"when: {matched.message}", rule)
            if matched:
                return self._apply(rule, order, binding, as_on=as_on)
        return Finding(
            order.index,
            Outcome.UNMATCHED,
            Reason.NO_RULE,
            "no rule matches",
            values=values,
            source=order.source,
        )

    def _apply(self, rule: Rule, order: Order, binding: Binding, *, as_on: bool) -> CouponRequest | Finding:
        if rule.skip is not None:
            return _ended(order, rule.skip, f"rule {rule.name}", rule, outcome=Outcome.SKIPPED)
        account = rule.account
        assert account is not None
        states = () if as_on else (account.state, rule.state)
        if State.HOLD in states:
            held = f"account {account.name}" if account.state is State.HOLD else f"rule {rule.name}"
            return _ended(
                order, Reason.HOLD, f"{held} is on hold", rule, outcome=Outcome.SKIPPED, dead_letter=True
            )
        store = text_of(order.values, "api_store_code") or rule.api_store_code
        if store is None:
            return _ended(
                order, Reason.FIELD_MISSING, "api_store_code: neither station nor rule has one", rule
            )
        subject, missing = rule.subject.fill(lambda name: text_of(order.values, name))
        if missing is not None:
            return _ended(order, Reason.FIELD_MISSING, f"subject: {missing} is absent", rule)
        metadata = _evaluate(rule, order, binding)
        if isinstance(metadata, Finding):
            return metadata
        station = self.find_station(text_of(order.values, "station_id"), None)
        return CouponRequest(
            account=account.name,
            rule=rule.name,
            url=account.url,
            parameters=parameters(
                account,
                api_type=rule.api_type or account.api_type,
                api_store_code=store,
                event_id=order.event_id,
                plate=order.plate,
                subject=subject,
                metadata=metadata,
                static={
                    **account.parameters,
                    **(station.parameters if station is not None else {}),
                    **rule.parameters,
                },
            ),
            metadata={datum.key: datum.value for datum in metadata},
            shadow=State.SHADOW in states,
            timestamped=account.timestamp,
        )


class _Candidate(NamedTuple):
    """A rule that is found by one of its keys; `rest` are those that it is not found by."""

    number: int
    rule: Rule
    rest: tuple[tuple[str, frozenset[str]], ...]


class _Index:
    """One source's rules by station or field, so that ten thousand of them cost an order no more than ten."""

    def __init__(self, rules: Sequence[Rule], source: str, compiler: Compiler) -> None:
        everywhere: list[_Candidate] = []
        self._rules = rules
        self._by_field: dict[str, dict[str, list[_Candidate]]] = {}
        mine = [
            (number, rule, _keys(rule))
            for number, rule in enumerate(rules)
            if not rule.sources or source in rule.sources
        ]
        crowds: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for _, _, keys in mine:
            for name, texts in keys:
                crowds[name].update(texts)
        for number, rule, keys in mine:
            # By the key that fewest others share: a thousand rules of one station are told apart by another.
            found_by = min(keys, key=lambda key: max(map(crowds[key[0]].__getitem__, key[1])), default=None)
            candidate = _Candidate(number, rule, tuple(key for key in keys if key is not found_by))
            if found_by is None:
                everywhere.append(candidate)
                continue
            name, texts = found_by
            by_text = self._by_field.setdefault(name, {})
            for text in texts:
                by_text.setdefault(text, []).append(candidate)

        self._groups = [_Group(members, compiler) for members in _grouped(everywhere)]

    def parts(self) -> list[object]:
        """As a book's."""
        return [*self._by_field.values()]

    def candidates(self, values: Mapping[str, Value], binding: Binding) -> Iterator[Rule]:
        """The rules whose indexed keys fit, in order, without a look at the others."""
        keyed = self._keyed(values)
        for group in self._groups:
            yield from _taken(keyed, before=group.members[0].number)
            if group.is_out(binding):
                continue
            for member in group.members:
                yield from _taken(keyed, before=member.number)
                yield member.rule
        yield from _taken(keyed, before=len(self._rules))

    def _keyed(self, values: Mapping[str, Value]) -> list[_Candidate]:
        """Those with keys, the last one first."""
        found: list[_Candidate] = []
        for name, by_text in self._by_field.items():
            text = scalar_text(values.get(name))
            if text in by_text:
                found += by_text[text]
        found.sort(reverse=True)
        return [
            candidate
            for candidate in found
            if all(scalar_text(values.get(name)) in texts for name, texts in candidate.rest)
        ]


class _Group:
    """Rules without keys, one after the other: few orders are for any of them, and one expression tells which."""

    def __init__(self, members: Sequence[_Candidate], compiler: Compiler) -> None:
        self.members = members
        self._any: Expression | None = None
        if len(members) >= FEW:
            # A line of its own, since an expression may end in a comment.
            either = " || ".join(f"({member.rule.when.source}\n)" for member in members if member.rule.when)
            with suppress(ExpressionError):  # too long for one; then each is asked
                self._any = compiler.compile(either, Kind.BOOL)

    def is_out(self, binding: Binding) -> bool:
        """None of them holds, and none fails."""
        return self._any is not None and self._any.evaluate(binding) is False


def _grouped(everywhere: Sequence[_Candidate]) -> Iterator[list[_Candidate]]:
    """A rule that is for all orders stands alone."""
    for conditional, members in groupby(everywhere, lambda candidate: candidate.rule.when is not None):
        rest = list(members)
        size = MANY if conditional else 1
        for start in range(0, len(rest), size):
            yield rest[start : start + size]


def _taken(keyed: list[_Candidate], *, before: int) -> Iterator[Rule]:
    while keyed and keyed[-1].number < before:
        yield keyed.pop().rule


def _keys(rule: Rule) -> list[tuple[str, frozenset[str]]]:
    """Fields, each with the texts of which it must have one."""
    stations = [("station_id", rule.stations)] if rule.stations else []
    return [*stations, *rule.equals.items()]


def _evaluate(rule: Rule, order: Order, binding: Binding) -> tuple[Datum, ...] | Finding:
    """The rule's metadata for this order, each value a 32-bit integer that is not negative."""
    found: list[Datum] = []
    for datum in rule.metadata:
        value = datum.value.evaluate(binding)
        if isinstance(value, Failure):
            return _ended(order, Reason.RULE_ERROR, f"metadata.{datum.key}: {value.message}", rule)
        if not 0 <= value <= LARGEST_VALUE:
            detail = f"metadata.{datum.key}: {value} is outside 0..{LARGEST_VALUE}"
            return _ended(order, Reason.OVERFLOW, detail, rule)
        found.append(Datum(datum.key, datum.name, int(value)))
    return tuple(found)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_YEAR_2000_MS, _YEAR_9000_MS = 946_684_800_000, 221_845_392_000_000


def _recorded_ms(record: Record) -> int | None:
    """None where the producer wrote none, or seconds for milliseconds."""
    milliseconds = record.timestamp_ms if record.retry is None else record.retry.timestamp_ms
    return milliseconds if _YEAR_2000_MS <= milliseconds <= _YEAR_9000_MS else None


def _recorded_at(record: Record) -> datetime | None:
    milliseconds = _recorded_ms(record)
    return None if milliseconds is None else _EPOCH + timedelta(milliseconds=milliseconds)


def _as_sent(order: Order, record: Record) -> Order:
    """The platform knows a grant by its event_id: one that new rules make differently would be a second grant."""
    event_id = record.retry.event_id if record.retry is not None else None
    if event_id is None or event_id == order.event_id:
        return order
    return replace(order, event_id=event_id, values={**order.values, "event_id": event_id})


def _refused(refusal: Refusal, source: str) -> Finding:
    if refusal.reason is Reason.TOMBSTONE:
        return Finding(0, Outcome.SKIPPED, refusal.reason, refusal.detail, source=source)
    return _invalid(refusal.reason, refusal.detail, source=source)


def _invalid(reason: Reason, detail: str, source: str | None = None, index: int = 0) -> Finding:
    return Finding(index, Outcome.INVALID, reason, detail, dead_letter=True, source=source)


def _ended(
    order: Order,
    reason: Reason,
    detail: str,
    rule: Rule | None = None,
    *,
    outcome: Outcome = Outcome.INVALID,
    dead_letter: bool | None = None,
) -> Finding:
    """An order that gets no request. Details may quote a value: never the plate."""
    return Finding(
        order.index,
        outcome,
        reason,
        detail.replace(order.plate, "***")[:MAX_DETAIL],
        dead_letter=outcome is Outcome.INVALID if dead_letter is None else dead_letter,
        values=order.values,
        rule=rule.name if rule else None,
        account=rule.account.name if rule and rule.account else None,
        source=order.source,
    )
