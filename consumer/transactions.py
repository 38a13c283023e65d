"""One Kafka transaction, straight on aiokafka's client and record builder. Does I/O.

aiokafka's own producer cannot be used: it commits offsets without the group's generation
(TxnOffsetCommit v0, so that a zombie or a stranger can commit) and tries lost requests again
on its own. Two rules carry the guarantees of this module:

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
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from aiokafka.client import ConnectionGroup, CoordinationType
from aiokafka.protocol.api import Request, RequestStruct, Response
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

from consumer.core.errors import BrokerUnavailableError, GuaranteeError
from consumer.decoding import NO_EPOCH
from consumer.link import (
    EPOCH_FENCED,
    LEADER_MOVED,
    LOST,
    Ambiguous,
    Code,
    Committed,
    CommittedOffset,
    Ended,
    Fenced,
    FlushResult,
    KafkaLink,
    Membership,
    Outgoing,
    Retriable,
    TopicPartition,
    all_of,
    ended_as_exceptions,
    first_error,
    judge,
    words,
)
from consumer.publishing import Identity, Publisher

_INSTEAD = (
    "or set `guarantee: at_least_once` (an outcome can come again after a crash; readers fold by outcome_id)"
)

_NEEDED = {28: ("TxnOffsetCommit", 3), 9: ("OffsetFetch", 7), 22: ("InitProducerId", 0)}
"""What fences a transaction by the group's generation: request and least version, by API key (Kafka 2.5)."""

_RIGHTS = {
    53: "transactions to this client (ACL: DESCRIBE and WRITE on transactional ids that begin with `{group}/`)",
    31: "transactions to this client (ACL: IDEMPOTENT_WRITE on the cluster)",
}


class TransactionalLink(KafkaLink):
    """A link that can end other members' transactions, and reads offsets once no transaction on them is pending."""

    _FETCHED = slice(3, 5)
    _TELLS_EPOCH = True

    async def require(self, deadline: float) -> None:
        """Raises GuaranteeError where the broker or its ACLs do not allow transactions; BrokerUnavailableError."""
        spoken = await self._spoken_versions(deadline)
        lacking = [
            f"{name} {f'v{least}' if least else 'at all'}"
            for key, (name, least) in _NEEDED.items()
            if spoken.get(key, (0, -1))[1] < least
        ]
        if lacking:
            raise GuaranteeError(
                f"guarantee exactly_once: this Kafka does not speak {', '.join(lacking)}; "
                f"it needs Kafka 2.5 or later, {_INSTEAD}"
            )
        try:
            # An id of its own, so that nobody can be fenced by it.
            await self.init_producer(f"{self.group}/start-check", deadline)
        except Ended as ended:
            code = getattr(ended.result, "code", 0)
            if code == Code.INVALID_TRANSACTION_TIMEOUT:
                raise GuaranteeError(
                    "guarantee exactly_once: this Kafka allows no transaction to be open for "
                    f"{self.transaction_timeout:g} s; lower kafka.transaction_timeout to its transaction.max.timeout.ms at most"
                ) from ended
            right = _RIGHTS.get(code)
            if right is None:
                raise BrokerUnavailableError(f"Kafka: {ended.result}; will try again") from ended
            raise GuaranteeError(
                f"guarantee exactly_once: Kafka does not allow {right.format(group=self.group)}; grant it, {_INSTEAD}"
            ) from ended

    async def _spoken_versions(self, deadline: float) -> Mapping[int, tuple[int, int]]:
        """As the group's coordinator told them when it was connected."""
        with ended_as_exceptions():
            node = await self._coordinator("versions", (CoordinationType.GROUP, self.group), deadline)
        try:
            connection = await self.client._get_conn(node, group=ConnectionGroup.COORDINATION)  # noqa: SLF001  # aiokafka offers no accessor
        except LOST as error:
            raise BrokerUnavailableError(f"no answer from Kafka: {words(error)}") from error
        if connection is None:
            raise BrokerUnavailableError("the group's coordinator cannot be reached")
        versions: Mapping[int, tuple[int, int]] = connection._versions  # noqa: SLF001  # aiokafka offers no accessor
        return versions

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
            raise Ended(judge("init", code))
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

        with ended_as_exceptions():
            return dict(await all_of(one(transactional_id) for transactional_id in ids))

    def _offset_fetch(self, by_topic: Mapping[str, list[int]]) -> Any:
        stable = True  # waits, by an error that `ask` repeats, while a transaction on them is pending
        return _OffsetFetchRequest(self.group, [(t, ps, {}) for t, ps in by_topic.items()], stable, {})


def transactional_ids(group: str, topic: str, partition: int) -> tuple[str, str]:
    """The two ids that a partition stands for. A member uses those of its lowest partition."""
    return f"{group}/{topic}/{partition}/a", f"{group}/{topic}/{partition}/b"


class TransactionWriter:
    """Writes one assignment's transactions, one after the other.

    Attributes:
        member: whose offsets go along; None where no offsets do.
        live: false after a flush that did not end well, until `recover()`.
    """

    def __init__(
        self,
        link: TransactionalLink,
        member: Membership | None,
        producers: Mapping[str, tuple[int, int]],
        publisher: Publisher,
        epoch: Callable[[TopicPartition], int] = lambda _partition: NO_EPOCH,
    ) -> None:
        """Begin under the first of `producers`, as `TransactionalLink.fence` initialised them.

        They are the two ids in turn; one is enough where no offsets go along. `epoch` tells of a partition the
        leader that wrote what was read last.
        """
        self.member = member
        self.live = True
        self._link = link
        self._publisher = publisher
        self._epoch = epoch
        first, *others = producers
        self._other_id = next(iter(others), first)
        self._identity = publisher.identity = Identity(first, *producers[first])
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
            if offsets:
                await self._add_offsets()
                await self._commit_offsets(offsets)
            if records:
                batches = self._publisher.batches(records, range(len(records)))
                await self._add_partitions(batches)
                await self._publisher.send(batches, records, self._deadline)
            result = await self._end(commit=True)
        except Ended as ended:
            result = ended.result
            # Every request was answered: an abort is allowed. Without offsets the first one has begun nothing.
            if isinstance(result, Retriable | Fenced) and (offsets or result.stage != "add_partitions"):
                result = await self._abort(result)
        if isinstance(result, Retriable) and result.code in LEADER_MOVED:
            await self._link.look_again()  # a topic made anew can have fewer partitions
        self.live = isinstance(result, Committed | Retriable)
        return result

    async def recover(self, deadline: float) -> bool:
        """After an ambiguous end, end it and start a new epoch; then the caller reads back what is committed.

        False: give the assignment up and rejoin. Either the group no longer knows this
        member, and initialising would fence the new owner; or a second TxnOffsetCommit was
        lost while the first one's late copy may live (a new generation refuses both).
        Raises BrokerUnavailableError where the deadline passes without an answer.
        """
        if self.member is not None and not await self._link.confirms(self.member, deadline):
            return False
        with ended_as_exceptions():
            current = self._identity.transactional_id
            started = await self._link.init_producer(current, deadline)
            if self._offsets_lost:
                self._losses += 1
                current, self._other_id = self._other_id, current
                started = await self._link.init_producer(current, deadline)
        self._identity = self._publisher.identity = Identity(current, *started)
        self._offsets_lost = False
        self.live = self._losses < 2
        return self.live

    # One transaction, in the order of its requests.

    @property
    def doubtful(self) -> bool:
        """A TxnOffsetCommit was lost, and its late copy may live. A second one would be one too many for two ids."""
        return self._losses > 0

    @property
    def _who(self) -> tuple[str, int, int]:
        return self._identity.transactional_id, self._identity.producer_id, self._identity.epoch

    async def _add_offsets(self) -> None:
        request = AddOffsetsToTxnRequest(*self._who, self._link.group)
        await self._step("add_offsets", request, lambda answer: answer.error_code)

    async def _commit_offsets(self, offsets: Mapping[TopicPartition, CommittedOffset]) -> None:
        assert self.member is not None
        by_topic: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
        for tp, committed in offsets.items():
            epoch, no_tags = self._epoch(tp), dict[int, bytes]()
            by_topic[tp.topic].append((tp.partition, committed.offset, epoch, committed.metadata, no_tags))
        request = _TxnOffsetCommitRequest(
            self._identity.transactional_id,
            self._link.group,
            self._identity.producer_id,
            self._identity.epoch,
            self.member.generation,
            self.member.member_id,
            self.member.instance_id,
            [(topic, rows, {}) for topic, rows in by_topic.items()],
            {},
        )
        self._offsets_lost = True  # until there is an answer; cancellation included
        try:
            await self._step("commit_offsets", request, _offset_commit_code, CoordinationType.GROUP)
        except Ended as ended:
            self._offsets_lost = isinstance(ended.result, Ambiguous)
            raise
        self._offsets_lost = False

    async def _add_partitions(self, batches: Mapping[TopicPartition, object]) -> None:
        by_topic: dict[str, list[int]] = defaultdict(list)
        for tp in batches:
            by_topic[tp.topic].append(tp.partition)
        request = AddPartitionsToTxnRequest(*self._who, list(by_topic.items()))
        await self._step("add_partitions", request, _add_partitions_code)

    async def _end(self, *, commit: bool) -> FlushResult:
        request = EndTxnRequest(*self._who, commit)
        coordinator = (CoordinationType.TRANSACTION, self._identity.transactional_id)
        code, _ = await self._link.ask("end", coordinator, request, lambda a: a.error_code, self._deadline)
        if code:  # fenced too: the first answer may have been lost at the broker's side
            return Ambiguous("end", f"error {code}", fenced=code in EPOCH_FENCED)
        return Committed()

    async def _abort(self, result: Retriable | Fenced) -> FlushResult:
        """Abort, so that the epoch can go on. A fenced writer aborts only to free the readers early."""
        try:
            aborted = isinstance(await self._end(commit=False), Committed)
        except Ended:
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
        key = self._identity.transactional_id if kind == CoordinationType.TRANSACTION else self._link.group
        code, _ = await self._link.ask(stage, (kind, key), request, code_of, self._deadline)
        if code:
            raise Ended(judge(stage, code))


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


def _offset_commit_code(answer: Any) -> int:
    return first_error(code for _, rows, _ in answer.errors for _, code, _ in rows)


def _add_partitions_code(answer: Any) -> int:
    codes = [code for _, rows in answer.errors for _, code in rows]
    # 55 stands beside the cause.
    return first_error(code for code in codes if code != Code.OPERATION_NOT_ATTEMPTED)
