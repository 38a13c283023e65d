"""What must hold in every run, whatever goes wrong: each a function that yields what it finds broken. No I/O.

`AT_CHANGES` are asked after every visible change in Kafka, `AT_CALLS` when a call to the platform begins,
`AT_END` when faults have stopped and everything has come to rest.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from consumer.core.headers import read_retry
from consumer.core.offsets import OffsetMap, decode_map
from consumer.link import TopicPartition
from tests.simulation.kafka import CLUSTER_ID, Change, FakeKafka, OffsetsCommitted, RecordsVisible
from tests.simulation.log import Stored
from tests.simulation.member import Member
from tests.simulation.platform import Call, Platform
from tests.simulation.virtual import Process
from tests.simulation.world import DEAD_LETTERS, EVENTS, GROUP, OUTCOMES, RETRIES, Push, World

Found = Iterator[str]


@dataclass(frozen=True, slots=True)
class Expected:
    """One order that was appended; or a record without one, whose end is known beforehand.

    Attributes:
        certain: false of a record that may have been compacted away before anybody read it.
    """

    place: TopicPartition
    ends: frozenset[str]
    push: Push | None = None
    certain: bool = True


@dataclass(frozen=True, slots=True)
class Place:
    """Where an order stands in a log.

    Attributes:
        index: within its record.
    """

    tp: TopicPartition
    offset: int
    index: int = 0


@dataclass(frozen=True, slots=True)
class Done:
    """What a group has committed of a partition."""

    offset: int = 0
    beyond: frozenset[int] = frozenset()

    def holds(self, offset: int) -> bool:
        return offset < self.offset or offset in self.beyond


@dataclass
class History:
    """What happened so far, as a reader of the topics and the platform's journal know it.

    Attributes:
        expected: by outcome_id.
        waits: each order's retries that became visible: attempts so far.
        place: where each push waits now, by its number.
        turns: which push of a car was called for last, by the assignment, the partition and the plate.
        overlaps: calls under way at the same time in two processes, by what explains them.
    """

    world: World
    kafka: FakeKafka
    platform: Platform
    is_zombie: Callable[[Process], bool]
    expected: dict[str, Expected] = field(default_factory=dict)
    outcomes: defaultdict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    letters: Counter[str] = field(default_factory=Counter)
    waits: defaultdict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    place: dict[int, "Place"] = field(default_factory=dict)
    turns: dict[tuple[Any, TopicPartition, str], "Place"] = field(default_factory=dict)
    done: dict[TopicPartition, Done] = field(default_factory=dict)
    overlaps: Counter[str] = field(default_factory=Counter)

    def unsettled(self) -> list[str]:
        """Orders without an outcome."""
        expected = self.expected.items()
        return [identity for identity, each in expected if each.certain and identity not in self.outcomes]

    def note(self, change: Change) -> None:
        match change:
            case RecordsVisible(topic=topic, records=records):
                for record in records:
                    self._note_record(topic, record)
            case OffsetsCommitted(group=group, offsets=offsets) if group == GROUP:
                for tp, (offset, metadata) in offsets.items():
                    self.done[tp] = read_done(offset, metadata)

    def _note_record(self, topic: str, record: Stored) -> None:
        if topic == OUTCOMES:
            outcome = orjson.loads(record.value or b"")
            self.outcomes[outcome["outcome_id"]].append(outcome)
        elif topic == DEAD_LETTERS:
            self.letters[_header(record, "coupon_outcome_id")] += 1
        elif topic.startswith(RETRIES):
            context = read_retry(tuple(record.headers))
            assert not isinstance(context, str), context
            identity = _header(record, "coupon_outcome_id")
            self.waits[identity].append(context.attempts.count)
            if (expected := self.expected.get(identity)) and expected.push:
                where = TopicPartition(topic, record.partition)
                self.place[expected.push.number] = Place(where, record.offset)


def read_done(offset: int, metadata: str) -> Done:
    found = decode_map(metadata, CLUSTER_ID, offset)
    beyond = found.done if isinstance(found, OffsetMap) else ()
    return Done(offset, frozenset(number for start, end in beyond for number in range(start, end)))


def _header(record: Stored, name: str) -> str:
    return next((value or b"").decode() for key, value in record.headers if key == name)


# -- Whenever something becomes visible in Kafka ----------------------------------------------------


def an_order_ends_once(history: History, change: Change) -> Found:
    """No outcome twice, and none of an order that nobody sent."""
    for identity in _outcomes_of(change):
        if len(history.outcomes[identity]) > 1:
            yield f"{identity} has {len(history.outcomes[identity])} outcomes"
        if identity not in history.expected:
            yield f"{identity} is no order's"


def an_order_ends_as_it_should(history: History, change: Change) -> Found:
    for identity in _outcomes_of(change):
        expected, found = history.expected.get(identity), history.outcomes[identity][-1]
        if expected is not None and found["outcome"] not in expected.ends:
            yield f"{identity} ends as {found['outcome']}, not {sorted(expected.ends)}"


def whoever_waits_has_not_ended(history: History, change: Change) -> Found:
    """An order waits for another attempt, or has an outcome; never both."""
    for identity in _retries_of(change):
        if identity in history.outcomes:
            yield f"{identity} waits for another attempt, and has an outcome"


def attempts_are_counted(history: History, change: Change) -> Found:
    """Through all retry topics: each wait and the outcome knows of those before it, and of no more than there were."""
    for identity in _outcomes_of(change):
        expected, count = history.expected.get(identity), history.outcomes[identity][-1]["attempts"]["count"]
        if expected is not None:
            least = max(history.waits[identity], default=0) + 1 if expected.push else 0
            made = history.platform.calls_of[expected.push.number] if expected.push else 0
            if not least <= count <= made:
                yield f"{identity} ends after {count} attempts; at least {least} are known, {made} were made"
    for identity in _retries_of(change):
        counts = history.waits[identity]
        if counts != sorted(counts):
            yield f"{identity} waits, and attempts went back: {counts}"


def what_is_done_only_grows(history: History, change: Change) -> Found:
    """Offsets and done sets never go backwards, and never beyond the log's end. Asked before the change is noted."""
    if not isinstance(change, OffsetsCommitted) or change.group != GROUP:
        return
    for tp, (offset, metadata) in change.offsets.items():
        before, now = history.done.get(tp, Done()), read_done(offset, metadata)
        if now.offset < before.offset:
            yield f"{tp.topic}-{tp.partition} is committed at {now.offset}, after {before.offset}"
        forgotten = sorted(number for number in before.beyond if not now.holds(number))
        if forgotten:
            yield f"{tp.topic}-{tp.partition} at {now.offset} forgets that {forgotten} are done"
        end = history.kafka.high_watermark(tp)
        if max(now.offset, *now.beyond, now.offset) > end:
            yield f"{tp.topic}-{tp.partition} is done beyond its end {end}"


def an_outcome_and_its_done_mark_come_together(
    history: History, partitions: Collection[TopicPartition]
) -> Found:
    """Whatever is visible of a transaction, all of it is. Asked when that has to be so of all before.

    Of orders that waited for a retry it is the retry that is done; they are left to the others of these.
    """
    for identity in history.outcomes:
        expected = history.expected.get(identity)
        if expected is None or expected.place not in partitions or identity in history.waits:
            continue
        if not history.done.get(expected.place, Done()).holds(int(identity.split("/")[3])):
            yield f"{identity} has its outcome, and is not done"


# -- Whenever a call begins -------------------------------------------------------------------------


def one_member_calls_in_turn(history: History, call: Call) -> Found:
    """At most one call at once for a plate and for an event_id, and no more than allowed."""
    under_way = history.platform.under_way[call.process]
    if len(under_way) > history.world.max_in_flight:
        yield f"{call.process.name} makes {len(under_way)} calls at once"
    for other in under_way:
        if other is not call and _shares(other, call):
            yield f"{call.process.name} calls for {call.push.number} while it calls for {other.push.number}"


def a_car_is_served_in_turn(history: History, call: Call, assignment: object) -> Found:
    """What one member owns it calls for in the log's order, for each car: the first calls, and those of a retry topic.

    Whoever lost its partitions is not asked: its orders may stand elsewhere by now, put there by others.
    """
    if call.by_zombie:
        return
    place = history.place[call.push.number]
    key = assignment, place.tp, call.push.plate
    last = history.turns.get(key, place)
    if (place.offset, place.index) < (last.offset, last.index):
        yield f"{call.process.name} calls for {place} after {last}, of the same car"
    history.turns[key] = place


def members_overlap_for_a_reason(history: History, call: Call) -> Found:
    """Calls of two members for one plate or event_id: after a crash, by a zombie, or of separate partitions."""
    for process, calls in history.platform.under_way.items():
        for other in calls if process is not call.process else ():
            if not _shares(other, call):
                continue
            if not process.alive:
                history.overlaps["crash"] += 1
            elif history.is_zombie(process) or history.is_zombie(call.process):
                history.overlaps["zombie"] += 1
            elif other.push is not call.push and _partition(history, other) != _partition(history, call):
                history.overlaps["separate partitions"] += 1
            else:
                yield f"{call.process.name} calls for {call.push.number}, {process.name} for {other.push.number}"


def _shares(one: Call, other: Call) -> bool:
    return one.push.plate == other.push.plate or one.push.event_id == other.push.event_id


def _partition(history: History, call: Call) -> TopicPartition:
    return history.place[call.push.number].tp


# -- When a request is sent, and when the group loses a member ----------------------------------------


def a_zombie_holds_up_nobody(history: History, process: Process, request: Any) -> Found:
    """Who no longer owns its partitions is refused before it has written a record that readers would wait for."""
    if history.is_zombie(process):
        for tp in history.kafka.partitions():
            log = history.kafka.log(tp)
            is_open = tp.topic != EVENTS and request.producer_id in log._open
            if is_open and log._producers[request.producer_id].epoch == request.producer_epoch:
                yield f"{process.name} has records in {tp.topic}-{tp.partition} before its offsets are accepted"


def nobody_is_thrown_out_for_nothing(history: History, member: Member, met_at: float) -> Found:
    """Whatever the platform, the others and the brokers do: only a fault of its own costs a member its membership."""
    timing, now = history.world.timing, history.platform.loop.time()
    if member.process.paused or met_at + timing.session + timing.rebalance > now:
        return
    yield f"{member.process.name} is thrown out, and nothing befell it since {met_at:.1f} s"


# -- When everything has come to rest ---------------------------------------------------------------


def nothing_is_lost(history: History) -> Found:
    """Every order has an outcome, every record is committed."""
    for identity in history.unsettled():
        yield f"{identity} has no outcome"
    for tp in history.kafka.partitions():
        if tp.topic == EVENTS or tp.topic.startswith(RETRIES):
            end, done = history.kafka.high_watermark(tp), history.done.get(tp, Done())
            if done.offset < end:
                yield f"{tp.topic}-{tp.partition} is committed at {done.offset} of {end}"


def readers_are_free(history: History) -> Found:
    """No transaction is left open, and none had to be ended by its time-out."""
    for tp in history.kafka.partitions():
        stable, end = history.kafka.last_stable_offset(tp), history.kafka.high_watermark(tp)
        if stable != end:
            yield f"{tp.topic}-{tp.partition} is stable up to {stable} of {end}"
    if history.kafka.timed_out:
        yield f"{history.kafka.timed_out} transactions ended by their time-out"


def dead_letters_are_exact(history: History) -> Found:
    for identity, expected in history.expected.items():
        wanted = int("invalid" in expected.ends and identity in history.outcomes)
        if history.letters[identity] != wanted:
            yield f"{identity} has {history.letters[identity]} dead letters, not {wanted}"


def outcomes_tell_what_the_platform_did(history: History) -> Found:
    """Each coupon is in an outcome; each `granted` had one of its own; `already_granted` says where it may be ours.

    Of what a zombie asks for after others took over they cannot know: they are told that it was granted before.
    """
    told: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for outcomes in history.outcomes.values():
        for outcome in outcomes[:1]:
            told[outcome["event_id"]].append(outcome)
    for event_id, call in history.platform.grants.items():
        words = sorted(outcome["outcome"] for outcome in told[event_id])
        if words.count("granted") > 1:
            yield f"{event_id} was granted once, and its outcomes say {words}"
        if not {"granted", "already_granted"} & set(words):
            yield f"{event_id} was granted, and its outcomes say {words}"
        elif "granted" not in words and not (
            call.by_zombie or any(outcome["attempts"]["ambiguous"] for outcome in told[event_id])
        ):
            yield f"{event_id} was granted, and no outcome says that the coupon may be ours"


def _outcomes_of(change: Change) -> list[str]:
    if not isinstance(change, RecordsVisible) or change.topic != OUTCOMES:
        return []
    return [_header(record, "ce_id") for record in change.records]


def _retries_of(change: Change) -> list[str]:
    if not isinstance(change, RecordsVisible) or not change.topic.startswith(RETRIES):
        return []
    return [_header(record, "coupon_outcome_id") for record in change.records]


BEFORE_CHANGES: Sequence[Callable[[History, Change], Found]] = (what_is_done_only_grows,)
AT_CHANGES: Sequence[Callable[[History, Change], Found]] = (
    an_order_ends_once,
    an_order_ends_as_it_should,
    whoever_waits_has_not_ended,
    attempts_are_counted,
)
AT_CALLS: Sequence[Callable[[History, Call], Found]] = (
    one_member_calls_in_turn,
    members_overlap_for_a_reason,
)
AT_END: Sequence[Callable[[History], Found]] = (
    nothing_is_lost,
    readers_are_free,
    dead_letters_are_exact,
    outcomes_tell_what_the_platform_did,
)
