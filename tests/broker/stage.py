"""A Kafka to try behaviour on: the simulation's in virtual time, or a real one. The same few words for both."""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from random import Random
from typing import Any, Protocol

from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.protocol.group import HeartbeatRequest
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import (
    AddOffsetsToTxnRequest,
    AddPartitionsToTxnRequest,
    EndTxnRequest,
    InitProducerIdRequest,
)
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from consumer.link import GroupConsumer, Membership, TopicPartition, first_error
from consumer.transactions import (
    TransactionalLink,
    _OffsetFetchRequest,
    _TxnOffsetCommitRequest,
)
from tests.broker.kafka import in_seconds, produce, read_all
from tests.conftest import _create_topics
from tests.simulation.kafka import FakeKafka
from tests.simulation.virtual import Process, VirtualLoop

SESSION, HEARTBEAT, REBALANCE = 1.5, 0.2, 5.0
"""Seconds, of every member."""

GROUP, TRANSACTION = CoordinationType.GROUP, CoordinationType.TRANSACTION


class Member(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """One consumer of the group, and what happened to it.

    Attributes:
        seen: ("revoked", partitions) and ("assigned", partitions), in their order.
        lets_go: while it is not set, a revocation is not over.
        freeze: no heartbeat of it any more.
        join_again: as aiokafka does by itself when it finds other partitions.
    """

    def __init__(self) -> None:
        self.seen: list[tuple[str, list[int]]] = []
        self.memberships: list[Membership] = []
        self.lets_go = asyncio.Event()
        self.lets_go.set()
        self.consumer: Any = None
        self.freeze: Callable[[], None] = lambda: None
        self.join_again: Callable[[], None] = lambda: None

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        self.seen.append(("revoked", sorted(tp.partition for tp in revoked)))
        await self.lets_go.wait()

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        self.seen.append(("assigned", sorted(tp.partition for tp in assigned)))
        self.memberships.append(self.consumer.membership())

    @property
    def assigned(self) -> list[list[int]]:
        return [partitions for what, partitions in self.seen if what == "assigned"]

    async def assignment(self, number: int) -> Membership:
        """Wait for the so-manieth assignment, counted from one."""
        await until(lambda: len(self.memberships) >= number)
        return self.memberships[number - 1]


class Kafka(Protocol):
    """What differs between the two."""

    def name(self, what: str) -> str:
        """Of a group or a transactional id that no other test uses."""

    async def topic(self, partitions: int = 1) -> str: ...

    async def add_partition(self, topic: str, total: int) -> None: ...

    async def append(self, topic: str, values: Sequence[bytes]) -> None:
        """To partition 0, without a transaction."""

    async def read(self, topic: str, isolation: str = "read_committed") -> list[tuple[int, bytes]]:
        """Offsets and values of partition 0."""

    async def client(self) -> Any: ...

    async def join(
        self, group: str, topic: str, *, instance_id: str | None = None, isolation: str = "read_committed"
    ) -> Member: ...


Scenario = Callable[["Kafka"], Awaitable[None]]


def on_the_fake(scenario: Scenario, *, old: bool = False) -> None:
    """Run it in virtual time. `old`: as brokers up to 3.9."""
    loop = VirtualLoop()

    async def run() -> None:
        async with AsyncExitStack() as stack:
            await scenario(_Fake(loop, stack, old=old))

    try:
        loop.run_until_complete(run())
    finally:
        loop.kill_all()
        loop.close()


def on_a_real_one(scenario: Scenario, servers: str) -> None:
    async def run() -> None:
        async with AsyncExitStack() as stack:
            await scenario(_Real(servers, stack))

    asyncio.run(asyncio.wait_for(run(), 60))


class _Fake:
    def __init__(self, loop: VirtualLoop, stack: AsyncExitStack, *, old: bool) -> None:
        self.cluster = FakeKafka(loop, Random(1), forgets_pending_offsets=old)
        self._stack = stack
        self._topics = 0

    def name(self, what: str) -> str:
        return what

    async def topic(self, partitions: int = 1) -> str:
        self._topics += 1
        self.cluster.create_topic(f"topic-{self._topics}", partitions)
        return f"topic-{self._topics}"

    async def add_partition(self, topic: str, total: int) -> None:
        self.cluster.add_partitions(topic, 1)

    async def append(self, topic: str, values: Sequence[bytes]) -> None:
        for value in values:
            self.cluster.append(topic, 0, None, value)

    async def read(self, topic: str, isolation: str = "read_committed") -> list[tuple[int, bytes]]:
        records = self.cluster.read_committed(topic)
        if isolation == "read_uncommitted":
            records, _ = self.cluster.log(TopicPartition(topic, 0)).read(0, 1000, committed=False)
        return [(record.offset, record.value or b"") for record in records if record.partition == 0]

    async def client(self) -> Any:
        return self.cluster.client(Process("client"))

    async def join(
        self, group: str, topic: str, *, instance_id: str | None = None, isolation: str = "read_committed"
    ) -> Member:
        member, process = Member(), Process("member")

        async def start() -> None:
            member.consumer = self.cluster.consumer(
                process,
                group,
                session_timeout=SESSION,
                heartbeat_interval=HEARTBEAT,
                rebalance_timeout=REBALANCE,
                instance_id=instance_id,
                isolation_level=isolation,
            )
            await member.consumer.start()
            member.consumer.subscribe([topic], listener=member)

        async def stop() -> None:
            if process.paused:
                process.kill()
            else:
                await process.run(member.consumer.stop())

        await process.run(start())
        member.freeze, member.join_again = process.pause, member.consumer._need_rejoin
        self._stack.push_async_callback(stop)
        return member


class _Real:
    def __init__(self, servers: str, stack: AsyncExitStack) -> None:
        self._servers = servers
        self._stack = stack
        self._prefix = f"t{secrets.token_hex(4)}"
        self._topics = 0

    def name(self, what: str) -> str:
        return f"{self._prefix}-{what}"

    async def topic(self, partitions: int = 1) -> str:
        self._topics += 1
        name = f"{self._prefix}-{self._topics}"
        await _create_topics(self._servers, {name: partitions})
        return name

    async def add_partition(self, topic: str, total: int) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self._servers)
        await admin.start()
        try:
            await admin.create_partitions({topic: NewPartitions(total)})
        finally:
            await admin.close()

    async def append(self, topic: str, values: Sequence[bytes]) -> None:
        await produce(self._servers, topic, values)

    async def read(self, topic: str, isolation: str = "read_committed") -> list[tuple[int, bytes]]:
        found = await read_all(self._servers, topic, isolation=isolation)
        return [(record.offset, record.value) for record in found]

    async def client(self) -> Any:
        client = AIOKafkaClient(bootstrap_servers=self._servers, request_timeout_ms=10_000)
        self._stack.push_async_callback(client.close)
        await client.bootstrap()
        return client

    async def join(
        self, group: str, topic: str, *, instance_id: str | None = None, isolation: str = "read_committed"
    ) -> Member:
        member = Member()
        consumer = member.consumer = GroupConsumer(
            bootstrap_servers=self._servers,
            group_id=group,
            group_instance_id=instance_id,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level=isolation,
            session_timeout_ms=int(SESSION * 1000),
            heartbeat_interval_ms=int(HEARTBEAT * 1000),
            rebalance_timeout_ms=int(REBALANCE * 1000),
        )
        consumer.subscribe([topic], listener=member)
        joining = asyncio.create_task(consumer.start())
        await until(lambda: bool(consumer._coordinator) or joining.done())

        async def stop() -> None:
            joining.cancel()
            await asyncio.gather(joining, return_exceptions=True)
            await consumer.stop()

        self._stack.push_async_callback(stop)
        member.freeze = lambda: _stop_beating(consumer)
        member.join_again = consumer._coordinator.request_rejoin
        return member


def _stop_beating(consumer: GroupConsumer) -> None:
    consumer._coordinator._heartbeat_task.cancel()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110  # of another's doing, with no event
            await asyncio.sleep(0.02)


class Producer:
    """Says one transactional request after the other. Each answers its error code, once that is final."""

    def __init__(self, link: TransactionalLink, name: str) -> None:
        self.link = link
        self.name = name
        self.id, self.epoch = -1, -1

    @property
    def who(self) -> tuple[str, int, int]:
        return self.name, self.id, self.epoch

    def twin(self) -> "Producer":
        """The same producer, as a late request of it would be sent."""
        twin = Producer(self.link, self.name)
        twin.id, twin.epoch = self.id, self.epoch
        return twin

    async def init(self) -> None:
        self.id, self.epoch = await self.link.init_producer(self.name, in_seconds(20))

    async def init_once(self) -> int:
        """The first answer's code, whatever it is."""
        node = await self.link.client.coordinator_lookup(TRANSACTION, self.name)
        answer = await self.link.client.send(node, InitProducerIdRequest(self.name, 15_000))
        return int(answer.error_code)

    async def add_offsets(self) -> int:
        request = AddOffsetsToTxnRequest(*self.who, self.link.group)
        return await self._ask(TRANSACTION, request, lambda answer: answer.error_code)

    async def commit_offset(self, tp: TopicPartition, offset: int, member: Membership | None) -> int:
        """`member` None: a stranger, as old producers are to the group."""
        by = (member.generation, member.member_id, member.instance_id) if member else (-1, "", None)
        rows: list[tuple[Any, ...]] = [(tp.partition, offset, -1, "", {})]
        request = _TxnOffsetCommitRequest(
            self.name, self.link.group, self.id, self.epoch, *by, [(tp.topic, rows, {})], {}
        )
        return await self._ask(
            GROUP,
            request,
            lambda answer: first_error(code for _, each, _ in answer.errors for _, code, _ in each),
        )

    async def add_partition(self, tp: TopicPartition) -> int:
        request = AddPartitionsToTxnRequest(*self.who, [(tp.topic, [tp.partition])])
        return await self._ask(
            TRANSACTION,
            request,
            lambda answer: first_error(code for _, rows in answer.errors for _, code in rows),
        )

    async def produce(self, tp: TopicPartition, values: Sequence[bytes], sequence: int) -> tuple[int, int]:
        """(error code, offset of the first record)."""
        await self.link.follow([tp.topic])
        builder = DefaultRecordBatchBuilder(2, 0, 1, self.id, self.epoch, sequence, 100_000)
        for number, value in enumerate(values):
            builder.append(number, int(time.time() * 1000), None, value, [])
        request = ProduceRequest(
            self.name, -1, 10_000, [(tp.topic, [(tp.partition, bytes(builder.build()))])]
        )
        await until(lambda: self.link.client.cluster.leader_for_partition(tp) is not None)
        answer: Any = await self.link.client.send(self.link.client.cluster.leader_for_partition(tp), request)
        _, code, offset, *_ = answer.topics[0][1][0]
        return code, offset

    async def end(self, *, commit: bool) -> int:
        request = EndTxnRequest(*self.who, commit)
        return await self._ask(TRANSACTION, request, lambda answer: answer.error_code)

    async def _ask(self, kind: int, request: Any, code_of: Callable[[Any], int]) -> int:
        key = self.name if kind == TRANSACTION else self.link.group
        code, _ = await self.link.ask("", (kind, key), request, code_of, in_seconds(10))
        return int(code)


async def offset_of(link: TransactionalLink, tp: TopicPartition, *, stable: bool) -> tuple[int, int]:
    """(error code, offset), by one question."""
    request = _OffsetFetchRequest(link.group, [(tp.topic, [tp.partition], {})], stable, {})
    _, answer = await link.ask(
        "", (GROUP, link.group), request, lambda answer: answer.error_code, in_seconds(10)
    )
    _, offset, _, _, code, _ = answer.topics[0][1][0]
    return code, offset


async def heartbeat(link: TransactionalLink, generation: int, member_id: str) -> int:
    request = HeartbeatRequest(link.group, generation, member_id)
    code, _ = await link.ask(
        "", (GROUP, link.group), request, lambda answer: answer.error_code, in_seconds(10)
    )
    return int(code)


async def link_to(kafka: Kafka, group: str) -> TransactionalLink:
    return TransactionalLink(await kafka.client(), group, transaction_timeout=15)


class Stage:
    """A member, its source, and a producer with a topic to write to."""

    def __init__(self, kafka: Kafka) -> None:
        self.kafka = kafka
        self.group = kafka.name("group")

    async def set(self) -> "Stage":
        self.source = TopicPartition(await self.kafka.topic(), 0)
        self.target = TopicPartition(await self.kafka.topic(), 0)
        self.member = await self.kafka.join(self.group, self.source.topic)
        self.membership = await self.member.assignment(1)
        self.link = await link_to(self.kafka, self.group)
        self.producer = Producer(self.link, self.kafka.name("id"))
        await self.producer.init()
        return self

    async def open(self, offset: int, values: tuple[bytes, ...] = (), sequence: int = 0) -> None:
        """A transaction with all in it, not ended."""
        producer = self.producer
        assert await producer.add_offsets() == 0
        assert await producer.commit_offset(self.source, offset, self.membership) == 0
        assert await producer.add_partition(self.target) == 0
        if values:
            assert (await producer.produce(self.target, values, sequence))[0] == 0
