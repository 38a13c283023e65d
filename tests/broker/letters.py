"""Dead letters as the service writes them, shared by the suites in this folder. Speaks to Kafka."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from aiokafka import AIOKafkaProducer

from consumer.core.events import Coordinates, GatewayWords, Record, Replay
from consumer.core.headers import replay_headers
from consumer.core.outcomes import Message, Outcome, OutcomeContext, Resolution, encode_dead_letter
from tests.broker.kafka import Topics
from tests.broker.world import event

AT = datetime.now(UTC).replace(microsecond=0) - timedelta(days=2)


def dead_letter(topics: Topics, number: int, *, large: bool = False, **fields: Any) -> tuple[Message, int]:
    """As the service writes it, and its time."""
    headers: tuple[tuple[str, bytes | None], ...] = (("trace", b"\xff"), ("trace", None))
    if "replays" in fields:
        headers += tuple(replay_headers(Replay("x/y/0/0/0", fields.pop("replays"), 0)))
    at = AT + timedelta(minutes=number)
    record = Record(
        Coordinates(fields.pop("topic", topics.events), fields.pop("partition", number % 4), number),
        1_764_000_000_000 + number,
        fields.pop("key", f"key-{number}".encode()),
        fields.pop("value", event(number)),
        headers,
    )
    words = GatewayWords(fields.pop("code", "503"))
    whole = {
        "outcome": Outcome.PLATFORM_FAILED,
        "decided_at": at,
        "dead_letter": True,
        "values": {"order_id": f"ORDER{number:08}"},
        **fields,
    }
    resolution = Resolution(record=record, index=whole.pop("index", 0), words=words, **whole)
    return encode_dead_letter(resolution, OutcomeContext("cluster"), 0 if large else 1_000_000), int(
        at.timestamp() * 1000
    )


async def write(broker: str, topics: Topics, letters: Sequence[tuple[Message, int]]) -> None:
    """Into the dead-letter topic."""
    producer = AIOKafkaProducer(bootstrap_servers=broker, linger_ms=5)
    await producer.start()
    try:
        for message, at in letters:
            await producer.send(
                topics.dead_letters, message.value, message.key, timestamp_ms=at, headers=message.headers
            )
        await producer.flush()
    finally:
        await producer.stop()
