"""One Kafka transaction, straight on aiokafka's client and record builder. Does I/O.

The only room that touches aiokafka's internals. Its own producer cannot be used:
it commits offsets without the group's generation (TxnOffsetCommit v0, so that a zombie
or a stranger can commit) and tries lost requests again on its own. Two rules carry the
guarantees of this module:

**No second try within an epoch.** A request WITHOUT an answer is never sent again in
its epoch: a late first copy would overtake the next transaction. The writer is dead
until `recover()` has started a new epoch and the caller has read back what is committed.
An ANSWERED retriable error is sent again, because the answer proves that no copy is under
way, and because applied or not, the repeat does the same: AddOffsets and AddPartitions add
to a set, TxnOffsetCommit overwrites a pending value, identical batches are deduplicated by
their sequence, and EndTxn answers the same once more.

**Two ids in turn.** Brokers up to 3.9 keep pending offsets by producer id without the
epoch: a late TxnOffsetCommit of an old epoch, though refused, deletes the new epoch's
pending offset, and its outcomes commit without their offset. So after a lost
TxnOffsetCommit the old id is ended as usual and the writer goes on under its second id.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer
from aiokafka import TopicPartition as TopicPartition  # noqa: PLC0414 - the rooms above take it from here
from aiokafka.client import AIOKafkaClient, ConnectionGroup, CoordinationType
from aiokafka.errors import KafkaError, NodeNotReadyError
from aiokafka.partitioner import murmur2
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.group import HeartbeatRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import (
    AddOffsetsToTxnRequest,
    AddPartitionsToTxnRequest,
    EndTxnRequest,
    InitProducerIdRequest,
)
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    TaggedFields,
)
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from consumer.core.errors import BrokerUnavailableError, RefusedError

T = TypeVar("T")


class Code(IntEnum):
    """Kafka's error codes that decide something here (https://kafka.apache.org/protocol#protocol_error_codes)."""

    NONE = 0
    UNKNOWN_TOPIC_OR_PARTITION = 3
    LEADER_NOT_AVAILABLE = 5
    NOT_LEADER = 6
    REQUEST_TIMED_OUT = 7
    MESSAGE_TOO_LARGE = 10
    COORDINATOR_LOADING = 14
    COORDINATOR_NOT_AVAILABLE = 15
    NOT_COORDINATOR = 16
    RECORD_LIST_TOO_LARGE = 18
    NOT_ENOUGH_REPLICAS = 19
    NOT_ENOUGH_REPLICAS_AFTER_APPEND = 20
    ILLEGAL_GENERATION = 22
    UNKNOWN_MEMBER_ID = 25
    REBALANCE_IN_PROGRESS = 27
    OUT_OF_ORDER_SEQUENCE = 45
    DUPLICATE_SEQUENCE = 46
    INVALID_PRODUCER_EPOCH = 47
    INVALID_TXN_STATE = 48
    INVALID_PRODUCER_ID_MAPPING = 49
    CONCURRENT_TRANSACTIONS = 51
    OPERATION_NOT_ATTEMPTED = 55
    KAFKA_STORAGE_ERROR = 56
    UNKNOWN_PRODUCER_ID = 59
    FENCED_INSTANCE_ID = 82
    INVALID_RECORD = 87
    UNSTABLE_OFFSET_COMMIT = 88
    PRODUCER_FENCED = 90


# What each answered error means. Whatever is in none of these sets aborts the
# transaction and may be tried again in the same epoch (`Retriable`).
_COORDINATOR_MOVED = {Code.COORDINATOR_LOADING, Code.COORDINATOR_NOT_AVAILABLE, Code.NOT_COORDINATOR}
_BUSY = {Code.CONCURRENT_TRANSACTIONS}  # the transaction before still writes its markers
_LEADER_MOVED = {
    Code.UNKNOWN_TOPIC_OR_PARTITION,
    Code.LEADER_NOT_AVAILABLE,
    Code.NOT_LEADER,
    Code.REQUEST_TIMED_OUT,
    Code.NOT_ENOUGH_REPLICAS,
    Code.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
    Code.KAFKA_STORAGE_ERROR,
}
_TOO_LARGE = {Code.MESSAGE_TOO_LARGE, Code.RECORD_LIST_TOO_LARGE, Code.INVALID_RECORD}
_GROUP_FENCED = {
    Code.ILLEGAL_GENERATION,
    Code.UNKNOWN_MEMBER_ID,
    Code.REBALANCE_IN_PROGRESS,
    Code.FENCED_INSTANCE_ID,
}
_EPOCH_FENCED = {Code.INVALID_PRODUCER_EPOCH, Code.PRODUCER_FENCED}
_EPOCH_BROKEN = {
    Code.OUT_OF_ORDER_SEQUENCE,
    Code.INVALID_TXN_STATE,
    Code.INVALID_PRODUCER_ID_MAPPING,
    Code.UNKNOWN_PRODUCER_ID,
}
_NOT_ALLOWED = {29: "topic", 30: "group", 31: "cluster", 53: "transactional id"}

_LOST = (KafkaError, asyncio.TimeoutError, OSError)


@dataclass(frozen=True, slots=True)
class Membership:
    """Who commits: captured once per assignment, and never read again later.

    Read at collecting or at sending it would be the next assignment's, and the broker
    would accept what it must refuse.
    """

    group: str
    generation: int
    member_id: str
    instance_id: str | None = None

    def __post_init__(self) -> None:
        """-1 and an empty member id are what the broker accepts from a stranger: never sent."""
        if self.generation < 0 or not self.member_id:
            raise ValueError("not a member of the group")


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A record to write. `partition` None: chosen by the key, as Kafka's own producers do."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    timestamp_ms: int
    partition: int | None = None


@dataclass(frozen=True, slots=True)
class CommittedOffset:
    """What the group has committed for a partition; offset -1 means nothing."""

    offset: int
    metadata: str


@dataclass(frozen=True, slots=True)
class Committed:
    """The transaction is committed."""


@dataclass(frozen=True, slots=True)
class Fenced:
    """Nothing of this flush is or becomes visible; somebody else owns the partitions.

    Attributes:
        by: `group` (generation or member) or `epoch` (the transactional id was initialised elsewhere).
    """

    by: str
    stage: str
    code: int


@dataclass(frozen=True, slots=True)
class Ambiguous:
    """It may be committed or not. `recover()`, `read_back()`, then drop or send again."""

    stage: str
    error: str


@dataclass(frozen=True, slots=True)
class Retriable:
    """Aborted, with an answer; the epoch goes on.

    Attributes:
        culprits: indexes of the records that the broker refused; empty if it refused none in particular.
    """

    stage: str
    code: int
    culprits: tuple[int, ...] = ()


FlushResult = Committed | Fenced | Ambiguous | Retriable
"""How a flush ended: a closed set."""


class GroupConsumer(AIOKafkaConsumer):
    """aiokafka's consumer, which also tells its membership."""

    def membership(self) -> Membership:
        """As of now. Call it in `on_partitions_assigned` only: later it is the next assignment's."""
        coordinator = self._coordinator
        return Membership(
            coordinator.group_id,
            coordinator.generation,
            coordinator.member_id,
            coordinator._group_instance_id,  # noqa: SLF001 - aiokafka offers no accessor
        )

    def rejoin(self) -> None:
        """Join the group again, with a new generation."""
        self._coordinator.request_rejoin()


class KafkaLink:
    """A client of our own, and the requests that are sent until their answer is final.

    Its own, because JoinGroup blocks the consumer's connection to the coordinator for as
    long as a rebalance lasts.
    """

    def __init__(self, client: AIOKafkaClient, group: str, *, transaction_timeout: float) -> None:
        """`transaction_timeout` in seconds: after it the broker aborts an open transaction itself."""
        self.client = client
        self.group = group
        self.transaction_timeout = transaction_timeout
        self._nodes: dict[tuple[int, str], int] = {}

    async def cluster_id(self) -> str:
        """Kafka's id of the cluster."""
        response = await self._any_node(MetadataRequest([]))
        return str(response.cluster_id)

    async def partitions(self, topic: str) -> int:
        """How many partitions a topic has. Raises BrokerUnavailableError where there is no such topic."""
        try:
            known = await self.client._wait_on_metadata(topic)  # noqa: SLF001 - the client's only way to wait for a topic
        except _LOST as error:
            raise BrokerUnavailableError(
                f"topic {topic}: {error or type(error).__name__}; create it (charging-coupon needs it to write to), or correct kafka.topics"
            ) from error
        return len(known)

    async def init_producer(self, transactional_id: str, deadline: float) -> tuple[int, int]:
        """A fresh (producer id, epoch): ends whatever transaction this id had open.

        A lost reply may be asked for again: a late copy only fences ourselves.
        """
        code, response = await self.ask(
            "init",
            (CoordinationType.TRANSACTION, transactional_id),
            InitProducerIdRequest(transactional_id, int(self.transaction_timeout * 1000)),
            lambda answer: answer.error_code,
            deadline,
            repeat_lost=True,
        )
        if code:
            raise _Ended(_judge("init", code))
        return response.producer_id, response.producer_epoch

    async def fence(
        self, ids: Iterable[str], deadline: float, *, at_once: int = 8
    ) -> dict[str, tuple[int, int]]:
        """End the open transactions of these ids, and get (producer id, epoch) for each.

        Raises BrokerUnavailableError, RefusedError.
        """
        limit = asyncio.Semaphore(at_once)

        async def one(transactional_id: str) -> tuple[str, tuple[int, int]]:
            async with limit:
                return transactional_id, await self.init_producer(transactional_id, deadline)

        with _ended_as_exceptions():
            return dict(await _all(one(transactional_id) for transactional_id in ids))

    async def read_offsets(
        self, partitions: Iterable[TopicPartition], deadline: float
    ) -> dict[TopicPartition, CommittedOffset]:
        """What the group has committed, waiting while a transaction on it is pending (`require_stable`)."""
        by_topic: dict[str, list[int]] = defaultdict(list)
        for tp in partitions:
            by_topic[tp.topic].append(tp.partition)
        request = _OffsetFetchRequest(self.group, [(t, ps, {}) for t, ps in by_topic.items()], True, {})
        with _ended_as_exceptions():
            code, response = await self.ask(
                "read", (CoordinationType.GROUP, self.group), request, _fetch_code, deadline, repeat_lost=True
            )
            if code:
                raise _Ended(_judge("read", code))
        return {
            TopicPartition(topic, number): CommittedOffset(offset, metadata or "")
            for topic, numbers, _ in response.topics
            for number, offset, _, metadata, *_ in numbers
        }

    async def confirms(self, member: Membership, deadline: float) -> bool:
        """True if the group still knows this member in this generation."""
        with _ended_as_exceptions():
            code, _ = await self.ask(
                "confirm",
                (CoordinationType.GROUP, member.group),
                HeartbeatRequest(member.group, member.generation, member.member_id),
                lambda answer: answer.error_code,
                deadline,
                repeat_lost=True,
            )
        return code in {Code.NONE, Code.REBALANCE_IN_PROGRESS}

    async def ask(
        self,
        stage: str,
        coordinator: tuple[int, str],
        request: Any,
        code_of: Callable[[Any], int],
        deadline: float,
        *,
        repeat_lost: bool = False,
    ) -> tuple[int, Any]:
        """Send until the answer is final: (code, response). No answer ends as Ambiguous, unless `repeat_lost`."""
        now = asyncio.get_running_loop().time
        wait = 0.001  # the broker's markers take about 3 ms
        while True:
            node = await self._coordinator(stage, coordinator, deadline)
            try:
                response = await self.client.send(node, request, group=ConnectionGroup.COORDINATION)
                code = code_of(response)
            except NodeNotReadyError:  # no connection: nothing was sent
                response, code = None, int(Code.COORDINATOR_NOT_AVAILABLE)
            except _LOST as error:
                if not repeat_lost:
                    raise _Ended(Ambiguous(stage, _words(error))) from error
                response, code = None, int(Code.COORDINATOR_NOT_AVAILABLE)
            unstable = code == Code.UNSTABLE_OFFSET_COMMIT and repeat_lost
            if code not in _COORDINATOR_MOVED and code not in _BUSY and not unstable:
                return code, response
            if now() > deadline:
                raise _Ended(Ambiguous(stage, f"error {code} until the deadline"))
            if code in _COORDINATOR_MOVED:
                self._nodes.pop(coordinator, None)
                await asyncio.sleep(max(wait, 0.05))
            else:
                await asyncio.sleep(wait)
            wait = min(wait * 1.5, 0.02)

    async def _coordinator(self, stage: str, coordinator: tuple[int, str], deadline: float) -> int:
        while coordinator not in self._nodes:  # changes nothing at the broker: may be repeated at will
            kind, key = coordinator
            try:
                self._nodes[coordinator] = await self.client.coordinator_lookup(kind, key)
            except _LOST as error:
                if not getattr(error, "retriable", True):
                    raise _Ended(_judge(stage, getattr(error, "errno", -1))) from error
                if asyncio.get_running_loop().time() > deadline:
                    raise _Ended(Ambiguous(stage, _words(error))) from error
                await asyncio.sleep(0.05)
                await self.client.force_metadata_update()
        return self._nodes[coordinator]

    async def _any_node(self, request: Any) -> Any:
        node = self.client.get_random_node()
        try:
            return await self.client.send(node, request)
        except _LOST as error:
            raise BrokerUnavailableError(
                f"no answer from Kafka: {_words(error)}; check kafka.bootstrap_servers"
            ) from error


def transactional_ids(group: str, topic: str, partition: int) -> tuple[str, str]:
    """The two ids that a partition stands for. A member uses those of its lowest partition."""
    return f"{group}/{topic}/{partition}/a", f"{group}/{topic}/{partition}/b"


class TransactionWriter:
    """Writes one assignment's transactions, one after the other.

    Attributes:
        live: false after a flush that did not end well, until `recover()`.
        repeats: answered errors sent again, by (stage, code); for the curious.
    """

    def __init__(
        self,
        link: KafkaLink,
        member: Membership,
        producers: Mapping[str, tuple[int, int]],
        partitions: Mapping[str, int],
        *,
        compression: str | None = None,
        batch_bytes: int = 900_000,
    ) -> None:
        """Begin under the first of `producers`: the two ids in turn, as `KafkaLink.fence` initialised them.

        `partitions` holds the partition count of each topic that is written to.
        """
        self.member = member
        self.live = True
        self.repeats: dict[tuple[str, int], int] = defaultdict(int)
        self._link = link
        self._id, self._other_id = list(producers)[:2]
        self._producer_id, self._epoch = producers[self._id]
        self._partitions = partitions
        self._compression = _COMPRESSION[compression or "none"]
        self._batch_bytes = batch_bytes
        self._sequence: dict[TopicPartition, int] = {}
        self._offsets_lost = False
        self._losses = 0
        self._deadline = 0.0

    async def flush(
        self, offsets: Mapping[TopicPartition, CommittedOffset], records: Sequence[Outgoing]
    ) -> FlushResult:
        """Offsets and records in one transaction.

        Offsets go first: a zombie is refused before it has written anything that could
        hold back the readers of the outcome topic.
        """
        if not self.live:
            raise RuntimeError("recover() first")
        self.live = False  # unless it ends well: cancellation included
        self._deadline = asyncio.get_running_loop().time() + self._link.transaction_timeout
        result: FlushResult
        try:
            await self._add_offsets()
            await self._commit_offsets(offsets)
            if records:
                batches = self._batches(records, range(len(records)))
                await self._add_partitions(batches)
                await self._produce(batches, records)
            result = await self._end(commit=True)
        except _Ended as ended:
            result = ended.result
            if isinstance(result, Retriable | Fenced):  # every request was answered: an abort is allowed
                result = await self._abort(result)
        self.live = isinstance(result, Committed | Retriable)
        return result

    async def recover(self, deadline: float) -> bool:
        """After an ambiguous end, end it and start a new epoch; then the caller reads back what is committed.

        False: give the assignment up and rejoin. Either the group no longer knows this
        member, and initialising would fence the new owner; or a second TxnOffsetCommit was
        lost while the first one's late copy may live (a new generation refuses both).
        Raises BrokerUnavailableError where the deadline passes without an answer.
        """
        if not await self._link.confirms(self.member, deadline):
            return False
        with _ended_as_exceptions():
            started = await self._link.init_producer(self._id, deadline)
            if self._offsets_lost:
                self._losses += 1
                self._id, self._other_id = self._other_id, self._id
                started = await self._link.init_producer(self._id, deadline)
        self._producer_id, self._epoch = started
        self._sequence = {}
        self._offsets_lost = False
        self.live = self._losses < 2
        return self.live

    # One transaction, in the order of its requests.

    async def _add_offsets(self) -> None:
        request = AddOffsetsToTxnRequest(self._id, self._producer_id, self._epoch, self._link.group)
        await self._step("add_offsets", request, lambda answer: answer.error_code)

    async def _commit_offsets(self, offsets: Mapping[TopicPartition, CommittedOffset]) -> None:
        by_topic: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
        for tp, committed in offsets.items():
            by_topic[tp.topic].append((tp.partition, committed.offset, -1, committed.metadata, {}))
        request = _TxnOffsetCommitRequest(
            self._id,
            self._link.group,
            self._producer_id,
            self._epoch,
            self.member.generation,
            self.member.member_id,
            self.member.instance_id,
            [(topic, rows, {}) for topic, rows in by_topic.items()],
            {},
        )
        self._offsets_lost = True  # until there is an answer; cancellation included
        try:
            await self._step("commit_offsets", request, _offset_commit_code, CoordinationType.GROUP)
        except _Ended as ended:
            self._offsets_lost = isinstance(ended.result, Ambiguous)
            raise
        self._offsets_lost = False

    async def _add_partitions(self, batches: Mapping[TopicPartition, object]) -> None:
        by_topic: dict[str, list[int]] = defaultdict(list)
        for tp in batches:
            by_topic[tp.topic].append(tp.partition)
        request = AddPartitionsToTxnRequest(self._id, self._producer_id, self._epoch, list(by_topic.items()))
        await self._step("add_partitions", request, _add_partitions_code)

    async def _produce(
        self, queues: dict[TopicPartition, "deque[_Batch]"], records: Sequence[Outgoing]
    ) -> None:
        """Send each partition's batches in order, one under way per partition, leaders at the same time.

        A batch is never built anew once it was sent: only the same bytes are deduplicated.
        One that is refused for its size has used no sequence, so its halves start where it would have.
        """
        culprits: list[int] = []
        refused = int(Code.NONE)
        wait = 0.005
        while queues:
            answers = await self._send_heads(queues)
            moved = len(answers) < len(queues)
            for batch, code in answers:
                queue = queues[batch.tp]
                if code in {Code.NONE, Code.DUPLICATE_SEQUENCE}:  # 46: it has it, and has forgotten where
                    self._sequence[batch.tp] = (self._sequence.get(batch.tp, 0) + len(batch.indexes)) % 2**31
                    queue.popleft()
                elif code in _LEADER_MOVED:
                    moved = True
                    self.repeats["produce", code] += 1
                elif code in _TOO_LARGE:
                    refused = code
                    culprits += self._halve(queue, records)
                else:
                    raise _Ended(_judge("produce", code, tuple(batch.indexes)))
                if not queue:
                    del queues[batch.tp]
            if moved:
                if asyncio.get_running_loop().time() > self._deadline:
                    raise _Ended(Ambiguous("produce", "no leader until the deadline"))
                await asyncio.sleep(wait)
                wait = min(wait * 2, 0.1)
                await self._link.client.force_metadata_update()
        if culprits:
            raise _Ended(Retriable("produce", refused, tuple(culprits)))

    async def _send_heads(self, queues: "dict[TopicPartition, deque[_Batch]]") -> "list[tuple[_Batch, int]]":
        """Each partition's first batch to its leader: (batch, error code); none where no leader is known."""
        leaders: dict[int, list[_Batch]] = defaultdict(list)
        for tp, queue in queues.items():
            leader = self._link.client.cluster.leader_for_partition(tp)
            if leader is not None and leader >= 0:
                leaders[leader].append(queue[0])
        answers = await _all(self._send_batches(node, batches) for node, batches in leaders.items())
        return [answer for of_node in answers for answer in of_node]

    def _halve(self, queue: "deque[_Batch]", records: Sequence[Outgoing]) -> list[int]:
        """Two smaller batches in the place of the first; or, if that is one record, its index: the culprit."""
        batch = queue.popleft()
        self.repeats["halve", Code.MESSAGE_TOO_LARGE] += 1
        if len(batch.indexes) == 1:
            queue.clear()  # this transaction is going to be aborted
            return batch.indexes
        half = len(batch.indexes) // 2
        for indexes in (batch.indexes[half:], batch.indexes[:half]):
            queue.extendleft(reversed(self._batches(records, indexes, batch.tp)[batch.tp]))
        return []

    async def _send_batches(self, node: int, batches: "Sequence[_Batch]") -> "list[tuple[_Batch, int]]":
        by_topic: dict[str, list[tuple[int, bytes]]] = defaultdict(list)
        for batch in batches:
            if batch.data is None:
                sequence = self._sequence.get(batch.tp, 0)
                batch.builder.set_producer_state(self._producer_id, self._epoch, sequence)
                batch.data = bytes(batch.builder.build())
            by_topic[batch.tp.topic].append((batch.tp.partition, batch.data))
        timeout_ms = int(self._link.transaction_timeout * 1000)
        request = ProduceRequest(self._id, -1, timeout_ms, list(by_topic.items()))
        try:
            response: Any = await self._link.client.send(node, request)
        except NodeNotReadyError:  # no connection: nothing was sent
            return [(batch, int(Code.LEADER_NOT_AVAILABLE)) for batch in batches]
        except _LOST as error:
            raise _Ended(Ambiguous("produce", _words(error))) from error
        codes = {(topic, row[0]): row[1] for topic, rows in response.topics for row in rows}
        return [(batch, codes[batch.tp.topic, batch.tp.partition]) for batch in batches]

    async def _end(self, *, commit: bool) -> FlushResult:
        request = EndTxnRequest(self._id, self._producer_id, self._epoch, commit)
        coordinator = (CoordinationType.TRANSACTION, self._id)
        code, _ = await self._link.ask("end", coordinator, request, lambda a: a.error_code, self._deadline)
        if code:  # fenced too: the first answer may have been lost at the broker's side
            return Ambiguous("end", f"error {code}")
        return Committed()

    async def _abort(self, result: Retriable | Fenced) -> FlushResult:
        """Abort, so that the epoch can go on. A fenced writer aborts only to free the readers early."""
        try:
            aborted = isinstance(await self._end(commit=False), Committed)
        except _Ended:
            aborted = False
        if aborted or isinstance(result, Fenced):
            return result
        return Ambiguous("abort", f"after error {result.code} at {result.stage}")

    async def _step(
        self,
        stage: str,
        request: Any,
        code_of: Callable[[Any], int],
        kind: int = CoordinationType.TRANSACTION,
    ) -> None:
        key = self._id if kind == CoordinationType.TRANSACTION else self._link.group
        code, _ = await self._link.ask(stage, (kind, key), request, code_of, self._deadline)
        if code:
            raise _Ended(_judge(stage, code))

    def _batches(
        self, records: Sequence[Outgoing], indexes: Iterable[int], only: TopicPartition | None = None
    ) -> "dict[TopicPartition, deque[_Batch]]":
        queues: dict[TopicPartition, deque[_Batch]] = {}
        for index in indexes:
            record = records[index]
            tp = only or TopicPartition(record.topic, self._partition_of(record, index))
            queue = queues.setdefault(tp, deque())
            if not queue or not queue[-1].append(index, record):
                queue.append(self._new_batch(tp))
                queue[-1].append(index, record)
        return queues

    def _partition_of(self, record: Outgoing, index: int) -> int:
        if record.partition is not None:
            return record.partition
        count = self._partitions[record.topic]
        if record.key is None:
            return index % count
        return int(murmur2(record.key) & 0x7FFFFFFF) % count

    def _new_batch(self, tp: TopicPartition) -> "_Batch":
        builder = DefaultRecordBatchBuilder(
            magic=2,
            compression_type=self._compression,
            is_transactional=1,
            producer_id=self._producer_id,
            producer_epoch=self._epoch,
            base_sequence=0,
            batch_size=self._batch_bytes,
        )
        return _Batch(tp, builder)


_COMPRESSION = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}


@dataclass
class _Batch:
    """Records of one partition on their way, and their places in the flush."""

    tp: TopicPartition
    builder: Any
    indexes: list[int] = field(default_factory=list)
    data: bytes | None = None

    def append(self, index: int, record: Outgoing) -> bool:
        """False if it is full."""
        headers = list(record.headers)
        place = len(self.indexes)
        if self.builder.append(place, record.timestamp_ms, record.key, record.value, headers) is None:
            return False
        self.indexes.append(index)
        return True


class _Ended(Exception):  # noqa: N818 - not an error: how a transaction ended, on its way up
    def __init__(self, result: FlushResult) -> None:
        super().__init__(result)
        self.result = result


@contextmanager
def _ended_as_exceptions() -> Iterator[None]:
    try:
        yield
    except _Ended as ended:
        result = ended.result
        code = getattr(result, "code", None)
        if code in _NOT_ALLOWED:
            raise RefusedError(
                f"Kafka does not allow {result.stage} ({_NOT_ALLOWED[code]}); grant it to this client"  # type: ignore[union-attr]  # Committed never ends early
            ) from ended
        raise BrokerUnavailableError(f"Kafka: {result}; will try again") from ended


def _judge(stage: str, code: int, culprits: tuple[int, ...] = ()) -> FlushResult:
    """What an answered error ends a transaction as."""
    if code in _GROUP_FENCED and stage == "commit_offsets":
        return Fenced("group", stage, code)
    if code in _EPOCH_FENCED:
        return Fenced("epoch", stage, code)
    if code in _EPOCH_BROKEN:
        return Ambiguous(stage, f"error {code}")
    return Retriable(stage, code, culprits)


def _words(error: BaseException) -> str:
    return f"{type(error).__name__} {error}".strip()


async def _all(awaitables: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All results; the first failure cancels the rest."""
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


# KIP-447: the versions that carry the group's generation and read stable offsets. aiokafka has older ones.

_TEXT = CompactString("utf-8")


class _TxnOffsetCommitResponse(Response):
    API_KEY = 28
    API_VERSION = 3
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "errors",
            CompactArray(
                ("topic", _TEXT),
                (
                    "partitions",
                    CompactArray(("partition", Int32), ("error_code", Int16), ("tags", TaggedFields)),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _TxnOffsetCommitRequestV3(RequestStruct):
    API_KEY = 28
    API_VERSION = 3
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _TxnOffsetCommitResponse
    SCHEMA = Schema(
        ("transactional_id", _TEXT),
        ("group_id", _TEXT),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
        ("generation_id", Int32),
        ("member_id", _TEXT),
        ("group_instance_id", _TEXT),
        (
            "topics",
            CompactArray(
                ("topic", _TEXT),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("offset", Int64),
                        ("leader_epoch", Int32),
                        ("metadata", _TEXT),
                        ("tags", TaggedFields),
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _TxnOffsetCommitRequest(Request[_TxnOffsetCommitRequestV3]):
    API_KEY = 28

    def __init__(self, *fields: Any) -> None:
        self._fields = fields

    def build(self, request_struct_class: type[_TxnOffsetCommitRequestV3]) -> _TxnOffsetCommitRequestV3:
        return request_struct_class(*self._fields)


class _OffsetFetchResponse(Response):
    API_KEY = 9
    API_VERSION = 7
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            CompactArray(
                ("topic", _TEXT),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("offset", Int64),
                        ("leader_epoch", Int32),
                        ("metadata", _TEXT),
                        ("error_code", Int16),
                        ("tags", TaggedFields),
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("error_code", Int16),
        ("tags", TaggedFields),
    )


class _OffsetFetchRequestV7(RequestStruct):
    API_KEY = 9
    API_VERSION = 7
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _OffsetFetchResponse
    SCHEMA = Schema(
        ("group", _TEXT),
        (
            "topics",
            CompactArray(("topic", _TEXT), ("partitions", CompactArray(Int32)), ("tags", TaggedFields)),
        ),
        ("require_stable", Boolean),
        ("tags", TaggedFields),
    )


class _OffsetFetchRequest(Request[_OffsetFetchRequestV7]):
    API_KEY = 9

    def __init__(self, *fields: Any) -> None:
        self._fields = fields

    def build(self, request_struct_class: type[_OffsetFetchRequestV7]) -> _OffsetFetchRequestV7:
        return request_struct_class(*self._fields)


def _fetch_code(answer: Any) -> int:
    return answer.error_code or _first(code for _, rows, _ in answer.topics for *_, code, _ in rows)


def _offset_commit_code(answer: Any) -> int:
    return _first(code for _, rows, _ in answer.errors for _, code, _ in rows)


def _add_partitions_code(answer: Any) -> int:
    codes = [code for _, rows in answer.errors for _, code in rows]
    return _first(
        code for code in codes if code != Code.OPERATION_NOT_ATTEMPTED
    )  # 55 stands beside the cause


def _first(codes: Iterable[int]) -> int:
    return next((code for code in codes if code), int(Code.NONE))
