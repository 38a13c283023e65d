"""What intake does when Kafka's log or consumer is no longer what it was. The rest is tested on a real Kafka."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pytest
from aiokafka.errors import KafkaError
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from consumer import intake
from consumer.core.errors import BrokerUnavailableError
from consumer.core.events import Record
from consumer.core.offsets import Tracker
from consumer.core.outcomes import OutcomeContext, Resolution
from consumer.intake import Intake
from consumer.ledger import Bounds, Done, Encoder, Ledger
from consumer.link import Committed, CommittedOffset, FlushResult, Membership, Outgoing, TopicPartition
from consumer.metrics import Metrics

PARTITION = TopicPartition("events", 0)


class Polled(NamedTuple):
    offset: int
    timestamp: int = 1_700_000_000_000
    key: bytes | None = None
    value: bytes | None = b"{}"
    headers: tuple[tuple[str, bytes], ...] = ()


class FakeConsumer:
    """A consumer of one partition, whose polls bring what the test puts there."""

    def __init__(self) -> None:
        self.polls: asyncio.Queue[list[int] | Exception] = asyncio.Queue()
        self.rejoined = asyncio.Event()
        self.sought: list[int] = []
        self.end = 100

    def membership(self) -> Membership:
        return Membership("group", 1, "member")

    def rejoin(self) -> None:
        self.rejoined.set()

    def pause(self, *partitions: TopicPartition) -> None: ...

    def resume(self, *partitions: TopicPartition) -> None: ...

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self.sought.append(offset)

    def assignment(self) -> Iterable[TopicPartition]:
        return [PARTITION]

    def highwater(self, partition: TopicPartition) -> int | None:
        return self.end

    async def getmany(self, *, timeout_ms: int, max_records: int) -> Mapping[TopicPartition, Sequence[Any]]:
        polled = await self.polls.get()
        if isinstance(polled, Exception):
            self.polls.put_nowait(polled)  # it stays as it is
            raise polled
        return {PARTITION: [Polled(offset) for offset in polled]}

    async def beginning_offsets(self, partitions: list[TopicPartition]) -> Mapping[TopicPartition, int]:
        return dict.fromkeys(partitions, 0)

    async def end_offsets(self, partitions: list[TopicPartition]) -> Mapping[TopicPartition, int]:
        return dict.fromkeys(partitions, self.end)

    async def offsets_for_times(
        self, timestamps: Mapping[TopicPartition, int]
    ) -> Mapping[TopicPartition, Any]:
        raise NotImplementedError


class FakeLink:
    """Remembers what its writer commits."""

    def __init__(self, committed: int) -> None:
        self.committed = {PARTITION: CommittedOffset(committed, "")}

    async def fence(self, ids: Iterable[str], deadline: float) -> Mapping[str, tuple[int, int]]:
        return dict.fromkeys(ids, (1, 1))

    async def read_offsets(
        self, partitions: Iterable[TopicPartition], deadline: float
    ) -> Mapping[TopicPartition, CommittedOffset]:
        return self.committed

    async def flush(
        self, offsets: Mapping[TopicPartition, CommittedOffset], records: Sequence[Outgoing]
    ) -> FlushResult:
        self.committed.update(offsets)
        return Committed()

    async def recover(self, deadline: float) -> bool:
        raise NotImplementedError


class FakeDelivery:
    """Every record ends at once, without orders."""

    def __init__(self) -> None:
        self.delivered: list[int] = []

    async def deliver(self, record: Record) -> Sequence[Resolution]:
        self.delivered.append(record.coordinates.offset)
        return []

    def hold(self) -> None: ...

    def release(self) -> None: ...

    async def quiet(self) -> None: ...


class Room:
    """An intake whose partition was read up to offset 50."""

    def __init__(self) -> None:
        self.consumer, self.link, self.delivery = FakeConsumer(), FakeLink(50), FakeDelivery()
        self.metrics = Metrics(CollectorRegistry())
        self.intake = Intake(
            consumer=self.consumer,
            link=self.link,
            group="group",
            cluster_id="cluster",
            start_from="earliest",
            delivery=self.delivery,
            make_ledger=self._ledger,
            pause_reason=lambda: None,
            bounds=intake.Bounds(drain=1.0),
            metrics=self.metrics,
        )

    def _ledger(
        self,
        member: Membership,
        producers: Mapping[str, tuple[int, int]],
        trackers: Mapping[TopicPartition, Tracker],
        on_committed: Callable[[Sequence[Done]], None],
    ) -> Ledger:
        return Ledger(
            writer=self.link,
            read_offsets=self.link.read_offsets,
            trackers=trackers,
            encoder=Encoder("outcomes", "dead", OutcomeContext("cluster")),
            bounds=Bounds(interval=0.01),
            metrics=self.metrics,
            on_committed=on_committed,
        )

    async def assigned(self) -> None:
        await self.intake.on_partitions_assigned([PARTITION])
        async with asyncio.timeout(5):
            while not self.intake.partitions:  # noqa: ASYNC110  # it sets no event
                await asyncio.sleep(0.01)

    async def delivers(self, offsets: list[int]) -> None:
        async with asyncio.timeout(5):
            while self.delivery.delivered != offsets:  # noqa: ASYNC110  # as above
                await asyncio.sleep(0.01)


@pytest.fixture
async def room() -> AsyncIterator[Room]:
    room = Room()
    running = asyncio.create_task(room.intake.run())
    yield room
    room.intake.stop()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_log_that_was_made_anew_behind_our_back_is_read_from_its_beginning(room: Room) -> None:
    await room.assigned()
    room.consumer.polls.put_nowait([50, 51])
    await room.delivers([50, 51])
    room.consumer.polls.put_nowait([0, 1])  # the place was out of its range, and aiokafka went to its start
    async with asyncio.timeout(5):
        await room.consumer.rejoined.wait()
    await room.intake.on_partitions_revoked([PARTITION])
    await room.assigned()
    assert room.consumer.sought == [50, 0]  # although 52 is committed, and lies within the new log
    room.consumer.polls.put_nowait([0, 1])
    await room.delivers([50, 51, 0, 1])


async def test_gaps_and_records_that_are_done_already_are_no_sign_of_a_new_log(room: Room) -> None:
    await room.assigned()
    room.consumer.polls.put_nowait([50, 55])
    room.consumer.polls.put_nowait([60])
    await room.delivers([50, 55, 60])
    assert not room.consumer.rejoined.is_set()


async def test_a_consumer_that_only_raises_is_told_and_then_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "GIVE_UP_SECONDS", 0.5)
    room = Room()
    room.consumer.polls.put_nowait(KafkaError("the coordination task has ended"))
    running = asyncio.create_task(room.intake.run())
    with capture_logs() as lines:
        await asyncio.sleep(0.2)
        assert room.intake.trouble == "cannot poll: KafkaError: the coordination task has ended"
        with pytest.raises(BrokerUnavailableError, match="cannot poll"):
            async with asyncio.timeout(10):
                await running
    assert 0 < sum(line["event"] == "intake.cannot_poll" for line in lines) <= 4
