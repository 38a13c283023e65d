"""A Kafka of two brokers in virtual time that answers requests as brokers do, and fails as it is told to. No I/O.

What it takes for true of brokers is tried on a real one by `tests/broker/test_kafka_behaviour.py`.
"""

import asyncio
import contextvars
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

from aiokafka.errors import KafkaConnectionError, NodeNotReadyError, RequestTimedOutError

from consumer.link import Code, TopicPartition
from tests.simulation.client import NODES, ConsumersNetwork, FakeClient
from tests.simulation.consumer import FakeConsumer, Fetch
from tests.simulation.group import (
    Group,
    JoinGroup,
    LeaveGroup,
    Place,
    SyncGroup,
)
from tests.simulation.log import Batch, Headers, Log, Row, Stored
from tests.simulation.transactions import Target, TransactionCoordinator
from tests.simulation.virtual import Process, VirtualLoop
from tests.simulation.wire import (
    VERSIONS,
    FindCoordinator,
    ListOffsets,
    Metadata,
    batches,
    name_of,
    producer,
    refusal,
)

CLUSTER_ID = "cluster-1"

LARGEST_BATCH = 1_048_588
"""`message.max.bytes`, by default."""

# -- What goes wrong ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Drop:
    """It never arrives; the client sees a lost connection or a time-out."""


@dataclass(frozen=True, slots=True)
class LoseReply:
    """It is done, and its reply is lost."""


@dataclass(frozen=True, slots=True)
class Late:
    """The client sees a loss; the broker gets the request after these seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class AnswerError:
    """It is answered with an error, and done all the same if `applied`."""

    code: int
    applied: bool = False


@dataclass(frozen=True, slots=True)
class Slow:
    """The broker gets it so much later. Beyond the client's time-out that is a loss to it."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Unreachable:
    """No connection: nothing was sent, and the client knows that."""


Fault = Drop | LoseReply | Late | AnswerError | Slow | Unreachable

# -- What becomes visible ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OffsetsCommitted:
    """What a stable read of the group's offsets finds from now on."""

    group: str
    offsets: Mapping[TopicPartition, Place]


@dataclass(frozen=True, slots=True)
class RecordsVisible:
    """To committed readers, of one partition."""

    topic: str
    records: Sequence[Stored]


@dataclass(frozen=True, slots=True)
class TransactionEnded:
    """It is decided; offsets and records follow. `how`: asked, fenced or timed out."""

    id: str
    committed: bool
    how: str


Change = OffsetsCommitted | RecordsVisible | TransactionEnded


Answer = Callable[[Any], None]


class FakeKafka:
    """One cluster.

    Attributes:
        faults: asked for every request that a process sends.
        observers: told of every change as it becomes visible.
        asked: of requests, by name, for the curious.
    """

    def __init__(self, loop: VirtualLoop, rng: Random, *, forgets_pending_offsets: bool = False) -> None:
        """`forgets_pending_offsets`: as up to Kafka 3.9; nor does it look then whether a transaction is under way."""
        self.loop = loop
        self.rng = rng
        self.faults: Callable[[Process, str, object], Fault | None] = lambda *_: None
        self.observers: list[Callable[[Change], None]] = []
        self.transactions = TransactionCoordinator(self)
        self._old = forgets_pending_offsets
        self._logs: dict[TopicPartition, Log] = {}
        self._counts: dict[str, int] = {}
        self._groups: dict[str, Group] = {}
        self._moves: defaultdict[str, int] = defaultdict(int)
        self._loading: dict[str, float] = {}
        self._fetches: defaultdict[TopicPartition, list[Fetch]] = defaultdict(list)

    # -- For the test ---------------------------------------------------------------------------------

    def create_topic(self, name: str, partitions: int) -> None:
        self._counts[name] = 0
        self.add_partitions(name, partitions)

    def add_partitions(self, name: str, count: int) -> None:
        """So many more."""
        for number in range(self._counts[name], self._counts[name] + count):
            tp = TopicPartition(name, number)
            self._logs[tp] = Log(tp)
        self._counts[name] += count

    def partitions(self) -> list[TopicPartition]:
        """Of all topics."""
        return list(self._logs)

    def append(
        self,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: Headers = (),
        timestamp_ms: int = 0,
    ) -> int:
        """As a charging platform writes it: its offset."""
        log = self._logs[TopicPartition(topic, partition)]
        _, offset = log.append(Batch([Row(timestamp_ms, key, value, headers)]))
        self._show(log)
        return offset

    def compact(self, tp: TopicPartition, offset: int) -> None:
        """Remove a record."""
        self._logs[tp].compact(offset)

    def read_committed(self, topic: str) -> list[Stored]:
        """What a committed reader of the topic sees now."""
        return [record for tp in self._of(topic) for record in self._logs[tp].read(0, self._logs[tp].end)[0]]

    def log(self, tp: TopicPartition) -> Log:
        """The partition as its leader has it."""
        return self._logs[tp]

    def high_watermark(self, tp: TopicPartition) -> int:
        return self._logs[tp].end

    def last_stable_offset(self, tp: TopicPartition) -> int:
        return self._logs[tp].stable

    def committed(self, group: str, tp: TopicPartition) -> Place | None:
        """Offset and metadata."""
        return self.group(group).offsets.get(tp)

    def delete_offsets(self, group: str) -> None:
        """As an operator does, or a week without members."""
        self.group(group).offsets.clear()

    def expire_ids(self) -> None:
        """Every transactional id that is not in a transaction."""
        for name in self.transactions.idle:
            self.expire_producer(name)

    def expire_producer(self, transactional_id: str) -> None:
        """As a week without a transaction does."""
        self.transactions.expire(transactional_id)

    def group(self, name: str) -> Group:
        """The group as its coordinator knows it."""
        if name not in self._groups:
            self._groups[name] = Group(name, _GroupsCluster(self), forgets_pending=self._old)
        return self._groups[name]

    @property
    def timed_out(self) -> int:
        """Transactions that nobody ended in time."""
        return self.transactions.timed_out

    def move_group(self, rng: Random) -> None:
        """The other broker becomes coordinator of a group."""
        if self._groups:
            name = rng.choice(list(self._groups))
            self._move(f"group {name}", rng)
            self._groups[name].load()

    def move_transactions(self, rng: Random) -> None:
        """The other broker becomes coordinator of a transactional id."""
        if self.transactions.names:
            self._move(f"transaction {rng.choice(self.transactions.names)}", rng)

    def move_leader(self, rng: Random) -> None:
        """The other broker becomes leader of a partition."""
        self._move(_led(rng.choice(list(self._logs))), rng)

    def _move(self, key: str, rng: Random) -> None:
        self._moves[key] += 1
        self._loading[key] = self.loop.time() + rng.choice((0.0, rng.uniform(0.0, 1.0)))

    # -- For processes --------------------------------------------------------------------------------

    def client(self, process: Process, *, request_timeout: float = 2.0) -> FakeClient:
        """What `link.KafkaLink` needs of an AIOKafkaClient."""
        return FakeClient(self, process, request_timeout)

    def consumer(
        self, process: Process, group: str, *, request_timeout: float = 2.0, **settings: Any
    ) -> FakeConsumer:
        """A member of the group, once it has subscribed. Call it in the process."""
        return FakeConsumer(
            ConsumersNetwork(self, process, request_timeout),
            process,
            group,
            request_timeout=request_timeout,
            **settings,
        )

    async def exchange(self, process: Process, node: int, request: Any, patience: float) -> Any:
        """A request's way to a broker, and its answer's way back. `patience`: the client's time-out."""
        name = name_of(request)
        sent = request.prepare(VERSIONS) if hasattr(request, "prepare") else request
        fault = self.fault(process, name, sent)
        heard: asyncio.Future[Any] = self.loop.create_future()
        if isinstance(fault, Unreachable) and process.alive:
            raise NodeNotReadyError
        if isinstance(fault, Drop | LoseReply | Late):
            self._lose(process, heard, patience)
        if isinstance(fault, Slow) or isinstance(sent, JoinGroup | SyncGroup):  # these a broker can hold back
            self.loop.call_later(patience, _fail, heard, RequestTimedOutError(), context=process.context)

        def reply(answer: Any) -> None:
            self.loop.call_later(self.latency(), _set, heard, answer, context=process.context)

        self._send(node, sent, fault, reply)
        return await heard

    def _send(self, node: int, request: Any, fault: Fault | None, reply: "Answer") -> None:
        after = self.latency()
        match fault:
            case Drop() | Unreachable():
                return
            case LoseReply():
                reply = _nobody
            case Late(seconds=seconds):
                after, reply = seconds, _nobody
            case Slow(seconds=seconds):
                after = seconds
            case AnswerError(code=code, applied=applied):
                answer = refusal(request, code)
                self.later(after, partial(reply, answer))
                if not applied:
                    return
                reply = _nobody
        self.later(after, lambda: self.handle(node, request, reply))

    def fault(self, process: Process, name: str, request: object) -> Fault | None:
        """Asked outside of the process, which may be paused or killed on the occasion."""
        return contextvars.Context().run(self.faults, process, name, request)

    def _lose(self, process: Process, heard: "asyncio.Future[Any]", timeout: float) -> None:
        soon = self.rng.random() < 0.6
        error = KafkaConnectionError("connection lost") if soon else RequestTimedOutError()
        after = 2 * self.latency() if soon else timeout
        self.loop.call_later(after, _fail, heard, error, context=process.context)

    def latency(self) -> float:
        """Of one way."""
        return self.rng.uniform(0.0002, 0.002) if self.rng.random() < 0.95 else self.rng.uniform(0.002, 0.1)

    def later(self, seconds: float, act: Callable[[], None]) -> None:
        """At the brokers, whatever process is alive."""
        self.loop.call_later(seconds, act, context=contextvars.Context())

    # -- At the brokers -------------------------------------------------------------------------------

    def node_of_group(self, group: str) -> int:
        return self._node(f"group {group}")

    def node_of_transaction(self, transactional_id: str) -> int:
        return self._node(f"transaction {transactional_id}")

    def leader(self, tp: TopicPartition) -> int:
        return self._node(_led(tp))

    def _node(self, key: str) -> int:
        return NODES[(zlib.crc32(key.encode()) + self._moves[key]) % len(NODES)]

    def _not_here(self, node: int, key: str) -> int:
        """What a broker answers that is not, or not yet, the coordinator."""
        if node != self._node(key):
            return Code.NOT_COORDINATOR
        return Code.COORDINATOR_LOADING if self.loop.time() < self._loading.get(key, 0.0) else Code.NONE

    def handle(self, node: int, request: Any, answer: Answer) -> None:
        """A request has arrived."""
        match request:
            case FindCoordinator(key=key):
                answer(self._node(key))
            case Metadata(topics=topics):
                answer({topic: self._counts[topic] for topic in topics if topic in self._counts})
            case ListOffsets(partitions=partitions, at=at):
                answer({tp: self._bounds(self._logs[tp], at) for tp in partitions})
            case JoinGroup() | SyncGroup() | LeaveGroup():
                self._handle_group(node, request, answer)
            case _:
                answer(self._HANDLERS[request.API_KEY](self, node, request))

    def _handle_group(self, node: int, request: JoinGroup | SyncGroup | LeaveGroup, answer: Answer) -> None:
        code = self._not_here(node, f"group {request.group}")
        group = self.group(request.group)
        match request:
            case _ if code:
                answer(refusal(request, code))
            case JoinGroup():
                group.join(request, answer)
            case SyncGroup():
                group.sync(request, answer)
            case LeaveGroup(member_id=member_id):
                answer(group.leave(member_id))

    @staticmethod
    def _bounds(log: Log, at: int | None) -> tuple[int, int] | None:
        if at is None:
            return 0, log.stable
        records, _ = log.read(0, log.end)
        return next(((record.offset, record.timestamp) for record in records if record.timestamp >= at), None)

    def _metadata(self, node: int, request: Any) -> Any:
        rows: list[tuple[Any, ...]] = [
            (
                0 if name in self._counts else 3,
                name,
                False,
                [(0, n, 1, [1], [1], []) for n in range(self._counts.get(name, 0))],
            )
            for name in request.topics
        ]
        return request.RESPONSE_TYPE(0, [], CLUSTER_ID, NODES[0], rows)

    def _init_producer(self, node: int, request: Any) -> Any:
        name = request.transactional_id
        code, producer_id, epoch = self._not_here(node, f"transaction {name}"), -1, -1
        if not code:
            code, producer_id, epoch = self.transactions.init(name, request.transaction_timeout_ms / 1000)
        return request.RESPONSE_TYPE(0, code, producer_id, epoch)

    def _add_offsets(self, node: int, request: Any) -> Any:
        code = self._not_here(node, f"transaction {request.transactional_id}")
        return request.RESPONSE_TYPE(0, code or self.transactions.add(*producer(request), [request.group_id]))

    def _add_partitions(self, node: int, request: Any) -> Any:
        code = self._not_here(node, f"transaction {request.transactional_id}")
        targets = [TopicPartition(topic, number) for topic, numbers in request.topics for number in numbers]
        unknown = {tp for tp in targets if tp not in self._logs}
        if not unknown:
            code = code or self.transactions.add(*producer(request), targets)
            return refusal(request, code)
        codes = {tp: code or (3 if tp in unknown else Code.OPERATION_NOT_ATTEMPTED) for tp in targets}
        return request.RESPONSE_TYPE(
            0,
            [
                (topic, [(n, codes[TopicPartition(topic, n)]) for n in numbers])
                for topic, numbers in request.topics
            ],
        )

    def _end_transaction(self, node: int, request: Any) -> Any:
        code = self._not_here(node, f"transaction {request.transactional_id}")
        commit = bool(request.transaction_result)
        return request.RESPONSE_TYPE(0, code or self.transactions.end(*producer(request), commit=commit))

    def _commit_offsets(self, node: int, request: Any) -> Any:
        code = self._not_here(node, f"group {request.group_id}")
        name, producer_id, epoch = producer(request)
        offsets = {
            TopicPartition(topic, row[0]): (row[1], row[3] or "")
            for topic, rows, _ in request.topics
            for row in rows
        }
        code = code or self.group(request.group_id).commit_in_transaction(
            (producer_id, epoch),
            (request.generation_id, request.member_id, request.group_instance_id),
            offsets,
            lambda: self._verify(name, producer_id, epoch, request.group_id),
        )
        return refusal(request, code)

    def _verify(self, name: str, producer_id: int, epoch: int, target: Target) -> int:
        return Code.NONE if self._old else self.transactions.verify(name, producer_id, epoch, target)

    def _fetch_offsets(self, node: int, request: Any) -> Any:
        code = self._not_here(node, f"group {request.group}")
        if code:
            return refusal(request, code)
        group, stable = self.group(request.group), request.require_stable
        topics: list[tuple[Any, ...]] = []
        for topic, numbers, _ in request.topics:
            rows: list[tuple[Any, ...]] = []
            for number in numbers:
                code, offset, metadata = group.fetch(TopicPartition(topic, number), stable=stable)
                rows.append((number, offset, -1, metadata, code, {}))
            topics.append((topic, rows, {}))
        return request.RESPONSE_TYPE(0, topics, Code.NONE, {})

    def _heartbeat(self, node: int, request: Any) -> Any:
        code = self._not_here(node, f"group {request.group}")
        code = code or self.group(request.group).heartbeat(request.generation_id, request.member_id)
        return refusal(request, code)

    def _produce(self, node: int, request: Any) -> Any:
        topics: list[tuple[Any, ...]] = []
        for topic, parts in request.topics:
            rows: list[tuple[Any, ...]] = []
            for number, data in parts:
                code, offset = self._append(
                    node, TopicPartition(topic, number), request.transactional_id, data
                )
                rows.append((number, code, offset, -1, 0))
            topics.append((topic, rows))
        return request.RESPONSE_TYPE(topics, 0)

    def _append(self, node: int, tp: TopicPartition, name: str | None, data: bytes) -> tuple[int, int]:
        log = self._logs.get(tp)
        if log is None:
            return Code.UNKNOWN_TOPIC_OR_PARTITION, -1
        if node != self.leader(tp):
            return Code.NOT_LEADER, -1
        if self.loop.time() < self._loading.get(_led(tp), 0.0):
            return Code.LEADER_NOT_AVAILABLE, -1
        if len(data) > LARGEST_BATCH:
            return Code.MESSAGE_TOO_LARGE, -1
        code, offset = int(Code.NONE), -1
        for batch in batches(data):
            if batch.transactional and (code := self._verify(name or "", batch.producer_id, batch.epoch, tp)):
                break
            code, offset = log.append(batch)
        self._show(log)
        return code, offset

    _HANDLERS: Mapping[int, Callable[["FakeKafka", int, Any], Any]] = {
        0: _produce,
        3: _metadata,
        9: _fetch_offsets,
        12: _heartbeat,
        22: _init_producer,
        24: _add_partitions,
        25: _add_offsets,
        26: _end_transaction,
        28: _commit_offsets,
    }

    # -- What the transaction coordinator needs -------------------------------------------------------

    def marker_delay(self) -> float:
        """Some milliseconds; now and then a broker takes its time."""
        return self.rng.uniform(0.001, 0.004) if self.rng.random() < 0.95 else self.rng.uniform(0.01, 0.4)

    def mark(self, target: Target, producer_id: int, epoch: int, *, commit: bool) -> None:
        if isinstance(target, str):
            self.group(target).mark(producer_id, epoch, commit=commit)
        else:
            log = self._logs[target]
            log.mark(producer_id, epoch, commit=commit)
            self._show(log)

    def ended(self, name: str, how: str, *, commit: bool) -> None:
        self.tell(TransactionEnded(name, commit, how))

    # -- Readers --------------------------------------------------------------------------------------

    def tell(self, change: Change) -> None:
        for observer in self.observers:
            observer(change)

    def _show(self, log: Log) -> None:
        """Committed readers see more, or can go on past a marker."""
        records = log.newly_visible()
        if records:
            self.tell(RecordsVisible(log.tp.topic, records))
        for fetch in self._fetches.pop(log.tp, []):
            self.later(self.latency(), partial(self.answer_fetch, fetch))

    def fetch(self, fetch: Fetch, patience: float) -> None:
        """One that is lost or refused is sent again."""
        process = fetch.process
        match self.fault(process, "Fetch", fetch):
            case None:
                self.later(self.latency(), partial(self.answer_fetch, fetch))
            case Slow(seconds=seconds):
                self.later(seconds, partial(self.answer_fetch, fetch))
            case _:
                self.loop.call_later(patience, self.fetch, fetch, patience, context=process.context)

    def answer_fetch(self, fetch: Fetch) -> None:
        """At once if there is something, else when there is."""
        log = self._logs[fetch.tp]
        records, following = log.read(fetch.position, fetch.most, committed=fetch.committed)
        if not records and following == fetch.position and following <= log.end:
            self._fetches[fetch.tp].append(fetch)
            return
        fetch.out_of_range = fetch.position > log.end
        fetch.records, fetch.next, fetch.end = records, following, log.end
        self.loop.call_later(self.latency(), fetch.answered, context=fetch.process.context)

    def _of(self, topic: str) -> Iterable[TopicPartition]:
        return [TopicPartition(topic, number) for number in range(self._counts[topic])]


@dataclass(frozen=True, slots=True)
class _GroupsCluster:
    kafka: FakeKafka

    def now(self) -> float:
        return self.kafka.loop.time()

    def later(self, seconds: float, act: Callable[[], None]) -> None:
        self.kafka.later(seconds, act)

    def committed(self, group: str, offsets: Mapping[TopicPartition, Place]) -> None:
        self.kafka.tell(OffsetsCommitted(group, dict(offsets)))


def _led(tp: TopicPartition) -> str:
    return f"partition {tp.topic}-{tp.partition}"


def _set(future: "asyncio.Future[Any]", answer: Any) -> None:
    if not future.done():
        future.set_result(answer)


def _fail(future: "asyncio.Future[Any]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # a process that is killed now will never ask, and is not to be missed
        future.exception()  # who was cancelled at this very moment does not ask, and Python would complain


def _nobody(answer: Any) -> None:
    """Whose reply is lost."""
