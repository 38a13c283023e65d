"""One partition of the fake Kafka: its records, transaction markers and what it knows of producers. No I/O."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from consumer.link import Code, TopicPartition

Headers = Sequence[tuple[str, bytes | None]]

REMEMBERED_BATCHES = 5
"""Batches of a producer that are recognised when they come again."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A record in its place; a consumer gets it as it is."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


@dataclass(frozen=True, slots=True)
class Row:
    """A record on its way."""

    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class Batch:
    """What a producer sends at once to one partition. `producer_id` -1: nobody in particular."""

    rows: Sequence[Row]
    producer_id: int = -1
    epoch: int = -1
    sequence: int = -1
    transactional: bool = False


class _Fate(Enum):
    OPEN = "its transaction is not ended"
    COMMITTED = "to be read"
    ABORTED = "passed over"
    MARKER = "no record"


@dataclass(slots=True)
class _Entry:
    record: Stored | None
    fate: _Fate


@dataclass(slots=True)
class _Producer:
    epoch: int
    sequence: int = -1
    batches: list[tuple[int, int, int]] = field(default_factory=list)
    open_entries: list[_Entry] = field(default_factory=list)


class Log:
    """Offsets grow; records and markers take them, and compaction leaves gaps.

    Attributes:
        tp: the partition's name.
        end: the high watermark.
    """

    def __init__(self, tp: TopicPartition) -> None:
        self.tp = tp
        self.end = 0
        self._offsets: list[int] = []
        self._entries: list[_Entry] = []
        self._producers: dict[int, _Producer] = {}
        self._open: dict[int, int] = {}
        self._told = 0

    @property
    def stable(self) -> int:
        """The last stable offset: where the first transaction that is not ended begins."""
        return min(self._open.values(), default=self.end)

    def append(self, batch: Batch) -> tuple[int, int]:
        """(error code, offset of the first record)."""
        producer = None
        if batch.producer_id >= 0:
            code, found = self._check(batch)
            if code or found >= 0:
                return code, found
            producer = self._producers.setdefault(batch.producer_id, _Producer(batch.epoch))
            if batch.epoch > producer.epoch:
                producer.epoch, producer.batches = batch.epoch, []
            producer.sequence = batch.sequence + len(batch.rows) - 1
            producer.batches.append((batch.sequence, len(batch.rows), self.end))
            del producer.batches[:-REMEMBERED_BATCHES]
        base = self.end
        if batch.transactional:
            self._open.setdefault(batch.producer_id, base)
        for row in batch.rows:
            record = Stored(
                self.tp.topic, self.tp.partition, self.end, row.timestamp, row.key, row.value, row.headers
            )
            entry = _Entry(record, _Fate.OPEN if batch.transactional else _Fate.COMMITTED)
            if batch.transactional:
                assert producer is not None
                producer.open_entries.append(entry)
            self._add(entry)
        return Code.NONE, base

    def _check(self, batch: Batch) -> tuple[int, int]:
        """(error code, offset of the first copy); (0, -1) for what can be appended."""
        producer = self._producers.get(batch.producer_id)
        if producer is None:
            return Code.NONE, -1
        if batch.epoch < producer.epoch:
            return Code.INVALID_PRODUCER_EPOCH, -1
        if batch.epoch > producer.epoch:
            return (Code.NONE if batch.sequence == 0 else Code.OUT_OF_ORDER_SEQUENCE), -1
        for sequence, count, offset in producer.batches:
            if (sequence, count) == (batch.sequence, len(batch.rows)):
                return Code.NONE, offset
        return (Code.NONE if batch.sequence == producer.sequence + 1 else Code.OUT_OF_ORDER_SEQUENCE), -1

    def mark(self, producer_id: int, epoch: int, *, commit: bool) -> None:
        """A transaction ended: its marker takes an offset, and older epochs are refused from now on."""
        producer = self._producers.setdefault(producer_id, _Producer(epoch))
        if epoch < producer.epoch:
            return
        if epoch > producer.epoch:
            producer.epoch, producer.sequence, producer.batches = epoch, -1, []
        for entry in producer.open_entries:
            entry.fate = _Fate.COMMITTED if commit else _Fate.ABORTED
        producer.open_entries = []
        self._open.pop(producer_id, None)
        self._add(_Entry(None, _Fate.MARKER))

    def forget(self, producer_id: int) -> None:
        """The producer's state expired here."""
        self._producers.pop(producer_id, None)

    def compact(self, offset: int) -> None:
        """Remove a record: a gap."""
        at = bisect_left(self._offsets, offset)
        assert self._offsets[at] == offset, f"nothing at {offset}"
        del self._offsets[at], self._entries[at]

    def _add(self, entry: _Entry) -> None:
        self._offsets.append(self.end)
        self._entries.append(entry)
        self.end += 1

    # -- Readers --------------------------------------------------------------------------------------

    def read(self, offset: int, most: int, *, committed: bool = True) -> tuple[list[Stored], int]:
        """Records from an offset on, and where to go on: past what is no record for this reader."""
        end = self.stable if committed else self.end
        fates = (_Fate.COMMITTED,) if committed else (_Fate.COMMITTED, _Fate.OPEN, _Fate.ABORTED)
        records: list[Stored] = []
        for at in range(bisect_left(self._offsets, offset), len(self._offsets)):
            if self._offsets[at] >= end:
                break
            entry = self._entries[at]
            if entry.record is not None and entry.fate in fates:
                if len(records) == most:
                    return records, entry.record.offset
                records.append(entry.record)
        return records, max(offset, end)

    def newly_visible(self) -> list[Stored]:
        """What a committed reader sees since this was asked last."""
        records, self._told = self.read(self._told, len(self._offsets))
        return records
