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

    def next_batch(self) -> Any:
        """Decoded by aiokafka's fast decoder as far as that goes, and then by its slow one."""
        data = self._next_slice
        batch = super().next_batch()
        return _Batch(batch, data) if hasattr(batch, "is_control_batch") else batch


class _Batch:
    def __init__(self, batch: Any, data: memoryview) -> None:
        self._batch = batch
        self._data = data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __next__(self) -> Any:
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        try:
            yield from self._batch
        except UnicodeDecodeError:
            yield from _PatientBatch(self._data)  # from its start: aiokafka passes over what it has given out


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
    return (_AsDecoded if as_decoded in parts else PartitionRecords)(*parts)


class _AsDecoded(PartitionRecords):  # type: ignore[misc]  # aiokafka has no types
    """Without a copy of each, which takes aiokafka as long as all the rest of reading it."""

    def __iter__(self) -> Iterator[Any]:
        records: Iterator[Any] = self._records_iterator
        return records

    def _consumer_record(self, _tp: Any, record: Any) -> Any:
        return record
