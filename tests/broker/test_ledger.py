"""Whatever request or reply is lost, each record ends with exactly one outcome, and its offset with it."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from prometheus_client import CollectorRegistry

from consumer.core.events import Coordinates, Record
from consumer.core.offsets import OffsetMap, Tracker, decode_map
from consumer.core.outcomes import Outcome, OutcomeContext, Reason, Resolution
from consumer.ledger import Encoder, EndedRecord, FlushBounds, Ledger
from consumer.link import Membership, TopicPartition
from consumer.metrics import Metrics
from consumer.publishing import Publisher
from consumer.transactions import TransactionalLink, TransactionWriter, transactional_ids
from tests.broker.kafka import (
    FaultyClient,
    Topics,
    in_seconds,
    kafka_link,
    member,
    read_all,
    read_outcomes,
    until,
)

pytestmark = pytest.mark.broker

REQUESTS = ["AddOffsetsToTxn", "TxnOffsetCommit", "AddPartitionsToTxn", "Produce", "EndTxn"]


class Bench:
    """A ledger on a real writer, for partition 0."""

    def __init__(self, topics: Topics, link: TransactionalLink) -> None:
        self.topics = topics
        self.link = link
        self.partition = TopicPartition(topics.events, 0)
        self.tracker = Tracker(0)
        self.committed: list[EndedRecord] = []
        self.metrics = Metrics(CollectorRegistry())

    async def open(self, who: Membership, bounds: FlushBounds | None = None) -> None:
        ids = transactional_ids(self.topics.group, self.topics.events, 0)
        producers = await self.link.fence(ids, in_seconds(20))
        await self.link.follow([self.topics.outcomes, self.topics.dead_letters])
        cluster = await self.link.cluster_id()
        self.ledger = Ledger(
            writer=TransactionWriter(self.link, who, producers, Publisher(self.link)),
            read_offsets=self.link.read_offsets,
            trackers={self.partition: self.tracker},
            encoder=Encoder(self.topics.outcomes, self.topics.dead_letters, OutcomeContext(cluster)),
            bounds=bounds or FlushBounds(interval=0.02),
            metrics=self.metrics,
            on_committed=self._note,
        )
        self.cluster = cluster
        self.running = asyncio.create_task(self.ledger.run())
        async with asyncio.timeout(20):
            await self.ledger.opened.wait()

    def _note(self, done: Sequence[EndedRecord]) -> None:
        self.committed += done

    def take(self, offset: int, value: bytes = b"{}") -> Record:
        assert self.tracker.take(offset)
        return Record(Coordinates(self.topics.events, 0, offset), 1_700_000_000_000, b"key", value)

    def end(self, record: Record, *, dead_letter: bool = False) -> None:
        outcome = Outcome.INVALID if dead_letter else Outcome.GRANTED
        reason = Reason.NOT_JSON if dead_letter else None
        self.ledger.add(
            record,
            [Resolution(record, 0, outcome, datetime.now(UTC), reason=reason, dead_letter=dead_letter)],
        )

    async def close(self) -> str | None:
        self.ledger.close()
        async with asyncio.timeout(60):
            return await self.running


@pytest.mark.parametrize("kind", REQUESTS)
@pytest.mark.parametrize("lose", ["request", "reply"])
async def test_a_lost_request_or_reply_neither_loses_nor_doubles_an_outcome(
    broker: str, topics: Topics, kind: str, lose: str
) -> None:
    client = FaultyClient(kind=kind, lose=lose, bootstrap_servers=broker)
    async with (
        member(broker, topics.group, topics.events) as who,
        kafka_link(broker, topics.group, client) as link,
    ):
        bench = Bench(topics, link)
        await bench.open(who)
        for turn in range(3):
            client.armed = turn == 1
            for offset in range(turn * 10, turn * 10 + 10):
                bench.end(bench.take(offset))
            await until(lambda: not client.armed, 20)
            await asyncio.sleep(0.3)
        assert await bench.close() is None
        committed = (await link.read_offsets([bench.partition], in_seconds(10)))[bench.partition]
    assert client.lost == 1
    assert committed.offset == 30
    assert decode_map(committed.metadata, bench.cluster, 30) == OffsetMap((), clean=True)
    offsets = Counter(outcome["record"]["offset"] for outcome in await read_outcomes(broker, topics.outcomes))
    assert offsets == Counter(range(30))
    assert len(bench.committed) == 30


async def test_a_second_lost_offset_commit_gives_the_assignment_up(broker: str, topics: Topics) -> None:
    client = FaultyClient(kind="TxnOffsetCommit", lose="reply", bootstrap_servers=broker)
    async with (
        member(broker, topics.group, topics.events) as who,
        kafka_link(broker, topics.group, client) as link,
    ):
        bench = Bench(topics, link)
        await bench.open(who)
        for offset in range(2):
            client.armed = True
            bench.end(bench.take(offset))
            await asyncio.sleep(0.4)
        async with asyncio.timeout(20):
            lost = await bench.running
    assert lost is not None
    assert "membership" in lost
    assert len(await read_outcomes(broker, topics.outcomes)) == 1


async def test_what_ended_out_of_order_is_remembered_beyond_the_committed_offset(
    broker: str, topics: Topics
) -> None:
    async with member(broker, topics.group, topics.events) as who, kafka_link(broker, topics.group) as link:
        bench = Bench(topics, link)
        await bench.open(who)
        records = [bench.take(offset) for offset in range(6)]
        for offset in (1, 3, 4):
            bench.end(records[offset])
        assert await bench.close() is None
        committed = (await link.read_offsets([bench.partition], in_seconds(10)))[bench.partition]
    assert committed.offset == 0
    assert decode_map(committed.metadata, bench.cluster, 0) == OffsetMap(((1, 2), (3, 5)), clean=False)


async def test_an_owner_of_an_older_generation_is_told_so_and_writes_nothing(
    broker: str, topics: Topics
) -> None:
    async with (
        member(broker, topics.group, topics.events) as old,
        kafka_link(broker, topics.group) as link,
    ):
        bench = Bench(topics, link)
        await bench.open(old)
        # The group moves on without the bench noticing.
        async with member(broker, topics.group, topics.events):
            bench.end(bench.take(0))
            async with asyncio.timeout(20):
                lost = await bench.running
    assert lost is not None
    assert "fenced by group" in lost
    assert await read_outcomes(broker, topics.outcomes) == []


async def test_a_dead_letter_too_large_for_its_topic_is_replaced_and_its_neighbours_are_not_touched(
    broker: str, topics: Topics
) -> None:
    async with member(broker, topics.group, topics.events) as who, kafka_link(broker, topics.group) as link:
        bench = Bench(topics, link)
        # The encoder believes that the topic takes more than it does, as after a change on the broker's side.
        await bench.open(who)
        bench.ledger._encoder = Encoder(
            topics.outcomes, topics.dead_letters, OutcomeContext(bench.cluster), message_bytes=3_000_000
        )
        for offset in range(50):
            value = b"x" * 1_500_000 if offset == 20 else b"not json"
            bench.end(bench.take(offset, value), dead_letter=True)
        assert await bench.close() is None
    assert len(await read_outcomes(broker, topics.outcomes)) == 50
    letters = {
        dict(letter.headers)["coupon_offset"]: letter
        for letter in await read_all(broker, topics.dead_letters)
    }
    assert len(letters) == 50
    assert dict(letters[b"20"].headers)["coupon_payload"] == b"replaced"
    assert b"sha256:" in letters[b"20"].value
    assert {letter.value for number, letter in letters.items() if number != b"20"} == {b"not json"}


async def test_a_broker_that_is_away_for_a_while_holds_the_frontier_and_loses_nothing(
    broker: str, topics: Topics
) -> None:
    client = FaultyClient(kind="", lose="request", bootstrap_servers=broker)
    async with (
        member(broker, topics.group, topics.events) as who,
        kafka_link(broker, topics.group, client) as link,
    ):
        bench = Bench(topics, link)
        await bench.open(who)
        for offset in range(12):
            client.armed = True  # every request that comes first is lost
            bench.end(bench.take(offset))
            await asyncio.sleep(0.05)
        assert await bench.close() is None
    outcomes = await read_outcomes(broker, topics.outcomes)
    assert Counter(outcome["record"]["offset"] for outcome in outcomes) == Counter(range(12))
