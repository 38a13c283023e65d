"""What became of orders, as `charging-coupon outcomes` is asked for it: which are meant, how they fold, who still waits. No I/O."""

from collections import Counter
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from consumer.core.events import Order, Record, RetryContext
from consumer.core.headers import own_texts
from consumer.core.outcomes import Outcome, with_plates_masked
from consumer.core.rules import RuleBook
from consumer.core.templates import text_of

WAITING = "waiting"
"""Stands where an outcome would: the order has none yet."""

OutcomeFields = Mapping[str, Any]
"""As it stands in the outcome topic (`schemas/coupon-outcome.v1.schema.json`)."""


@dataclass(frozen=True, slots=True)
class WaitingOrder:
    """An order in a retry topic.

    Attributes:
        topic: the retry topic.
        plate, lot: as the rules read them, where they were asked.

    """

    outcome_id: str
    topic: str
    context: RetryContext
    account: str | None = None
    rule: str | None = None
    plate: str | None = None
    lot: str | None = None


@dataclass(frozen=True, slots=True)
class Inquiry:
    """Which orders are meant: those that fit one value of each kind that has any. A kind without values fits all.

    Attributes:
        outcomes: `waiting` is one of them here.
        plates: normalised (`consumer.core.plates`).
        plate_hashes: the same ones as the outcome topic has them.
        since, until: from when on, before when it was decided. Who waits, waits now.

    """

    outcomes: AbstractSet[str] = frozenset()
    reasons: AbstractSet[str] = frozenset()
    codes: AbstractSet[str] = frozenset()
    rules: AbstractSet[str] = frozenset()
    accounts: AbstractSet[str] = frozenset()
    lots: AbstractSet[str] = frozenset()
    orders: AbstractSet[str] = frozenset()
    event_ids: AbstractSet[str] = frozenset()
    plates: AbstractSet[str] = frozenset()
    plate_hashes: AbstractSet[str] = frozenset()
    since: datetime | None = None
    until: datetime | None = None

    @property
    def of_waiting(self) -> bool:
        """One that waits may be meant."""
        return not self.reasons and self.until is None and (not self.outcomes or WAITING in self.outcomes)

    @property
    def needs_rules(self) -> bool:
        """Of those that wait only the payload tells, read by the rules."""
        return bool(self.plates or self.lots)

    def fits(self, outcome: OutcomeFields) -> bool:
        """An outcome is meant."""
        kinds = (
            (self.outcomes, "outcome"),
            (self.reasons, "reason"),
            (self.codes, "code"),
            (self.rules, "rule"),
            (self.accounts, "account"),
            (self.lots, "api_store_code"),
            (self.orders, "order_id"),
            (self.event_ids, "event_id"),
        )
        return (
            all(not wanted or _text(outcome.get(name)) in wanted for wanted, name in kinds)
            and (
                not self.plates
                or _text(outcome.get("plate")) in self.plates
                or _text(outcome.get("plate_hash")) in self.plate_hashes
            )
            and self._in_time(outcome.get("decided_at"))
        )

    def fits_waiting(self, waiting: WaitingOrder) -> bool:
        """An order that waits is meant."""
        kinds = (
            (self.codes, waiting.context.words.code),
            (self.rules, waiting.rule),
            (self.accounts, waiting.account),
            (self.lots, waiting.lot),
            (self.orders, waiting.context.order_id),
            (self.event_ids, waiting.context.event_id),
            (self.plates, waiting.plate),
        )
        return self.of_waiting and all(not wanted or value in wanted for wanted, value in kinds)

    def of_any(self) -> "Inquiry":
        """The same times, and whoever it is."""
        return Inquiry(since=self.since, until=self.until)

    def _in_time(self, decided_at: object) -> bool:
        if self.since is None and self.until is None:
            return True
        try:
            at = datetime.fromisoformat(str(decided_at))
            return (self.since is None or self.since <= at) and (self.until is None or at < self.until)
        except (ValueError, TypeError):  # no time, or none with a zone: not written by this service
            return False


def read_waiting(record: Record, book: RuleBook | None, now: datetime) -> WaitingOrder | None:
    """The order that a retry topic's record is about; None where the record is not ours."""
    texts = own_texts(record.headers)
    if record.retry is None or "outcome_id" not in texts:
        return None
    plate = lot = None
    if book is not None:
        item = book.read(record, now)[0]
        values = item.values or {}
        plate = item.plate if isinstance(item, Order) else text_of(values, "plate")
        rule = next((rule for rule in book.rules if rule.name == texts.get("rule")), None)
        lot = (rule and rule.api_store_code) or text_of(values, "api_store_code")
    return WaitingOrder(
        texts["outcome_id"],
        record.coordinates.topic,
        record.retry,
        texts.get("account"),
        texts.get("rule"),
        plate,
        lot,
    )


def is_outcome(found: object) -> bool:
    """What was read from the outcome topic is one of ours."""
    return isinstance(found, dict) and all(
        isinstance(found.get(name), str) for name in ("outcome_id", "outcome", "decided_at")
    )


class Findings:
    """The orders that an inquiry means, among what is read: to be given who waits first, then the outcomes.

    Where an outcome, or a wait, is repeated, the last one counts.

    Every order is counted, and the latest `rows` are kept whole: the topic may hold millions.

    Attributes:
        read: outcomes that were looked at.
        rows: None where all are kept.

    """

    def __init__(self, inquiry: Inquiry, rows: int | None) -> None:
        self.read = 0
        self._inquiry = inquiry
        self.rows = rows
        self._outcomes: dict[str, str] = {}
        self._kept: dict[str, OutcomeFields] = {}
        self._waiting: dict[str, WaitingOrder] = {}

    def add_waiting(self, waiting: WaitingOrder) -> None:
        """The same order waits again and again, in one retry topic after the other: the last wait counts."""
        before = self._waiting.get(waiting.outcome_id)
        if before is None or before.context.written_at <= waiting.context.written_at:
            self._waiting[waiting.outcome_id] = waiting

    def add(self, outcome: OutcomeFields) -> None:
        """An order that has an outcome waits no more."""
        self.read += 1
        identity = outcome["outcome_id"]
        self._waiting.pop(identity, None)
        if not self._inquiry.fits(outcome):
            self._outcomes.pop(identity, None)
            self._kept.pop(identity, None)
            return
        self._outcomes[identity] = outcome["outcome"]
        self._kept[identity] = outcome
        if self.rows is not None and len(self._kept) > 2 * self.rows + 1000:
            self._kept = {each["outcome_id"]: each for each in self.outcomes}

    @property
    def outcomes(self) -> list[OutcomeFields]:
        """The latest ones, in the order in which they were decided."""
        latest = sorted(self._kept.values(), key=lambda outcome: str(outcome["decided_at"]))
        return latest if self.rows is None else latest[len(latest) - min(self.rows, len(latest)) :]

    @property
    def waiting(self) -> list[WaitingOrder]:
        """Those without an outcome, whose turn is first at the front."""
        meant = (each for each in self._waiting.values() if self._inquiry.fits_waiting(each))
        return sorted(meant, key=lambda each: each.context.due_at)

    @property
    def counts(self) -> Counter[str]:
        """Orders by outcome; those that wait are not among them."""
        return Counter(self._outcomes.values())


@dataclass(slots=True)
class Charge:
    """All pushes of one charge, folded as `schemas/README.md` says.

    Attributes:
        order_id: None for what could not be read, which stands alone.
        said: what counts of it, an outcome or an order that waits; an outcome as JSON, in a third of the memory.
        weight: by which it counts.
        pushes: outcomes, and orders that wait.
        granted: event_ids for which the platform has a coupon.
        doubtful: event_ids of which a call ended without an answer, and may have granted one.
        reversed_by: outcome_ids of what takes the charge back.

    """

    order_id: str | None
    said: bytes | WaitingOrder
    weight: tuple[int, datetime, str]
    pushes: int = 0
    granted: frozenset[str | None] = frozenset()
    doubtful: frozenset[str | None] = frozenset()
    reversed_by: frozenset[str] = frozenset()

    @property
    def last(self) -> OutcomeFields | WaitingOrder:
        """What counts of it."""
        if isinstance(self.said, WaitingOrder):
            return self.said
        outcome: OutcomeFields = msgspec.json.decode(self.said)
        return outcome

    @property
    def outcome(self) -> str:
        """In a word."""
        last = self.last
        return WAITING if isinstance(last, WaitingOrder) else str(last["outcome"])

    @property
    def coupons(self) -> int:
        """The platform grants one for each event_id."""
        return len(self.granted)

    @property
    def ambiguous(self) -> bool:
        """There may be a coupon that no outcome tells of: the platform knows, by event_id."""
        return not self.doubtful <= self.granted


class Charges:
    """The charges that an inquiry means, among what is read in any order: to be given as `Findings` is.

    All outcomes of the inquiry's time are folded, and then it is asked which charges are meant: one that was granted is
    not found as expired because a later push of it was. Of each charge only what counts is kept.

    Attributes:
        read: outcomes that were looked at.

    """

    def __init__(self, inquiry: Inquiry) -> None:
        self.read = 0
        self._inquiry = inquiry
        self._any = inquiry.of_any()
        self._charges: dict[tuple[str, str], Charge] = {}
        self._waiting: dict[str, WaitingOrder] = {}
        self._over: set[str] = set()

    def add_waiting(self, waiting: WaitingOrder) -> None:
        """The last wait of an order counts, and none once it has its outcome."""
        before = self._waiting.get(waiting.outcome_id)
        if before is None or before.context.written_at <= waiting.context.written_at:
            self._waiting[waiting.outcome_id] = waiting

    def add(self, outcome: OutcomeFields) -> None:
        """One push's."""
        self.read += 1
        identity, reverses = str(outcome["outcome_id"]), _text(outcome.get("reverses"))
        is_repeated = identity in self._over
        self._over.add(identity)
        if not self._any.fits(outcome):
            return
        # What takes an order back is the charge's word only where nothing else was read of it.
        weight = -1 if reverses is not None else _WEIGHTS.get(outcome["outcome"], 0)
        at = _moment(outcome["decided_at"])
        order_id = reverses or _text(outcome.get("order_id"))
        charge = self._heed(order_id, msgspec.json.encode(outcome), (weight, at, identity))
        charge.pushes += not is_repeated
        event_id, attempts = _text(outcome.get("event_id")), outcome.get("attempts")
        if reverses is not None:
            charge.reversed_by |= {identity}
        if weight > 0:
            charge.granted |= {event_id}
        elif isinstance(attempts, dict) and attempts.get("ambiguous") is True:
            charge.doubtful |= {event_id}

    def _heed(
        self, order_id: str | None, said: bytes | WaitingOrder, weight: tuple[int, datetime, str]
    ) -> Charge:
        key = ("order", order_id) if order_id is not None else ("outcome", weight[2])
        charge = self._charges.get(key)
        if charge is None:
            charge = self._charges[key] = Charge(order_id, said, weight)
        elif charge.weight < weight:
            charge.said, charge.weight = said, weight
        return charge

    def meant(self) -> list[Charge]:
        """In the order in which what counts of them was decided. To be asked once, when all is read."""
        for identity, waiting in self._waiting.items():
            if identity not in self._over and self._any.fits_waiting(waiting):
                context = waiting.context
                charge = self._heed(context.order_id, waiting, (0, context.written_at, identity))
                charge.pushes += 1
                if context.attempts.ambiguous:
                    charge.doubtful |= {context.event_id}
        return sorted(
            (each for each in self._charges.values() if self._fits(each)), key=lambda each: each.weight[1:]
        )

    def _fits(self, charge: Charge) -> bool:
        last = charge.last
        return (
            self._inquiry.fits_waiting(last) if isinstance(last, WaitingOrder) else self._inquiry.fits(last)
        )


_WEIGHTS = {Outcome.GRANTED: 2, Outcome.ALREADY_GRANTED: 1}
"""A grant wins even over the platform's later answer to a repeated push, and either over whatever else a push ended as."""


def _moment(found: object) -> datetime:
    try:
        at = datetime.fromisoformat(str(found))
    except ValueError:  # not written by this service
        return datetime.min.replace(tzinfo=UTC)
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def _text(found: object) -> str | None:
    return found if isinstance(found, str) else None


def masked(found: Any, plate: object) -> Any:
    """Whatever stands in an outcome, without this plate, and without others."""
    if isinstance(found, dict):
        return {name: masked(value, plate) for name, value in found.items()}
    if isinstance(found, list):
        return [masked(value, plate) for value in found]
    if not isinstance(found, str):
        return found
    return with_plates_masked(found, [plate] if isinstance(plate, str) else [])
