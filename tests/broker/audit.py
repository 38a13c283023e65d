"""The books of a trial: outcomes as a read_committed reader sees them, the platform's journal, every commit ever made."""

import asyncio
import struct
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from consumer.core.offsets import MAX_MAP_BYTES, OffsetMap, decode_map
from consumer.sandbox.gateway import SandboxGateway
from tests.broker.kafka import end_offsets, kafka_link
from tests.broker.world import World

Ranges = tuple[tuple[int, int], ...]
"""Half-open, ascending, not touching."""


@dataclass(frozen=True)
class Commit:
    """One commit of a group: where it stands, and what is done as its map tells.

    Attributes:
        offset: -1 where the group's offset was deleted.
        why: why the map cannot be used; empty where it can.
    """

    partition: TopicPartition
    offset: int
    done: Ranges
    why: str = ""

    @property
    def highest(self) -> int:
        return max(self.offset, self.done[-1][1] if self.done else 0)

    def covers(self, earlier: "Commit") -> bool:
        """Everything that was done then is done now."""
        everything = [(0, self.offset), *self.done]
        return all(
            any(start <= first and last <= end for start, end in everything)
            for first, last in [(0, earlier.offset), *earlier.done]
        )

    def offsets(self) -> Iterable[int]:
        yield from range(self.offset)
        for start, end in self.done:
            yield from range(start, end)


async def commits(world: World) -> list[Commit]:
    """Every commit of the world's group, in the order in which they took effect."""
    async with kafka_link(world.broker, world.topics.group) as link:
        cluster = await link.cluster_id()
    since = int((world.began_at - 1) * 1000)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=world.broker, isolation_level="read_committed", enable_auto_commit=False
    )
    found: list[Commit] = []
    async with consumer:
        numbers = await consumer._client._wait_on_metadata("__consumer_offsets")
        partitions = [TopicPartition("__consumer_offsets", number) for number in numbers]
        consumer.assign(partitions)
        # Of the log, not of what is readable now: anybody's open transaction keeps a reader here waiting.
        ends = {
            TopicPartition("__consumer_offsets", number): end
            for number, end in (await end_offsets(world.broker, "__consumer_offsets", len(numbers))).items()
        }
        starts = await consumer.offsets_for_times(dict.fromkeys(partitions, since))
        open_ones = {tp for tp in partitions if starts[tp] is not None and starts[tp].offset < ends[tp]}
        for tp in partitions:
            if tp in open_ones:
                consumer.seek(tp, starts[tp].offset)
            else:
                consumer.pause(tp)
        give_up = time.monotonic() + 90
        while open_ones:
            assert time.monotonic() < give_up, f"cannot be read up to its end: {open_ones} of {ends}"
            for records in (await consumer.getmany(timeout_ms=200, max_records=5000)).values():
                found += filter(None, (_commit(record, world.topics.group, cluster) for record in records))
            for tp in list(open_ones):
                if await consumer.position(tp) >= ends[tp]:
                    open_ones.discard(tp)
                    consumer.pause(tp)
    return found


def _commit(record: Any, group: str, cluster: str) -> Commit | None:
    """A record of `__consumer_offsets`; None where it is another group's, or no offset."""
    version, rest = struct.unpack(">h", record.key[:2])[0], record.key[2:]
    if version not in {0, 1}:
        return None
    name, rest = _text(rest)
    topic, rest = _text(rest)
    if name != group:
        return None
    partition = TopicPartition(topic, *struct.unpack(">i", rest))
    if record.value is None:
        return Commit(partition, -1, ())
    written = struct.unpack(">h", record.value[:2])[0]
    (offset,) = struct.unpack(">q", record.value[2:10])
    rest = record.value[10 + (4 if written >= 3 else 0) :]
    metadata, _ = _compact_text(rest) if written >= 4 else _text(rest)
    assert len(metadata) <= MAX_MAP_BYTES
    known = decode_map(metadata, cluster, offset)
    if isinstance(known, OffsetMap):
        return Commit(partition, offset, known.done)
    return Commit(partition, offset, (), known.why)


def _text(data: bytes) -> tuple[str, bytes]:
    (size,) = struct.unpack(">h", data[:2])
    return data[2 : 2 + size].decode(), data[2 + size :]


def _compact_text(data: bytes) -> tuple[str, bytes]:
    size = shift = place = 0
    while True:
        byte = data[place]
        size |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return data[place : place + size - 1].decode(), data[place + size - 1 :]


@dataclass(frozen=True)
class Books:
    """What a trial ended with.

    Attributes:
        calls: requests that reached the platform, by order.
        overlaps: requests that came while another one of the same order was under way.
    """

    outcomes: Sequence[dict[str, Any]]
    commits: Sequence[Commit]
    calls: Counter[str]
    overlaps: int


async def audit(world: World, gateway: SandboxGateway, orders: Iterable[int] | None, *others: str) -> Books:
    """Everything adds up. Each record holds one order; `orders`: the numbers that were sent, all of which have ended.

    `others`: outcomes that may be there beside grants.

    None lost and none doubled: the records that the group has committed as done, in order or
    beyond, are exactly those that have an outcome, each one. And no commit ever went
    backwards, or beyond the log's end.
    """
    await _until_readable(world)
    outcomes = await world.outcomes()
    history = await commits(world)
    ends = await end_offsets(world.broker, world.topics.events, world.topics.partitions)
    last: dict[TopicPartition, Commit] = {}
    for commit in history:
        before = last.get(commit.partition)
        assert not commit.why, commit
        assert before is None or commit.covers(before), (before, commit)
        assert commit.highest <= ends[commit.partition.partition], (commit, ends)
        last[commit.partition] = commit

    done = Counter((tp.partition, offset) for tp, commit in last.items() for offset in commit.offsets())
    written = Counter((each["record"]["partition"], each["record"]["offset"]) for each in outcomes)
    assert written == done
    if orders is not None:
        by_order = Counter(each["order_id"] for each in outcomes)
        assert by_order == Counter(f"ORDER{number:08}" for number in orders)

    journal = gateway.journal
    for each in (one for one in outcomes if one["outcome"] not in others):
        # A grant whose reply died with its owner is found again as "already granted", and marked as maybe ours.
        assert each["outcome"] == "granted" or (
            each["outcome"] == "already_granted" and each["attempts"]["ambiguous"]
        ), each
        if each["outcome"] == "granted":
            assert journal.grants[each["event_id"]] == each["grant_serial"]
        assert each["event_id"] in journal.grants
    assert not journal.unverified
    return Books(outcomes, history, journal.calls_by_event, journal.event_overlaps)


async def _until_readable(world: World) -> None:
    """Nobody's transaction is left open: readers of committed records come as far as all others."""
    topic, partitions = world.topics.outcomes, 3
    give_up = time.monotonic() + 5
    while True:
        written = await end_offsets(world.broker, topic, partitions)
        stable = await end_offsets(world.broker, topic, partitions, isolation="read_committed")
        if written == stable:
            return
        assert time.monotonic() < give_up, f"an open transaction holds readers up: {stable} of {written}"
        await asyncio.sleep(0.1)
