"""Which records of a partition are done, and how that is written into a commit. Performs no I/O.

Records end out of order, an offset is committed in order. So the commit carries, in
its metadata string, which records beyond the committed offset are done already: the
**offset map**. A restart or a new owner then does not send them again.
"""

import base64
import hashlib
import re
import zlib
from binascii import b2a_base64
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

MAX_MAP_BYTES = 4096
"""The broker's `offset.metadata.max.bytes`, by default."""

FULL_MAP_BYTES = MAX_MAP_BYTES * 3 // 4
"""From here on the partition takes no new records: those under way can still make the map grow."""

_PREFIX = "ccc1:"  # charging-coupon consumer, version 1: tells our maps from other people's metadata
_CLEAN, _RUNS, _BITMAP, _DEFLATED, _TOPIC = 1, 2, 4, 8, 16
_TOPIC_TAG = 4  # bytes that tell a topic from the one that had its name before
_MAX_SPAN = 1 << 32  # offsets that one map may reach over; more is no map of ours
_MAX_INFLATED = 1 << 20
_ONES = re.compile("1+")
_SHORT = 512  # bytes of a map that need not be packed: zlib takes a quarter of a megabyte of the processor's caches for it
_LONG = 1536  # bytes of a map that is half of what a commit may hold: from here on, it is worth trying both encodings


class Tracker:
    """One partition's records: taken, done, and the frontier between.

    Knows nothing of Kafka. Offsets that do not exist (compaction, transaction
    markers) count as done as soon as a record beyond them is taken.

    Attributes:
        position: one beyond the highest offset taken or known to be done.
        maybe_sent_below: records below it may have been sent by an owner that did not close cleanly.
        topic_id: of whose log it tells; None where Kafka tells no ids.
    """

    def __init__(
        self, frontier: int, done: Iterable[tuple[int, int]] = (), *, maybe_sent_below: int = 0
    ) -> None:
        """`done` holds half-open ranges [start, end) beyond the frontier, as `decode_map` returns them."""
        self.maybe_sent_below = maybe_sent_below
        self.topic_id: str | None = None
        self._frontier = frontier
        self.position = frontier
        self._starts: list[int] = []
        self._ends: list[int] = []
        for start, end in done:
            self._add(start, end)
        self._absorb()

    def between(self, start: int, end: int) -> "Tracker":
        """The same for a log that is no longer what it was before `start`, nor from `end` on."""
        done = [(max(first, start), min(last, end)) for first, last in self.done()]
        within = Tracker(
            min(max(self._frontier, start), end),
            [(first, last) for first, last in done if first < last],
            maybe_sent_below=min(self.maybe_sent_below, end),
        )
        within.topic_id = self.topic_id
        return within

    @property
    def frontier(self) -> int:
        """The lowest offset not done: the one to commit."""
        return self._frontier

    @property
    def reach(self) -> int:
        """One beyond the last offset that was taken, or is done."""
        return max(self.position, self._ends[-1]) if self._ends else self.position

    @property
    def outstanding(self) -> bool:
        """True while a record is taken and not done."""
        return self._frontier < self.position

    @property
    def clean(self) -> bool:
        """True while of all that is not done nothing was sent: by this owner, or by one before it."""
        return not self.outstanding and self._frontier >= self.maybe_sent_below

    def take(self, offset: int) -> bool:
        """A record has come: True if it is to be done, False if it is done already or under way."""
        if offset < self.position:
            return False
        gap, self.position = offset - self.position, offset + 1
        if not gap and (not self._ends or offset >= self._ends[-1]):
            return True
        new = not self._is_done(offset)
        if gap:
            self._add(offset - gap, offset)
        self._absorb()
        return new

    def skip_to(self, offset: int) -> bool:
        """Nothing stands between the last record taken and `offset`. True if that moves the frontier."""
        before = self._frontier
        if offset > self.position:
            self._add(self.position, offset)
            self.position = offset
            self._absorb()
        return self._frontier > before

    def finish_all(self, offsets: list[int]) -> None:
        """The records at these offsets are done; those that follow each other are noted as one. Sorts the list."""
        offsets.sort()
        start = end = offsets[0] if offsets else 0
        for offset in offsets:
            if offset > end:
                self._finish(start, end)
                start = offset
            end = offset + 1
        self._finish(start, end)
        self._absorb()

    def _finish(self, start: int, end: int) -> None:
        if start > self._frontier:
            self._add(start, end)
        elif end > self._frontier:
            self._frontier = end

    def done(self) -> list[tuple[int, int]]:
        """Ranges [start, end) of what is done beyond the frontier, ascending."""
        return list(zip(self._starts, self._ends, strict=True))

    def undone(self, end: int) -> int:
        """How many offsets before `end` are not done."""
        done = sum(min(last, end) - first for first, last in self.done() if first < end)
        return max(0, end - self._frontier - done)

    def is_done(self, offset: int) -> bool:
        """True if the record at `offset` is done."""
        return offset < self._frontier or self._is_done(offset)

    def _is_done(self, offset: int) -> bool:
        at = bisect_right(self._starts, offset) - 1
        return at >= 0 and offset < self._ends[at]

    def _add(self, start: int, end: int) -> None:
        """Merge [start, end) into the ranges; touching ranges become one."""
        if not self._ends or start > self._ends[-1]:
            self._starts.append(start)
            self._ends.append(end)
            return
        if start == self._ends[-1]:
            self._ends[-1] = end
            return
        first = bisect_left(self._ends, start)
        last = bisect_right(self._starts, end)
        if first < last:
            start = min(start, self._starts[first])
            end = max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]

    def _absorb(self) -> None:
        while self._starts and self._starts[0] <= self._frontier:
            self._frontier = max(self._frontier, self._ends.pop(0))
            del self._starts[0]
        self.position = max(self.position, self._frontier)


@dataclass(frozen=True, slots=True)
class OffsetMap:
    """A decoded map.

    Attributes:
        done: ranges [start, end) beyond the frontier, ascending.
        clean: its writer closed with nothing under way.
    """

    done: tuple[tuple[int, int], ...]
    clean: bool


UNUSABLE = ("foreign", "unreadable", "other_cluster", "other_topic", "other_offset")
"""Why a map must not be used: a closed set, and the metric's label."""


@dataclass(frozen=True, slots=True)
class UnusableMap:
    """A map that must not be used: a wrong map would lose records, no map only repeats some.

    Attributes:
        why: of `UNUSABLE`.
    """

    why: str


def encode_map(
    cluster: str, frontier: int, done: list[tuple[int, int]], *, clean: bool, topic_id: str | None = None
) -> str:
    """The commit's metadata. May exceed MAX_MAP_BYTES, but then there is no shorter way to say it.

    A topic that is deleted and made anew keeps its name, and a commit that comes late is taken for the new one:
    by `topic_id` its reader knows.
    """
    kind, body = _body(frontier, done) if done else (0, b"")
    flags = kind | (_CLEAN if clean else 0) | (_TOPIC if topic_id is not None else 0)
    head = bytes([flags]) + _cluster_tag(cluster) + _topic_tag(topic_id) + _uvarint(frontier)
    return _PREFIX + b2a_base64(head + body, newline=False).rstrip(b"=").decode()


def _body(frontier: int, done: list[tuple[int, int]]) -> tuple[int, bytes]:
    """In the encoding that promises more; once that is long, in the better of both."""
    span = done[-1][1] - frontier
    if span <= 16 * len(done):  # each run takes a byte at least, and a bitmap one for eight offsets
        found = _deflated(_BITMAP, _bitmap(frontier, done))
        return found if len(found[1]) < _LONG else _shorter(found, _deflated(_RUNS, _runs(frontier, done)))
    runs = _runs(frontier, done)
    found = _deflated(_RUNS, runs)
    if len(found[1]) < _LONG or span > 8 * len(runs):
        return found
    return _shorter(found, _deflated(_BITMAP, _bitmap(frontier, done)))


def _shorter(one: tuple[int, bytes], other: tuple[int, bytes]) -> tuple[int, bytes]:
    return one if len(one[1]) <= len(other[1]) else other


def _deflated(kind: int, body: bytes) -> tuple[int, bytes]:
    """If that is shorter."""
    if len(body) <= _SHORT:
        return kind, body
    deflated = zlib.compress(body)
    return (kind | _DEFLATED, deflated) if len(deflated) < len(body) else (kind, body)


def decode_map(text: str, cluster: str, offset: int, topic_id: str | None = None) -> OffsetMap | UnusableMap:
    """Read the metadata that was committed with `offset`. Never raises, whatever the text.

    `topic_id` None: of whichever topic it is. So is a map that tells none.
    """
    if not text.startswith(_PREFIX):
        return UnusableMap("foreign")
    try:
        return _read_map(text[len(_PREFIX) :], cluster, offset, topic_id)
    except (ValueError, IndexError, zlib.error):  # binascii.Error is a ValueError
        return UnusableMap("unreadable")


def _read_map(packed: str, cluster: str, offset: int, topic_id: str | None) -> OffsetMap | UnusableMap:
    data = base64.b64decode(packed + "=" * (-len(packed) % 4), validate=True)
    flags, tag = data[0], data[1:9]
    at = 9 + (_TOPIC_TAG if flags & _TOPIC else 0)
    topic = data[9:at]
    frontier, at = _read_uvarint(data, at)
    if tag != _cluster_tag(cluster):
        return UnusableMap("other_cluster")
    if topic and topic_id is not None and topic != _topic_tag(topic_id):
        return UnusableMap("other_topic")
    if frontier != offset:
        return UnusableMap("other_offset")
    body = _inflate(data[at:]) if flags & _DEFLATED else data[at:]
    kind = flags & ~(_CLEAN | _DEFLATED | _TOPIC)
    if kind == _BITMAP:
        done = tuple(_read_bitmap(frontier, body))
    elif kind == _RUNS or (not kind and not body):
        done = tuple(_read_runs(frontier, body))
    else:
        return UnusableMap("unreadable")
    return OffsetMap(done, bool(flags & _CLEAN))


def _inflate(body: bytes) -> bytes:
    inflater = zlib.decompressobj()
    inflated = inflater.decompress(body, _MAX_INFLATED)
    if not inflater.eof:
        raise ValueError("cut off, or larger than any map of ours")
    return inflated


@lru_cache(maxsize=8)
def _cluster_tag(cluster: str) -> bytes:
    return hashlib.blake2b(cluster.encode(), digest_size=8).digest()


@lru_cache(maxsize=64)
def _topic_tag(topic_id: str | None) -> bytes:
    return b"" if topic_id is None else hashlib.blake2b(topic_id.encode(), digest_size=_TOPIC_TAG).digest()


def _runs(frontier: int, done: list[tuple[int, int]]) -> bytes:
    """Alternating lengths: not done, done, not done, done ..., from the frontier on."""
    at = frontier
    lengths: list[int] = []
    for start, end in done:
        lengths += (start - at, end - start)
        at = end
    return bytes(lengths) if max(lengths) <= 0x7F else b"".join(map(_uvarint, lengths))


def _read_runs(frontier: int, body: bytes) -> Iterator[tuple[int, int]]:
    offset, at = frontier, 0
    while at < len(body):
        gap, at = _read_uvarint(body, at)
        length, at = _read_uvarint(body, at)
        start, offset = offset + gap, offset + gap + length
        if not gap or not length or offset - frontier > _MAX_SPAN:
            raise ValueError("runs are not empty")
        yield start, offset


def _bitmap(frontier: int, done: list[tuple[int, int]]) -> bytes:
    """Bit n of the little-endian number says whether offset frontier + n is done."""
    at = frontier
    text: list[str] = []
    for start, end in done:
        text += ("0" * (start - at), "1" * (end - start))
        at = end
    bits = int("".join(text)[::-1], 2)
    return bits.to_bytes((bits.bit_length() + 7) // 8, "little")


def _read_bitmap(frontier: int, body: bytes) -> Iterator[tuple[int, int]]:
    bits = int.from_bytes(body, "little")
    if bits & 1 or not bits:
        raise ValueError("the frontier itself is not done")
    # By its text: to shift the number bit by bit takes as long as its length squared.
    for ones in _ONES.finditer(f"{bits:b}"[::-1]):
        yield frontier + ones.start(), frontier + ones.end()


def _uvarint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _read_uvarint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7
        if shift > 63:
            raise ValueError("a number longer than 64 bits")
