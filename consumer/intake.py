"""Polls Kafka, tracks what was taken, pauses and resumes, and lives through rebalances. Does I/O.

At every assignment: **fence, then read, then seek**. `takeover` ends whatever transaction a
dead or cut-off owner left open, and reads where each partition goes on; then the consumer is
sought there. Nothing is delivered before the first transaction of this owner is committed.

Everything that belongs to an assignment ends with it: what completes later is dropped,
and the next owner does it again.
"""

import asyncio
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache, partial
from typing import Any, Protocol

import structlog
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.errors import KafkaError
from msgspec.structs import replace

from consumer.core.errors import BrokerUnavailableError, RefusedError
from consumer.core.events import Coordinates, Headers, Record, RetryContext, size_of
from consumer.core.headers import read_replay, read_retry
from consumer.core.offsets import Tracker
from consumer.core.outcomes import Outcome, Resolution
from consumer.core.status import LedgerStatus, Memory, PartitionStatus
from consumer.decoding import NO_EPOCH, Damage, Doubt
from consumer.delivery import UnderWay
from consumer.ledger import EndedRecord, Ledger
from consumer.link import Membership, TopicPartition, cancel_until_ended, words
from consumer.logs import Intervals
from consumer.metrics import Metrics
from consumer.takeover import Link, Logs, Takeover

log = structlog.get_logger(__name__)

_FENCE_SECONDS = 2.0
"""For ending, after a drain, the transaction that it cut off."""

POLL_SECONDS = 0.2
"""Longest wait for records in one poll; a pause or a stop is noticed within it."""

POLL_RECORDS = 100
"""Records taken in one poll."""

BACKLOG_RECORDS = 60
"""With so many records waiting to be begun, only one a second is polled, to show that polling goes on. What
waits long is in no cache of the processor any more when it is begun; where Kafka's client keeps what it has fetched,
it is one stretch of bytes."""

TURN_RECORDS = 20
"""Records begun in one turn of the event loop, so that it stays short, and what they tell is heeded."""

UNWRITTEN = 900
"""Records that have ended and are in no committed transaction, from which on nothing more is begun, unless flushes are
a third of that or larger (`service`)."""

STEER_SECONDS = 0.05
"""How often each partition is looked at, if nothing happens before: polls may be hundreds a second, and partitions as many."""

GIVE_UP_SECONDS = 60.0
"""Errors from polling for this long in a row: the consumer does not mend by itself, a new one has to be made."""

MEASURE_SECONDS = 5.0
"""How often it is asked where the logs of paused partitions end."""

ACCOUNT_SECONDS = 0.5
"""How often gauges are set."""

LOOK_SECONDS = 20.0
"""How often it is looked whether records are there that the consumer does not bring: twice in a row is once too often."""

BUG_PAUSE, LONGEST_BUG_PAUSE = 1.0, 60.0
"""Before the group is joined again after a bug of ours: the first time, and after more and more of them."""

OPEN_SECONDS = 30.0
"""How long one try to open an assignment may take before it is said aloud and tried again."""

DAMAGE_SECONDS = 30.0
"""After which a batch that cannot be decoded is fetched again: another replica may lead by then, with a good copy."""

DOUBT_SECONDS = 10.0
"""Longest wait for the brokers to tell whether a log is the one that was read."""

FULL, LEDGER, OFFSET_MAP, NOT_DUE, UNREADABLE = "full", "ledger", "offset_map", "not_due", "unreadable"
DAMAGED, LOG_CHECK = "damaged", "log_check"
"""Reasons of ours to pause; the flow has its own. `not_due` is a retry topic's, and no trouble."""


class Consumer(Logs, Protocol):
    """What intake needs of `link.GroupConsumer`."""

    def membership(self) -> Membership:
        """The group's membership now."""

    def rejoin(self) -> None:
        """Join the group again, with a new generation."""

    def pause(self, *partitions: TopicPartition) -> None:
        """Stop fetching."""

    def resume(self, *partitions: TopicPartition) -> None:
        """Fetch again."""

    def seek(self, partition: TopicPartition, offset: int, epoch: int | None = None) -> None:
        """Go on at `offset`, behind what the leader `epoch` wrote; None: within what was read."""

    def assignment(self) -> Iterable[TopicPartition]:
        """Partitions assigned now."""

    def highwater(self, partition: TopicPartition) -> int | None:
        """The log's end as of the last fetch."""

    def next_offset(self, partition: TopicPartition) -> int | None:
        """Where the next poll reads on, past transaction markers and gaps; None while that is not known."""

    @property
    def damaged(self) -> Mapping[TopicPartition, Damage]:
        """Partitions of which nothing comes, since a batch cannot be decoded."""

    @property
    def doubtful(self) -> Mapping[TopicPartition, Doubt]:
        """Partitions that should not be read on until it is known whether they have the log that was read."""

    def trust(self, partition: TopicPartition) -> None:
        """It has."""

    async def getmany(
        self, *partitions: TopicPartition, timeout_ms: int, max_records: int
    ) -> Mapping[TopicPartition, Sequence[Any]]:
        """Records of these partitions (none named: of all) as far as they are not paused."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What may be held in memory, and how long a drain may take (seconds).

    Attributes:
        unreadable: records of a topic in a row that cannot be read, after which it is paused; 0: never.
        unwritten: records that have ended and are in no committed transaction, from which on nothing more is
            begun: each takes ten times the memory of one that is not begun.
    """

    records: int = 2000
    bytes: int = 64 << 20
    drain: float = 20.0
    unreadable: int = 100
    unwritten: int = UNWRITTEN


class Deliverer(Protocol):
    """What intake needs of `delivery.Delivery`."""

    @property
    def under_way(self) -> Collection[UnderWay]:
        """The records that were begun and have not ended."""

    def begin(self, records: Sequence[Record], ended: Callable[[Sequence[UnderWay]], None]) -> None:
        """Let records go; `ended` is told of each when it has ended, of some together."""

    def after_turns(self, call: Callable[[], None]) -> None:
        """Call this whenever more may be wanted."""

    def wind_down(self) -> None:
        """Make no first call for a record."""

    def resume(self) -> None:
        """Make first calls again."""

    async def quiet(self) -> None:
        """Until each record for which a call was made has ended."""

    def abandon(self, whole: UnderWay) -> list[asyncio.Task[None]]:
        """Nobody waits for this record any more; what was cancelled for that."""


MakeLedger = Callable[
    [
        Membership,
        Mapping[str, tuple[int, int]],
        Mapping[TopicPartition, Tracker],
        Callable[[Sequence[EndedRecord]], None],
    ],
    Ledger,
]
"""(membership, the writer's two producers, trackers, on_committed) -> the assignment's ledger."""


@dataclass(eq=False, slots=True)
class HeldPartition:
    """What an assignment holds of one partition.

    Attributes:
        position: one beyond the last record taken in, and what followed it and is none.
        records: taken in and not yet committed.
        not_due: when its head is due, in a retry topic; None while it need not wait for that.
        dues: when those of a retry topic were due, its head with them; by offset, ascending.
    """

    tracker: Tracker
    position: int
    records: int = 0
    not_due: datetime | None = None
    dues: dict[int, datetime] = field(default_factory=dict)


@dataclass(eq=False, slots=True)
class Assignment:
    """What one assignment of the group holds; it is closed, and never used again.

    Attributes:
        ended: told of its records that have ended. The same each time, so that it is told of many together.
        backlog: records taken in and not begun: they wait here, where each takes the least, while enough are.
        kept_back: those of topics that have since turned out to be unreadable.
        failed: how often bugs of ours kept a record from its end so far.
        unwritten: records that have ended and are in no transaction yet that was committed.
        crowded: partitions that hold half of what may be held, or more.
    """

    member: Membership
    places: Mapping[TopicPartition, HeldPartition]
    ledger: Ledger
    own_ids: tuple[str, str]
    ended: Callable[[Sequence[UnderWay]], None] = field(init=False)
    writing: "asyncio.Task[str | None] | None" = None
    backlog: deque[Record] = field(default_factory=deque)
    kept_back: list[Record] = field(default_factory=list)
    failed: Counter[Coordinates] = field(default_factory=Counter)
    crowded: set[TopicPartition] = field(default_factory=set)
    admitting: bool = True
    closed: bool = False
    records: int = 0
    bytes: int = 0
    unwritten: int = 0


class Intake(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """Takes records in, has each delivered, and hands what ended to the ledger.

    Attributes:
        joined: true once the group has given an assignment, empty or not.
        last_turn: `monotonic()` of the poll loop's last turn.
        trouble: what keeps it from taking records in, in words; None while nothing does.
        rebalancing: true until the first assignment, and between a revocation and the next one.
    """

    def __init__(
        self,
        *,
        consumer: Consumer,
        link: Link,
        group: str,
        cluster_id: str,
        start_from: str | datetime,
        delivery: Deliverer,
        make_ledger: MakeLedger,
        pause_reason: Callable[[], str | None],
        supplied: Callable[[], bool],
        bounds: Bounds,
        metrics: Metrics,
        retry_topics: Collection[str] = (),
        on_assigned: Callable[[Sequence[TopicPartition]], None] = lambda _partitions: None,
        watch: Callable[[], Coroutine[Any, Any, object]] = lambda: asyncio.Event().wait(),
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`watch` goes on while it runs; what it raises ends it."""
        self.joined = False
        self.rebalancing = True
        self.last_turn = monotonic()
        self._consumer = consumer
        self._link = link
        self._takeover = Takeover(
            logs=consumer,
            link=link,
            group=group,
            cluster_id=cluster_id,
            start_from=start_from,
            retry_topics=retry_topics,
            metrics=metrics,
            began_at=clock(),
        )
        self._delivery = delivery
        self._make_ledger = make_ledger
        self._pause_reason = pause_reason
        self._supplied = supplied
        self._bounds = bounds
        self._share = max(1, bounds.records // 2)
        self._metrics = metrics
        self._records_of = cache(metrics.records.labels)
        self._backpressure_seconds = cache(metrics.backpressure_seconds.labels)
        self._retry_topics = frozenset(retry_topics)
        self._on_assigned = on_assigned
        self._watch = watch
        self._clock = clock
        self._monotonic = monotonic
        self._assignment: Assignment | None = None
        self._opening: asyncio.Task[None] | None = None
        self._paused: dict[TopicPartition, str] = {}
        self._ends: Mapping[TopicPartition, int] = {}
        self._paused_lately: set[TopicPartition] = set()
        self._unreadable: Counter[str] = Counter()
        self._damage_noted = float("-inf")
        self._damage_told = Intervals(first=60.0, longest=600.0)
        self._problems_told = Intervals(first=5.0, longest=600.0)
        self._bugs_told = Intervals(first=60.0, longest=3600.0)
        self._doubted = asyncio.Event()
        self._room = asyncio.Event()
        self._stopping = asyncio.Event()
        self._astray: dict[TopicPartition, int] = {}
        self._cannot_poll: str | None = None
        self._cannot_open: str | None = None
        self._problems = 0
        self._bug_at, self._bug_pause = float("-inf"), 0.0
        self._polled_at = monotonic()
        self._held_up_by: str | None = None
        self._steer_at = self._account_at = monotonic()
        self._seen_reasons = {FULL, LEDGER, OFFSET_MAP, NOT_DUE, UNREADABLE, DAMAGED, LOG_CHECK}
        delivery.after_turns(self._begin_more)

    # -- The poll loop --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Poll until `stop`, then drain and flush. The consumer is stopped by its owner afterwards.

        Raises BrokerUnavailableError where the consumer is of no more use.
        """
        stopping: asyncio.Task[Any] = asyncio.ensure_future(self._stopping.wait())
        rounds = (
            self._poll_on(),
            self._settle_doubts(),
            self._look_for_silence(),
            self._measure_paused(),
            self._watch(),
        )
        working = [asyncio.ensure_future(each) for each in rounds]
        try:
            await asyncio.wait([stopping, *working], return_when=asyncio.FIRST_COMPLETED)
            for task in working:
                if task.done():
                    task.result()  # it never ends well by itself
        finally:
            await cancel_until_ended(stopping, *working)
            await self._release("stopping")

    def stop(self) -> None:
        """Stop admitting; `run` drains and returns."""
        if self._assignment is not None:
            self._assignment.admitting = False
        self._stopping.set()

    def read_again(self) -> None:
        """Other rules are in force: what could not be read may be read now."""
        for topic in list(self._unreadable):
            self._forget_unreadable(topic)
        self._begin_more()

    @property
    def partitions(self) -> list[TopicPartition]:
        """Partitions that records are taken from now."""
        return sorted(self._assignment.places) if self._assignment is not None else []

    @property
    def paused(self) -> dict[str, int]:
        """How many partitions are paused, by reason."""
        reasons = list(self._paused.values())
        return {reason: reasons.count(reason) for reason in set(reasons)}

    @property
    def trouble(self) -> str | None:  # noqa: D102  # among the attributes
        assignment = self._assignment
        return (
            self._cannot_poll
            or self._cannot_open
            or (assignment.ledger.trouble if assignment is not None else None)
        )

    @property
    def unreadable(self) -> list[str]:
        """Topics that are paused because nothing in them can be read."""
        return [topic for topic in self._unreadable if self._is_unreadable(topic)]

    def partition_statuses(self) -> list[PartitionStatus]:
        """Each partition that records are taken from, as of now."""
        assignment = self._assignment
        return (
            []
            if assignment is None
            else [self._partition_status(assignment, tp) for tp in sorted(assignment.places)]
        )

    def _partition_status(self, assignment: Assignment, partition: TopicPartition) -> PartitionStatus:
        place, end = assignment.places[partition], self._end(partition)
        tracker = place.tracker
        return PartitionStatus(
            topic=partition.topic,
            partition=partition.partition,
            waits=partition.topic in self._retry_topics,
            lag=None if end is None else max(0, end - tracker.frontier),
            frontier=tracker.frontier,
            position=tracker.position,
            under_way=place.records,
            map_bytes=assignment.ledger.map_bytes(partition),
            paused=self._paused.get(partition),
            due_at=place.not_due,
        )

    def memory(self) -> Memory:
        """What is held, and may be."""
        assignment, bounds = self._assignment, self._bounds
        records, size = (assignment.records, assignment.bytes) if assignment is not None else (0, 0)
        return Memory(records, bounds.records, size, bounds.bytes)

    def ledger_status(self) -> LedgerStatus:
        """Of the assignment's ledger, as of now."""
        if self._assignment is None:
            return LedgerStatus()
        ledger = self._assignment.ledger
        return LedgerStatus(open=True, trouble=ledger.trouble, stuck=ledger.stuck, pending=ledger.pending)

    def _is_unreadable(self, topic: str) -> bool:
        return 0 < self._bounds.unreadable <= self._unreadable[topic]

    async def _poll_on(self) -> None:
        before = self._monotonic()
        while True:
            await self._wait_for_room()
            self._steer()
            batches = await self._poll()
            now = self._monotonic()
            self._account(now, now - before)
            self.last_turn = before = now
            assignment = self._assignment
            for partition, records in batches.items():
                self._take_in(assignment, partition, records)
            self._begin_more()

    async def _wait_for_room(self) -> None:
        """A short fullness is waited for: pausing would throw away what was fetched ahead."""
        if self._has_room():
            return
        try:
            async with asyncio.timeout(1.0):
                while not self._has_room():
                    self._room.clear()
                    await self._room.wait()
        except TimeoutError:
            pass

    def _has_room(self) -> bool:
        return not self._full() and self._wants_more(self._assignment)

    def _wants_more(self, assignment: Assignment | None) -> bool:
        return assignment is None or len(assignment.backlog) < BACKLOG_RECORDS

    def _full(self) -> bool:
        assignment = self._assignment
        return assignment is not None and (
            assignment.records >= self._bounds.records or assignment.bytes >= self._bounds.bytes
        )

    def _steer(self) -> None:
        """Pause and resume partitions, so that polling can go on whatever holds us up."""
        assignment = self._assignment
        if assignment is None:
            self._paused = {}
            return
        held_up_by = self._pause_reason() or (
            LEDGER if assignment.ledger.stuck else FULL if self._full() else None
        )
        now = self._monotonic()
        if held_up_by == self._held_up_by and now < self._steer_at:
            return
        self._held_up_by, self._steer_at = held_up_by, now + STEER_SECONDS
        if assignment.admitting:
            self._pass_markers(assignment)
        wanted = self._to_be_paused(assignment, held_up_by)
        if wanted != self._paused:
            assigned = set(self._consumer.assignment())
            self._consumer.pause(*(tp for tp in wanted if tp not in self._paused and tp in assigned))
            self._consumer.resume(*(tp for tp in self._paused if tp not in wanted and tp in assigned))
            self._paused = wanted
        self._paused_lately.update(wanted)

    def _to_be_paused(self, assignment: Assignment, held_up_by: str | None) -> dict[TopicPartition, str]:
        """Each with its reason."""
        wanted: dict[TopicPartition, str] = {}
        now = self._clock()
        for partition, place in assignment.places.items():
            if place.not_due is not None and place.not_due <= now:
                place.not_due = None
            if held_up_by is not None:
                wanted[partition] = held_up_by
            elif assignment.ledger.full(partition):
                wanted[partition] = OFFSET_MAP
            elif self._is_unreadable(partition.topic):
                wanted[partition] = UNREADABLE
            elif self._is_damaged(partition):
                wanted[partition] = DAMAGED
            elif partition in self._consumer.doubtful:
                wanted[partition] = LOG_CHECK
            elif place.not_due is not None:
                wanted[partition] = NOT_DUE
        return wanted

    def _pass_markers(self, assignment: Assignment) -> None:
        """What stands at a log's end and is no record (a transaction's marker, a compacted one) is done: no lag stays."""
        for partition, place in assignment.places.items():
            reads_on = self._consumer.next_offset(partition)
            if reads_on is not None and reads_on > place.position:
                place.position = reads_on
                if place.tracker.skip_to(reads_on):
                    assignment.ledger.touch(partition)

    async def _poll(self) -> Mapping[TopicPartition, Sequence[Any]]:
        assignment = self._assignment
        room = self._bounds.records - assignment.records if assignment is not None else POLL_RECORDS
        try:
            batches = await self._consumer.getmany(
                *(self._uncrowded(assignment) if assignment is not None and assignment.crowded else ()),
                timeout_ms=int(POLL_SECONDS * 1000),
                max_records=max(1, min(POLL_RECORDS, room)) if self._wants_more(assignment) else 1,
            )
        except KafkaError as error:
            self._note_problem(error)
            await asyncio.sleep(min(5.0, 0.1 * self._problems))
            return {}
        self._problems, self._polled_at, self._cannot_poll = 0, self._monotonic(), None
        if self._consumer.damaged:
            self._note_damage()
        if self._consumer.doubtful:
            self._steer_at = self._monotonic()
            self._doubted.set()
        return batches

    def _note_damage(self) -> None:
        """Its partition is left alone for a while; whatever else was polled goes on."""
        found = [each for each in self._consumer.damaged.items() if each[1].found_at > self._damage_noted]
        for partition, damage in found:
            self._damage_noted = max(self._damage_noted, damage.found_at)
            self._steer_at = self._monotonic()
            held_back = self._damage_told.due((partition, damage.offset), self._monotonic())
            if held_back is not None:
                log.error(
                    "intake.batch_damaged",
                    topic=partition.topic,
                    partition=partition.partition,
                    offset=damage.offset,
                    next_offset=damage.next_offset,
                    problem=damage.problem,
                    times=held_back + 1,
                    remedy="it is fetched again every half minute, since another replica may be whole; "
                    "the runbook's CouponBatchDamaged tells how to pass over it",
                )

    def _is_damaged(self, partition: TopicPartition) -> bool:
        damage = self._consumer.damaged.get(partition)
        return damage is not None and self._monotonic() < damage.found_at + DAMAGE_SECONDS

    async def _settle_doubts(self) -> None:
        """Before a partition is read on behind another leader, or at a place outside of the log that it was fetched from."""
        while True:
            await self._doubted.wait()
            assignment = self._assignment
            doubts = {} if assignment is None else dict(self._consumer.doubtful)
            doubts = {tp: doubt for tp, doubt in doubts.items() if assignment and tp in assignment.places}
            try:
                async with asyncio.timeout(DOUBT_SECONDS):
                    astray = await self._takeover.astray(doubts) if doubts else []
            except (KafkaError, TimeoutError) as error:
                log.info("intake.log_not_checked", problem=words(error))
                await asyncio.sleep(POLL_SECONDS)
                continue
            self._doubted.clear()
            if assignment is None or assignment is not self._assignment or not assignment.admitting:
                continue
            for tp in doubts:
                if tp not in astray:
                    self._consumer.trust(tp)
            self._steer_at = self._monotonic()
            if astray:
                self._leave_astray(assignment, {tp: doubts[tp] for tp in astray})

    def _leave_astray(self, assignment: Assignment, doubts: Mapping[TopicPartition, Doubt]) -> None:
        """The takeover that follows finds where each goes on."""
        for tp, doubt in doubts.items():
            log.warning("intake.log_is_another", topic=tp.topic, partition=tp.partition, offset=doubt.offset)
            ended = doubt.next_epoch is None and (end := self._end(tp)) is not None and end >= doubt.offset
            if not ended:
                known = assignment.places[tp].tracker.topic_id is not None
                self._astray[tp] = doubt.epoch if known else NO_EPOCH
        assignment.admitting = False
        self._consumer.rejoin()

    def _uncrowded(self, assignment: Assignment) -> Iterable[TopicPartition]:
        """No partition gets more than half of what may be held while others could: its deep backlog keeps nobody waiting."""
        return [tp for tp in assignment.places if tp not in self._paused and tp not in assignment.crowded]

    def _note_problem(self, error: KafkaError) -> None:
        self._problems += 1
        self._cannot_poll = f"cannot poll: {words(error)}"
        held_back = self._problems_told.due(self._cannot_poll, self._monotonic())
        if held_back is not None:
            log.warning("intake.cannot_poll", problem=self._cannot_poll, times=held_back + 1)
        if self._monotonic() - self._polled_at > GIVE_UP_SECONDS:
            raise BrokerUnavailableError(self._cannot_poll) from error

    async def _look_for_silence(self) -> None:
        """A consumer can sit silently while there are records: then a new one has to be made."""
        stuck: Mapping[TopicPartition, int] = {}
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            offsets, self._paused_lately = self._idle_offsets(), set(self._paused)
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    ends = await self._consumer.end_offsets(list(offsets)) if offsets else {}
            except (KafkaError, TimeoutError):
                ends = {}  # Kafka is away, which others notice and tell
            stuck_before = stuck
            stuck = {tp: offset for tp, offset in offsets.items() if offset < ends.get(tp, offset)}
            silent = [tp for tp, offset in stuck.items() if stuck_before.get(tp) == offset]
            if silent:
                what = ", ".join(f"{tp.topic}-{tp.partition}" for tp in silent)
                log.warning("intake.silent", partitions=what, seconds=LOOK_SECONDS)
                raise BrokerUnavailableError(
                    f"the consumer brings no records of {what} though there are some"
                )

    async def _measure_paused(self) -> None:
        """Of a paused partition nothing is fetched, which would tell where its log ends by now."""
        while True:
            await asyncio.sleep(MEASURE_SECONDS)
            paused = list(self._paused)
            try:
                async with asyncio.timeout(MEASURE_SECONDS):
                    self._ends = await self._consumer.end_offsets(paused) if paused else {}
            except (KafkaError, TimeoutError):
                pass  # Kafka is away, which others notice and tell

    def _idle_offsets(self) -> dict[TopicPartition, int]:
        """Where partitions stand from which records could have come all the time."""
        assignment = self._assignment
        if assignment is None or not assignment.admitting:
            return {}
        offsets = {
            tp: self._consumer.next_offset(tp)
            for tp in assignment.places
            if tp not in self._paused_lately and tp not in assignment.crowded
        }
        return {tp: offset for tp, offset in offsets.items() if offset is not None}

    def _account(self, now: float, seconds: float) -> None:
        if self._paused:
            for reason in set(self._paused.values()):
                self._backpressure_seconds(reason).inc(seconds)
        if now < self._account_at:
            return
        self._account_at = now + ACCOUNT_SECONDS
        reasons = set(self._paused.values())
        self._seen_reasons |= reasons
        for reason in self._seen_reasons:
            self._metrics.paused.labels(reason).set(reason in reasons)
        self._metrics.last_poll.set_to_current_time()
        assignment = self._assignment
        self._metrics.waiting.set(assignment.records if assignment else 0)
        self._metrics.waiting_bytes.set(assignment.bytes if assignment else 0)
        if assignment is not None:
            all_held_up = self._pause_reason() is not None
            for partition, place in assignment.places.items():
                self._account_for(partition, place, all_held_up=all_held_up)

    def _account_for(self, partition: TopicPartition, place: HeldPartition, *, all_held_up: bool) -> None:
        labels = (partition.topic, str(partition.partition))
        tracker = place.tracker
        self._metrics.commit_gap.labels(*labels).set(tracker.position - tracker.frontier)
        if partition.topic in self._retry_topics:
            due_at = next(iter(place.dues.values()), None)
            overdue = 0.0 if due_at is None else (self._clock() - due_at).total_seconds()
            self._metrics.retry_overdue.labels(*labels).set(max(0.0, overdue))
        end = self._end(partition)
        if end is None:
            return
        self._metrics.lag.labels(*labels).set(max(0, end - tracker.frontier))
        if partition.topic not in self._retry_topics:
            # Where anything but our own memory holds us up, more members would be held up, too.
            held_up = all_held_up or self._paused.get(partition, FULL) != FULL
            ahead = max(0, end - place.position)
            self._metrics.admissible.labels(*labels).set(0 if held_up else ahead + place.records)

    def _end(self, partition: TopicPartition) -> int | None:
        """Where its log ends, as far as that is known."""
        ends = (self._consumer.highwater(partition), self._ends.get(partition))
        return max((each for each in ends if each is not None), default=None)

    # -- Records --------------------------------------------------------------------------------------

    def _take_in(
        self, assignment: Assignment | None, partition: TopicPartition, polled: Sequence[Any]
    ) -> None:
        """Of an assignment that is over, or not yet open, nothing is taken: it will be read again."""
        if (
            assignment is None
            or self._assignment is not assignment
            or partition not in assignment.places
            or not assignment.admitting
        ):
            return
        place = assignment.places[partition]
        topic, number = partition
        waits, stays = topic in self._retry_topics, self._is_unreadable(topic)
        tracker, retry, refused = place.tracker, None, ""
        taken: list[Record] = []
        taken_at = asyncio.get_running_loop().time()
        new = tuple.__new__  # which a NamedTuple's own constructor only calls, at twice its price
        for each in polled:
            offset, headers = each.offset, tuple(each.headers)
            if waits:
                retry, refused = _retry(headers)
                stays = stays or (retry is not None and self._waits(place, offset, retry))
            if stays:
                # Nothing that waits is kept in memory: it is read again when it can be taken.
                self._consumer.seek(partition, offset)
                self._steer_at = self._monotonic()
                break
            place.position = offset + 1
            if not tracker.take(offset):
                place.dues.pop(offset, None)
                assignment.ledger.touch(partition)
                continue
            record = Record(
                new(Coordinates, (topic, number, offset)),
                each.timestamp,
                each.key,
                each.value,
                headers,
                offset < tracker.maybe_sent_below,
                retry,
                read_replay(headers) if headers else None,
                refused,
                taken_at,
            )
            taken.append(record)
        if taken:
            self._keep(assignment, partition, place, taken)

    def _waits(self, place: HeldPartition, offset: int, retry: RetryContext) -> bool:
        """Whether the order at `offset` is not due yet."""
        place.dues[offset] = retry.due_at
        if retry.due_at <= self._clock():
            return False
        place.not_due = retry.due_at
        return True

    def _keep(
        self,
        assignment: Assignment,
        partition: TopicPartition,
        place: HeldPartition,
        records: Sequence[Record],
    ) -> None:
        self._records_of(partition.topic).inc(len(records))
        assignment.records += len(records)
        assignment.bytes += size_of(records)
        place.records += len(records)
        if place.records >= self._share and len(assignment.places) > 1:
            assignment.crowded.add(partition)
        assignment.backlog += records

    def _begin_more(self) -> None:
        """Of what was taken in, unless enough orders wait for leave to call, or enough records to be written."""
        assignment = self._assignment
        if assignment is None or not assignment.backlog or not assignment.admitting or self._supplied():
            return
        if assignment.unwritten >= self._bounds.unwritten:
            return
        backlog = assignment.backlog
        some = [backlog.popleft() for _ in range(min(len(backlog), TURN_RECORDS))]
        if len(backlog) < BACKLOG_RECORDS:
            self._room.set()
        if self._unreadable:
            assignment.kept_back += [each for each in some if self._is_unreadable(each.coordinates.topic)]
            some = [each for each in some if not self._is_unreadable(each.coordinates.topic)]
        self._delivery.begin(some, assignment.ended)

    def heed_topic_ids(self, ids: Mapping[str, str]) -> None:
        """Kafka's ids of topics now. One that is another has been deleted and made anew: its records were never read."""
        assignment = self._assignment
        if assignment is None or not assignment.admitting:
            return
        known = {tp.topic: place.tracker.topic_id for tp, place in assignment.places.items()}
        made_anew = sorted(topic for topic, id_ in known.items() if id_ != ids.get(topic, id_))
        if made_anew:
            log.warning("intake.topic_made_anew", topics=made_anew)
            assignment.admitting = False
            self._consumer.rejoin()

    def _ended(self, assignment: Assignment, wholes: Sequence[UnderWay]) -> None:
        """Written; or, with a problem, begun again and again. Of what ends after its assignment nothing is: the next owner does it."""
        if assignment.closed:
            self._metrics.late_completions.inc(len(wholes))
            return
        invalid, add = Outcome.INVALID, assignment.ledger.add
        for whole in wholes:
            record, resolutions = whole.record, whole.resolutions
            try:
                if whole.problem is not None:
                    self._deliver_again(assignment, record, whole.problem, called=whole.called)
                    continue
                if assignment.failed:
                    assignment.failed.pop(record.coordinates, None)
                if self._unreadable or not resolutions or resolutions[0].outcome is invalid:
                    self._note_readable(record.coordinates.topic, resolutions)
                assignment.unwritten += 1
                add(record, resolutions)
            except Exception as bug:  # noqa: BLE001  # it is of this record alone, which holds its frontier
                told = {"message": "a record that has ended cannot be written", "exception": bug}
                asyncio.get_running_loop().call_exception_handler(told)

    def _deliver_again(self, assignment: Assignment, record: Record, bug: Exception, *, called: bool) -> None:
        """After a bug of ours. The record is not lost: it holds its frontier until it ends, behind later ones of its plate."""
        coordinates = record.coordinates
        place = traceback.extract_tb(bug.__traceback__)[-1:]
        whole = self._bugs_told.due((type(bug), str(place)), self._monotonic()) is not None
        problem = words(bug)  # of each record and each try; where the bug is, now and then
        log.error("intake.delivery_failed", problem=problem, exc_info=whole and bug, **coordinates._asdict())
        pause = min(2.0 ** min(assignment.failed[coordinates], 10), 60.0)
        assignment.failed[coordinates] += 1
        again = replace(record, maybe_sent=True) if called else record  # what was granted already may be ours

        def begin_again() -> None:
            if assignment.admitting:
                self._delivery.begin([again], assignment.ended)

        asyncio.get_running_loop().call_later(pause, begin_again)

    def _forget_unreadable(self, topic: str) -> None:
        self._unreadable.pop(topic, None)
        self._metrics.unreadable_alarm.labels(topic).set(0)
        self._steer_at = self._monotonic()
        assignment = self._assignment
        if assignment is not None and assignment.kept_back:
            assignment.backlog.extendleft(
                reversed(assignment.kept_back)
            )  # those of other topics are kept back again
            assignment.kept_back.clear()

    def _note_readable(self, topic: str, resolutions: Sequence[Resolution]) -> None:
        """A topic of which nothing can be read is rather a mistake of ours than a thousand dead letters."""
        for resolution in resolutions:
            if resolution.readable:
                if topic in self._unreadable:
                    if self._is_unreadable(topic):
                        log.info("intake.readable_again", topic=topic)
                    self._forget_unreadable(topic)
                return
        self._unreadable[topic] += 1
        if self._unreadable[topic] == self._bounds.unreadable:
            self._steer_at = self._monotonic()
            self._metrics.unreadable_alarm.labels(topic).set(1)
            log.error(
                "intake.topic_unreadable",
                topic=topic,
                records=self._bounds.unreadable,
                problem=resolutions[0].detail if resolutions else "",
                remedy="the topic is paused: correct its source in the rules, then replay the dead letters",
            )

    def _committed(self, assignment: Assignment, done: Sequence[EndedRecord]) -> None:
        assignment.records -= len(done)
        assignment.unwritten -= len(done)
        assignment.bytes -= size_of([item.record for item in done])
        for partition, count in Counter([item.partition for item in done]).items():
            place = assignment.places[partition]
            place.records -= count
            if place.records < self._share:
                assignment.crowded.discard(partition)
        for item in done:
            if item.record.retry is not None:
                assignment.places[item.partition].dues.pop(item.record.coordinates.offset, None)
        self._room.set()
        self._begin_more()

    # -- Assignment -----------------------------------------------------------------------------------

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Called by the group's coordinator: opens the assignment outside of the callback."""
        partitions = sorted(assigned)
        self.joined, self.rebalancing = True, False
        for tp in self._astray.keys() - partitions:  # of others, their owners find it out
            del self._astray[tp]
        self._metrics.assignments.inc()
        self._metrics.assigned.set(len(partitions))
        self._on_assigned(partitions)
        log.info("intake.assigned", partitions=[f"{tp.topic}-{tp.partition}" for tp in partitions])
        if partitions and not self._stopping.is_set():  # a last rebalance while stopping opens nothing
            self._consumer.pause(*partitions)
            member = self._consumer.membership()  # captured once, see Membership
            self._opening = asyncio.create_task(self._open(member, partitions))

    async def _open(self, member: Membership, partitions: list[TopicPartition]) -> None:
        pause = 0.2
        intervals = Intervals(first=5.0, longest=600.0)
        while True:
            try:
                assignment = await self._open_once(member, partitions)
            except (BrokerUnavailableError, RefusedError, KafkaError) as error:
                self._cannot_open = (
                    f"cannot open the assignment: {words(error) if isinstance(error, KafkaError) else error}"
                )
                held_back = intervals.due(self._cannot_open, self._monotonic())
                if held_back is not None:
                    log.warning("intake.cannot_open", problem=self._cannot_open, times=held_back + 1)
                await asyncio.sleep(pause)
                pause = min(pause * 2, 5.0)
                continue
            except Exception:  # a bug of ours must not leave the partitions paused, and nobody told
                self._cannot_open = "cannot open the assignment: see the log"
                log.exception("intake.open_failed")
                await asyncio.sleep(5.0)
                continue
            if assignment is None:
                return  # `_ledger_ended` joins again
            self._cannot_open = None
            self._assignment = assignment
            self._astray.clear()
            self._paused, self._steer_at = {}, self._monotonic()
            self._delivery.resume()
            self._consumer.resume(*partitions)
            log.info("intake.open", generation=member.generation, partitions=len(partitions))
            return

    async def _open_once(self, member: Membership, partitions: list[TopicPartition]) -> Assignment | None:
        """Fence, read, seek, commit. None if the membership is over already."""
        deadline = asyncio.get_running_loop().time() + OPEN_SECONDS
        taken = await self._takeover.take(partitions, self._astray, deadline)
        places = {tp: HeldPartition(tracker, tracker.frontier) for tp, tracker in taken.trackers.items()}
        for tp, place in places.items():
            self._consumer.seek(tp, place.position, taken.epochs[tp])
        ledger = self._make_ledger(
            member,
            taken.producers,
            taken.trackers,
            lambda done: self._committed(assignment, done),
        )
        assignment = Assignment(member, places, ledger, taken.own_ids)
        assignment.ended = partial(self._ended, assignment)
        for topic in {tp.topic for tp in places}:
            self._metrics.unreadable_alarm.labels(topic)  # it begins at 0
        assignment.writing = asyncio.create_task(ledger.run())
        assignment.writing.add_done_callback(lambda _: self._ledger_ended(assignment))
        opened = asyncio.ensure_future(ledger.opened.wait())
        try:
            await asyncio.wait([opened, assignment.writing], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self._end_writing(assignment)
            raise
        finally:
            opened.cancel()
        return None if assignment.writing.done() else assignment

    # -- Revocation -----------------------------------------------------------------------------------

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Called by the group's coordinator before it joins again: drain, flush, close."""
        self.rebalancing = True
        if revoked:
            log.info("intake.revoked", partitions=len(list(revoked)))
        await self._release("revoked")

    async def _release(self, why: str) -> None:
        if self._opening is not None:
            await cancel_until_ended(self._opening)
            self._opening = self._cannot_open = None
        assignment = self._assignment
        if assignment is not None:
            assignment.admitting = False
            try:
                await self._drain(assignment, why)
            finally:
                self._discard(assignment)
        self._on_assigned([])

    async def _drain(self, assignment: Assignment, why: str) -> None:
        """Let what was begun end, within the bound. The next owner sends what ran out of time again, and the rest first."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._bounds.drain
        flush_reserve = min(2.0, self._bounds.drain / 4)
        self._delivery.wind_down()
        log.info("intake.draining", why=why, records=assignment.records - assignment.ledger.pending)
        try:
            try:
                async with asyncio.timeout(self._bounds.drain - flush_reserve):
                    await self._delivery.quiet()
            except TimeoutError:
                log.warning("intake.drain_ran_out_of_time", seconds=self._bounds.drain)
            abandoned = list(self._delivery.under_way)
            waits = [wait for whole in abandoned for wait in self._delivery.abandon(whole)]
            await asyncio.gather(*waits, return_exceptions=True)
            assignment.ledger.close()
            if assignment.writing is not None:
                await asyncio.wait([assignment.writing], timeout=max(0.1, deadline - loop.time()))
        finally:  # cancelled, too: what still wrote would open connections that nobody closes
            await self._end_writing(assignment)
        if assignment.ledger.doubtful and not self._stopping.is_set():
            self._consumer.rejoin()  # or a follower would keep its generation: see `_end_writing`
        log.info("intake.drained", why=why, abandoned=len(abandoned))

    async def _end_writing(self, assignment: Assignment) -> None:
        """Cut a transaction off that is still under way, and end it at the broker before anybody joins again."""
        if assignment.writing is None or assignment.writing.done():
            return
        assignment.closed = True
        await cancel_until_ended(assignment.writing)
        if not self._stopping.is_set():
            self._consumer.rejoin()  # so that its requests that are still under way are of an old generation
        problem = ""
        try:
            # A broker that has fallen silent answers no request in time.
            async with asyncio.timeout(_FENCE_SECONDS):
                await self._link.fence(assignment.own_ids, asyncio.get_running_loop().time() + _FENCE_SECONDS)
        except TimeoutError:
            problem = f"no answer within {_FENCE_SECONDS:g} s"
        except (BrokerUnavailableError, RefusedError) as error:
            problem = str(error)
        if problem:
            log.warning("intake.transaction_left_open", problem=problem)  # the next owner's fence ends it

    def _ledger_ended(self, assignment: Assignment) -> None:
        """The ledger lost the assignment, or has a bug: nothing that ends from now on may be written."""
        assert assignment.writing is not None
        if assignment.writing.cancelled() or assignment.closed:
            return
        problem = assignment.writing.exception()
        lost = None if problem else assignment.writing.result()
        pause = 0.0
        if problem is not None:
            log.error("intake.ledger_failed", exc_info=problem)
            pause = self._pause_after_bug()
            self._cannot_open = "the ledger has failed: see the log"
        elif lost is not None:
            log.warning("intake.assignment_lost", why=lost, generation=assignment.member.generation)
        else:
            return  # closed in order
        self._discard(assignment)
        if not pause:
            self._consumer.rejoin()
            return
        opening = self._opening

        def rejoin() -> None:
            if self._opening is opening:  # else it has joined again since
                self._consumer.rejoin()

        asyncio.get_running_loop().call_later(pause, rejoin)

    def _pause_after_bug(self) -> float:
        """Joining again stops all members for a moment: a record that meets the bug each time must not have them do so for ever."""
        now = self._monotonic()
        again = now - self._bug_at < 10 * LONGEST_BUG_PAUSE
        self._bug_at, self._bug_pause = (
            now,
            min(2 * self._bug_pause, LONGEST_BUG_PAUSE) if again else BUG_PAUSE,
        )
        return self._bug_pause

    def _discard(self, assignment: Assignment) -> None:
        assignment.closed = True
        assignment.admitting = False
        for whole in list(self._delivery.under_way):
            self._delivery.abandon(whole)
        metrics = self._metrics
        of_partitions = (metrics.lag, metrics.frontier, metrics.map_bytes)
        for tp in assignment.places:
            for gauge in (*of_partitions, metrics.commit_gap, metrics.admissible, metrics.retry_overdue):
                gauge.remove(tp.topic, str(tp.partition))
        if self._assignment is assignment:
            self._assignment = None
            self._metrics.assigned.set(0)
        self._room.set()


def _retry(headers: Headers) -> tuple[RetryContext | None, str]:
    """What waits in a retry topic's record; or why nothing of ours can."""
    found = read_retry(headers)
    return (None, found) if isinstance(found, str) else (found, "")
