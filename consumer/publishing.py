"""Records -> batches -> their partitions' leaders; and the writer of outcomes without transactions. Does I/O."""

import asyncio
import struct
import sys
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from aiokafka import codec
from aiokafka.client import CoordinationType
from aiokafka.errors import NodeNotReadyError
from aiokafka.protocol.commit import OffsetCommitRequest
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from consumer.core.values import Memo
from consumer.link import (
    LEADER_MOVED,
    LOST,
    TOO_LARGE,
    Ambiguous,
    Code,
    Committed,
    CommittedOffset,
    Ended,
    FlushResult,
    KafkaLink,
    Membership,
    Outgoing,
    Retriable,
    TopicPartition,
    all_of,
    first_error,
    judge,
    words,
)

# At aiokafka's level, 9, LZ4 takes ten times as long for a tenth less, and gzip twice as long for next to nothing.
_builder: Any = sys.modules[DefaultRecordBatchBuilder.__module__]
_builder.lz4_encode = partial(codec.lz4_encode, level=1)
_builder.gzip_encode = partial(codec.gzip_encode, compresslevel=6)

_COMPRESSION = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}


@dataclass
class Identity:
    """Whose transaction the records belong to; the broker knows repeated batches by it."""

    transactional_id: str
    producer_id: int
    epoch: int
    sequences: dict[TopicPartition, int] = field(default_factory=dict)


@dataclass
class Batch:
    """Records of one partition on their way, and their places in the flush."""

    tp: TopicPartition
    builder: Any
    indexes: list[int] = field(default_factory=list)
    data: bytes | None = None


Queues = dict[TopicPartition, "deque[Batch]"]
"""Each partition's batches, in order."""


class Publisher:
    """Sends a flush's records, and is done when all replicas in sync have them.

    Attributes:
        identity: of the transaction; None to write outside of any, where an answer that was lost is asked for again.
        written: indexes of the records that `send` got acknowledged.
        repeats: answered errors after which a batch was sent again, by (stage, code); for the curious.
    """

    def __init__(
        self, link: KafkaLink, *, compression: str | None = None, batch_bytes: int = 900_000
    ) -> None:
        self.identity: Identity | None = None
        self.written: set[int] = set()
        self.repeats: dict[tuple[str, int], int] = defaultdict(int)
        self._link = link
        self._compression = _COMPRESSION[compression or "none"]
        self._batch_bytes = batch_bytes

    def batches(
        self, records: Sequence[Outgoing], indexes: Sequence[int], only: TopicPartition | None = None
    ) -> Queues:
        """The records of `indexes` by partition, as few batches as they fit in."""
        queues: Queues = {}
        counts = Memo(self._link.partition_count, 64)
        hashes = murmur2_of([records[index].key for index in indexes]) if only is None else {}
        open_: dict[tuple[str, int], Batch] = {}
        for index in indexes:
            record = records[index]
            topic, key, partition = record.topic, record.key, record.partition
            if only is not None:
                place: tuple[str, int] = only
            else:
                if partition is None:  # as Kafka's own producers choose it
                    partition = (index if key is None else hashes[key] & 0x7FFFFFFF) % counts[topic]
                place = topic, partition
            batch = open_.get(place)
            at, value, headers = record.timestamp_ms, record.value, record.headers
            if batch is None or batch.builder.append(len(batch.indexes), at, key, value, headers) is None:
                open_[place] = batch = Batch(TopicPartition(*place), self._new_builder())
                batch.builder.append(0, at, key, value, headers)  # an empty one takes any
                queues.setdefault(batch.tp, deque()).append(batch)
            batch.indexes.append(index)
        return queues

    async def send(self, queues: Queues, records: Sequence[Outgoing], deadline: float) -> None:
        """Send each partition's batches in order, one under way per partition, leaders at the same time.

        A batch is never built anew once it was sent: only the same bytes are deduplicated.
        One that is refused for its size has used no sequence, so its halves start where it would have.
        """
        self.written = set()
        culprits: list[int] = []
        refused = int(Code.NONE)
        wait = 0.005
        while queues:
            answers = await self._send_heads(queues)
            moved = len(answers) < len(queues)
            for batch, code in answers:
                queue = queues[batch.tp]
                if code in {Code.NONE, Code.DUPLICATE_SEQUENCE}:  # 46: it has it, and has forgotten where
                    self._acknowledge(queue.popleft())
                elif code in LEADER_MOVED:
                    moved = True
                    self.repeats["produce", code] += 1
                elif code in TOO_LARGE:
                    refused = code
                    culprits += self._halve(queue, records)
                else:
                    raise Ended(judge("produce", code, tuple(batch.indexes)))
                if not queue:
                    del queues[batch.tp]
            if moved:
                if asyncio.get_running_loop().time() > deadline:
                    raise Ended(Ambiguous("produce", "no leader until the deadline"))
                await asyncio.sleep(wait)
                wait = min(wait * 2, 0.1)
                await self._link.look_again()
        if culprits:
            raise Ended(Retriable("produce", refused, tuple(culprits)))

    async def _send_heads(self, queues: Queues) -> list[tuple[Batch, int]]:
        """Each partition's first batch to its leader: (batch, error code); none where no leader is known."""
        leaders: dict[int, list[Batch]] = defaultdict(list)
        for tp, queue in queues.items():
            leader = self._link.client.cluster.leader_for_partition(tp)
            if leader is not None and leader >= 0:
                leaders[leader].append(queue[0])
        answers = await all_of(self._send_batches(node, batches) for node, batches in leaders.items())
        return [answer for of_node in answers for answer in of_node]

    async def _send_batches(self, node: int, batches: Sequence[Batch]) -> list[tuple[Batch, int]]:
        by_topic: dict[str, list[tuple[int, bytes]]] = defaultdict(list)
        for batch in batches:
            by_topic[batch.tp.topic].append((batch.tp.partition, self._bytes_of(batch)))
        timeout_ms = int(self._link.transaction_timeout * 1000)
        transactional_id = self.identity.transactional_id if self.identity else None
        request = ProduceRequest(transactional_id, -1, timeout_ms, list(by_topic.items()))
        try:
            response: Any = await self._link.client.send(node, request)
        except NodeNotReadyError:  # no connection: nothing was sent
            return [(batch, int(Code.LEADER_NOT_AVAILABLE)) for batch in batches]
        except LOST as error:
            if self.identity is not None:
                raise Ended(Ambiguous("produce", words(error))) from error
            return [(batch, int(Code.REQUEST_TIMED_OUT)) for batch in batches]
        codes = {(topic, row[0]): row[1] for topic, rows in response.topics for row in rows}
        return [(batch, codes[batch.tp.topic, batch.tp.partition]) for batch in batches]

    def _bytes_of(self, batch: Batch) -> bytes:
        if batch.data is None:
            if self.identity is not None:
                sequence = self.identity.sequences.get(batch.tp, 0)
                batch.builder.set_producer_state(self.identity.producer_id, self.identity.epoch, sequence)
            batch.data = bytes(batch.builder.build())
        return batch.data

    def _acknowledge(self, batch: Batch) -> None:
        self.written.update(batch.indexes)
        if self.identity is not None:
            sequence = self.identity.sequences.get(batch.tp, 0)
            self.identity.sequences[batch.tp] = (sequence + len(batch.indexes)) % 2**31

    def _halve(self, queue: deque[Batch], records: Sequence[Outgoing]) -> list[int]:
        """Two smaller batches in the place of the first; or, if that is one record, its index: the culprit."""
        batch = queue.popleft()
        self.repeats["halve", Code.MESSAGE_TOO_LARGE] += 1
        if len(batch.indexes) == 1:
            queue.clear()  # this flush is not going to end well
            return batch.indexes
        half = len(batch.indexes) // 2
        for indexes in (batch.indexes[half:], batch.indexes[:half]):
            queue.extendleft(reversed(self.batches(records, indexes, batch.tp)[batch.tp]))
        return []

    def _new_builder(self) -> DefaultRecordBatchBuilder:
        identity = self.identity
        return DefaultRecordBatchBuilder(
            magic=2,
            compression_type=self._compression,
            is_transactional=int(identity is not None),
            producer_id=identity.producer_id if identity else -1,
            producer_epoch=identity.epoch if identity else -1,
            base_sequence=0 if identity else -1,
            batch_size=self._batch_bytes,
        )


def murmur2(data: bytes) -> int:
    """Kafka's hash of a key, by words; aiokafka's goes by bytes."""
    words_, tail = divmod(len(data), 4)
    found = _SEED ^ len(data)
    for word in struct.unpack_from(f"<{words_}I", data):
        mixed = word * _MIX & _WORD
        found = (found * _MIX ^ (mixed ^ mixed >> 24) * _MIX) & _WORD
    if tail:
        found = (found ^ int.from_bytes(data[-tail:], "little")) * _MIX & _WORD
    found = (found ^ found >> 13) * _MIX & _WORD
    return found ^ found >> 15


def murmur2_of(keys: Iterable[bytes | None]) -> dict[bytes, int]:
    """The same of many, in a fifth of the time where they are as long as each other, as the keys of a topic mostly are."""
    by_length: dict[int, list[bytes]] = defaultdict(list)
    for key in keys:
        if key is not None:
            by_length[len(key)].append(key)
    found: dict[bytes, int] = {}
    for alike in by_length.values():
        found.update(
            zip(alike, _murmur2_of_alike(alike) if len(alike) >= 10 else map(murmur2, alike), strict=True)
        )
    return found


def _murmur2_of_alike(keys: Sequence[bytes]) -> tuple[int, ...]:
    """All at once, in one large number of 64 bits a key: what 31 bits make of 32 is shorter, so none reaches the next one's."""
    length, joined = len(keys[0]), b"".join(keys)
    low = int.from_bytes(b"\1\0\0\0\0\0\0\0" * len(keys), "little")
    found, words_ = low * (_SEED ^ length), low * _WORD

    def part(start: int, end: int) -> int:
        """These bytes of each."""
        lanes = bytearray(8 * len(keys))
        for at in range(start, end):
            lanes[at - start :: 8] = joined[at::length]
        return int.from_bytes(lanes, "little")

    whole = length & ~3
    for start in range(0, whole, 4):
        mixed = part(start, start + 4) * _MIX & words_
        found = (found * _MIX ^ (mixed ^ mixed >> 24 & words_) * _MIX) & words_
    if whole < length:
        found = (found ^ part(whole, length)) * _MIX & words_
    found = (found ^ found >> 13 & words_) * _MIX & words_
    found ^= found >> 15 & words_
    return struct.unpack(f"<{len(keys)}Q", found.to_bytes(8 * len(keys), "little"))


_SEED, _MIX, _WORD = 0x9747B28C, 0x5BD1E995, 0xFFFFFFFF


class PlainWriter:
    """Writes one assignment's outcomes without transactions: the outcome first, the offset after.

    Nothing is lost. What stands between an outcome and its offset (a crash, a lost answer)
    makes the outcome come again, under the same `outcome_id`. Without a member no offsets go along.
    """

    doubtful = False  # a late copy only moves an offset back

    def __init__(self, link: KafkaLink, member: Membership | None, publisher: Publisher) -> None:
        self._link = link
        self._member = member
        self._publisher = publisher
        self._written: dict[int, Outgoing] = {}

    async def flush(
        self, offsets: Mapping[TopicPartition, CommittedOffset], records: Sequence[Outgoing]
    ) -> FlushResult:
        """Records, and when all of them are written, the offsets."""
        deadline = asyncio.get_running_loop().time() + self._link.transaction_timeout
        try:
            await self._publish(records, deadline)
            if offsets:
                await self._commit(offsets, deadline)
        except Ended as ended:
            return ended.result
        self._written = {}
        return Committed()

    async def recover(self, deadline: float) -> bool:
        """After a deadline without an answer: true while the group knows this member."""
        return self._member is None or await self._link.confirms(self._member, deadline)

    async def _publish(self, records: Sequence[Outgoing], deadline: float) -> None:
        """What an earlier try of the same flush wrote is not written again."""
        missing = [index for index, record in enumerate(records) if self._written.get(index) != record]
        queues = self._publisher.batches(records, missing)
        try:
            await self._publisher.send(queues, records, deadline)
        finally:
            self._written |= {index: records[index] for index in self._publisher.written}

    async def _commit(self, offsets: Mapping[TopicPartition, CommittedOffset], deadline: float) -> None:
        """A late copy of an older commit only moves the offset back: then outcomes are repeated, none is lost."""
        assert self._member is not None
        by_topic: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
        for tp, committed in offsets.items():
            by_topic[tp.topic].append((tp.partition, committed.offset, committed.metadata))
        code, _ = await self._link.ask(
            "commit_offsets",
            (CoordinationType.GROUP, self._link.group),
            OffsetCommitRequest(
                self._link.group,
                self._member.generation,
                self._member.member_id,
                OffsetCommitRequest.DEFAULT_RETENTION_TIME,
                list(by_topic.items()),
            ),
            lambda answer: first_error(code for _, rows in answer.topics for _, code in rows),
            deadline,
            repeat_lost=True,
        )
        if code:
            raise Ended(judge("commit_offsets", code))
