"""Records of a topic, as they stand there: one, the latest, or all since a time. Reads from Kafka, and changes nothing: no group, no commit."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from datetime import datetime
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, TopicAuthorizationFailedError

from consumer.connection import arguments, reach
from consumer.core.errors import BrokerUnavailableError, ConfigurationError, Problem, RefusedError
from consumer.core.events import Coordinates, Record
from consumer.core.headers import read_replay, read_retry
from consumer.core.letters import read_letter
from consumer.settings import Settings

PATIENCE = 20.0
"""Seconds in which Kafka has to give something."""


async def find(settings: Settings, place: Coordinates) -> Record:
    """The record there; of a retry topic or the dead-letter topic, with what it says of its event.

    Raises:
        ConfigurationError: there is no such record (any more).
        BrokerUnavailableError, RefusedError: Kafka does not give it.

    """
    async with _reading(settings, f"{place.topic}-{place.partition}") as consumer, asyncio.timeout(PATIENCE):
        return await _find(consumer, settings, place)


async def latest(
    settings: Settings, topic: str, *, count: int | None = None, since: datetime | None = None
) -> list[Record]:
    """The last so many of a topic's committed records, written since then; by their timestamps. Raises as `find`."""
    found: list[Any] = []
    async with _reading(settings, topic, "read_committed") as consumer:
        async with asyncio.timeout(PATIENCE):
            places = [TopicPartition(topic, number) for number in await _partitions(consumer, topic)]
            starts = await consumer.beginning_offsets(places)
            ends = await consumer.end_offsets(places)
            if since is not None:
                at = int(since.timestamp() * 1000)
                later = await consumer.offsets_for_times(dict.fromkeys(places, at))
                starts = {place: later[place].offset if later[place] else ends[place] for place in places}
        for place in places:
            found += await _tail(consumer, place, starts[place], ends[place], count=count, since=since)
            found.sort(key=lambda polled: (polled.timestamp, polled.partition, polled.offset))
            found = found if count is None else found[-count:]
    return [_record(settings, polled) for polled in found]


class Reading:
    """A connection on which several topics are read, one after the other, as a `read_committed` reader sees them."""

    def __init__(self, settings: Settings, consumer: AIOKafkaConsumer) -> None:
        self._settings = settings
        self._consumer = consumer

    @classmethod
    @asynccontextmanager
    async def connect(cls, settings: Settings, what: str) -> AsyncIterator["Reading"]:
        """To read `what`, for the errors. Raises as `find`; so do all methods."""
        async with _reading(settings, what, "read_committed") as consumer:
            yield cls(settings, consumer)

    async def has(self, topic: str) -> bool:
        """The topic is there, and we may know of it."""
        async with asyncio.timeout(PATIENCE):
            return topic in await self._consumer.topics()

    async def since(self, topic: str, start: datetime) -> AsyncGenerator[Record, None]:
        """What was written to it from then on, up to its end as of now, partition by partition."""
        async with asyncio.timeout(PATIENCE):
            places = [TopicPartition(topic, number) for number in await _partitions(self._consumer, topic)]
            ends = await self._consumer.end_offsets(places)
            at = int(start.timestamp() * 1000)
            later = await self._consumer.offsets_for_times(dict.fromkeys(places, at))
        for place in places:
            found = later[place]
            if found is None or found.offset >= ends[place]:
                continue
            async with aclosing(span(self._consumer, place, found.offset, ends[place])) as polled:
                async for record in polled:
                    yield _record(self._settings, record)


async def span(
    consumer: AIOKafkaConsumer, place: TopicPartition, start: int, end: int, patience: float = PATIENCE
) -> AsyncGenerator[Any, None]:
    """What a partition holds from `start` to before `end`, as Kafka's client has it.

    Raises BrokerUnavailableError where nothing further comes for so many seconds.
    """
    now = asyncio.get_running_loop().time
    consumer.assign([place])
    consumer.seek(place, start)
    position, give_up = start, now() + patience
    while position < end:
        polled = await consumer.getmany(place, timeout_ms=500, max_records=500)
        for record in polled.get(place, ()):
            if record.offset < end:
                yield record
        before, position = position, await consumer.position(place)
        if position > before:
            give_up = now() + patience
        elif now() > give_up:
            raise BrokerUnavailableError(
                f"{place.topic}-{place.partition} cannot be read beyond offset {position}: "
                "its leader does not answer, or somebody's transaction stays open there; try again later"
            )


@asynccontextmanager
async def _reading(
    settings: Settings, what: str, isolation: str = "read_uncommitted"
) -> AsyncIterator[AIOKafkaConsumer]:
    options = arguments(settings.kafka, settings.secret)
    await reach(options)
    consumer = AIOKafkaConsumer(
        enable_auto_commit=False, auto_offset_reset="none", isolation_level=isolation, **options
    )
    try:
        async with asyncio.timeout(PATIENCE):
            await consumer.start()
        yield consumer
    except TimeoutError as error:
        raise BrokerUnavailableError(f"Kafka gave no record within {PATIENCE:.0f} s; try again") from error
    except TopicAuthorizationFailedError as error:
        raise RefusedError(
            f"Kafka does not allow us to read {error.args[0] if error.args else what}; grant Read and Describe on it"
        ) from error
    except KafkaError as error:
        raise BrokerUnavailableError(
            f"Kafka does not give {what}: {type(error).__name__}: {error}"
        ) from error
    finally:
        with suppress(KafkaError):
            await consumer.stop()


async def _find(consumer: AIOKafkaConsumer, settings: Settings, place: Coordinates) -> Record:
    topic, partition, offset = place
    known = await _partitions(consumer, topic)
    if partition not in known:
        remedy = f"{topic} has the partitions 0 to {len(known) - 1}"
        raise _missing("--partition", f"there is no partition {partition}", remedy)
    at = TopicPartition(topic, partition)
    first = (await consumer.beginning_offsets([at]))[at]
    end = (await consumer.end_offsets([at]))[at]
    if not first <= offset < end:
        remedy = (
            f"there is nothing in {topic}-{partition}" if first == end else f"it holds {first} to {end - 1}"
        )
        raise _missing("--offset", f"there is no record at {offset}", remedy)
    consumer.assign([at])
    consumer.seek(at, offset)
    polled = await consumer.getone(at)
    if polled.offset != offset:
        remedy = f"the next one stands at {polled.offset}"
        raise _missing("--offset", f"at {offset} stands no record but a marker, or nothing any more", remedy)
    return _record(settings, polled)


async def _partitions(consumer: AIOKafkaConsumer, topic: str) -> list[int]:
    # Of all topics: to ask for one that is not there could create it.
    if topic not in await consumer.topics():
        raise _missing("--topic", f"there is no topic {topic}", "name one that Kafka has")
    consumer.assign([TopicPartition(topic, 0)])
    known: set[int] | None = None
    while not known:
        await asyncio.sleep(0.05)
        known = consumer.partitions_for_topic(topic)
    return sorted(known)


async def _tail(
    consumer: AIOKafkaConsumer,
    place: TopicPartition,
    start: int,
    end: int,
    *,
    count: int | None,
    since: datetime | None,
) -> deque[Any]:
    """The last ones of a partition. Not each offset has a record: then it looks further back."""
    # Kafka finds a time by batches, and its markers have times of their own.
    earliest = -1 if since is None else int(since.timestamp() * 1000)
    width = end - start if count is None else count
    while True:
        begin = max(start, end - width)
        found: deque[Any] = deque(maxlen=count)
        async with aclosing(span(consumer, place, begin, end)) as polled:
            async for record in polled:
                if record.timestamp >= earliest:
                    found.append(record)
        if begin == start or len(found) == count:
            return found
        width *= 4


def _record(settings: Settings, polled: Any) -> Record:
    """With what its headers say, in a topic of ours."""
    place = Coordinates(polled.topic, polled.partition, polled.offset)
    headers = tuple(polled.headers)
    retry = read_retry(headers) if place.topic in settings.retry_topics else None
    letter = read_letter(headers) if place.topic == settings.kafka.topics.dead_letters else None
    if letter is not None and not isinstance(letter, str):
        return Record(letter.origin, letter.timestamp_ms, polled.key, polled.value, headers)
    return Record(
        coordinates=place,
        timestamp_ms=polled.timestamp,
        key=polled.key,
        value=polled.value,
        headers=headers,
        retry=None if isinstance(retry, str) else retry,
        replay=read_replay(headers),
        refused=retry if isinstance(retry, str) else "",
    )


def _missing(option: str, message: str, remedy: str) -> ConfigurationError:
    return ConfigurationError([Problem(option, message, remedy)])
