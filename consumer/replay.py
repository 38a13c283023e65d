"""Dead letters back to where they came from, each of them once. Talks to Kafka.

**Once.** The record that is sent back and a receipt for its dead letter are one transaction. A replay
begins by initialising its transactional id, which ends whatever an earlier one left open and fences one
that still runs; only then it asks where the dead-letter topic ends, reads up to there, receipts too, and
sends nothing that has one. So what it reads is all that was ever committed, and nothing can be added by
another replay without fencing this one. An end without an answer is settled by the same two steps.
(`guarantee: at_least_once` writes the record first and its receipt after.)

**Bounded.** The first pass keeps the places and kinds of what it chooses; a second one reads the payloads.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple, Self

from aiokafka import AIOKafkaConsumer
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError, TopicAuthorizationFailedError

from consumer.connection import arguments, reach
from consumer.core.errors import BrokerUnavailableError, RefusedError
from consumer.core.events import Coordinates, Record
from consumer.core.letters import (
    DeadLetter,
    Filters,
    Receipt,
    obstacle,
    plates_of,
    read_letter,
    read_receipt,
    receipt_headers,
    replayed_headers,
)
from consumer.core.plates import normalise
from consumer.core.rules import RuleBook
from consumer.link import (
    NOT_ALLOWED,
    TOO_LARGE,
    Ambiguous,
    Committed,
    Fenced,
    FlushResult,
    KafkaLink,
    Outgoing,
    Retriable,
    TopicPartition,
    named,
    words,
)
from consumer.lookup import span
from consumer.publishing import PlainWriter, Publisher
from consumer.settings import Settings
from consumer.transactions import TransactionalLink, TransactionWriter

TRANSACTION_RECORDS = 100
TRANSACTION_BYTES = 8 << 20
PATIENCE = 90.0
"""Seconds for which a Kafka that does not answer, or hides records behind somebody's open transaction, is waited for."""

_PLACES = 3
"""Places that are named of those that do not go."""


# -- What goes and what does not --------------------------------------------------------------------


Place = tuple[int, int]
"""A dead letter's own partition and offset."""


class Kind(NamedTuple):
    """What many dead letters have in common."""

    outcome: str
    reason: str | None
    code: str | None
    rule: str | None


@dataclass(slots=True)
class HeldBack:
    """Dead letters that do not go for the same reason."""

    count: int = 0
    places: list[Coordinates] = field(default_factory=list)


class Selection:
    """What would go, by its place in the dead-letter topic, and what would not. Receipts follow their dead letters.

    Attributes:
        read: dead letters that were looked at.
        held_back: those that are meant and do not go, by why.
    """

    def __init__(self) -> None:
        self.read = 0
        self.held_back: dict[str, HeldBack] = {}
        self._chosen: dict[int, dict[int, tuple[Kind, Coordinates]]] = {}
        self._kinds: dict[Kind, Kind] = {}
        self._seen: set[str] = set()

    def choose(self, letter: DeadLetter, partition: int, offset: int, why_not: str | None) -> None:
        """It is meant; `why_not` keeps it from going all the same."""
        if letter.identity in self._seen:
            why_not = "repeats another one"
        self._seen.add(letter.identity)
        if why_not is not None:
            self.hold_back(why_not, letter.origin)
            return
        kind = Kind(letter.outcome, letter.reason, letter.code, letter.rule)
        kind = self._kinds.setdefault(kind, kind)
        self._chosen.setdefault(partition, {})[offset] = (kind, letter.origin)

    def acknowledge(self, receipt: Receipt, partition: int) -> None:
        """One of them went back before."""
        if receipt.partition != partition:  # of a topic that was copied, where nothing has its place any more
            return
        sent = self._chosen.get(partition, {}).pop(receipt.offset, None)
        if sent is not None:
            self.hold_back("sent back already", sent[1])

    def hold_back(self, why: str, place: Coordinates) -> None:
        """It does not go."""
        held = self.held_back.setdefault(why, HeldBack())
        held.count += 1
        if len(held.places) < _PLACES:
            held.places.append(place)

    def remove(self, place: Place) -> None:
        """It went, or cannot go."""
        del self._chosen[place[0]][place[1]]

    def __contains__(self, place: Place) -> bool:
        """It is still to go."""
        return place[1] in self._chosen.get(place[0], ())

    def __len__(self) -> int:
        """How many are to go."""
        return sum(len(offsets) for offsets in self._chosen.values())

    @property
    def kinds(self) -> Counter[Kind]:
        """How many of which kind would go."""
        return Counter(kind for offsets in self._chosen.values() for kind, _ in offsets.values())

    def offsets(self, partition: int) -> AbstractSet[int]:
        """What would go of a partition."""
        return self._chosen.get(partition, {}).keys()


@dataclass(slots=True)
class _Shipment:
    place: Place
    origin: Coordinates
    event: Outgoing
    receipt: Outgoing
    gone: bool = False

    @property
    def size(self) -> int:
        return len(self.event.key or b"") + len(self.event.value or b"")


# -- Kafka ------------------------------------------------------------------------------------------


class Replayer:
    """A connection to the dead-letter topic and to where dead letters came from.

    Attributes:
        exactly_once: what is killed and started again repeats nothing.
        sent: dead letters that went back.
        refused: those that their topic does not take, each with why.
        unsettled: those of which it is not known whether they went.
    """

    def __init__(
        self,
        settings: Settings,
        options: Mapping[str, Any],
        link: KafkaLink,
        topics: Mapping[str, str],
        writer: TransactionWriter | PlainWriter | None,
    ) -> None:
        self.exactly_once = isinstance(link, TransactionalLink)
        self.sent = 0
        self.unsettled = 0
        self.refused: list[tuple[Coordinates, str]] = []
        self._topic = settings.kafka.topics.dead_letters
        self._group = settings.kafka.group_id
        self._options = options
        self._link = link
        self._topics = topics
        self._writer = writer
        self._ends: dict[TopicPartition, int] = {}

    @classmethod
    @asynccontextmanager
    async def connect(cls, settings: Settings, *, sending: bool) -> AsyncIterator[Self]:
        """To send, an earlier replay is ended first.

        Raises BrokerUnavailableError, RefusedError; so do all methods.
        """
        kafka = settings.kafka
        options = arguments(kafka, settings.secret)
        await reach(options)
        async with AsyncExitStack() as stack:
            stack.enter_context(_in_our_words())
            client = AIOKafkaClient(**options)
            stack.push_async_callback(client.close)
            await client.bootstrap()
            kind = TransactionalLink if settings.guarantee == "exactly_once" else KafkaLink
            link = kind(client, kafka.group_id, transaction_timeout=kafka.transaction_timeout)
            missing = await link.missing([kafka.topics.dead_letters, *kafka.topics.events])
            if why := missing.get(kafka.topics.dead_letters):
                raise RefusedError(
                    f"topic {kafka.topics.dead_letters}: {why}; correct kafka.topics.dead_letters, "
                    "or grant what `charging-coupon topics --acls --for replay` lists"
                )
            topics = {name: missing.get(name, "") for name in kafka.topics.events}
            await link.follow((kafka.topics.dead_letters, *(name for name, why in topics.items() if not why)))
            writer = await cls._begin(settings, link) if sending else None
            yield cls(settings, options, link, topics, writer)

    @staticmethod
    async def _begin(settings: Settings, link: KafkaLink) -> TransactionWriter | PlainWriter:
        kafka = settings.kafka
        publisher = Publisher(link, compression=kafka.compression, batch_bytes=kafka.max_message_size)
        if not isinstance(link, TransactionalLink):
            return PlainWriter(link, None, publisher)
        deadline = asyncio.get_running_loop().time() + PATIENCE
        producers = await link.fence([f"{kafka.group_id}/replay"], deadline)
        return TransactionWriter(link, None, producers, publisher)

    # -- Choosing ------------------------------------------------------------------------------------

    async def select(self, filters: Filters, *, max_replays: int, book: RuleBook | None = None) -> Selection:
        """What is in the topic as of now. Filters of plates need the rules."""
        selection = Selection()
        partitions = [TopicPartition(self._topic, n) for n in range(self._link.partition_count(self._topic))]
        self._ends = await self._log_ends(partitions)
        async with self._reader("read_committed") as consumer:
            starts = await self._starts(consumer, partitions, filters.since)
            for (
                place
            ) in partitions:  # one after the other: of two repetitions always the same one is the first
                async for polled in span(consumer, place, starts[place], self._ends[place], PATIENCE):
                    self._look_at(polled, selection, filters, max_replays, book)
        return selection

    def _look_at(
        self, polled: Any, selection: Selection, filters: Filters, max_replays: int, book: RuleBook | None
    ) -> None:
        receipt = read_receipt(polled.headers)
        if receipt is not None:
            selection.acknowledge(receipt, polled.partition)
            return
        selection.read += 1
        letter = read_letter(polled.headers)
        if isinstance(letter, str):
            if filters.none:
                selection.hold_back(letter, Coordinates(self._topic, polled.partition, polled.offset))
        elif filters.fit(letter) and filters.fit_plates(_plates(letter, polled, book, with_key=True)):
            why_not = obstacle(letter, self._topics, max_replays)
            selection.choose(letter, polled.partition, polled.offset, why_not)

    async def show(
        self, selection: Selection, limit: int, book: RuleBook | None = None
    ) -> list[tuple[DeadLetter, tuple[str, ...]]]:
        """The first that would go, with their plates where the rules are given."""
        found: list[tuple[DeadLetter, tuple[str, ...]]] = []
        async with aclosing(self._chosen(selection)) as chosen:
            async for polled, letter in chosen:
                if len(found) >= limit:
                    break
                found.append((letter, _plates(letter, polled, book)))
        return found

    async def _chosen(self, selection: Selection) -> AsyncGenerator[tuple[Any, DeadLetter], None]:
        async with self._reader("read_committed") as consumer:
            for place in self._ends:
                offsets = selection.offsets(place.partition)
                if not offsets:
                    continue
                async with aclosing(
                    span(consumer, place, min(offsets), max(offsets) + 1, PATIENCE)
                ) as letters:
                    async for polled in letters:
                        letter = read_letter(polled.headers) if polled.offset in offsets else ""
                        if isinstance(letter, DeadLetter):
                            yield polled, letter

    # -- Sending -------------------------------------------------------------------------------------

    async def send(
        self,
        selection: Selection,
        *,
        rate: float,
        release: bool,
        stopping: asyncio.Event,
        on_sent: Callable[[int], None],
    ) -> None:
        """In the order of the dead letters, at most `rate` a second; once stopping, it ends after a transaction."""
        now = asyncio.get_running_loop().time
        most = min(TRANSACTION_RECORDS, max(1, int(rate)))
        async with aclosing(self._batches(selection, most, release=release)) as batches:
            async for batch in batches:
                if stopping.is_set():
                    return
                due = now() + len(batch) / rate
                await self._write(batch, selection)
                on_sent(self.sent)
                await _wait(stopping, due - now())

    async def _batches(
        self, selection: Selection, most: int, *, release: bool
    ) -> AsyncGenerator[list[_Shipment], None]:
        if not self.exactly_once:
            most = 1  # so that a replay that is killed repeats no more than one
        batch: list[_Shipment] = []
        size = 0
        async with aclosing(self._chosen(selection)) as chosen:
            async for polled, letter in chosen:
                shipment = self._shipment(polled, letter, release=release)
                if batch and size + shipment.size > TRANSACTION_BYTES:
                    yield batch
                    batch, size = [], 0
                batch.append(shipment)
                size += shipment.size
                if len(batch) >= most:
                    yield batch
                    batch, size = [], 0
        if batch:
            yield batch

    def _shipment(self, polled: Any, letter: DeadLetter, *, release: bool) -> _Shipment:
        now = datetime.now(UTC)
        at = int(now.timestamp() * 1000)
        topic, partition, _ = letter.origin
        there = partition < self._link.partition_count(topic)
        replay = letter.replay(release=release)
        headers = replayed_headers(polled.headers, replay)
        event = Outgoing(topic, polled.key, polled.value, headers, at, partition if there else None)
        receipt = receipt_headers(
            Receipt(letter.outcome_id, polled.partition, polled.offset), to=topic, count=replay.count, at=now
        )
        key = letter.outcome_id.encode()
        return _Shipment(
            (polled.partition, polled.offset),
            letter.origin,
            event,
            Outgoing(self._topic, key, None, receipt, at, polled.partition),
        )

    async def _write(self, batch: Sequence[_Shipment], selection: Selection) -> None:
        """Until nothing of it is left to be written."""
        now = asyncio.get_running_loop().time
        give_up, pause = now() + PATIENCE, 0.05
        while batch := [each for each in batch if each.place in selection]:
            self.unsettled = len(batch)
            result = await self._flush(batch)
            if not isinstance(result, Ambiguous):
                self.unsettled = 0
            match result:
                case Committed():
                    self._tick_off(batch, selection)
                    continue
                case Fenced() | Ambiguous(fenced=True):
                    raise RefusedError(
                        f"another replay of the group {self._group} has begun, or this one stood still for too long; "
                        "run it again once no other runs: none is sent twice"
                    )
                case Retriable(code=code) if code in NOT_ALLOWED:
                    raise RefusedError(
                        f"Kafka does not allow {result.stage} ({NOT_ALLOWED[code]}); "
                        "grant what `charging-coupon topics --acls --for replay` lists"
                    )
                case Retriable(code=code, culprits=culprits) if code in TOO_LARGE:
                    for each in {
                        batch[index % len(batch)].place: batch[index % len(batch)] for index in culprits
                    }.values():
                        self.refused.append((each.origin, f"its topic does not take it: {named(code)}"))
                        selection.remove(each.place)
                    continue
                case Ambiguous():
                    await self._settle(batch, selection, give_up)
            if now() > give_up:
                problem = named(result.code) if isinstance(result, Retriable) else result.error
                raise BrokerUnavailableError(
                    f"Kafka does not take what is sent back: {problem} at {result.stage}"
                )
            await asyncio.sleep(pause)
            pause = min(pause * 2, 2.0)

    async def _flush(self, batch: Sequence[_Shipment]) -> FlushResult:
        assert self._writer is not None
        if self.exactly_once:
            records = [*(each.event for each in batch), *(each.receipt for each in batch)]
            return await self._writer.flush({}, records)
        [shipment] = batch
        if not shipment.gone:
            result = await self._writer.flush({}, [shipment.event])
            if not isinstance(result, Committed):
                return result
            shipment.gone = True
        return await self._writer.flush({}, [shipment.receipt])

    def _tick_off(self, batch: Sequence[_Shipment], selection: Selection) -> None:
        for each in batch:
            selection.remove(each.place)
            self.sent += 1

    async def _settle(self, batch: Sequence[_Shipment], selection: Selection, give_up: float) -> None:
        """Ends the transaction, and reads all receipts since: of this one, and of another replay that came between."""
        assert self._writer is not None
        await self._writer.recover(give_up)
        if self.exactly_once:
            since = self._ends
            self._ends = await self._log_ends(list(since))
            ours = {each.place: each for each in batch}
            async with self._reader("read_committed") as consumer:
                for place, end in self._ends.items():
                    async for polled in span(consumer, place, since[place], end, PATIENCE):
                        receipt = read_receipt(polled.headers)
                        if receipt is None:
                            continue
                        if each := ours.get((receipt.partition, receipt.offset)):
                            self._tick_off([each], selection)
                        else:
                            selection.acknowledge(receipt, polled.partition)
        self.unsettled = 0

    # -- Reading -------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _reader(self, isolation: str) -> AsyncIterator[AIOKafkaConsumer]:
        consumer = AIOKafkaConsumer(
            isolation_level=isolation,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            **self._options,
        )
        try:
            await consumer.start()
            await asyncio.sleep(0)  # a task that it stops before its first step would cancel us
            yield consumer
        finally:
            await consumer.stop()

    async def _log_ends(self, places: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """Behind transactions that are still open, too: what is committed may stand behind them."""
        async with self._reader("read_uncommitted") as consumer:
            ends: dict[TopicPartition, int] = await consumer.end_offsets(places)
        return ends

    @staticmethod
    async def _starts(
        consumer: AIOKafkaConsumer, places: Sequence[TopicPartition], since: datetime | None
    ) -> dict[TopicPartition, int]:
        """What was decided earlier was written earlier."""
        starts: dict[TopicPartition, int] = await consumer.beginning_offsets(places)
        if since is not None:
            at = int(since.timestamp() * 1000)
            found = await consumer.offsets_for_times(dict.fromkeys(places, at))
            starts |= {place: at.offset for place, at in found.items() if at is not None}
        return starts


def _plates(
    letter: DeadLetter, polled: Any, book: RuleBook | None, *, with_key: bool = False
) -> tuple[str, ...]:
    if book is None:
        return ()
    record = Record(letter.origin, letter.timestamp_ms, polled.key, polled.value, tuple(polled.headers))
    found = plates_of(book, letter, record)
    if with_key and polled.key is not None:
        found = (*found, normalise(polled.key.decode("utf-8", "replace")))
    return found


async def _wait(stopping: asyncio.Event, seconds: float) -> None:
    if seconds <= 0:
        return
    try:
        async with asyncio.timeout(seconds):
            await stopping.wait()
    except TimeoutError:
        pass


@contextmanager
def _in_our_words() -> Iterator[None]:
    try:
        yield
    except TopicAuthorizationFailedError as error:
        raise RefusedError(
            f"Kafka does not allow us to read {error.args[0]}; grant what `charging-coupon topics --acls --for replay` lists"
        ) from error
    except (KafkaError, OSError) as error:
        raise BrokerUnavailableError(f"no answer from Kafka: {words(error)}") from error
