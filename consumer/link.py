"""Kafka as the rooms see it: values, error codes, and requests sent until their answer is final. Does I/O.

This room, `publishing` and `transactions` are the only ones that touch aiokafka's internals.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, IntEnum
from functools import partial
from io import BytesIO
from typing import Any, TypeVar

import aiokafka.client
import aiokafka.consumer.fetcher
from aiokafka import AIOKafkaConsumer
from aiokafka import TopicPartition as TopicPartition  # noqa: PLC0414  # the rooms above take it from here
from aiokafka.client import AIOKafkaClient, ConnectionGroup, CoordinationType
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberMetadata
from aiokafka.errors import (
    IncompatibleBrokerVersion,
    KafkaError,
    LeaderNotAvailableError,
    NodeNotReadyError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    for_code,
)
from aiokafka.protocol.abstract import AbstractType
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.protocol.group import HeartbeatRequest
from aiokafka.protocol.metadata import MetadataRequest, MetadataRequestStruct
from aiokafka.protocol.types import (
    Array,
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    String,
    TaggedFields,
)

from consumer.core.errors import BrokerUnavailableError, RefusedError
from consumer.core.values import Frozen
from consumer.decoding import NO_EPOCH, AsDecoded, Damage, Doubt, Records, partition_records

T = TypeVar("T")

# A broker that creates topics by itself would make an empty one of whatever is asked for; aiokafka has no switch.
aiokafka.client.MetadataRequest = partial(MetadataRequest, allow_auto_topic_creation=False)
aiokafka.consumer.fetcher.MemoryRecords = Records
aiokafka.consumer.fetcher.PartitionRecords = partition_records


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
    TOPIC_NOT_ALLOWED = 29
    GROUP_NOT_ALLOWED = 30
    CLUSTER_NOT_ALLOWED = 31
    OUT_OF_ORDER_SEQUENCE = 45
    DUPLICATE_SEQUENCE = 46
    INVALID_PRODUCER_EPOCH = 47
    INVALID_TXN_STATE = 48
    INVALID_PRODUCER_ID_MAPPING = 49
    INVALID_TRANSACTION_TIMEOUT = 50
    CONCURRENT_TRANSACTIONS = 51
    TRANSACTIONAL_ID_NOT_ALLOWED = 53
    OPERATION_NOT_ATTEMPTED = 55
    KAFKA_STORAGE_ERROR = 56
    UNKNOWN_PRODUCER_ID = 59
    FENCED_INSTANCE_ID = 82
    INVALID_RECORD = 87
    UNSTABLE_OFFSET_COMMIT = 88
    PRODUCER_FENCED = 90


class Kind(Enum):
    """What follows an answered error. Whatever `ERRORS` does not name is abortable.

    No answer at all is ambiguous, whatever was asked: the writer is dead until it has read back.
    """

    COORDINATOR_MOVED = "retriable: the same request to the coordinator that is found now"
    BUSY = "retriable: the same request in a moment"
    LEADER_MOVED = "retriable: the same batch to the leader that is found now; elsewhere abortable"
    TOO_LARGE = "abortable: the batch in halves; a record that is refused alone is the culprit"
    GROUP_FENCED = "fenced: somebody else owns the partitions; aborted, and dropped with the assignment"
    EPOCH_FENCED = (
        "fenced: likewise; but at the end of a transaction ambiguous, since the first answer may be lost"
    )
    EPOCH_BROKEN = "ambiguous: nothing more is said in this epoch; a new one, read back, the rest again"
    NOT_ALLOWED = "fatal at start; abortable later, since rights can come back"


ERRORS: Mapping[Code, tuple[Kind, str]] = {
    Code.COORDINATOR_LOADING: (Kind.COORDINATOR_MOVED, "it reads its log before it applies anything"),
    Code.COORDINATOR_NOT_AVAILABLE: (
        Kind.COORDINATOR_MOVED,
        "applied or not, each request's repeat does the same",
    ),
    Code.NOT_COORDINATOR: (Kind.COORDINATOR_MOVED, "it applied nothing"),
    Code.CONCURRENT_TRANSACTIONS: (Kind.BUSY, "the transaction before still writes its markers"),
    Code.UNKNOWN_TOPIC_OR_PARTITION: (Kind.LEADER_MOVED, "metadata is old, or the topic was made anew"),
    Code.LEADER_NOT_AVAILABLE: (Kind.LEADER_MOVED, "an election is under way"),
    Code.NOT_LEADER: (Kind.LEADER_MOVED, "metadata is old"),
    Code.REQUEST_TIMED_OUT: (
        Kind.LEADER_MOVED,
        "too few replicas answered in time; the repeat is deduplicated",
    ),
    Code.NOT_ENOUGH_REPLICAS: (Kind.LEADER_MOVED, "nothing was written"),
    Code.NOT_ENOUGH_REPLICAS_AFTER_APPEND: (Kind.LEADER_MOVED, "it was written; the repeat is deduplicated"),
    Code.KAFKA_STORAGE_ERROR: (Kind.LEADER_MOVED, "a disk failed; another replica will lead"),
    Code.MESSAGE_TOO_LARGE: (Kind.TOO_LARGE, "nothing was written, no sequence is used"),
    Code.RECORD_LIST_TOO_LARGE: (Kind.TOO_LARGE, "likewise"),
    Code.INVALID_RECORD: (Kind.TOO_LARGE, "likewise: one record of the batch is refused"),
    Code.ILLEGAL_GENERATION: (Kind.GROUP_FENCED, "the group has gone on without us"),
    Code.UNKNOWN_MEMBER_ID: (Kind.GROUP_FENCED, "the group has thrown us out"),
    Code.REBALANCE_IN_PROGRESS: (Kind.GROUP_FENCED, "the group waits for us to join"),
    Code.FENCED_INSTANCE_ID: (Kind.GROUP_FENCED, "another process has our static name"),
    Code.INVALID_PRODUCER_EPOCH: (Kind.EPOCH_FENCED, "another owner has initialised our id"),
    Code.PRODUCER_FENCED: (Kind.EPOCH_FENCED, "likewise, in newer words"),
    Code.OUT_OF_ORDER_SEQUENCE: (Kind.EPOCH_BROKEN, "an earlier batch is missing"),
    Code.INVALID_TXN_STATE: (Kind.EPOCH_BROKEN, "the transaction ended without us: it timed out"),
    Code.INVALID_PRODUCER_ID_MAPPING: (Kind.EPOCH_BROKEN, "the id expired on the broker: a quiet night"),
    Code.UNKNOWN_PRODUCER_ID: (Kind.EPOCH_BROKEN, "likewise, at a partition's leader"),
    Code.TOPIC_NOT_ALLOWED: (Kind.NOT_ALLOWED, "topic"),
    Code.GROUP_NOT_ALLOWED: (Kind.NOT_ALLOWED, "group"),
    Code.CLUSTER_NOT_ALLOWED: (Kind.NOT_ALLOWED, "cluster"),
    Code.TRANSACTIONAL_ID_NOT_ALLOWED: (Kind.NOT_ALLOWED, "transactional id"),
}
"""Each error that is not simply abortable, and why; of a right, what it is for."""


def _of(kind: Kind) -> frozenset[int]:
    return frozenset(int(code) for code, (meaning, _) in ERRORS.items() if meaning is kind)


COORDINATOR_MOVED, BUSY, LEADER_MOVED = _of(Kind.COORDINATOR_MOVED), _of(Kind.BUSY), _of(Kind.LEADER_MOVED)
TOO_LARGE, EPOCH_BROKEN = _of(Kind.TOO_LARGE), _of(Kind.EPOCH_BROKEN)
GROUP_FENCED, EPOCH_FENCED = _of(Kind.GROUP_FENCED), _of(Kind.EPOCH_FENCED)
NOT_ALLOWED = {int(code): what for code, (kind, what) in ERRORS.items() if kind is Kind.NOT_ALLOWED}

_MISSING = {3: "it does not exist", 29: "not allowed to this client (ACL: DESCRIBE)"}

LOST = (KafkaError, asyncio.TimeoutError, OSError)


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


class Outgoing(Frozen):
    """A record to write. `partition` None: chosen by the key, as Kafka's own producers do."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    timestamp_ms: int
    partition: int | None = None


class CommittedOffset(Frozen):
    """What the group has committed for a partition; offset -1 means nothing.

    Attributes:
        epoch: the leader that wrote what was read last before it was committed, as far as that is known.
    """

    offset: int
    metadata: str
    epoch: int = NO_EPOCH


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
    """It may be committed or not: `recover`, read back, then drop it or send it again.

    Attributes:
        fenced: the transactional id was initialised elsewhere meanwhile.
    """

    stage: str
    error: str
    fenced: bool = False


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


class _Assignor(RoundRobinPartitionAssignor):
    """Makes one request to join differ from the last, where a new generation is wanted.

    A follower whose request says nothing new is told the generation that there is, by any broker.
    """

    def __init__(self) -> None:
        self.wishes = 0

    def metadata(self, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
        """What the group's leader learns of us; it does not look at the last part."""
        return ConsumerProtocolMemberMetadata(self.version, list(topics), b"%d" % self.wishes)


_UNSOUGHT_SECONDS = 0.1


class GroupConsumer(AIOKafkaConsumer):
    """aiokafka's consumer, which also tells its membership. Its records name no topic and no partition.

    Its fetcher awaits tasks that it has just cancelled, and takes the CancelledError of one that had not
    begun for its own: it ends without a word, or the consumer does not get any further in closing.
    """

    def __init__(self, *topics: str, **options: Any) -> None:
        self._assignor = _Assignor()
        self._decoded = AsDecoded()
        super().__init__(
            *topics,
            partition_assignment_strategy=(self._assignor,),
            key_deserializer=self._decoded,
            **options,
        )

    @property
    def damaged(self) -> Mapping[TopicPartition, Damage]:
        """Partitions of which nothing comes, since a batch cannot be decoded; where each stood when it was fetched last."""
        return self._decoded.damaged

    @property
    def doubtful(self) -> Mapping[TopicPartition, Doubt]:
        """Partitions that should not be read on until it is known whether they have the log that was read; see `epoch_ends`."""
        return self._decoded.doubtful

    def trust(self, partition: TopicPartition) -> None:
        """It has: what follows belongs to it."""
        doubt = self._decoded.doubtful[partition]
        self._decoded.heed(partition, doubt.epoch if doubt.next_epoch is None else doubt.next_epoch)

    def epoch(self, partition: TopicPartition) -> int:
        """The leader that wrote what was read last."""
        return self._decoded.epoch(partition)

    def seek(self, partition: TopicPartition, offset: int, epoch: int | None = None) -> None:
        """Go on at `offset`, behind what the leader `epoch` wrote; None: within what was read."""
        super().seek(partition, offset)
        self._decoded.heed(partition, self._decoded.epoch(partition) if epoch is None else epoch)

    async def epoch_ends(
        self, epochs: Mapping[TopicPartition, int]
    ) -> Mapping[TopicPartition, tuple[int, int]]:
        """Of each the last leader up to that one, in the log as it is now, and where what it wrote ends there.

        Those are left out of which that is not told: a Kafka before 2.3 does not. Raises KafkaError.
        """
        asked: dict[int, dict[str, list[tuple[int, int, int]]]] = defaultdict(lambda: defaultdict(list))
        for (topic, partition), epoch in epochs.items():
            node = self._client.cluster.leader_for_partition(TopicPartition(topic, partition))
            if node in {None, -1}:
                await self.look_again()
                raise LeaderNotAvailableError(f"{topic}-{partition}")
            asked[node][topic].append((partition, NO_EPOCH, epoch))
        found: dict[TopicPartition, tuple[int, int]] = {}
        for node, topics in asked.items():
            try:
                response = await self._client.send(node, _EpochEndsRequest(list(topics.items())))
            except IncompatibleBrokerVersion:
                continue
            for topic, rows in response.topics:
                for code, partition, epoch, end in rows:
                    if code in LEADER_MOVED:
                        await self.look_again()
                        raise for_code(code)(f"{topic}-{partition}")
                    if not code and end >= 0:
                        found[TopicPartition(topic, partition)] = (epoch, end)
        return found

    async def getmany(
        self, *partitions: TopicPartition, **options: Any
    ) -> Mapping[TopicPartition, Sequence[Any]]:
        """Of one partition after the other, in turn: aiokafka gives all that it fetched of one before it goes on to the next.

        Raises BrokerUnavailableError where nothing would come any more.
        """
        if self._fetcher._fetch_task.done():  # noqa: SLF001  # aiokafka offers no accessor
            raise BrokerUnavailableError("the consumer's fetcher has ended: a new consumer is needed")
        found: Mapping[TopicPartition, Sequence[Any]] = {}
        try:
            found = await super().getmany(*partitions, **options)
        except OffsetOutOfRangeError as error:
            for partition, offset in error.args[0].items():
                if self.next_offset(partition) == offset:  # not sought since
                    self._decoded.doubtful[partition] = Doubt(offset, self._decoded.epoch(partition), None)
        except NoOffsetForPartitionError:  # as long as nobody has sought it
            await asyncio.sleep(_UNSOUGHT_SECONDS)
        fetched = self._fetcher._records  # noqa: SLF001  # likewise
        for partition in found:
            if partition in fetched:
                fetched.move_to_end(partition)
        return found

    async def stop(self) -> None:
        """Leaves the group and closes all connections, whatever goes wrong on the way."""
        try:
            await super().stop()
        finally:
            await self._client.close()

    def membership(self) -> Membership:
        """As of now. Call it in `on_partitions_assigned` only: later it is the next assignment's."""
        coordinator = self._coordinator
        return Membership(
            coordinator.group_id,
            coordinator.generation,
            coordinator.member_id,
            coordinator._group_instance_id,  # noqa: SLF001  # aiokafka offers no accessor
        )

    def next_offset(self, partition: TopicPartition) -> int | None:
        """Where the next poll reads on, past transaction markers and gaps; None while that is not known."""
        subscription = self._subscription.subscription
        assignment = subscription.assignment if subscription is not None else None
        state = assignment.state_value(partition) if assignment is not None else None
        return state.position if state is not None and state.has_valid_position else None

    async def has_lost_all(self, seconds: float) -> bool:
        """None of the brokers that it knows has told it anything for so long, nor does any now."""
        return await _has_lost_all(self._client, seconds)

    async def look_again(self) -> None:
        """Ask for the topics' partitions now: a new one changes the assignment."""
        await self._client.force_metadata_update()

    def rejoin(self) -> None:
        """Join the group again, with a new generation: what the last one sent, and is still under way, is refused."""
        self._assignor.wishes += 1
        self._coordinator.request_rejoin()


class KafkaLink:
    """A client of our own, and the requests that are sent until their answer is final.

    Its own, because JoinGroup blocks the consumer's connection to the coordinator for as
    long as a rebalance lasts.

    Attributes:
        known_ids: Kafka's ids of topics, as told last.
        known_cluster: Kafka's id of the cluster, likewise; None where it tells none.
    """

    _FETCHED = slice(2, 4)  # metadata and error code in a row of the OffsetFetch that `_offset_fetch` makes
    _TELLS_EPOCH = False  # before them

    def __init__(self, client: AIOKafkaClient, group: str, *, transaction_timeout: float) -> None:
        """`transaction_timeout`: seconds for one flush; after it a broker aborts an open transaction itself."""
        self.client = client
        self.group = group
        self.transaction_timeout = transaction_timeout
        self.known_ids: dict[str, str] = {}
        self.known_cluster: str | None = None
        self._nodes: dict[tuple[int, str], int] = {}
        self._counts: dict[str, int] = {}

    async def cluster_id(self) -> str:
        """Kafka's id of the cluster."""
        response = await self._any_node(MetadataRequest([]))
        return str(response.cluster_id)

    async def missing(
        self, topics: Iterable[str], rights: Mapping[str, Sequence[str]] | None = None
    ) -> dict[str, str]:
        """The topics that are not there for us, each with why. Creates nothing. Raises BrokerUnavailableError.

        `rights`: READ and WRITE, by topic; a Kafka before 2.3 does not tell which of them we have.
        """
        response = await self._any_node(_TopicsRequest(list(topics)))
        self.known_cluster = getattr(response, "cluster_id", None)
        missing: dict[str, str] = {}
        for code, topic, topic_id, partitions, allowed in _described(response):
            if partitions:
                self._counts[topic] = len(partitions)
            if topic_id is not None:
                self.known_ids[topic] = topic_id
            lacking = _lacking((rights or {}).get(topic, ()), allowed)
            # 5: it is there, its leader is being elected
            if code not in {Code.NONE, Code.LEADER_NOT_AVAILABLE}:
                missing[topic] = _MISSING.get(code, named(code))
            elif lacking:
                missing[topic] = f"not allowed to this client (ACL: {', '.join(lacking)})"
        return missing

    async def topic_ids(self, topics: Iterable[str]) -> Mapping[str, str]:
        """Kafka's ids of these topics, as far as it tells them: it does since 2.8. Raises BrokerUnavailableError."""
        await self.missing(topics)
        return dict(self.known_ids)

    async def has_lost_all(self, seconds: float) -> bool:
        """None of the brokers that it knows has told it anything for so long, nor does any now."""
        return await _has_lost_all(self.client, seconds)

    async def follow(self, topics: Iterable[str]) -> None:
        """Keep the partitions and leaders of these topics known, and of no others."""
        await self.client.set_topics(list(topics))

    async def look_again(self) -> None:
        """Ask for partitions and leaders now: an answer said that they are others."""
        await self.client.force_metadata_update()

    def partition_count(self, topic: str) -> int:
        """Partitions as of the last metadata: a topic may have grown, or been deleted and made anew."""
        known = self.client.cluster.partitions_for_topic(topic)
        if known:
            self._counts[topic] = len(known)
        return self._counts[topic]

    async def find_group(self, deadline: float) -> None:
        """Raises RefusedError where the group is not ours to see, BrokerUnavailableError where nobody answers."""
        with ended_as_exceptions():
            await self._coordinator("group", (CoordinationType.GROUP, self.group), deadline)

    async def fence(self, ids: Iterable[str], deadline: float) -> dict[str, tuple[int, int]]:  # noqa: ARG002  # for those that have transactions
        """Nobody can have left a transaction open here: Kafka's "no producer" for each id."""
        return dict.fromkeys(ids, (-1, -1))

    async def read_offsets(
        self, partitions: Iterable[TopicPartition], deadline: float
    ) -> dict[TopicPartition, CommittedOffset]:
        """What the group has committed. Raises BrokerUnavailableError, RefusedError."""
        by_topic: dict[str, list[int]] = defaultdict(list)
        for tp in partitions:
            by_topic[tp.topic].append(tp.partition)
        with ended_as_exceptions():
            code, response = await self.ask(
                "read",
                (CoordinationType.GROUP, self.group),
                self._offset_fetch(by_topic),
                self._fetch_code,
                deadline,
                repeat_lost=True,
            )
            if code:
                raise Ended(judge("read", code))
        return {
            TopicPartition(topic, row[0]): CommittedOffset(
                row[1], row[self._FETCHED][0] or "", row[2] if self._TELLS_EPOCH else NO_EPOCH
            )
            for topic, rows, *_ in response.topics
            for row in rows
        }

    def _offset_fetch(self, by_topic: Mapping[str, list[int]]) -> Any:
        return OffsetFetchRequest(self.group, list(by_topic.items()))

    def _fetch_code(self, answer: Any) -> int:
        return getattr(answer, "error_code", 0) or first_error(
            row[self._FETCHED][1] for _, rows, *_ in answer.topics for row in rows
        )

    async def confirms(self, member: Membership, deadline: float) -> bool:
        """True if the group still knows this member in this generation."""
        with ended_as_exceptions():
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
            except LOST as error:
                if not repeat_lost:
                    raise Ended(Ambiguous(stage, words(error))) from error
                response, code = None, int(Code.COORDINATOR_NOT_AVAILABLE)
            unstable = code == Code.UNSTABLE_OFFSET_COMMIT and repeat_lost
            if code not in COORDINATOR_MOVED and code not in BUSY and not unstable:
                return code, response
            if now() > deadline:
                raise Ended(Ambiguous(stage, f"error {code} until the deadline"))
            if code in COORDINATOR_MOVED:
                self._nodes.pop(coordinator, None)
                await asyncio.sleep(max(wait, 0.05))
            else:
                await asyncio.sleep(wait)
            wait = min(wait * 1.5, 0.02)

    async def _coordinator(self, stage: str, coordinator: tuple[int, str], deadline: float) -> int:
        wait = 0.05
        while coordinator not in self._nodes:  # changes nothing at the broker: may be repeated at will
            kind, key = coordinator
            try:
                self._nodes[coordinator] = await self.client.coordinator_lookup(kind, key)
            except LOST as error:
                if not getattr(error, "retriable", True):
                    raise Ended(judge(stage, getattr(error, "errno", -1))) from error
                if asyncio.get_running_loop().time() > deadline:
                    raise Ended(Ambiguous(stage, words(error))) from error
                await asyncio.sleep(wait)
                wait = min(wait * 1.5, 1.0)
                await self.client.force_metadata_update()
        return self._nodes[coordinator]

    async def _any_node(self, request: Any) -> Any:
        node = self.client.get_random_node()
        try:
            return await self.client.send(node, request)
        except LOST as error:
            raise BrokerUnavailableError(f"no answer from Kafka: {words(error)}") from error


class Ended(Exception):  # noqa: N818  # not an error: how a flush ended, on its way up
    """Carries the result of a flush out of the depth in which it was found."""

    def __init__(self, result: FlushResult) -> None:
        super().__init__(result)
        self.result = result


@contextmanager
def ended_as_exceptions() -> Iterator[None]:
    """Outside of a flush, what cannot go on is an exception: BrokerUnavailableError, RefusedError."""
    try:
        yield
    except Ended as ended:
        result = ended.result
        code = getattr(result, "code", None)
        if code in NOT_ALLOWED:
            raise RefusedError(
                f"Kafka does not allow {result.stage} ({NOT_ALLOWED[code]}); grant it to this client"  # type: ignore[union-attr]  # Committed never ends early
            ) from ended
        raise BrokerUnavailableError(f"Kafka: {result}; will try again") from ended


async def _has_lost_all(client: AIOKafkaClient, seconds: float) -> bool:
    told_at = client.cluster._last_successful_refresh_ms / 1000  # noqa: SLF001  # aiokafka offers no accessor
    if 0 <= time.time() - told_at < seconds:  # in the future: the clock was set back since
        return False
    try:
        async with asyncio.timeout(seconds):
            return not await client.force_metadata_update()
    except TimeoutError:
        return True


def judge(stage: str, code: int, culprits: tuple[int, ...] = ()) -> FlushResult:
    """What an answered error ends a flush as."""
    if code in GROUP_FENCED and stage == "commit_offsets":
        return Fenced("group", stage, code)
    if code in EPOCH_FENCED:
        return Fenced("epoch", stage, code)
    if code in EPOCH_BROKEN:
        return Ambiguous(stage, f"error {code}")
    return Retriable(stage, code, culprits)


def words(error: BaseException) -> str:
    """An exception in words; aiokafka's begin with their name."""
    name, text = type(error).__name__, str(error)
    return text if text.startswith((name, "[Error")) else f"{name} {text}".strip()


def named(code: int) -> str:
    """Kafka's name for an error code, and the code."""
    return f"{for_code(code).__name__.removesuffix('Error')} ({code})"


def first_error(codes: Iterable[int]) -> int:
    """The first code that is an error, else NONE."""
    return next((code for code in codes if code), int(Code.NONE))


async def cancel_until_ended(*tasks: "asyncio.Future[Any]") -> None:
    """Cancel tasks, and again each second until they have ended; whatever they raise is of no interest.

    One cancellation can get lost: where it comes together with the answer that aiokafka waits for, `asyncio.wait_for`
    of Python 3.11 gives the answer instead (python/cpython#81839).
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=1.0)
    await asyncio.gather(*tasks, return_exceptions=True)


async def all_of(awaitables: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All results; the first failure cancels the rest."""
    waiting = list(awaitables)
    if len(waiting) == 1:  # with one broker, or one partition, each time
        return [await waiting[0]]
    tasks = [asyncio.ensure_future(awaitable) for awaitable in waiting]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


# KIP-320: where a leader's part of a log ends. aiokafka does not ask.


class _EpochEndsResponse(Response):
    API_KEY = 23
    API_VERSION = 3
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            Array(
                ("topic", String("utf-8")),
                (
                    "partitions",
                    Array(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader_epoch", Int32),
                        ("end_offset", Int64),
                    ),
                ),
            ),
        ),
    )


class _EpochEndsRequestV3(RequestStruct):
    API_KEY = 23
    API_VERSION = 3
    RESPONSE_TYPE = _EpochEndsResponse
    SCHEMA = Schema(
        ("replica_id", Int32),
        (
            "topics",
            Array(
                ("topic", String("utf-8")),
                (
                    "partitions",
                    Array(("partition", Int32), ("current_leader_epoch", Int32), ("leader_epoch", Int32)),
                ),
            ),
        ),
    )


class _EpochEndsRequest(Request[_EpochEndsRequestV3]):
    API_KEY = 23

    def __init__(self, topics: list[tuple[str, list[tuple[int, int, int]]]]) -> None:
        self._topics = topics

    def build(self, request_struct_class: type[_EpochEndsRequestV3]) -> _EpochEndsRequestV3:
        of_no_replica = -1
        return request_struct_class(of_no_replica, self._topics)


# Metadata in the versions that tell our rights, and topics' ids. aiokafka has older ones.

_OPERATIONS = {"READ": 3, "WRITE": 4}
_NOT_TOLD = -(1 << 31)


def _lacking(rights: Iterable[str], allowed: int) -> list[str]:
    return [right for right in rights if allowed != _NOT_TOLD and not allowed >> _OPERATIONS[right] & 1]


class _MetadataResponseV8(Response):
    API_KEY = 3
    API_VERSION = 8
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            Array(("node_id", Int32), ("host", String("utf-8")), ("port", Int32), ("rack", String("utf-8"))),
        ),
        ("cluster_id", String("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            Array(
                ("error_code", Int16),
                ("topic", String("utf-8")),
                ("is_internal", Boolean),
                (
                    "partitions",
                    Array(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", Array(Int32)),
                        ("isr", Array(Int32)),
                        ("offline_replicas", Array(Int32)),
                    ),
                ),
                ("authorized_operations", Int32),
            ),
        ),
        ("cluster_authorized_operations", Int32),
    )


class _MetadataRequestV8(RequestStruct):
    API_KEY = 3
    API_VERSION = 8
    RESPONSE_TYPE = _MetadataResponseV8
    SCHEMA = Schema(
        ("topics", Array(String("utf-8"))),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
    )


class _Uuid(AbstractType[str | None]):
    """Kafka's id of a topic; 0 stands for none."""

    @classmethod
    def encode(cls, value: str | None) -> bytes:
        return bytes.fromhex(value or "00" * 16)

    @classmethod
    def decode(cls, data: BytesIO) -> str | None:
        value = data.read(16)
        return value.hex() if any(value) else None


class _MetadataResponseV10(Response):
    API_KEY = 3
    API_VERSION = 10
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString("utf-8")),
                ("port", Int32),
                ("rack", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("topic", CompactString("utf-8")),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_authorized_operations", Int32),
        ("tags", TaggedFields),
    )


class _MetadataRequestV10(RequestStruct):
    API_KEY = 3
    API_VERSION = 10
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _MetadataResponseV10
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(("topic_id", _Uuid), ("topic", CompactString("utf-8")), ("tags", TaggedFields)),
        ),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


def _described(response: Any) -> Iterator[tuple[int, str, str | None, Sequence[Any], int]]:
    """Of each topic, whatever the version: error code, name, id, partitions, and our rights."""
    for code, topic, *others in response.topics:
        if response.API_VERSION >= _MetadataResponseV10.API_VERSION:
            topic_id, _, partitions, allowed, _ = others
        else:
            topic_id, (_, partitions, *told) = None, others
            allowed = told[0] if told else _NOT_TOLD
        yield code, topic, topic_id, partitions, allowed


class _TopicsRequest(Request[MetadataRequestStruct | _MetadataRequestV8 | _MetadataRequestV10]):
    """What these topics are like, and our rights to them; creates none."""

    API_KEY = 3

    def __init__(self, topics: list[str]) -> None:
        self._topics = topics

    def build(self, request_struct_class: Any) -> Any:
        if request_struct_class is _MetadataRequestV10:
            rows: list[tuple[None, str, dict[int, bytes]]] = [(None, topic, {}) for topic in self._topics]
            return _MetadataRequestV10(rows, False, False, True, {})
        if request_struct_class is _MetadataRequestV8:
            return _MetadataRequestV8(self._topics, False, False, True)
        return MetadataRequest(self._topics, allow_auto_topic_creation=False).build(request_struct_class)
