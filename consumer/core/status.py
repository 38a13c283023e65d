"""What the service says of itself at one moment: values, and the sentence that sums them up. Performs no I/O.

`schemas/status.v1.schema.json` describes the fields. Instants are aware; texts that come from
outside (orders, topics, problems) are as they came, until `with_texts` has cleaned all of them.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from datetime import datetime, tzinfo
from enum import Enum, StrEnum
from itertools import takewhile
from typing import Any, TypeVar

from consumer.core.breakers import State as BreakerState
from consumer.core.breakers import Why
from consumer.core.outcomes import Outcome, PlateMode, Resolution, hide_plate
from consumer.core.plates import mask

S = TypeVar("S")

RECENT = 30
"""Orders that are shown, the latest."""

OF_A_FLUSH = 10
"""At most so many of them are taken from one flush, so that the cost does not grow with the number of orders in it."""

MINUTE = 60.0
"""Seconds of what is called the last minute."""

LONGEST_TEXT = 300
"""Characters of any text."""


class State(StrEnum):
    """How things stand, in one word."""

    GRANTING = "granting"
    WORKING = "working"
    """Orders end, none of them with a coupon."""

    IDLE = "idle"
    PARTLY_HELD_UP = "partly_held_up"
    HELD_UP = "held_up"
    STARTING = "starting"
    """It waits for Kafka, or for its part of the partitions."""

    STOPPING = "stopping"
    STUCK = "stuck"
    """It no longer moves, and is to be restarted."""


@dataclass(frozen=True, slots=True)
class Counted:
    """One line of a count.

    Attributes:
        last_minute: how many of the total there were in the last `window_seconds`.

    """

    name: str
    last_minute: int
    total: int


@dataclass(frozen=True, slots=True)
class Counts:
    """What is counted, since the process began.

    Attributes:
        window_seconds: what "last minute" is: less while the process is younger.

    """

    window_seconds: float
    records: Sequence[Counted] = ()
    replies: Sequence[Counted] = ()
    outcomes: Sequence[Counted] = ()
    retries: Sequence[Counted] = ()
    dead_letters: Sequence[Counted] = ()
    transactions: Sequence[Counted] = ()

    @property
    def coupons(self) -> int:
        """Granted in the last minute; one that was granted before is no further coupon."""
        return sum(each.last_minute for each in self.outcomes if each.name == Outcome.GRANTED)

    @property
    def ended(self) -> int:
        """Orders that ended in the last minute."""
        return sum(each.last_minute for each in self.outcomes)


@dataclass(frozen=True, slots=True)
class AccountStatus:
    """An account of the rules, its breaker and its limits at its endpoint.

    Attributes:
        state: `on`, `shadow` or `hold`, as the rules say.
        endpoint: where it posts to, without the query.
        breaker_why, code, since: what opened it, the reply that did, when; None while it is closed.
        error: why there was no reply, where it was none.
        probe_in_seconds: until an open one tries a call; None where a call's end decides.
        limit: calls at once that the platform seems to take.
        most_in_flight, rate: this member's part of the account's cap and rate (calls a second); None without.
        waiting, held_by: orders that wait for their call, and what holds the first one back.

    """

    name: str
    state: str
    endpoint: str
    breaker: BreakerState = BreakerState.CLOSED
    breaker_why: Why | None = None
    code: str | None = None
    error: str | None = None
    since: datetime | None = None
    probe_in_seconds: float | None = None
    limit: int = 0
    in_flight: int = 0
    most_in_flight: int | None = None
    rate: float | None = None
    waiting: int = 0
    held_by: str | None = None

    @property
    def halted(self) -> bool:
        """Nothing goes but probes."""
        return self.breaker in (BreakerState.OPEN, BreakerState.HALF_OPEN)


@dataclass(frozen=True, slots=True)
class Limits:
    """What this member may do at once.

    Attributes:
        in_flight, max_in_flight: calls.
        share: its part of what the fleet may do, from 0 to 1.
        rate, fleet_in_flight: its part of the fleet's rate (calls a second) and cap; None without.

    """

    in_flight: int = 0
    max_in_flight: int = 0
    share: float = 1.0
    rate: float | None = None
    fleet_in_flight: int | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """Records taken in and not yet committed, and how many there may be."""

    records: int
    max_records: int
    bytes: int
    max_bytes: int


@dataclass(frozen=True, slots=True)
class PartitionStatus:
    """A partition that it owns.

    Attributes:
        waits: it is a retry topic's.
        lag: records from the frontier to the log's end; None while that is not known.
        frontier: the lowest offset not done: the one committed.
        position: one beyond the furthest offset taken in.
        under_way: records taken in and not yet committed.
        map_bytes: size of the offset map, of 4096 at most.
        paused: why nothing is taken from it now.
        due_at: when its head is taken in.

    """

    topic: str
    partition: int
    waits: bool
    lag: int | None
    frontier: int
    position: int
    under_way: int
    map_bytes: int
    paused: str | None = None
    due_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Tier:
    """A retry topic, as far as this member owns it.

    Attributes:
        delay_seconds: how long an order waits in it.
        partitions: of it that this member owns.
        waiting: records in them that are not done; now and then Kafka's own marks count, too.
        next_due_at: the earliest that is known.

    """

    topic: str
    delay_seconds: float
    partitions: int
    waiting: int
    next_due_at: datetime | None


@dataclass(frozen=True, slots=True)
class LedgerStatus:
    """Whether what became of orders is written down.

    Attributes:
        open: transactions are written for an assignment.
        trouble: why the one under way has not ended well yet.
        stuck: it has not several times: nothing more is taken in.
        pending: records that have ended and are not yet in a transaction.
        committed_at: when records were last committed.

    """

    open: bool = False
    trouble: str | None = None
    stuck: bool = False
    pending: int = 0
    committed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class RulesStatus:
    """The rules in force.

    Attributes:
        loaded_at: since when.
        refused_at, problems: of the files as they are now, where they were refused.

    """

    hash: str
    loaded_at: datetime
    rules: int
    stations: int
    refused_at: datetime | None = None
    problems: Sequence[str] = ()
    more_problems: int = 0


@dataclass(frozen=True, slots=True)
class Recent:
    """An order that ended, or went to wait, a moment ago.

    Attributes:
        outcome: None where it waits in a retry topic.
        waits_for, due_at: for what, and until when.
        plate: masked; None where the privacy is such that the outcome holds none in clear.
        message: the platform's, or ours.

    """

    at: datetime
    outcome: str | None
    reason: str | None
    code: str
    waits_for: str | None
    due_at: datetime | None
    order_id: str | None
    plate: str | None
    account: str | None
    rule: str | None
    attempts: int
    message: str

    @classmethod
    def of(cls, resolution: Resolution, plates: PlateMode) -> "Recent":
        """Keeps nothing of the event but a few short texts, none with a whole plate in it."""
        values, later = resolution.values or {}, resolution.later
        plate = values.get("plate")
        plate = plate if isinstance(plate, str) else None
        order_id = values.get("order_id")

        def short(text: str | None) -> str:
            return _cut(hide_plate(text, plate) or "")

        return cls(
            at=resolution.decided_at,
            outcome=None if later is not None else resolution.outcome.value,
            reason=None if resolution.reason is None else resolution.reason.value,
            code=resolution.label,
            waits_for=None if later is None else later.wait.value,
            due_at=None if later is None else later.due_at,
            order_id=short(order_id) if isinstance(order_id, str) else None,
            plate=_cut(mask(plate)) if plate and plates.clear else None,
            account=resolution.account,
            rule=resolution.rule,
            attempts=resolution.attempts.count,
            message=short(resolution.words.message or resolution.detail),
        )


@dataclass(frozen=True, slots=True)
class Status:
    """All of it.

    Attributes:
        alive, ready: what /healthz and /readyz say; it is ready once it joined its group, and until it stops.
        waiting_for: what Kafka lacks, or what keeps records from being taken in or written down, in words.
        unreadable_topics: paused, since nothing in them can be read.
        credentials_kept: what is wrong with files whose secrets and certificates of before are still in use.

    """

    at: datetime
    started_at: datetime
    version: str
    python: str
    host: str
    group: str
    guarantee: str
    alive: bool
    ready: bool
    stopping: bool
    joined: bool
    rebalancing: bool
    waiting_for: str | None
    unreadable_topics: Sequence[str]
    credentials_kept: Sequence[str]
    counts: Counts
    accounts: Sequence[AccountStatus]
    limits: Limits
    memory: Memory
    partitions: Sequence[PartitionStatus]
    tiers: Sequence[Tier]
    ledger: LedgerStatus
    rules: RulesStatus
    recent: Sequence[Recent]


def with_texts(value: S, change: Callable[[str], str]) -> S:
    """The same, with every text in it changed; those of closed sets stay as they are."""
    if isinstance(value, Enum):
        return value
    if isinstance(value, str):
        return change(value)  # type: ignore[return-value]  # a subclass of str in S would have to be an Enum
    if is_dataclass(value) and not isinstance(value, type):
        changed = {each.name: with_texts(getattr(value, each.name), change) for each in fields(value)}
        return replace(value, **changed)
    if isinstance(value, list | tuple):
        return type(value)(with_texts(each, change) for each in value)
    return value


def printable(text: str) -> str:
    """Short enough, and without what no page can hold."""
    return _cut(text.encode("utf-8", "replace").decode())


# -- In words ---------------------------------------------------------------------------------------


def sentences(status: Status, zone: tzinfo) -> list[tuple[State, str]]:
    """How things stand: what matters most, then what else is wrong. Times of day are those of the zone."""
    found = [*_standing_still(status), *_held_up(status, zone)]
    rules = status.rules
    if not found:
        found.append(_going_on(status))
    if rules.refused_at is not None:
        since = clock(rules.refused_at, status.at, zone)
        text = f"The rules files as they are now are refused since {since}; those that were in force before go on"
        found.append((State.PARTLY_HELD_UP, text))
    for kept in status.credentials_kept:
        text = f"A secret or certificate that was exchanged is of no use, and the one before goes on: {kept}"
        found.append((State.PARTLY_HELD_UP, text))
    return found


def _standing_still(status: Status) -> Iterable[tuple[State, str]]:
    if not status.alive:
        yield State.STUCK, "Stuck: Kafka has not been polled for minutes; restart it"
    if status.stopping:
        yield State.STOPPING, "Stopping: what was begun ends, then it leaves the group"
    elif not status.joined:
        yield State.STARTING, f"Waiting for Kafka: {status.waiting_for or 'joining the group'}"
    elif status.waiting_for:
        yield State.HELD_UP, f"Held up: {status.waiting_for}"
    elif status.rebalancing:
        yield State.STARTING, "Rebalancing: the group divides the partitions anew"


def _held_up(status: Status, zone: tzinfo) -> Iterable[tuple[State, str]]:
    halted = [account for account in status.accounts if account.halted]
    all_of_them = len(halted) == len(status.accounts)
    for account in halted:
        yield _halted(account, status, zone, all_of_them=all_of_them)
    for topic in status.unreadable_topics:
        yield (
            State.PARTLY_HELD_UP,
            f"Partly held up: nothing in topic {topic} can be read; correct its source",
        )
    for each in status.partitions:
        if each.paused == "damaged":
            place = f"{each.topic}-{each.partition} at offset {each.position}"
            yield (
                State.PARTLY_HELD_UP,
                f"Partly held up: the batch of {place} is damaged, nothing behind it is read",
            )
    full = sum(1 for each in status.partitions if each.paused == "offset_map")
    if full:
        text = "1 partition takes" if full == 1 else f"{full} partitions take"
        whose = "its" if full == 1 else "their"
        yield State.PARTLY_HELD_UP, f"Partly held up: {text} in nothing more until {whose} oldest record ends"


def _halted(account: AccountStatus, status: Status, zone: tzinfo, *, all_of_them: bool) -> tuple[State, str]:
    since = "" if account.since is None else f" since {clock(account.since, status.at, zone)}"
    code = f" ({account.code})" if account.code else ""
    whose = "" if len(status.accounts) == 1 else f" for account {account.name}"
    if account.breaker_why is Why.STOP:
        what = f"the platform refuses account {account.name}{since}{code}: check its app_id and secret"
    else:
        what = f"the platform's breaker{whose} is open{since}{code}: most calls failed"
        if account.error is not None:
            what = f"{what.removesuffix(' failed')} to {account.endpoint} failed, {account.error}"
    if account.probe_in_seconds is not None:
        what += f"; next try in {account.probe_in_seconds:.0f} s"
    if all_of_them:
        return State.HELD_UP, f"Held up: {what}"
    return State.PARTLY_HELD_UP, f"Partly held up: {what}; other accounts go on"


def _going_on(status: Status) -> tuple[State, str]:
    counts = status.counts
    to_do = sum(each.lag or 0 for each in status.partitions if not each.waits)
    when = (
        "in the last minute" if counts.window_seconds >= MINUTE - 5 else f"in {counts.window_seconds:.0f} s"
    )
    rest = f"{_many(to_do, 'record')} to go" if to_do else "nothing is held up"
    if counts.coupons:
        return State.GRANTING, f"Granting: {_many(counts.coupons, 'coupon')} {when}, {rest}"
    if counts.ended:
        return (
            State.WORKING,
            f"Working: {_many(counts.ended, 'order')} ended {when}, none with a coupon; {rest}",
        )
    if to_do:
        return State.WORKING, f"Working: no order ended {when}; {rest}"
    if not status.partitions:
        return State.IDLE, "Standing by: the group's other members have all partitions"
    return State.IDLE, f"Idle: all records are done, and no order ended {when}"


def clock(at: datetime, now: datetime, zone: tzinfo) -> str:
    """A time of day; with its date where that is not today's."""
    at, now = at.astimezone(zone), now.astimezone(zone)
    return f"{at:%H:%M}" if at.date() == now.date() else f"{at:%Y-%m-%d %H:%M}"


def _many(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT - 1]}…"


# -- Counting ---------------------------------------------------------------------------------------

Totals = Mapping[str, Mapping[str, int]]
"""A name for what is counted (`Counts`' fields), then the line's name, then how many so far."""


class Window:
    """Totals as they were a minute ago: told every few seconds, it keeps as many as that takes."""

    def __init__(self, now: float, totals: Totals) -> None:
        self._noted: deque[tuple[float, Totals]] = deque([(now, totals)])

    def note(self, now: float, totals: Totals) -> None:
        """How things stand now."""
        self._noted.append((now, totals))
        for _ in range(sum(1 for _ in takewhile(lambda each: each[0] <= now - MINUTE, self._noted)) - 1):
            self._noted.popleft()

    def counts(self, now: float, totals: Totals) -> Counts:
        """The totals of now, and how much of them is of the last minute; what counts most comes first."""
        old = [each for each in self._noted if each[0] <= now - MINUTE]
        since, before = old[-1] if old else self._noted[0]
        return Counts(
            max(0.0, now - since),
            **{name: _lines(lines, before.get(name, {})) for name, lines in totals.items()},
        )


def _lines(now: Mapping[str, int], before: Mapping[str, int]) -> tuple[Counted, ...]:
    grown = Counter(now)
    grown.subtract(before)
    lines = [Counted(name, max(0, grown[name]), total) for name, total in now.items() if total]
    return tuple(sorted(lines, key=lambda line: (-line.total, line.name)))


def tiers_of(partitions: Sequence[PartitionStatus], delays: Mapping[str, float]) -> tuple[Tier, ...]:
    """The retry topics, by delay (seconds): what waits in them for this member."""
    found = []
    for topic, seconds in delays.items():
        owned = [each for each in partitions if each.topic == topic]
        dues = [each.due_at for each in owned if each.due_at is not None]
        waiting = sum(each.lag or 0 for each in owned)
        found.append(Tier(topic, seconds, len(owned), waiting, min(dues, default=None)))
    return tuple(found)


def as_json(status: Status, zone: tzinfo) -> dict[str, Any]:
    """As `schemas/status.v1.schema.json` describes it; JSON's writer has to know dataclasses and instants."""
    told = sentences(status, zone)
    head = {"state": told[0][0], "summary": told[0][1], "further": [text for _, text in told[1:]]}
    return head | {each.name: getattr(status, each.name) for each in fields(status)}
