"""Records as they come, whatever bytes a header's key is made of, and whatever batch is damaged. Performs no I/O.

Kafka's protocol wants a header's key to be UTF-8, and no broker looks. aiokafka raises where it is
not, out of every poll, for ever: one such record would hold its partition up until it is deleted.
So it does where a batch is not what its checksum says, or cannot be unpacked; and what it has read
for the same poll of other partitions is gone then, though it goes on behind it.
"""

import struct
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import _MemoryRecordsPy


class Records(_MemoryRecordsPy):  # type: ignore[misc]  # aiokafka has no types
    """What a fetch brought, batch by batch. Takes the place of aiokafka's `MemoryRecords` (in `link`)."""

    _next_slice: memoryview | None

    def __init__(self, data: bytes) -> None:
        self._given: memoryview | None = None
        self._again: memoryview | None = None
        super().__init__(data)

    def has_next(self) -> bool:
        """As long as a batch is there."""
        return self._next_slice is not None or self._again is not None

    def next_batch(self) -> Any:
        """The next one, or the last one again."""
        if self._again is not None:
            batch, self._again = _PatientBatch(self._again), None
            return batch
        self._given = self._next_slice
        return super().next_batch()

    def ends_before(self) -> int | None:
        """The offset after the last batch, as its head has it; None where that cannot be so."""
        if self._given is None or len(self._given) < _HEAD or self._given[_MAGIC_AT] < _MAGIC:
            return None
        first, last = struct.unpack_from(">q", self._given)[0], struct.unpack_from(">i", self._given, 23)[0]
        return int(first + last + 1) if last >= 0 else None

    def give_again(self) -> None:
        """The last batch, decoded by aiokafka's slow decoder: its fast one reads no further."""
        self._again = self._given


_HEAD, _MAGIC_AT, _MAGIC = 61, 16, 2
"""Bytes of a batch's head, where its format's version stands in it, and the version that says where a batch ends."""


class _PatientBatch(_DefaultRecordBatchPy):  # type: ignore[misc]  # aiokafka has no types
    _buffer: Any

    def _maybe_uncompress(self) -> None:
        super()._maybe_uncompress()
        self._buffer = _Patient(self._buffer)


class _Patient(bytearray):
    r"""Bytes that are no UTF-8 become `\xff`: so a key can be logged, compared and written again."""

    def __getitem__(self, place: Any) -> Any:
        found = super().__getitem__(place)
        return _Patient(found) if isinstance(place, slice) else found

    def decode(self, encoding: str = "utf-8", errors: str = "backslashreplace") -> str:
        return super().decode(encoding, errors)


class Damage(NamedTuple):
    """A batch that cannot be decoded.

    Attributes:
        offset: of the first record that cannot be read.
        next_offset: after the batch, as far as that is known.
        found_at: by `time.monotonic()`.
    """

    offset: int
    next_offset: int | None
    problem: str
    found_at: float


class AsDecoded:
    """A `key_deserializer` that asks for records as they are decoded: with no topic, and no partition.

    Attributes:
        damaged: partitions that cannot be read on, where one was met last. Nothing is raised for it.
    """

    def __init__(self) -> None:
        self.damaged: dict[Any, Damage] = {}

    def __call__(self, data: bytes) -> bytes:
        """As aiokafka takes a deserializer; for what is given as it is decoded it is not called."""
        return data


def partition_records(*parts: Any) -> PartitionRecords:
    """What a fetch brought of a partition, record by record. Takes the place of aiokafka's `PartitionRecords` (in `link`)."""
    return (_AsDecoded if any(isinstance(part, AsDecoded) for part in parts) else _Complete)(*parts)


class _Complete(PartitionRecords):  # type: ignore[misc]  # aiokafka has no types
    """All of them."""

    _records: Records
    _records_iterator: Iterator[Any]

    def __iter__(self) -> Iterator[Any]:
        return self._records_iterator

    def _unpack_records(self) -> Iterator[Any]:
        while True:
            try:
                yield from super()._unpack_records()
            except UnicodeDecodeError:
                self._records.give_again()  # aiokafka passes over what it has given out
            except Exception as damage:  # whatever bytes that are none of a batch's make a decoder raise
                if not self._goes_on(damage):
                    raise
                return
            else:
                self._goes_on(None)
                return

    def _goes_on(self, damage: Exception | None) -> bool:
        """Whether the end, at damage or not, is no reason to raise."""
        return damage is None


class _AsDecoded(_Complete):
    """Without a copy of each, which takes aiokafka as long as all the rest of reading it; up to a batch that is damaged."""

    _key_deserializer: AsDecoded
    _tp: Any
    next_fetch_offset: int

    def _goes_on(self, damage: Exception | None) -> bool:
        damaged = self._key_deserializer.damaged
        if damage is None:
            damaged.pop(self._tp, None)
        else:
            problem, ends = f"{type(damage).__name__}: {damage}", self._records.ends_before()
            damaged[self._tp] = Damage(self.next_fetch_offset, ends, problem, time.monotonic())
        return True

    def _consumer_record(self, _tp: Any, record: Any) -> Any:
        return record
