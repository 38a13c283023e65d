"""The rules in force: a record -> its orders, an order -> the coupon to ask for. Performs no I/O.

A rule book is compiled once (`consumer.rulebook`) and never changes; new rules are a
new book.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from msgspec.structs import replace

from consumer.core.coupons import Account, CouponRequest
from consumer.core.events import Order, Record
from consumer.core.expressions import Compiler
from consumer.core.formats import Event, Refusal
from consumer.core.outcomes import Finding, Outcome, Reason
from consumer.core.planning import Metadatum, Planner, Rule, ended
from consumer.core.replies import ReplyTable
from consumer.core.retries import excused_seconds
from consumer.core.sources import YEAR_2000_MS, Directory, Source, Station

__all__ = ["Account", "Metadatum", "Rule", "RuleBook"]


class RuleBook:
    """Everything a rules file says, compiled.

    Attributes:
        hash: 12 hex digits of SHA-256 over what was read.
        accounts: by name.
        replies: how the platform's answers are understood.
        sources: in the file's order.
        stations: by id.
        directory: the same, as events name them.
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
        self.directory = Directory(stations, connectors)
        self.compiler = compiler
        self._by_topic = {topic: source for source in self.sources for topic in source.topics}
        self._any_topic = next((source for source in self.sources if not source.topics), None)
        self._planner = Planner(self.rules, [source.name for source in self.sources], stations, compiler)
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
        return [
            [*self.rules],
            self.stations,
            self.directory.connectors,
            *self._planner.parts(),
            *self.compiler.parts(),
        ]

    # -- A record ------------------------------------------------------------------------------------

    def read_all(self, records: Sequence[Record], now: datetime) -> list[tuple[Order | Finding, ...]]:
        """Of each record what `read` gives, with fewer steps where it is an event that is one order, as nearly all are."""
        by_topic, any_topic, directory = self._by_topic, self._any_topic, self.directory
        found: list[tuple[Order | Finding, ...]] = []
        for record in records:
            source = by_topic.get(record.coordinates.topic, any_topic)
            if (
                source is None
                or record.value is None
                or record.retry is not None
                or record.replay is not None
                or record.refused
            ):
                found.append(self.read(record, now))
                continue
            try:
                event = source.envelope.open(record)
                if (
                    isinstance(event, Refusal)
                    or type(body := event.body) is not dict
                    or source.apart is None
                    or not body.keys().isdisjoint(source.apart)
                ):
                    found.append(self._items(source, record, event, now))
                    continue
                latest, oldest, oldest_ms = source.bounds[now]
                late = YEAR_2000_MS <= record.timestamp_ms < oldest_ms
                item = source.read_order(0, body, event, directory, (oldest, latest, late, False))
                found.append((item if type(item) is Order else self._unless_unwanted(item),))
            except Exception:  # noqa: BLE001  # the plain way has the words for it
                found.append(self.read(record, now))
        return found

    def read(self, record: Record, now: datetime) -> tuple[Order | Finding, ...]:
        """The record's orders, and what was found instead of one. At least one item; never raises.

        Of a record that comes back (a retry, a replay) only the order that it is about, as it was sent.
        """
        if record.retry is None and record.replay is None and not record.refused:
            source = self._by_topic.get(record.coordinates.topic, self._any_topic)
            if source is not None:
                return self.read_as(source, record, now)
        return self._read_again(record, now)

    def _read_again(self, record: Record, now: datetime) -> tuple[Order | Finding, ...]:
        """As `read`, of a record that comes back, or that no source reads."""
        if record.refused:
            return (_invalid(Reason.SCHEMA, record.refused),)
        topic = record.origin.topic
        source = self.source_for(topic)
        if source is None:
            return (_invalid(Reason.SCHEMA, f"no source reads the topic {topic}", index=record.only or 0),)
        then = now - timedelta(seconds=excused_seconds(record.retry, now))
        items = self.read_as(source, record, then)
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
        try:
            return self._items(source, record, source.envelope.open(record), now)
        except RecursionError:
            return (_invalid(Reason.TOO_DEEP, "objects or lists are nested too deeply", source=source.name),)
        except Exception as error:  # noqa: BLE001  # whatever the bytes: a record has an outcome, and is not read again
            return (_invalid(Reason.SCHEMA, f"cannot be read: {type(error).__name__}", source=source.name),)

    def _items(
        self, source: Source, record: Record, event: Event | Refusal, now: datetime | None
    ) -> tuple[Order | Finding, ...]:
        """Of a record that has been opened."""
        if isinstance(event, Refusal):
            return (_refused(event, source.name),)
        retry, replay = record.retry, record.replay
        items = source.read(
            event,
            self.directory,
            now,
            record.timestamp_ms if retry is None else retry.timestamp_ms,
            # `expired` says that there never was an attempt; and whoever replays an order wants it sent.
            expires=replay is None and (retry is None or retry.attempts.count == 0),
            release=replay is not None and replay.release,
        )
        for item in items:
            if isinstance(item, Finding) and item.outcome is Outcome.EXPIRED:
                return tuple([self._unless_unwanted(each) for each in items])
        return items

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

    # -- An order ------------------------------------------------------------------------------------

    def plan(self, order: Order, *, as_on: bool = False) -> CouponRequest | Finding:
        """What the first rule that matches says, or would say `as_on`, with no account or rule on trial or on hold. Never raises."""
        try:
            return self._planner.plan(order, as_on=as_on)
        except Exception as error:  # noqa: BLE001  # as for reading: no order may stop its partition
            return ended(order, Reason.RULE_ERROR, f"a rule failed: {type(error).__name__}")


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_YEAR_9000_MS = 221_845_392_000_000


def _recorded_ms(record: Record) -> int | None:
    """None where the producer wrote none, or seconds for milliseconds."""
    milliseconds = record.timestamp_ms if record.retry is None else record.retry.timestamp_ms
    return milliseconds if YEAR_2000_MS <= milliseconds <= _YEAR_9000_MS else None


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
