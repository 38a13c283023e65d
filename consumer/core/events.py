"""What goes forward through the rooms: a Kafka record, and the orders that it holds. Performs no I/O."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

Headers = tuple[tuple[str, bytes | None], ...]
"""Kafka headers as they came: repeated keys, null and non-UTF-8 values included."""

Value = str | int | bool | Decimal | datetime
"""What a field of an order can hold. Datetimes are aware; energies, times and money are integers in base units."""


class Coordinates(NamedTuple):
    """Where a record stands in Kafka. For a retried record: where it stood first."""

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Record:
    """One record of an events topic, as polled.

    Attributes:
        coordinates: where it was read.
        timestamp_ms: Kafka's timestamp, milliseconds since the epoch, UTC.
        value: the event's bytes; None is a tombstone.
        maybe_sent: an earlier owner of the partition, which did not close cleanly,
            may already have sent this record's requests.

    """

    coordinates: Coordinates
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    maybe_sent: bool = False

    @property
    def size(self) -> int:
        """Bytes that it is accounted with: key, value and headers."""
        size = len(self.key or b"") + len(self.value or b"")
        return size + sum(len(name) + len(value or b"") for name, value in self.headers)


@dataclass(frozen=True, slots=True)
class Order:
    """One charge within a record, read exactly and in base units.

    Attributes:
        index: its place among the record's orders, from 0.
        source: name of the rules file's source that read it.
        order_id: the charging platform's number for it.
        event_id: what the parking platform deduplicates by.
        plate: normalised (`consumer.core.plates`).
        values: every field that has a value, by field name, `order_id`, `event_id`
            and `plate` among them; an absent field is not in it.
        suspicions: reasons (`consumer.core.outcomes.Reason`) for doubt that did not set it aside.

    """

    index: int
    source: str
    order_id: str
    event_id: str
    plate: str
    values: Mapping[str, Value]
    suspicions: tuple[str, ...] = ()
