"""The fake Kafka fails as it is told to, and is the same again for the same seed. What it does by itself: `tests/broker/test_kafka_behaviour.py`."""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

import pytest
from aiokafka.client import CoordinationType
from aiokafka.errors import KafkaConnectionError, NodeNotReadyError, RequestTimedOutError
from aiokafka.protocol.transaction import InitProducerIdRequest

from consumer.link import (
    LOST,
    Ambiguous,
    Code,
    Committed,
    CommittedOffset,
    Outgoing,
    TopicPartition,
)
from consumer.publishing import Publisher
from consumer.transactions import TransactionalLink, TransactionWriter, transactional_ids
from tests.broker.kafka import in_seconds
from tests.broker.stage import SESSION, Kafka, Member, Producer, Stage, link_to, offset_of, on_the_fake
from tests.simulation.kafka import (
    AnswerError,
    Change,
    Drop,
    FakeKafka,
    Fault,
    Late,
    LoseReply,
    OffsetsCommitted,
    RecordsVisible,
    Slow,
    TransactionEnded,
    Unreachable,
)
from tests.simulation.virtual import Process, VirtualLoop

SOURCE, TARGET = TopicPartition("source", 0), TopicPartition("target", 0)
GROUP = "group"


def in_virtual_time(scenario: "Callable[[FakeKafka], Awaitable[None]]") -> Callable[[], None]:
    """A test whose scenario gets a fake Kafka with a source and a target."""

    def test() -> None:
        loop = VirtualLoop()

        async def run() -> None:
            kafka = FakeKafka(loop, Random(1))
            kafka.create_topic(SOURCE.topic, 2)
            kafka.create_topic(TARGET.topic, 1)
            await scenario(kafka)

        try:
            loop.run_until_complete(run())
        finally:
            loop.kill_all()  # else Python complains of what they left, in whatever test it collects it
            loop.close()

    return test


def once(kafka: FakeKafka, name: str, fault: Fault) -> None:
    """The next request of this name meets the fault."""

    def faults(process: Process, asked: str, request: object) -> Fault | None:
        if asked != name:
            return None
        kafka.faults = lambda *_: None
        return fault

    kafka.faults = faults


async def init(kafka: FakeKafka, process: Process) -> int:
    """The epoch."""
    node = kafka.node_of_transaction("id")
    answer = await kafka.client(process).send(node, InitProducerIdRequest("id", 10_000))
    return int(answer.producer_epoch) if not answer.error_code else -int(answer.error_code)


@pytest.mark.parametrize(
    ("fault", "heard", "done"),
    [
        (None, 1, True),
        (Drop(), LOST, False),
        (LoseReply(), LOST, True),
        (Late(5.0), LOST, True),
        (AnswerError(15), -15, False),
        (AnswerError(15, applied=True), -15, True),
        (Slow(1.0), 1, True),
        (Slow(5.0), RequestTimedOutError, True),
        (Unreachable(), NodeNotReadyError, False),
    ],
)
def test_what_a_fault_does_to_a_request(fault: Fault | None, heard: object, done: bool) -> None:
    async def scenario(kafka: FakeKafka) -> None:
        process = Process("one")
        assert await init(kafka, process) == 0
        if fault is not None:
            once(kafka, "InitProducerId", fault)
        if isinstance(heard, int):
            assert await init(kafka, process) == heard
        else:
            with pytest.raises(heard):  # type: ignore[call-overload]  # one or several exceptions
                await init(kafka, process)
        await asyncio.sleep(10)
        assert await init(kafka, process) == 1 + done

    in_virtual_time(scenario)()


@in_virtual_time
async def test_a_late_copy_arrives_when_it_is_said_to(kafka: FakeKafka) -> None:
    process = Process("one")
    assert await init(kafka, process) == 0
    once(kafka, "InitProducerId", Late(5.0))
    with pytest.raises((KafkaConnectionError, RequestTimedOutError)):
        await init(kafka, process)
    assert await init(kafka, process) == 1
    await asyncio.sleep(6)
    assert await init(kafka, process) == 3


@in_virtual_time
async def test_who_is_killed_at_a_request_hears_nothing_and_what_it_sent_is_done(kafka: FakeKafka) -> None:
    process, heard = Process("one"), []

    async def ask() -> None:
        try:
            heard.append(await init(kafka, process))
        finally:
            heard.append(-1)

    def kill(asking: Process, name: str, request: object) -> None:
        asking.kill()

    kafka.faults = kill
    process.run(ask())
    await asyncio.sleep(10)
    assert heard == []
    kafka.faults = lambda *_: None
    assert await init(kafka, Process("two")) == 1


@in_virtual_time
async def test_a_request_goes_to_where_the_coordinator_is_now(kafka: FakeKafka) -> None:
    process = Process("one")
    old = kafka.node_of_transaction("id")
    assert await init(kafka, process) == 0
    kafka.move_transactions(Random(2))
    client = kafka.client(process)
    answer = await client.send(old, InitProducerIdRequest("id", 10_000))
    assert answer.error_code == Code.NOT_COORDINATOR
    node = await client.coordinator_lookup(CoordinationType.TRANSACTION, "id")
    assert node != old
    codes: list[int] = []
    while not codes or codes[-1]:
        codes.append((await client.send(node, InitProducerIdRequest("id", 10_000))).error_code)
    assert set(codes) == {Code.COORDINATOR_LOADING, Code.NONE}


@in_virtual_time
async def test_a_transaction_that_nobody_ends_is_aborted_when_its_time_is_over(kafka: FakeKafka) -> None:
    changes: list[Change] = []
    kafka.observers.append(changes.append)
    producer = Producer(TransactionalLink(kafka.client(Process("one")), GROUP, transaction_timeout=15), "id")
    await producer.init()
    await producer.add_partition(TARGET)
    await producer.produce(TARGET, [b"1"], 0)
    await asyncio.sleep(14)
    assert changes == []
    assert kafka.last_stable_offset(TARGET) == 0
    await asyncio.sleep(2)
    assert changes == [TransactionEnded("id", committed=False, how="timed out")]
    assert kafka.timed_out == 1
    assert kafka.last_stable_offset(TARGET) == kafka.high_watermark(TARGET) == 2
    assert await producer.end(commit=True) == Code.INVALID_PRODUCER_EPOCH


@in_virtual_time
async def test_the_next_transaction_waits_for_the_markers_of_the_last(kafka: FakeKafka) -> None:
    kafka.marker_delay = lambda: 3.0  # type: ignore[method-assign]  # slower than any
    link = TransactionalLink(kafka.client(Process("one")), GROUP, transaction_timeout=15)
    producer = Producer(link, "id")
    await producer.init()
    await producer.add_partition(TARGET)
    began = kafka.loop.time()
    assert await producer.end(commit=True) == Code.NONE
    assert kafka.loop.time() - began < 1
    assert await producer.init_once() == Code.CONCURRENT_TRANSACTIONS
    assert await producer.add_offsets() == Code.NONE
    assert kafka.loop.time() - began > 3


@in_virtual_time
async def test_observers_are_told_what_became_visible_and_when(kafka: FakeKafka) -> None:
    changes: list[Change] = []
    kafka.observers.append(changes.append)
    write, _ = await _writer(kafka, await _join(kafka))
    outgoing = [Outgoing(TARGET.topic, b"key", b"value", [("h", b"x")], 7)]
    assert await write.flush({SOURCE: CommittedOffset(3, "map")}, outgoing) == Committed()
    await asyncio.sleep(1)
    ended, *others = changes
    assert ended == TransactionEnded("group/source/0/a", committed=True, how="asked")
    offsets = next(change for change in others if isinstance(change, OffsetsCommitted))
    assert offsets == OffsetsCommitted(GROUP, {SOURCE: (3, "map")})
    records = next(change for change in others if isinstance(change, RecordsVisible))
    (record,) = records.records
    assert (record.offset, record.key, record.value, record.headers) == (0, b"key", b"value", (("h", b"x"),))
    assert kafka.read_committed(TARGET.topic) == [record]
    assert kafka.committed(GROUP, SOURCE) == (3, "map")


@in_virtual_time
async def test_what_is_compacted_away_is_a_gap(kafka: FakeKafka) -> None:
    for number in range(3):
        kafka.append(SOURCE.topic, 0, None, b"%d" % number)
    kafka.compact(SOURCE, 1)
    member = await _join(kafka)
    member.consumer.seek(SOURCE, 0)
    found: list[int] = []
    while len(found) < 2:
        batches = await member.consumer.getmany(timeout_ms=100)
        found += [record.offset for records in batches.values() for record in records]
    assert found == [0, 2]
    assert member.consumer.next_offset(SOURCE) == 3


@in_virtual_time
async def test_offsets_can_be_deleted_and_producers_forgotten(kafka: FakeKafka) -> None:
    write, link = await _writer(kafka, await _join(kafka))
    assert await write.flush({SOURCE: CommittedOffset(3, "")}, []) == Committed()
    await link.read_offsets([SOURCE], kafka.loop.time() + 5)
    kafka.delete_offsets(GROUP)
    assert await offset_of(link, SOURCE, stable=True) == (Code.NONE, -1)
    kafka.expire_producer("group/source/0/a")
    result = await write.flush({SOURCE: CommittedOffset(4, "")}, [])
    assert result == Ambiguous("add_offsets", "error 49")


@in_virtual_time
async def test_a_writer_goes_on_through_moved_coordinators_and_leaders(kafka: FakeKafka) -> None:
    write, _ = await _writer(kafka, await _join(kafka))
    rng = Random(3)
    for number in range(20):
        for move in (kafka.move_group, kafka.move_transactions, kafka.move_leader):
            move(rng)
        records = [Outgoing(TARGET.topic, None, b"%d" % number, [], 7)]
        assert await write.flush({SOURCE: CommittedOffset(number, "")}, records) == Committed()
    await asyncio.sleep(1)
    assert [record.value for record in kafka.read_committed(TARGET.topic)] == [b"%d" % n for n in range(20)]


@in_virtual_time
async def test_a_group_keeps_its_members_through_a_move_and_forgets_a_rebalance_under_way(
    kafka: FakeKafka,
) -> None:
    one = await _join(kafka)
    first = await one.assignment(1)
    kafka.move_group(Random(1))
    await asyncio.sleep(2 * SESSION)
    assert one.memberships == [first]
    one.lets_go.clear()
    two = await _join(kafka, wait=False)
    await asyncio.sleep(1)
    assert one.seen[-1][0] == "revoked"
    kafka.move_group(Random(1))
    assert kafka.group(GROUP).generation == first.generation
    one.lets_go.set()
    assert (await two.assignment(1)).generation == (await one.assignment(2)).generation > first.generation


def test_the_same_seed_is_the_same_run() -> None:
    def run(seed: int) -> list[tuple[float, Change]]:
        seen: list[tuple[float, Change]] = []

        async def scenario(kafka: FakeKafka) -> None:
            kafka.rng = Random(seed)
            kafka.observers.append(lambda change: seen.append((kafka.loop.time(), change)))
            faults = (*[None] * 9, LoseReply(), Drop(), Slow(0.3))
            member = await _join(kafka)
            write, link = await _writer(kafka, member)
            kafka.faults = lambda *_: kafka.rng.choice(faults)
            for number in range(20):
                records = [Outgoing(TARGET.topic, None, b"%d" % number, [], 7)]
                if await write.flush({SOURCE: CommittedOffset(number, "")}, records) != Committed():
                    producers = await link.fence(
                        [transactional_ids(GROUP, SOURCE.topic, 0)[0]], in_seconds(600)
                    )
                    write = TransactionWriter(link, member.memberships[-1], producers, Publisher(link))

        in_virtual_time(scenario)()
        return seen

    assert run(1) == run(1) != run(2)


# -- Kafka up to 3.9 ---------------------------------------------------------------------------------


def test_up_to_3_9_a_late_copy_of_an_old_epoch_takes_the_pending_offset_away() -> None:
    async def scenario(kafka: Kafka) -> None:
        stage = await Stage(kafka).set()
        await stage.open(5)
        late = stage.producer.twin()
        await stage.producer.init()
        await stage.open(6)
        assert await late.commit_offset(stage.source, 5, stage.membership) == Code.INVALID_PRODUCER_EPOCH
        assert await stage.producer.end(commit=True) == Code.NONE
        assert (await stage.link.read_offsets([stage.source], in_seconds(10)))[stage.source].offset == -1

    on_the_fake(scenario, old=True)


def test_up_to_3_9_late_copies_do_no_harm_to_a_member_that_joined_again_for_them() -> None:
    """Neither to the leader nor to a follower, whom the broker would tell the generation that it had."""

    async def scenario(kafka: Kafka) -> None:
        group, topic = "group", await kafka.topic(2)
        outcomes = await kafka.topic()
        leader = await kafka.join(group, topic)
        await leader.assignment(1)
        follower = await kafka.join(group, topic)
        member = await follower.assignment(1)
        tp = TopicPartition(topic, follower.assigned[-1][0])
        link = await link_to(kafka, group)
        await link.follow([outcomes])
        late = []
        for name in transactional_ids(group, topic, tp.partition):
            producer = Producer(link, name)
            await producer.init()
            assert await producer.add_offsets() == Code.NONE
            late.append(producer.twin())  # its TxnOffsetCommit is on its way
        follower.consumer.rejoin()
        again = await follower.assignment(2)
        ids = transactional_ids(group, topic, tp.partition)
        write = TransactionWriter(link, again, await link.fence(ids, in_seconds(10)), Publisher(link))
        await write._add_offsets()
        await write._commit_offsets({tp: CommittedOffset(7, "")})
        for copy in late:
            assert await copy.commit_offset(tp, 1, member) != Code.NONE
        await write._end(commit=True)
        assert (await link.read_offsets([tp], in_seconds(10)))[tp].offset == 7

    on_the_fake(scenario, old=True)


async def _join(kafka: FakeKafka, *, wait: bool = True) -> Member:
    """A member of the group, in a process of its own."""
    member, process = Member(), Process("member")

    async def start() -> None:
        member.consumer = kafka.consumer(process, GROUP, session_timeout=SESSION, heartbeat_interval=0.2)
        member.consumer.subscribe([SOURCE.topic], listener=member)

    await process.run(start())
    if wait:
        await member.assignment(1)
    return member


async def _writer(kafka: FakeKafka, member: Member) -> tuple[TransactionWriter, TransactionalLink]:
    link = TransactionalLink(kafka.client(Process("writer")), GROUP, transaction_timeout=15)
    await link.follow([TARGET.topic])
    producers = await link.fence(transactional_ids(GROUP, SOURCE.topic, 0), in_seconds(600))
    return TransactionWriter(link, member.memberships[-1], producers, Publisher(link)), link
