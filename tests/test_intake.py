"""What intake does when Kafka's log or consumer is no longer what it was. The rest is tested on a real Kafka."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, cast

import pytest
from aiokafka.errors import KafkaError
from msgspec import structs
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from consumer import intake
from consumer.core.errors import BrokerUnavailableError
from consumer.core.events import Coordinates, Record, RetryContext, Wait
from consumer.core.headers import own_headers, retry_headers
from consumer.core.offsets import Tracker
from consumer.core.outcomes import Outcome, OutcomeContext, Reason, Resolution
from consumer.core.status import LedgerStatus
from consumer.decoding import NO_EPOCH, Damage, Doubt
from consumer.delivery import Delivery, UnderWay
from consumer.intake import Intake
from consumer.ledger import Encoder, EndedRecord, FlushBounds, Ledger
from consumer.link import (
    Committed,
    CommittedOffset,
    FlushResult,
    Membership,
    Outgoing,
    Retriable,
    TopicPartition,
)
from consumer.metrics import Metrics

PARTITION = TopicPartition("events", 0)
NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)

GRANTED = Resolution(Record(Coordinates("events", 0, 0), 0, None, b""), 0, Outcome.GRANTED, NOW)


class Polled(NamedTuple):
    offset: int
    timestamp: int = 1_700_000_000_000
    key: bytes | None = None
    value: bytes | None = b"{}"
    headers: tuple[tuple[str, bytes | None], ...] = ()


class FakeConsumer:
    """A consumer of one partition, whose polls bring what the test puts there."""

    def __init__(self) -> None:
        self.polls: asyncio.Queue[list[int] | list[Polled] | Exception] = asyncio.Queue()
        self.rejoined = asyncio.Event()
        self.sought: list[int] = []
        self.paused: set[TopicPartition] = set()
        self.at: int | None = None
        self.end = 100
        self.fetched_end: int | None = None
        """The log's end as of the last fetch, where that is another one."""
        self.younger_from: int | None = None
        """Where the first record stands that is younger than the member."""
        self.damaged: dict[TopicPartition, Damage] = {}
        self.doubtful: dict[TopicPartition, Doubt] = {}
        self.epochs: list[int | None] = []
        """What was sought was behind these leaders' records."""
        self.parts: dict[int, tuple[int, int]] = {}
        """By leader: the last one up to it, and where what that one wrote ends."""
        self.begins = 0
        self.asked: tuple[TopicPartition, ...] | None = None
        """The partitions that the poll under way named; none is all."""

    def membership(self) -> Membership:
        return Membership("group", 1, "member")

    def rejoin(self) -> None:
        self.rejoined.set()

    def pause(self, *partitions: TopicPartition) -> None:
        self.paused.update(partitions)

    def resume(self, *partitions: TopicPartition) -> None:
        self.paused.difference_update(partitions)

    def seek(self, partition: TopicPartition, offset: int, epoch: int | None = None) -> None:
        self.sought.append(offset)
        self.doubtful.pop(partition, None)
        self.epochs.append(epoch)

    def trust(self, partition: TopicPartition) -> None:
        del self.doubtful[partition]

    async def epoch_ends(
        self, epochs: Mapping[TopicPartition, int]
    ) -> Mapping[TopicPartition, tuple[int, int]]:
        return {tp: self.parts[epoch] for tp, epoch in epochs.items() if epoch in self.parts}

    def assignment(self) -> Iterable[TopicPartition]:
        return [PARTITION]

    def highwater(self, partition: TopicPartition) -> int | None:
        return self.end if self.fetched_end is None else self.fetched_end

    def next_offset(self, partition: TopicPartition) -> int | None:
        return self.at

    async def getmany(
        self, *partitions: TopicPartition, timeout_ms: int, max_records: int
    ) -> Mapping[TopicPartition, Sequence[Any]]:
        self.asked = partitions
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                polled = await self.polls.get()
        except TimeoutError:
            return {}
        if isinstance(polled, Exception):
            self.polls.put_nowait(polled)  # it stays as it is
            raise polled
        records = [Polled(each) if isinstance(each, int) else each for each in polled]
        return {PARTITION: [each for each in records if PARTITION not in self.paused]}

    async def beginning_offsets(self, partitions: list[TopicPartition]) -> Mapping[TopicPartition, int]:
        return dict.fromkeys(partitions, self.begins)

    async def end_offsets(self, partitions: list[TopicPartition]) -> Mapping[TopicPartition, int]:
        return dict.fromkeys(partitions, self.end)

    async def offsets_for_times(
        self, timestamps: Mapping[TopicPartition, int]
    ) -> Mapping[TopicPartition, Any]:
        return {} if self.younger_from is None else dict.fromkeys(timestamps, Polled(self.younger_from))


class FakeLink:
    """Remembers what its writer commits."""

    def __init__(self, committed: int) -> None:
        self.committed = {PARTITION: CommittedOffset(committed, "")}
        self.refuses = False
        self.bugs = 0
        self.epoch = 0
        self.hangs = False
        self.doubtful = False
        self.ids = {PARTITION.topic: "first"}

    async def topic_ids(self, topics: Iterable[str]) -> Mapping[str, str]:
        return self.ids

    async def fence(self, ids: Iterable[str], deadline: float) -> Mapping[str, tuple[int, int]]:
        return dict.fromkeys(ids, (1, self.epoch))

    async def read_offsets(
        self, partitions: Iterable[TopicPartition], deadline: float
    ) -> Mapping[TopicPartition, CommittedOffset]:
        return self.committed

    async def flush(
        self, offsets: Mapping[TopicPartition, CommittedOffset], records: Sequence[Outgoing]
    ) -> FlushResult:
        if self.hangs:
            await asyncio.Event().wait()
        if self.bugs:
            self.bugs -= 1
            raise ZeroDivisionError("a bug")
        if self.refuses:
            return Retriable("add_partitions", 3)
        self.committed.update(offsets)
        return Committed()

    async def recover(self, deadline: float) -> bool:
        raise NotImplementedError


class FakeDelivery:
    """Every record ends at once, with a grant if the test wants nothing else."""

    def __init__(self) -> None:
        self.delivered: list[int] = []
        self.records: list[Record] = []
        self.ends: Callable[[int], Sequence[Resolution]] = lambda _: [GRANTED]
        self.gate: asyncio.Event | None = None
        self.failing: set[int] = set()
        self.under_way: dict[UnderWay, asyncio.Task[None]] = {}

    def begin(self, records: Sequence[Record], ended: Callable[[Sequence[UnderWay]], None]) -> None:
        for record in records:
            self.delivered.append(record.coordinates.offset)
            self.records.append(record)
            whole = UnderWay(record, cast("Delivery", self), ended, NOW)
            self.under_way[whole] = asyncio.create_task(self._deliver(whole))

    async def _deliver(self, whole: UnderWay) -> None:
        if self.gate is not None:
            await self.gate.wait()
        offset = whole.record.coordinates.offset
        if offset in self.failing:
            whole.problem, whole.called = ZeroDivisionError("a bug"), True
        else:
            whole.resolutions = list(self.ends(offset))
        del self.under_way[whole]
        whole.ended([whole])
        if not self.under_way:
            self.after_turn()

    def after_turns(self, call: Callable[[], None]) -> None:
        self.after_turn = call

    def abandon(self, whole: UnderWay) -> list[asyncio.Task[None]]:
        waits = self.under_way.pop(whole)
        waits.cancel()
        return [waits]

    def wind_down(self) -> None: ...

    def resume(self) -> None: ...

    async def quiet(self) -> None: ...


class Room:
    """An intake whose partition was read up to offset 50."""

    def __init__(
        self,
        *,
        committed: int = 50,
        start_from: str = "earliest",
        retries: bool = False,
        unreadable: int = 100,
        unwritten: int = 900,
        records: int = 2000,
        pause_reason: str | None = None,
    ) -> None:
        self.consumer, self.link, self.delivery = FakeConsumer(), FakeLink(committed), FakeDelivery()
        self.now = NOW
        self.pause_reason = pause_reason
        self.supplied = False
        self.shares: list[list[TopicPartition]] = []
        self.metrics = Metrics(CollectorRegistry())
        self.intake = Intake(
            consumer=self.consumer,
            link=self.link,
            group="group",
            cluster_id="cluster",
            start_from=start_from,
            delivery=self.delivery,
            make_ledger=self._ledger,
            pause_reason=lambda: self.pause_reason,
            supplied=lambda: self.supplied,
            bounds=intake.Bounds(records, drain=1.0, unreadable=unreadable, unwritten=unwritten),
            metrics=self.metrics,
            retry_topics=[PARTITION.topic] if retries else [],
            on_assigned=lambda partitions: self.shares.append(list(partitions)),
            clock=lambda: self.now,
        )

    def _ledger(
        self,
        member: Membership,
        producers: Mapping[str, tuple[int, int]],
        trackers: Mapping[TopicPartition, Tracker],
        on_committed: Callable[[Sequence[EndedRecord]], None],
    ) -> Ledger:
        return Ledger(
            writer=self.link,
            read_offsets=self.link.read_offsets,
            trackers=trackers,
            encoder=Encoder("outcomes", "dead", OutcomeContext("cluster")),
            bounds=FlushBounds(interval=0.01),
            metrics=self.metrics,
            on_committed=on_committed,
        )

    async def assigned(self, partitions: Sequence[TopicPartition] = (PARTITION,)) -> None:
        await self.intake.on_partitions_assigned(partitions)
        async with asyncio.timeout(5):
            while not self.intake.partitions:  # noqa: ASYNC110  # it sets no event
                await asyncio.sleep(0.01)

    def of_partition(self, name: str) -> float | None:
        labels = {"topic": PARTITION.topic, "partition": str(PARTITION.partition)}
        return self.metrics.registry.get_sample_value(name, labels)

    async def delivers(self, offsets: list[int]) -> None:
        async with asyncio.timeout(5):
            while self.delivery.delivered != offsets:  # noqa: ASYNC110  # as above
                await asyncio.sleep(0.01)


@pytest.fixture
async def room() -> AsyncIterator[Room]:
    room = Room()
    running = asyncio.create_task(room.intake.run())
    yield room
    room.intake.stop()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_log_that_was_made_anew_behind_our_back_is_read_from_its_beginning(room: Room) -> None:
    await room.assigned()
    room.consumer.polls.put_nowait([50, 51])
    await room.delivers([50, 51])
    room.consumer.end, room.consumer.doubtful[PARTITION] = 2, Doubt(52, NO_EPOCH, None)
    async with asyncio.timeout(5):
        await room.consumer.rejoined.wait()
    await room.intake.on_partitions_revoked([PARTITION])
    room.consumer.end = 100
    await room.assigned()
    assert room.consumer.sought == [50, 0]  # although 52 is committed, and lies within the new log
    room.consumer.polls.put_nowait([0, 1])
    await room.delivers([50, 51, 0, 1])


@pytest.mark.parametrize("knows_epoch", [False, True], ids=["as committed", "as read"])
async def test_where_an_unclean_election_lost_what_was_read_only_what_stands_there_now_is_read(
    room: Room, *, knows_epoch: bool
) -> None:
    """The log is longer by then than our place, and of what it holds before that, all would be passed over (KIP-320)."""
    room.delivery.failing = {53}
    await room.assigned()
    room.consumer.polls.put_nowait([50, 51, 52, 53, 54, 55])
    await until(lambda: len(room.delivery.delivered) >= 6)
    await until(lambda: room.intake.memory().records == 1)  # and 53 is committed, with a map of the other two
    room.delivery.failing = set()
    room.link.committed[PARTITION] = structs.replace(
        room.link.committed[PARTITION], epoch=7 if not knows_epoch else NO_EPOCH
    )
    room.consumer.parts[7] = (5, 51)
    room.consumer.doubtful[PARTITION] = Doubt(56, 7, 9)
    async with asyncio.timeout(5):
        await room.consumer.rejoined.wait()
    await room.intake.on_partitions_revoked([PARTITION])
    room.delivery.delivered.clear()
    await room.assigned()
    assert (room.consumer.sought[-1], room.consumer.epochs[-1]) == (51, 5)
    room.consumer.polls.put_nowait([51, 52, 53, 54, 55, 56])
    await room.delivers([51, 52, 53, 54, 55, 56])
    assert room.metrics.registry.get_sample_value("coupon_log_losses_total", {"why": "cut"}) == 1


@pytest.mark.parametrize(
    "doubt", [Doubt(52, 7, 9), Doubt(52, NO_EPOCH, None), Doubt(52, 7, None)], ids=["leader", "range", "both"]
)
async def test_a_log_that_holds_all_that_was_read_is_read_on(room: Room, doubt: Doubt) -> None:
    """Another leader; or a follower that is behind, and for which our place is out of range (KIP-392)."""
    room.consumer.parts[7] = (7, 52)
    await room.assigned()
    room.consumer.polls.put_nowait([50, 51])
    await room.delivers([50, 51])
    room.consumer.doubtful[PARTITION] = doubt
    await until(lambda: room.intake.paused == {"log_check": 1})
    await until(lambda: not room.consumer.paused)
    assert not room.consumer.doubtful
    room.consumer.polls.put_nowait([52])
    await room.delivers([50, 51, 52])
    assert not room.consumer.rejoined.is_set()


@pytest.mark.parametrize("runs", [False, True])
async def test_what_kafka_deleted_before_it_was_read_is_an_alarm_and_what_is_done_behind_it_stays_done(
    *, runs: bool
) -> None:
    room = Room()
    async with running(room):
        room.delivery.failing = {53}
        room.consumer.polls.put_nowait([50, 51, 52, 53, 54, 55])
        await until(lambda: room.intake.memory().records == 1 and room.link.committed[PARTITION].offset == 53)
        if runs:
            room.consumer.begins = 54
            room.consumer.doubtful[PARTITION] = Doubt(53, NO_EPOCH, None)
            async with asyncio.timeout(5):
                await room.consumer.rejoined.wait()
        await room.intake.on_partitions_revoked([PARTITION])
        room.consumer.begins = 54
        room.delivery.delivered.clear()
        room.delivery.failing = set()
        await room.assigned()
        assert room.consumer.sought[-1] == 56
        room.consumer.polls.put_nowait([56])
        await room.delivers([56])
    assert room.metrics.registry.get_sample_value("coupon_log_losses_total", {"why": "deleted"}) == 1


async def test_a_topic_that_has_another_id_now_is_read_from_its_beginning_whatever_is_committed(
    room: Room,
) -> None:
    await room.assigned()
    room.consumer.polls.put_nowait([50, 51])
    await room.delivers([50, 51])
    room.intake.heed_topic_ids({PARTITION.topic: "first", "another": "second"})
    assert not room.consumer.rejoined.is_set()
    room.link.ids = {PARTITION.topic: "second"}  # it is longer by now than our place in the one before
    room.intake.heed_topic_ids(room.link.ids)
    assert room.consumer.rejoined.is_set()
    await room.intake.on_partitions_revoked([PARTITION])  # and what is committed late, is of the one before
    await room.assigned()
    assert room.consumer.sought == [50, 0]
    room.consumer.polls.put_nowait([0, 1])
    await room.delivers([50, 51, 0, 1])
    assert room.delivery.records[-1].maybe_sent  # some of the new one's may have been taken for the old one's
    await room.intake.on_partitions_revoked([PARTITION])
    await room.assigned()
    assert room.consumer.sought == [50, 0, 2]


async def test_what_another_member_went_on_with_is_not_begun_anew_later(room: Room) -> None:
    await room.assigned()
    room.consumer.polls.put_nowait([50])
    await room.delivers([50])
    room.consumer.end, room.consumer.doubtful[PARTITION] = 2, Doubt(51, NO_EPOCH, None)
    async with asyncio.timeout(5):
        await room.consumer.rejoined.wait()
    room.consumer.end = 100
    await room.intake.on_partitions_revoked([PARTITION])
    # The partition is another one's, who finds it out by himself.
    await room.intake.on_partitions_assigned([])
    await room.intake.on_partitions_revoked([])
    room.link.committed[PARTITION] = CommittedOffset(70, "")
    await room.assigned()
    assert room.consumer.sought == [50, 70]


async def test_gaps_and_records_that_are_done_already_are_no_sign_of_a_new_log(room: Room) -> None:
    await room.assigned()
    room.consumer.polls.put_nowait([50, 55])
    room.consumer.polls.put_nowait([60])
    await room.delivers([50, 55, 60])
    assert not room.consumer.rejoined.is_set()


@pytest.mark.parametrize("first_flush", [False, True])
async def test_after_a_bug_of_the_ledger_the_group_is_joined_again_less_and_less_often(
    room: Room, monkeypatch: pytest.MonkeyPatch, *, first_flush: bool
) -> None:
    """Each time all members stop for a moment, and the record that meets the bug is there again."""
    monkeypatch.setattr(intake, "BUG_PAUSE", 0.2)
    loop = asyncio.get_running_loop()
    pauses = []
    for _ in range(3):
        if not first_flush:
            await room.assigned()
        room.link.bugs = 1
        room.consumer.rejoined.clear()
        if first_flush:
            await room.intake.on_partitions_assigned([PARTITION])
        else:
            room.consumer.polls.put_nowait([50])
        async with asyncio.timeout(5):
            while room.link.bugs:  # noqa: ASYNC110  # it sets no event
                await asyncio.sleep(0.01)
            began = loop.time()
            await asyncio.sleep(0.05)
            assert room.intake.trouble == "the ledger has failed: see the log"
            await room.consumer.rejoined.wait()
        pauses.append(loop.time() - began)
        await room.intake.on_partitions_revoked([PARTITION])
    assert pauses == pytest.approx([0.2, 0.4, 0.8], abs=0.12)
    await room.assigned()
    assert room.intake.trouble is None


@pytest.mark.parametrize("hangs", [False, True])
async def test_who_is_revoked_in_the_midst_of_a_transaction_asks_for_a_new_generation(
    room: Room, *, hangs: bool
) -> None:
    """A follower that joins again is else told the generation that it had, and what it sent would not be refused."""
    await room.assigned()
    room.link.hangs = hangs
    room.consumer.polls.put_nowait([50])
    await room.delivers([50])
    await room.intake.on_partitions_revoked([PARTITION])
    assert room.consumer.rejoined.is_set() == hangs


@pytest.mark.parametrize("doubtful", [False, True])
async def test_who_lost_a_commit_of_offsets_asks_for_a_new_generation_when_it_joins_again(
    room: Room, *, doubtful: bool
) -> None:
    """Its late copy would be taken in the old one: brokers up to 3.9 forget the offsets that are pending then."""
    await room.assigned()
    room.link.doubtful = doubtful
    await room.intake.on_partitions_revoked([PARTITION])
    assert room.consumer.rejoined.is_set() == doubtful


async def test_a_consumer_that_only_raises_is_told_and_then_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "GIVE_UP_SECONDS", 0.5)
    room = Room()
    room.consumer.polls.put_nowait(KafkaError("the coordination task has ended"))
    running = asyncio.create_task(room.intake.run())
    with capture_logs() as lines:
        await asyncio.sleep(0.2)
        assert room.intake.trouble == "cannot poll: KafkaError: the coordination task has ended"
        with pytest.raises(BrokerUnavailableError, match="cannot poll"):
            async with asyncio.timeout(10):
                await running
    assert 0 < sum(line["event"] == "intake.cannot_poll" for line in lines) <= 4


async def test_a_problem_that_comes_and_goes_is_not_told_each_time(room: Room) -> None:
    """As of a topic among several to which we have no right any more: what else is polled comes all the same."""
    await room.assigned()
    with capture_logs() as lines:
        for offset in range(50, 60):
            room.consumer.polls.put_nowait(KafkaError("not authorized"))
            await until(lambda: room.intake.trouble is not None)
            room.consumer.polls.get_nowait()
            room.consumer.polls.put_nowait([offset])
            await room.delivers(list(range(50, offset + 1)))

    assert sum(line["event"] == "intake.cannot_poll" for line in lines) == 1


async def test_a_revocation_does_not_wait_for_a_cancellation_that_was_lost(room: Room) -> None:
    """`asyncio.wait_for` of Python 3.11 loses one that comes together with the answer."""
    lost = asyncio.Event()

    async def never(ids: Iterable[str], deadline: float) -> Mapping[str, tuple[int, int]]:
        try:
            await asyncio.sleep(0 if lost.is_set() else 60)
        except asyncio.CancelledError:
            lost.set()
        raise BrokerUnavailableError("Kafka is away")

    room.link.fence = never  # type: ignore[method-assign]
    await room.intake.on_partitions_assigned([PARTITION])
    await asyncio.sleep(0.05)
    async with asyncio.timeout(5):
        await room.intake.on_partitions_revoked([PARTITION])

    assert lost.is_set()


# -- What is wrong with a topic, a log's end, a consumer --------------------------------------------


def unreadable(offset: int) -> Resolution:
    record = Record(Coordinates("events", 0, offset), 0, None, b"")
    return Resolution(record, 0, Outcome.INVALID, NOW, Reason.NOT_JSON, "no JSON", dead_letter=True)


async def test_nothing_more_is_begun_while_many_records_that_ended_are_not_written() -> None:
    async with running(Room(unwritten=30)) as room:
        room.link.refuses = True
        room.consumer.polls.put_nowait(list(range(50, 130)))
        await until(lambda: len(room.delivery.delivered) >= 30)
        await asyncio.sleep(0.5)  # polls go on
        assert len(room.delivery.delivered) == 40, "30, and what was begun with the last of them"

        room.link.refuses = False
        await room.delivers(list(range(50, 130)))


async def test_a_record_that_cannot_be_written_costs_none_of_those_that_ended_with_it(room: Room) -> None:
    await room.assigned()
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, about: told.append(about["exception"]))
    held = room.intake._assignment
    assert held is not None
    ends = [
        UnderWay(
            Record(Coordinates("events", 0, offset), 0, None, b""),
            cast("Delivery", room.delivery),
            held.ended,
            NOW,
            resolutions=[GRANTED],
        )
        for offset in (50, 51, 52)
    ]
    add = held.ledger.add

    def fail(record: Record, resolutions: Sequence[Resolution]) -> None:
        if record.coordinates.offset == 51:
            raise ZeroDivisionError("a bug")
        add(record, resolutions)

    held.ledger.add = fail  # type: ignore[method-assign]  # a bug, for one record
    held.ended(ends)

    assert [type(each) for each in told] == [ZeroDivisionError]
    assert held.ledger.pending == 2
    held.ledger.add = add  # type: ignore[method-assign]  # and mended


async def test_records_that_a_bug_holds_up_hold_up_no_others_and_are_begun_again_for_ever() -> None:
    async with running(Room(unwritten=5)) as room:
        room.delivery.failing = set(range(50, 60))
        room.consumer.polls.put_nowait(list(range(50, 70)))
        await until(lambda: set(range(60, 70)) <= set(room.delivery.delivered))
        await until(lambda: room.delivery.delivered.count(50) > 1)  # a second later
        assert [record.maybe_sent for record in room.delivery.records if record.coordinates.offset == 50][
            :2
        ] == [False, True]  # a call was made for it

        held = room.intake._assignment
        assert held is not None
        held.failed[Coordinates("events", 0, 51)] = 5000  # as after days
        room.delivery.failing = {51}
        await until(lambda: room.intake.memory().records == 1)
        assert list(held.failed) == [Coordinates("events", 0, 51)]


async def test_a_bug_that_many_records_meet_is_told_of_each_and_where_it_is_once() -> None:
    with capture_logs() as lines:
        async with running(Room()) as room:
            room.delivery.failing = set(range(50, 60))
            room.consumer.polls.put_nowait(list(range(50, 60)))
            await until(lambda: room.delivery.delivered.count(50) > 1)  # a second later
            room.delivery.failing = set()
            await until(lambda: room.link.committed[PARTITION].offset == 60)

    told = [line for line in lines if line["event"] == "intake.delivery_failed"]
    assert {line["offset"] for line in told} == set(range(50, 60))
    assert {line["problem"] for line in told} == {"ZeroDivisionError a bug"}
    assert sum(bool(line["exc_info"]) for line in told) == 1


async def test_while_enough_is_begun_one_record_a_second_is_polled() -> None:
    async with running(Room()) as room:
        room.supplied = True
        room.consumer.polls.put_nowait(list(range(50, 150)))
        await until(lambda: room.intake.memory().records == 100)
        asked: list[int] = []
        poll = room.consumer.getmany

        async def getmany(*partitions: TopicPartition, timeout_ms: int, max_records: int) -> Any:
            asked.append(max_records)
            return await poll(*partitions, timeout_ms=timeout_ms, max_records=max_records)

        room.consumer.getmany = getmany  # type: ignore[method-assign]  # only looked at
        await until(lambda: len(asked) >= 2)

        assert set(asked) == {1}


async def test_a_topic_of_which_nothing_can_be_read_is_paused_with_one_alarm() -> None:
    async with running(Room(unreadable=30)) as room:
        room.delivery.ends = lambda offset: [unreadable(offset)]
        with capture_logs() as lines:
            room.consumer.polls.put_nowait(list(range(50, 130)))
            await until(lambda: bool(room.consumer.paused))

        taken = room.delivery.delivered
        assert 30 <= len(taken) < 50
        assert room.intake.memory().records == 80 - len(taken)  # the others wait
        assert (room.intake.unreadable, room.intake.paused) == (["events"], {"unreadable": 1})
        assert [line["problem"] for line in lines if line["event"] == "intake.topic_unreadable"] == [
            "no JSON"
        ]
        assert room.metrics.registry.get_sample_value("coupon_unreadable_alarm", {"topic": "events"}) == 1


async def test_a_topic_that_could_not_be_read_is_tried_again_under_new_rules() -> None:
    async with running(Room(unreadable=10)) as room:
        room.delivery.ends = lambda offset: [unreadable(offset)]
        room.consumer.polls.put_nowait(list(range(50, 130)))
        await until(lambda: bool(room.consumer.paused))

        room.delivery.ends = lambda _: [GRANTED]
        room.intake.read_again()

        await until(lambda: not room.consumer.paused)
        await room.delivers(list(range(50, 130)))
        assert room.intake.unreadable == []
        assert room.metrics.registry.get_sample_value("coupon_unreadable_alarm", {"topic": "events"}) == 0


@pytest.mark.parametrize("bound", [0, 30])
async def test_one_readable_record_among_them_or_no_bound_keeps_the_topic_going(bound: int) -> None:
    async with running(Room(unreadable=bound)) as room:
        room.delivery.ends = lambda offset: [GRANTED] if bound and offset % 29 == 0 else [unreadable(offset)]
        room.consumer.polls.put_nowait(list(range(50, 130)))
        await room.delivers(list(range(50, 130)))
        assert room.intake.unreadable == []


async def test_a_rule_that_fails_on_every_order_does_not_pause_a_topic_that_can_be_read() -> None:
    async with running(Room(unreadable=10)) as room:
        room.delivery.ends = lambda offset: [structs.replace(unreadable(offset), rule="r1")]
        room.consumer.polls.put_nowait(list(range(50, 80)))
        await room.delivers(list(range(50, 80)))
        assert room.intake.unreadable == []


async def test_a_transaction_marker_at_the_logs_end_leaves_no_lag(room: Room) -> None:
    await room.assigned()
    room.consumer.at = 53
    room.consumer.polls.put_nowait([50, 51])  # 52 is the marker
    await room.delivers([50, 51])
    await until(lambda: room.link.committed[PARTITION].offset == 53)


async def test_the_place_of_a_consumer_is_no_news_while_a_record_is_under_way(room: Room) -> None:
    """What was taken holds the frontier, whatever comes after it."""
    gate = asyncio.Event()
    room.delivery.gate = gate
    await room.assigned()
    room.consumer.at = 53
    room.consumer.polls.put_nowait([50, 51])
    await room.delivers([50, 51])
    await asyncio.sleep(0.05)
    assert room.link.committed[PARTITION].offset == 50
    gate.set()
    await until(lambda: room.link.committed[PARTITION].offset == 53)


async def test_a_consumer_that_sits_silently_while_there_are_records_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(intake, "LOOK_SECONDS", 0.05)
    room = Room()
    room.consumer.at = 50  # and 100 is the log's end
    task = asyncio.create_task(room.intake.run())
    await room.assigned()
    with pytest.raises(BrokerUnavailableError, match="the consumer brings no records of events-0"):
        async with asyncio.timeout(10):
            await task


@pytest.mark.parametrize("why", ["at the end", "paused"])
async def test_a_consumer_that_has_nothing_to_bring_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    monkeypatch.setattr(intake, "LOOK_SECONDS", 0.3)
    async with running(Room(pause_reason="config_alarm" if why == "paused" else None)) as room:
        room.consumer.at = 100 if why == "at the end" else 50
        await asyncio.sleep(1.2)
        assert room.intake.partitions == [PARTITION]


async def test_a_partition_with_a_damaged_batch_is_left_alone_for_a_while_and_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(intake, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(intake, "DAMAGE_SECONDS", 0.5)
    with capture_logs() as lines:
        async with running(Room()) as room:
            room.consumer.at = 50  # and 100 is the log's end
            for _ in range(2):
                room.consumer.damaged[PARTITION] = Damage(50, 70, "a checksum", time.monotonic())
                await until(lambda: room.intake.paused == {"damaged": 1})
                assert PARTITION in room.consumer.paused
                await until(lambda: room.intake.paused == {})
            room.consumer.damaged.clear()
            room.consumer.polls.put_nowait([50])
            await until(lambda: room.link.committed[PARTITION].offset == 51)
            assert not room.consumer.rejoined.is_set()

    (told,) = [line for line in lines if line["event"] == "intake.batch_damaged"]
    assert (told["log_level"], told["partition"], told["offset"], told["next_offset"]) == ("error", 0, 50, 70)


async def test_a_deep_backlog_of_one_partition_takes_half_of_what_may_be_held_and_leaves_the_rest_to_others(
    room: Room,
) -> None:
    other = TopicPartition("events", 1)
    room.link.committed[other] = CommittedOffset(50, "")
    room.delivery.gate = asyncio.Event()
    await room.assigned([PARTITION, other])
    room.consumer.polls.put_nowait(list(range(50, 1049)))
    await until(lambda: room.intake.memory().records == 999)
    await until(lambda: room.consumer.asked == ())

    room.consumer.polls.put_nowait([1049])
    await until(lambda: room.consumer.asked == (other,))

    room.delivery.gate.set()
    await until(lambda: room.consumer.asked == ())


async def test_a_partition_has_its_turn_again_also_where_only_one_record_may_be_held() -> None:
    room = Room(records=1)
    room.link.committed[TopicPartition("events", 1)] = CommittedOffset(50, "")
    async with running(room, [PARTITION, TopicPartition("events", 1)]):
        room.consumer.polls.put_nowait([50])
        await until(lambda: room.link.committed[PARTITION].offset == 51)
        await until(lambda: room.consumer.asked == ())


async def test_while_outcomes_cannot_be_written_no_more_records_are_taken_in() -> None:
    async with running(Room()) as room:
        room.link.refuses = True
        room.consumer.polls.put_nowait([50])
        await room.delivers([50])
        await until(lambda: room.intake.trouble is not None)
        await until(lambda: room.intake.paused == {"ledger": 1})

        room.link.refuses = False
        await until(lambda: room.link.committed[PARTITION].offset == 51)
        await until(lambda: room.intake.paused == {})


@pytest.mark.parametrize("epoch", [0, 3])
async def test_offsets_that_are_gone_though_a_member_was_here_are_an_alarm_and_grants_may_be_ours(
    epoch: int,
) -> None:
    room = Room(committed=-1)
    room.link.epoch = epoch
    with capture_logs() as lines:
        async with running(room):
            room.consumer.polls.put_nowait([0])
            await room.delivers([0])

    told = [line["log_level"] for line in lines if line["event"] == "takeover.offsets_gone"]
    assert told == (["error"] if epoch else [])
    assert room.metrics.registry.get_sample_value("coupon_offsets_gone_total") == len(told)
    assert room.delivery.records[0].maybe_sent is bool(epoch)


# -- Retry topics -----------------------------------------------------------------------------------


def waiting(offset: int, seconds: float) -> Polled:
    """A record that is due so many seconds from NOW."""
    context = RetryContext(
        origin=Coordinates("charges", 4, 1000 + offset),
        timestamp_ms=17,
        index=1,
        wait=Wait.REPLY,
        written_at=NOW,
        due_at=NOW + timedelta(seconds=seconds),
    )
    return Polled(offset, headers=tuple(own_headers(retry_headers(context))))


@contextlib.asynccontextmanager
async def running(room: Room, partitions: Sequence[TopicPartition] = (PARTITION,)) -> AsyncIterator[Room]:
    task = asyncio.create_task(room.intake.run())
    try:
        await room.assigned(partitions)
        yield room
    finally:
        room.intake.stop()
        await asyncio.gather(task, return_exceptions=True)


async def test_the_head_of_a_retry_topic_waits_until_it_is_due_and_nothing_is_kept_meanwhile() -> None:
    async with running(Room(retries=True)) as room:
        room.consumer.polls.put_nowait([waiting(50, -1), waiting(51, 60), waiting(52, 61)])
        await room.delivers([50])
        await until(lambda: bool(room.consumer.paused))
        assert room.consumer.sought == [50, 51]
        assert room.intake.paused == {"not_due": 1}
        assert room.metrics.registry.get_sample_value("coupon_records_waiting") == 0

        room.now = NOW + timedelta(seconds=60.5)
        await until(lambda: not room.consumer.paused)
        room.consumer.polls.put_nowait([waiting(51, 60), waiting(52, 61)])
        await room.delivers([50, 51])

        await until(lambda: room.of_partition("coupon_retry_overdue_seconds") == 0)

    (_, one) = room.delivery.records
    assert (one.origin, one.event_timestamp_ms, one.only) == (Coordinates("charges", 4, 1051), 17, 1)
    assert one.coordinates == Coordinates("events", 0, 51)


async def test_an_order_that_is_due_and_cannot_be_taken_in_is_told_by_how_much() -> None:
    async with running(Room(retries=True)) as room:
        room.consumer.polls.put_nowait([waiting(50, 60), waiting(51, 61)])
        await until(lambda: bool(room.consumer.paused))
        assert room.of_partition("coupon_retry_overdue_seconds") == 0

        room.pause_reason = "breaker"
        room.now = NOW + timedelta(seconds=90)
        await until(lambda: room.of_partition("coupon_retry_overdue_seconds") == 30)


async def test_what_more_members_could_help_with_is_what_is_to_be_read_and_what_is_not_done(
    room: Room,
) -> None:
    room.delivery.gate = asyncio.Event()
    await room.assigned()
    room.consumer.polls.put_nowait([50, 51, 60])
    await room.delivers([50, 51, 60])

    await until(lambda: room.of_partition("coupon_partition_admissible_records") == 3 + (100 - 61))
    assert room.of_partition("coupon_partition_lag") == 100 - 50
    assert room.of_partition("coupon_partition_commit_gap") == 61 - 50


@pytest.mark.parametrize("reason", ["breaker", "config_alarm"])
async def test_while_the_platform_holds_all_up_there_is_nothing_that_more_members_could_help_with(
    reason: str,
) -> None:
    async with running(Room(pause_reason=reason)) as room:
        await until(lambda: room.of_partition("coupon_partition_lag") == 50)

        assert room.of_partition("coupon_partition_admissible_records") == 0


async def test_the_lag_of_what_is_paused_goes_on_growing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "MEASURE_SECONDS", 0.05)
    async with running(Room(pause_reason="breaker")) as room:
        room.consumer.fetched_end = 100
        await until(lambda: room.of_partition("coupon_partition_lag") == 50)

        room.consumer.end = 170
        await until(lambda: room.of_partition("coupon_partition_lag") == 120)


async def test_what_waits_in_a_retry_topic_is_nothing_that_more_members_could_help_with() -> None:
    async with running(Room(retries=True)) as room:
        await until(lambda: room.of_partition("coupon_partition_lag") == 50)

        assert room.of_partition("coupon_partition_admissible_records") is None


async def test_a_foreign_record_in_a_retry_topic_is_delivered_as_one_that_is_refused() -> None:
    async with running(Room(retries=True)) as room:
        room.consumer.polls.put_nowait([Polled(50)])
        await room.delivers([50])

    assert room.delivery.records[0].refused == "no header coupon_topic: not written by this service"


async def test_headers_like_a_retrys_mean_nothing_in_an_events_topic() -> None:
    async with running(Room()) as room:
        room.consumer.polls.put_nowait([waiting(50, 3600)])
        await room.delivers([50])

    (one,) = room.delivery.records
    assert (one.retry, one.refused, one.only) == (None, "", None)


@pytest.mark.parametrize(("retries", "begins"), [(False, 100), (True, 0)])
async def test_a_group_that_starts_with_the_latest_still_takes_all_that_waits_for_a_retry(
    retries: bool, begins: int
) -> None:
    async with running(Room(committed=-1, start_from="latest", retries=retries)) as room:
        assert room.consumer.sought == [begins]


@pytest.mark.parametrize(("younger_from", "begins"), [(None, 100), (40, 100), (0, 0)])
async def test_a_start_with_the_latest_passes_over_nothing_of_a_partition_that_is_younger_than_the_member(
    younger_from: int | None, begins: int
) -> None:
    room = Room(committed=-1, start_from="latest")
    room.consumer.younger_from = younger_from
    async with running(room):
        assert room.consumer.sought == [begins]


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110  # it sets no event
            await asyncio.sleep(0.01)


async def test_a_short_fullness_pauses_nothing_though_more_of_what_is_held_is_begun_meanwhile() -> None:
    """A pause throws away what was fetched ahead: with little room, it would be fetched twenty times."""
    room = Room(records=3)
    room.delivery.gate, room.supplied = asyncio.Event(), True
    async with running(room):
        room.consumer.polls.put_nowait([50, 51, 52])
        await until(lambda: room.intake.memory().records == 3)
        await asyncio.sleep(0.05)  # until it waits for room
        room.supplied = False
        room.delivery.after_turn()
        await room.delivers([50, 51, 52])
        await asyncio.sleep(0.1)
        assert not room.consumer.paused

        room.delivery.gate.set()
        room.consumer.polls.put_nowait([53])
        await room.delivers([50, 51, 52, 53])


async def test_each_rebalance_is_told_and_only_when_all_has_been_drained(room: Room) -> None:
    room.delivery.gate = asyncio.Event()
    await room.assigned()
    await room.intake.on_partitions_revoked([PARTITION])

    assert room.shares == [[PARTITION], []]


# -- What it says of itself -------------------------------------------------------------------------


async def test_a_partition_tells_its_lag_its_frontier_and_what_is_held_beyond_it(room: Room) -> None:
    assert room.intake.partition_statuses() == []
    assert room.intake.memory().records == 0
    assert room.intake.ledger_status() == LedgerStatus()

    room.delivery.gate = asyncio.Event()
    await room.assigned()
    room.consumer.polls.put_nowait([50, 51, 60])
    await room.delivers([50, 51, 60])
    (told,) = room.intake.partition_statuses()

    assert (told.topic, told.partition, told.waits, told.paused) == ("events", 0, False, None)
    assert (told.lag, told.frontier, told.position, told.under_way) == (50, 50, 61, 3)
    assert told.map_bytes > 0
    assert (room.intake.memory().records, room.intake.memory().max_records) == (3, 2000)
    assert room.intake.ledger_status() == LedgerStatus(open=True)


async def test_a_paused_partition_tells_why_and_a_retry_topics_until_when() -> None:
    async with running(Room(retries=True)) as room:
        room.consumer.polls.put_nowait([waiting(50, 60)])
        await until(lambda: bool(room.consumer.paused))
        (told,) = room.intake.partition_statuses()
        assert (told.waits, told.paused, told.due_at) == (True, "not_due", NOW + timedelta(seconds=60))

        room.pause_reason = "breaker"
        await until(lambda: room.intake.partition_statuses()[0].paused == "breaker")
