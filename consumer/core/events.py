"""What goes forward through the rooms: a Kafka record, the orders that it holds, what was tried for them. No I/O."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple

from consumer.core.values import Frozen

Headers = tuple[tuple[str, bytes | None], ...]
"""Kafka headers as they came: repeated keys, null and non-UTF-8 values included."""

Value = str | int | bool | Decimal | datetime
"""What a field of an order can hold. Datetimes are aware; energies, times and money are integers in base units."""


Span = tuple[int | None, int | None]
"""Start and end of a charge, as far as they are known."""


class Coordinates(NamedTuple):
    """Where a record stands in Kafka."""

    topic: str
    partition: int
    offset: int


class Attempts(Frozen):
    """What an order's delivery went through.

    Attributes:
        count: HTTP calls made.
        first_at, last_at: wall clock of the first call's start and the last call's end.
        seconds: duration of the last call.
        ambiguous: an earlier call may have granted the coupon (timeout, reset, crash);
            said of `already_granted`, whose grant may be ours.

    """

    count: int = 0
    first_at: datetime | None = None
    last_at: datetime | None = None
    seconds: float | None = None
    ambiguous: bool = False


class GatewayWords(Frozen):
    """What the platform said last, as it said it. None where it did not say."""

    code: str | None = None
    http_status: int | None = None
    message: str | None = None
    hint: str | None = None
    seqno: str | None = None
    data_node: str | None = None
    time_cost_ms: int | None = None
    grant_serial: str | None = None
    enter_time: str | None = None


NO_ATTEMPTS = Attempts()
NO_WORDS = GatewayWords()


class Wait(StrEnum):
    """What an order waits for in a retry topic."""

    REPLY = "reply"
    """Another answer: the last one was not the platform's last word."""

    STOP = "stop"
    """The platform refuses its account; neither an attempt, nor time towards the deadline."""

    HOLD = "hold"
    """The end of a hold in the rules; likewise."""

    BREAKER = "breaker"
    """The end of its account's trouble with the platform: no attempt, but time towards the deadline."""


class RetryContext(Frozen):
    """What a retry topic's record says of the order that waits in it (`consumer.core.headers`).

    Attributes:
        origin: where the event stands.
        timestamp_ms: the event's, by Kafka.
        index: the order's place in the event: only this one is run again.
        wait: what it waits for.
        written_at, due_at: since when, until when.
        tier: retry topics that it has been through because of replies, this one included.
        waits: the same because of anything else.
        excused_seconds: spent at a `stop` or on `hold` before this wait; not counted towards the deadline.
        attempts: so far; `ambiguous` if one of them may have granted the coupon.
        label: of the last reply; empty where none came.
        words: what it said, as far as an outcome needs it.
        event_id: as it was sent, so that later rules cannot change it; None where none was read.
        order_id: for whoever looks at the topic.

    """

    origin: Coordinates
    timestamp_ms: int
    index: int
    wait: Wait
    written_at: datetime
    due_at: datetime
    tier: int = 0
    waits: int = 0
    excused_seconds: float = 0.0
    attempts: Attempts = NO_ATTEMPTS
    label: str = ""
    words: GatewayWords = NO_WORDS
    event_id: str | None = None
    order_id: str | None = None


class Replay(Frozen):
    """What `charging-coupon replay` says of a record that it sent back (`consumer.core.headers`).

    Attributes:
        of: `outcome_id` of the dead letter.
        count: how often the event was sent back by now: the guard against going round for ever.
        index: the order's place in the event: only this one is run again; None where the event
            could not be read at all, so that nobody knew its orders.
        release: send it even if it is implausible; somebody has looked.

    """

    of: str
    count: int
    index: int | None
    release: bool = False


class Record(Frozen):
    """One record of an events topic or a retry topic, as polled.

    Attributes:
        coordinates: where it was read.
        timestamp_ms: Kafka's timestamp, milliseconds since the epoch, UTC.
        value: the event's bytes; None is a tombstone.
        maybe_sent: an earlier owner of the partition, which did not close cleanly,
            may already have sent this record's requests.
        retry: what waits in it, in a retry topic.
        replay: who sent it back, where somebody did.
        refused: why it can be no order of ours; empty where it can.
        taken_at: when it was taken in, seconds on the event loop's clock.

    """

    coordinates: Coordinates
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    maybe_sent: bool = False
    retry: RetryContext | None = None
    replay: Replay | None = None
    refused: str = ""
    taken_at: float = 0.0

    @property
    def origin(self) -> Coordinates:
        """Where the event stands: the same through all retry topics."""
        return self.retry.origin if self.retry is not None else self.coordinates

    @property
    def event_timestamp_ms(self) -> int:
        """Kafka's timestamp of the event."""
        return self.retry.timestamp_ms if self.retry is not None else self.timestamp_ms

    @property
    def only(self) -> int | None:
        """The one order that is to be run; None for all."""
        if self.retry is not None:
            return self.retry.index
        return self.replay.index if self.replay is not None else None


def size_of(records: Iterable[Record]) -> int:
    """Bytes that they are accounted with: keys, values and headers."""
    size = 0
    for record in records:
        size += len(record.key or b"") + len(record.value or b"")
        for name, text in record.headers:
            size += len(name) + len(text or b"")
    return size


class Order(Frozen):
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
        span: the values' start and end in microseconds since 1970, as reading has found them: to compare them, or to
            write them down, takes a third of the time that it takes in a zone. None where they were not kept.

    """

    index: int
    source: str
    order_id: str
    event_id: str
    plate: str
    values: Mapping[str, Value]
    suspicions: tuple[str, ...] = ()
    span: Span | None = None
