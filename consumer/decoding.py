"""Records as they come, whatever bytes a header's key is made of, and whatever batch is damaged. Performs no I/O.

Kafka's protocol wants a header's key to be UTF-8, and no broker looks. aiokafka raises where it is
not, out of every poll, for ever: one such record would hold its partition up until it is deleted.
So it does where a batch is not what its checksum says, or cannot be unpacked; and what it has read
for the same poll of other partitions is gone then, though it goes on behind it. A batch that ends before
its head says so it passes over, and one that unpacks to gigabytes it unpacks.
"""

import struct
import sys
import time
import zlib
from collections.abc import Callable, Generator, Iterator
from typing import Any, ClassVar, NamedTuple

import aiokafka.record.default_records
import cramjam
from aiokafka.codec import _detect_xerial_stream, gzip_decode, lz4_decode, snappy_decode
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatch, _DefaultRecordBatchPy
from aiokafka.record.memory_records import _MemoryRecordsPy


class Records(_MemoryRecordsPy):  # type: ignore[misc]  # aiokafka has no types
    """What a fetch brought, batch by batch. Takes the place of aiokafka's `MemoryRecords` (in `link`)."""

    _next_slice: memoryview | None

    def __init__(self, data: bytes) -> None:
        self._given: memoryview | None = None
        self._again: memoryview | None = None
        super().__init__(data)

    def has_next(self) -> bool:
        """As long as a batch is there: also a first one that is not whole, which the next fetch would not make so."""
        return self._next_slice is not None or self._again is not None or self._cut_off

    @property
    def _cut_off(self) -> bool:
        return self._given is None and self._remaining_bytes > 0

    def next_batch(self) -> Any:
        """The next one, or the last one again. Raises CorruptRecordException where it is not whole."""
        if self._again is not None:
            batch, self._again = _PatientBatch(self._again), None
            return batch
        if self._next_slice is None:
            raise CorruptRecordException(
                f"its head tells of more than the {self._remaining_bytes} bytes that came"
            )
        self._given = self._next_slice
        return super().next_batch()

    def ends_before(self) -> int | None:
        """The offset after the last batch, as its head has it; None where that cannot be so."""
        if self._given is None or len(self._given) < _HEAD or self._given[_MAGIC_AT] < _MAGIC:
            return None
        first, last = struct.unpack_from(">q", self._given)[0], struct.unpack_from(">i", self._given, 23)[0]
        return int(first + last + 1) if last >= 0 else None

    @property
    def epoch(self) -> int:
        """The leader that wrote the last batch, or else the first one; -1 where that is not told."""
        batch = self._next_slice if self._given is None else self._given
        if batch is None or len(batch) < _HEAD or batch[_MAGIC_AT] < _MAGIC:
            return NO_EPOCH
        return int(struct.unpack_from(">i", batch, 12)[0])

    def give_again(self) -> None:
        """The last batch, decoded by aiokafka's slow decoder: its fast one reads no further."""
        self._again = self._given


_HEAD, _MAGIC_AT, _MAGIC = 61, 16, 2
"""Bytes of a batch's head, where its format's version stands in it, and the version that says where a batch ends."""


class Unpacked:
    """What batches may unpack to: a megabyte of compressed zeros is gigabytes of them.

    Attributes:
        most: bytes of one batch. It is the same for the whole process, as aiokafka's decoders are.
    """

    least: ClassVar[int] = 64 << 20
    most: ClassVar[int] = least

    @classmethod
    def allow(cls, size: int) -> None:
        """Batches of this size, though never less than what those of ordinary events take."""
        cls.most = max(cls.least, size)


class TooLargeError(ValueError):
    """A batch unpacks to more than it may."""

    def __init__(self) -> None:
        super().__init__(f"it unpacks to more than {Unpacked.most >> 20} MiB (intake.max_bytes)")


def _bounded(
    decode: Callable[[Any], bytes], ratio: int, else_: Callable[[Any], bytes]
) -> Callable[[Any], bytes]:
    """`decode` for what cannot become too large, at no more than so many bytes for each."""
    return lambda data: decode(data) if len(data) * ratio <= Unpacked.most else else_(data)


def _gunzip(data: Any) -> bytes:
    parts, room, rest = [], Unpacked.most, bytes(data)
    while rest:
        inflater = zlib.decompressobj(wbits=31)
        parts.append(inflater.decompress(rest, room + 1))
        room -= len(parts[-1])
        if room < 0:
            raise TooLargeError
        if not inflater.eof:
            raise EOFError("the compressed data ends before its end")
        rest = inflater.unused_data
    return b"".join(parts)


def _unsnap(data: Any) -> bytes:
    """Each of its blocks begins with its size."""
    size, at = 0, 16
    if _detect_xerial_stream(data):
        while at + 4 <= len(data):
            length = max(0, struct.unpack_from("!i", data, at)[0])
            size += cramjam.snappy.decompress_raw_len(data[at + 4 : at + 4 + length])
            at += 4 + length
    else:
        size = cramjam.snappy.decompress_raw_len(data)
    if size > Unpacked.most:
        raise TooLargeError
    unpacked: bytes = snappy_decode(data)
    return unpacked


def _into(decompress_into: Callable[[Any, bytearray], int]) -> Callable[[Any], bytes]:
    """Tries with more and more room."""

    def decode(data: Any) -> bytes:
        room = 16 * len(data) + (16 << 10)
        while True:
            out = bytearray(min(room, Unpacked.most))
            try:
                return bytes(memoryview(out)[: decompress_into(data, out)])
            except cramjam.DecompressionError as error:
                if "whole buffer" not in str(error):
                    raise
                if room >= Unpacked.most:
                    raise TooLargeError from error
                room *= 16

    return decode


_BOUNDED = {
    "gzip_decode": _bounded(gzip_decode, 1100, _gunzip),
    "lz4_decode": _bounded(lz4_decode, 256, _into(cramjam.lz4.decompress_into)),
    "snappy_decode": _bounded(snappy_decode, 64, _unsnap),
    "zstd_decode": _into(cramjam.zstd.decompress_into),
}
for _decoders in (aiokafka.record.default_records, sys.modules[DefaultRecordBatch.__module__]):
    vars(_decoders).update(_BOUNDED)


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


NO_EPOCH = -1
"""Kafka's own, for what it does not tell."""


class Doubt(NamedTuple):
    """Whether the log is still the one that was read up to a place (KIP-320).

    It is not where a replica leads by now that had not all of it: what stands there is other than what was read.

    Attributes:
        offset: the place.
        epoch: the leader that wrote the last record before it, as far as that is known.
        next_epoch: who wrote what follows; None where nothing does, since the place lies outside of the log.
    """

    offset: int
    epoch: int
    next_epoch: int | None


class AsDecoded:
    """A `key_deserializer` that asks for records as they are decoded: with no topic, and no partition.

    Attributes:
        damaged: partitions that cannot be read on, where one was met last. Nothing is raised for it.
        doubtful: those that are not read on until it is known whether they have the log that was read.
    """

    def __init__(self) -> None:
        self.damaged: dict[Any, Damage] = {}
        self.doubtful: dict[Any, Doubt] = {}
        self._epochs: dict[Any, int] = {}
        self._reading: dict[Any, Records] = {}

    def epoch(self, partition: Any) -> int:
        """The leader that wrote what was read last."""
        reading = self._reading.get(partition)
        return self._epochs.get(partition, NO_EPOCH) if reading is None else reading.epoch

    def begin(self, partition: Any, records: Records, offset: int) -> bool:
        """Whether this fetch goes on where the last one ended. Within one, a leader's log is the one that it is."""
        known, found = self.epoch(partition), records.epoch
        if NO_EPOCH not in (known, found) and known != found:
            self.doubtful[partition] = Doubt(offset, known, found)
            return False
        self._reading[partition] = records
        return True

    def end(self, partition: Any, records: Records) -> None:
        """Nothing more of this fetch is read: all was, or the rest is thrown away."""
        if self._reading.get(partition) is records:
            del self._reading[partition]
            self._epochs[partition] = records.epoch

    def heed(self, partition: Any, epoch: int) -> None:
        """It goes on from what this leader wrote."""
        self._reading.pop(partition, None)
        self.doubtful.pop(partition, None)
        self._epochs[partition] = epoch

    def __call__(self, data: bytes) -> bytes:
        """As aiokafka takes a deserializer; for what is given as it is decoded it is not called."""
        return data


def partition_records(*parts: Any) -> "_Fetched":
    """What a fetch brought of a partition, record by record. Takes the place of aiokafka's `PartitionRecords` (in `link`)."""
    return _Fetched((_AsDecoded if any(isinstance(part, AsDecoded) for part in parts) else _Complete)(*parts))


class _Fetched:
    """It as aiokafka holds it. Thrown away half read, as when a partition is paused, its megabyte is free at once.

    It and the generator that reads it hold each other: left to Python's search for such circles, hundreds of them lie about.
    """

    __slots__ = ("_records",)

    def __init__(self, records: "_Complete") -> None:
        self._records = records

    def __iter__(self) -> Iterator[Any]:
        return iter(self._records)

    def __next__(self) -> Any:
        return next(self._records)

    @property
    def next_fetch_offset(self) -> int:
        """After what was read."""
        return self._records.next_fetch_offset

    def __del__(self) -> None:
        self._records.close()


class _Complete(PartitionRecords):  # type: ignore[misc]  # aiokafka has no types
    """All of them."""

    next_fetch_offset: int
    _records: Records
    _records_iterator: Generator[Any] | None

    def __iter__(self) -> Iterator[Any]:
        return iter(self._records_iterator or ())

    def close(self) -> None:
        """No more of it is read."""
        if self._records_iterator is not None:
            self._records_iterator.close()

    def _unpack_records(self) -> Iterator[Any]:
        if not self._begins():
            return
        try:
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
        finally:
            self._ends()

    def _begins(self) -> bool:
        """Whether it is to be read."""
        return True

    def _goes_on(self, damage: Exception | None) -> bool:
        """Whether the end, at damage or not, is no reason to raise."""
        return damage is None

    def _ends(self) -> None:
        """Nothing more of it is read."""


class _AsDecoded(_Complete):
    """Without a copy of each, which takes aiokafka as long as all the rest of reading it; up to a batch that is damaged."""

    _key_deserializer: AsDecoded
    _tp: Any

    def _begins(self) -> bool:
        return self._key_deserializer.begin(self._tp, self._records, self.next_fetch_offset)

    def _ends(self) -> None:
        self._key_deserializer.end(self._tp, self._records)

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
