"""One record of a topic, as it stands there. Reads from Kafka, and changes nothing: no group, no commit."""

import asyncio
from contextlib import suppress

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from consumer.connection import arguments, reach
from consumer.core.errors import BrokerUnavailableError, ConfigurationError, Problem
from consumer.core.events import Coordinates, Record
from consumer.core.headers import read_replay, read_retry
from consumer.core.letters import read_letter
from consumer.settings import Settings

PATIENCE = 20.0
"""Seconds in which Kafka has to give it."""


async def find(settings: Settings, place: Coordinates) -> Record:
    """The record there; of a retry topic or the dead-letter topic, with what it says of its event.

    Raises:
        ConfigurationError: there is no such record (any more).
        BrokerUnavailableError, RefusedError: Kafka does not give it.

    """
    options = arguments(settings.kafka, settings.secret)
    await reach(options)
    consumer = AIOKafkaConsumer(enable_auto_commit=False, auto_offset_reset="none", **options)
    try:
        async with asyncio.timeout(PATIENCE):
            await consumer.start()
            return await _find(consumer, settings, place)
    except TimeoutError as error:
        raise BrokerUnavailableError(f"Kafka gave no record within {PATIENCE:.0f} s; try again") from error
    except KafkaError as error:
        what = f"{type(error).__name__}: {error}"
        raise BrokerUnavailableError(
            f"Kafka does not give {place.topic}-{place.partition}: {what}"
        ) from error
    finally:
        with suppress(KafkaError):
            await consumer.stop()


async def _find(consumer: AIOKafkaConsumer, settings: Settings, place: Coordinates) -> Record:
    topic, partition, offset = place
    # Of all topics: to ask for one that is not there could create it.
    known = await _partitions(consumer, topic) if topic in await consumer.topics() else None
    if not known:
        raise _missing("--topic", f"there is no topic {topic}", "name one that Kafka has")
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
    headers = tuple(polled.headers)
    retry = read_retry(headers) if topic in settings.retry_topics else None
    record = Record(
        coordinates=place,
        timestamp_ms=polled.timestamp,
        key=polled.key,
        value=polled.value,
        headers=headers,
        retry=None if isinstance(retry, str) else retry,
        replay=read_replay(headers),
        refused=retry if isinstance(retry, str) else "",
    )
    letter = read_letter(headers) if topic == settings.kafka.topics.dead_letters else None
    if letter is None or isinstance(letter, str):
        return record
    return Record(letter.origin, letter.timestamp_ms, polled.key, polled.value, headers)


async def _partitions(consumer: AIOKafkaConsumer, topic: str) -> set[int]:
    """Those of a topic that is there."""
    consumer.assign([TopicPartition(topic, 0)])
    known: set[int] | None = None
    while not known:
        await asyncio.sleep(0.05)
        known = consumer.partitions_for_topic(topic)
    return known


def _missing(option: str, message: str, remedy: str) -> ConfigurationError:
    return ConfigurationError([Problem(option, message, remedy)])
