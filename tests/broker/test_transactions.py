"""The writer commits outcomes and offsets together or not at all, and a stranger commits nothing."""

import random
import time

import pytest

from consumer.link import (
    Committed,
    CommittedOffset,
    Fenced,
    Membership,
    Outgoing,
    Retriable,
    TopicPartition,
)
from consumer.publishing import Publisher
from consumer.transactions import TransactionalLink, TransactionWriter, transactional_ids
from tests.broker.kafka import Topics, in_seconds, kafka_link, member, produce, read_all

pytestmark = pytest.mark.broker


def outgoing(topic: str, value: bytes = b"value", key: bytes | None = b"key") -> Outgoing:
    return Outgoing(topic, key, value, [("header", b"x"), ("nothing", None)], int(time.time() * 1000))


async def writer(link: TransactionalLink, who: Membership, topic: str, outcomes: str) -> TransactionWriter:
    ids = transactional_ids(link.group, topic, 0)
    await link.follow([outcomes])
    return TransactionWriter(
        link, who, await link.fence(ids, in_seconds(20)), Publisher(link, compression="lz4")
    )


async def test_records_and_offsets_become_visible_together(broker: str, topics: Topics) -> None:
    topic, outcomes, group = topics.events, topics.outcomes, topics.group
    async with member(broker, group, topic) as who, kafka_link(broker, group) as link:
        write = await writer(link, who, topic, outcomes)
        partition = TopicPartition(topic, 0)
        for offset in range(1, 4):
            records = [outgoing(outcomes, key=b"%d" % number) for number in range(100)]
            assert await write.flush({partition: CommittedOffset(offset, "map")}, records) == Committed()
            committed = await link.read_offsets([partition], in_seconds(10))
            assert committed == {partition: CommittedOffset(offset, "map")}
        assert len(await read_all(broker, outcomes)) == 300


async def test_records_with_the_same_key_land_where_kafkas_own_producers_put_them(
    broker: str, topics: Topics
) -> None:
    topic, outcomes, group = topics.events, topics.outcomes, topics.group
    keys = [f"粤B{number:05}".encode() for number in range(40)]
    async with member(broker, group, topic) as who, kafka_link(broker, group) as link:
        write = await writer(link, who, topic, outcomes)
        records = [outgoing(outcomes, key=key) for key in keys]
        assert await write.flush({TopicPartition(topic, 0): CommittedOffset(1, "")}, records) == Committed()
    await produce(broker, outcomes, [b"theirs"] * len(keys), keys)
    places: dict[bytes, set[int]] = {}
    for record in await read_all(broker, outcomes):
        places.setdefault(record.key, set()).add(record.partition)
    assert len(places) == len(keys)
    assert all(len(where) == 1 for where in places.values())


async def test_a_writer_whose_id_was_initialised_elsewhere_writes_nothing(
    broker: str, topics: Topics
) -> None:
    topic, outcomes, group = topics.events, topics.outcomes, topics.group
    async with member(broker, group, topic) as who, kafka_link(broker, group) as link:
        zombie = await writer(link, who, topic, outcomes)
        await writer(link, who, topic, outcomes)
        result = await zombie.flush({TopicPartition(topic, 0): CommittedOffset(5, "")}, [outgoing(outcomes)])
        assert isinstance(result, Fenced)
        assert result.by == "epoch"
        assert not zombie.live
        assert await read_all(broker, outcomes, isolation="read_uncommitted") == []


@pytest.mark.parametrize(("generation", "stranger"), [(-1, False), (7, False), (0, True)])
async def test_another_generation_or_a_stranger_commits_nothing_and_produces_nothing(
    broker: str, topics: Topics, generation: int, stranger: bool
) -> None:
    topic, outcomes, group = topics.events, topics.outcomes, topics.group
    async with member(broker, group, topic) as who, kafka_link(broker, group) as link:
        if generation == -1:
            with pytest.raises(ValueError, match="not a member"):
                Membership(group, -1, who.member_id)
            return
        wrong = Membership(group, who.generation + generation, "stranger" if stranger else who.member_id)
        write = await writer(link, wrong, topic, outcomes)
        partition = TopicPartition(topic, 0)
        result = await write.flush({partition: CommittedOffset(5, "")}, [outgoing(outcomes)])
        assert isinstance(result, Fenced)
        assert result.by == "group"
        assert (await link.read_offsets([partition], in_seconds(10)))[partition].offset == -1
        assert await read_all(broker, outcomes, isolation="read_uncommitted") == []
        assert await link.confirms(who, in_seconds(10))
        assert not await link.confirms(wrong, in_seconds(10))


async def test_of_a_batch_with_one_record_too_large_only_that_one_is_named(
    broker: str, topics: Topics
) -> None:
    topic, outcomes, group = topics.events, topics.outcomes, topics.group
    async with member(broker, group, topic) as who, kafka_link(broker, group) as link:
        write = await writer(link, who, topic, outcomes)
        offsets = {TopicPartition(topic, 0): CommittedOffset(1, "")}
        records = [outgoing(outcomes, b"small%d" % number) for number in range(200)]
        noise = random.Random(1).randbytes(1_500_000)  # does not compress
        records[77] = outgoing(outcomes, noise)
        result = await write.flush(offsets, records)
        assert isinstance(result, Retriable)
        assert result.culprits == (77,)
        assert await read_all(broker, outcomes) == []
        del records[77]
        assert await write.flush(offsets, records) == Committed()
        assert len(await read_all(broker, outcomes)) == 199


async def test_what_a_dead_owner_left_open_is_ended_before_the_new_one_reads(
    broker: str, topics: Topics
) -> None:
    topic, outcomes, group = topics.events, topics.outcomes, topics.group
    async with member(broker, group, topic) as who, kafka_link(broker, group) as link:
        dead = await writer(link, who, topic, outcomes)
        await dead._add_offsets()
        await dead._commit_offsets({TopicPartition(topic, 0): CommittedOffset(9, "")})
        successor = await writer(link, who, topic, outcomes)
        partition = TopicPartition(topic, 0)
        assert (await link.read_offsets([partition], in_seconds(10)))[partition].offset == -1
        assert await successor.flush({partition: CommittedOffset(1, "")}, [outgoing(outcomes)]) == Committed()
