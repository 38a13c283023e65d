"""Records as they come, whatever bytes a header's key is made of. Performs no I/O.

Kafka's protocol wants a header's key to be UTF-8, and no broker looks. aiokafka raises where it is
not, out of every poll, for ever: one such record would hold its partition up until it is deleted.
"""

from collections.abc import Iterator
from typing import Any

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

    def give_again(self) -> None:
        """The last batch, decoded by aiokafka's slow decoder: its fast one reads no further."""
        self._again = self._given


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


def as_decoded(data: bytes) -> bytes:
    """A `key_deserializer` that asks for records as they are decoded: with no topic, and no partition."""
    return data


def partition_records(*parts: Any) -> PartitionRecords:
    """What a fetch brought of a partition, record by record. Takes the place of aiokafka's `PartitionRecords` (in `link`)."""
    return (_AsDecoded if as_decoded in parts else _Complete)(*parts)


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
            else:
                return


class _AsDecoded(_Complete):
    """Without a copy of each, which takes aiokafka as long as all the rest of reading it."""

    def _consumer_record(self, _tp: Any, record: Any) -> Any:
        return record
