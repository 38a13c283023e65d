"""Dead letters as `charging-coupon replay` reads them: which are meant, which may go back, what goes with them. No I/O.

A dead letter that was sent back has a receipt after it, in the same partition of the same topic and
from the same transaction: a record without a value, which names it.
"""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC, datetime

from msgspec.structs import replace

from consumer.core.events import Coordinates, Order, Record, Replay
from consumer.core.headers import (
    LEAST_TIMESTAMP,
    REPLAY_PREFIX,
    Header,
    event_headers,
    instant,
    own_headers,
    own_texts,
    read_replay,
    replay_headers,
    whole,
)
from consumer.core.outcomes import Outcome, Reason
from consumer.core.replies import ReplyTable
from consumer.core.rules import RuleBook
from consumer.core.templates import text_of

_UNREADABLE = frozenset(
    {
        Reason.NOT_JSON,
        Reason.NOT_TEXT,
        Reason.NOT_FINITE,
        Reason.ENCRYPTED,
        Reason.TOO_LARGE,
        Reason.TOO_DEEP,
        Reason.OVERFLOW,
        Reason.SCHEMA,
    }
)
"""Reasons for which nobody knew which orders an event holds."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """What the headers of a dead letter say.

    Attributes:
        origin: where the event stands.
        timestamp_ms: the event's, by Kafka.
        index: the order's place in the event.
        decided_at: when it ended so, aware.
        replays: how often the event was sent back before.
        original: the value is the event's own.

    """

    outcome_id: str
    outcome: str
    origin: Coordinates
    timestamp_ms: int
    index: int
    decided_at: datetime
    reason: str | None = None
    detail: str | None = None
    code: str | None = None
    rule: str | None = None
    account: str | None = None
    order_id: str | None = None
    event_id: str | None = None
    replays: int = 0
    original: bool = True

    @property
    def identity(self) -> str:
        """The same for every repetition of it. Offsets begin anew in a topic that is made anew; times do not."""
        return f"{self.outcome_id}@{self.timestamp_ms}"

    @property
    def unreadable(self) -> bool:
        """It is about a whole event, of which no order was known; now it may have many."""
        nameless = self.index == 0 and self.order_id is None and self.event_id is None
        return nameless and self.outcome == Outcome.INVALID and self.reason in _UNREADABLE

    def replay(self, *, release: bool) -> Replay:
        """What goes with it when it is sent back."""
        index = None if self.unreadable else self.index
        return Replay(self.outcome_id, self.replays + 1, index, release=release)


def read_letter(headers: Sequence[Header]) -> DeadLetter | str:
    """What a record of the dead-letter topic says of itself; or in words why it is no dead letter of ours."""
    texts = own_texts(headers)
    replay = read_replay(tuple(headers))
    try:
        return DeadLetter(
            outcome_id=texts["outcome_id"],
            outcome=texts["outcome"],
            origin=Coordinates(texts["topic"], whole(texts["partition"]), whole(texts["offset"])),
            timestamp_ms=whole(texts["timestamp"], least=LEAST_TIMESTAMP),
            index=whole(texts["order_index"]),
            decided_at=instant(texts["decided_at"]),
            reason=texts.get("reason"),
            detail=texts.get("detail"),
            code=texts.get("code"),
            rule=texts.get("rule"),
            account=texts.get("account"),
            order_id=texts.get("order_id"),
            event_id=texts.get("event_id"),
            replays=0 if replay is None else replay.count,
            original=texts["payload"] == "original",
        )
    except (KeyError, ValueError):
        return "not written by this service"


# -- Which are meant --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Filters:
    """Which dead letters are meant: those that fit one value of each kind that has any. A kind without values fits all.

    Attributes:
        topics, partitions, offsets: where the event stands.
        since, until: from when on, before when it was decided.
        plates: normalised (`consumer.core.plates`).

    """

    outcomes: AbstractSet[str] = frozenset()
    reasons: AbstractSet[str] = frozenset()
    codes: AbstractSet[str] = frozenset()
    rules: AbstractSet[str] = frozenset()
    accounts: AbstractSet[str] = frozenset()
    orders: AbstractSet[str] = frozenset()
    topics: AbstractSet[str] = frozenset()
    partitions: AbstractSet[int] = frozenset()
    offsets: tuple[range, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    plates: AbstractSet[str] = frozenset()

    @property
    def none(self) -> bool:
        """All are meant."""
        return self == Filters()

    def fit(self, letter: DeadLetter) -> bool:
        """Whether what the headers say fits. Plates stand in the payload alone: `fit_plates` is for these."""
        kinds = (
            (self.outcomes, letter.outcome),
            (self.reasons, letter.reason),
            (self.codes, letter.code),
            (self.rules, letter.rule),
            (self.accounts, letter.account),
            (self.orders, letter.order_id),
            (self.topics, letter.origin.topic),
            (self.partitions, letter.origin.partition),
        )
        return (
            all(not wanted or value in wanted for wanted, value in kinds)
            and (not self.offsets or any(letter.origin.offset in offsets for offsets in self.offsets))
            and (self.since is None or self.since <= letter.decided_at)
            and (self.until is None or letter.decided_at < self.until)
        )

    def fit_plates(self, found: Iterable[str]) -> bool:
        """One of the event's plates is meant."""
        return not self.plates or not self.plates.isdisjoint(found)


def unlettered(filters: Filters) -> list[str]:
    """Outcomes and codes that these filters want, and of which no dead letter is written unless the rules say so."""
    rows = ReplyTable.defaults().rows
    lettered = {Outcome.INVALID, Outcome.SUSPECT, *(row.outcome for row in rows.values() if row.dead_letter)}
    outcomes = filters.outcomes - lettered
    codes = {code for code in filters.codes if code in rows and not rows[code].dead_letter}
    return sorted(outcomes) + sorted(codes)


# -- Which may go back ------------------------------------------------------------------------------


def obstacle(letter: DeadLetter, topics: Mapping[str, str], max_replays: int) -> str | None:
    """Why it must not be sent back; None if it may. `topics` are the events topics, each with what is wrong with it."""
    if not letter.original:
        return "the original was too large to be kept"
    trouble = topics.get(letter.origin.topic, "none of kafka.topics.events")
    if trouble:
        return f"its topic {letter.origin.topic}: {trouble}"
    if letter.replays >= max_replays:
        return f"sent back {letter.replays} times already, see --max-replays"
    return None


# -- What goes with them ----------------------------------------------------------------------------


def replayed_headers(headers: Iterable[Header], replay: Replay) -> list[Header]:
    """The event's own headers, and this replay's instead of an earlier one's."""
    own = [header for header in event_headers(headers) if not header[0].startswith(REPLAY_PREFIX)]
    return [*own, *replay_headers(replay)]


@dataclass(frozen=True, slots=True)
class Receipt:
    """Says that a dead letter was sent back.

    Attributes:
        of: its `outcome_id`, which is the receipt's key, too.
        partition, offset: its place in the dead-letter topic.

    """

    of: str
    partition: int
    offset: int


def receipt_headers(receipt: Receipt, *, to: str, count: int, at: datetime) -> list[Header]:
    """What `read_receipt` reads; and for people to which topic it went, as which replay, and when."""
    return own_headers(
        {
            "receipt_of": receipt.of,
            "receipt_partition": str(receipt.partition),
            "receipt_offset": str(receipt.offset),
            "receipt_to": to,
            "receipt_count": str(count),
            "receipt_at": at.astimezone(UTC).isoformat(timespec="milliseconds"),
        }
    )


def read_receipt(headers: Iterable[Header]) -> Receipt | None:
    """None for whatever is no receipt."""
    texts = own_texts(headers)
    try:
        return Receipt(texts["receipt_of"], whole(texts["receipt_partition"]), whole(texts["receipt_offset"]))
    except (KeyError, ValueError):
        return None


# -- Whose they are ---------------------------------------------------------------------------------


def plates_of(book: RuleBook, letter: DeadLetter, record: Record) -> tuple[str, ...]:
    """The plates of its orders, normalised, as the rules of today read them; at worst none."""
    items = book.read(replace(record, replay=letter.replay(release=True)), letter.decided_at)
    found = (item.plate if isinstance(item, Order) else text_of(item.values or {}, "plate") for item in items)
    return tuple(dict.fromkeys(plate for plate in found if plate))
