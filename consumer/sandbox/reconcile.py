"""What was produced, the outcomes and the platform's journal -> whether every order is accounted for. Performs no I/O."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

from consumer.core.events import Coordinates
from consumer.sandbox.answers import ANSWERS, PLATE_ENDINGS
from consumer.sandbox.journal import Journal
from consumer.sandbox.samples import KINDS, Expected, SampleEvent

OutcomeFields = Mapping[str, Any]
"""The value of a record of the outcome topic, as `schemas/coupon-outcome.v1.schema.json` describes it."""

_REFUSALS = frozenset({"302", "401", "403", "200_sign"})
"""Answers that stop an account, which is no attempt of the order's."""

_HEARD = ("granted", "already_granted")
"""Outcomes that say that there is a coupon, the one that says most of it first."""


@dataclass(frozen=True, slots=True)
class Produced:
    """A sample that Kafka has."""

    coordinates: Coordinates
    sample: SampleEvent


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of sample.

    Attributes:
        outcomes: how many orders came to which outcome.

    """

    kind: str
    words: str
    records: int
    orders: int
    outcomes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Charges:
    """What became of the charges that a coupon was asked for, each counted once, however often it was pushed.

    The first three have a coupon: if all agrees, as many as the platform granted.

    Attributes:
        granted: a reply said so.
        lost_reply: the reply to the grant was lost, and a repeated call was answered that it had been granted.
        unheard: no reply said so, by what the outcome says instead.
        without: the others, by outcome.
        unsure: of `unheard` and `without`, those whose outcome says that there may be a coupon.
        pushed_again: further outcomes of charges that are counted above.
        struck: charges that were meant to get one, and of which a call was refused or left without an answer that
            their sample does not ask for.
        lost: those of `without` that were meant to get one, by outcome.

    """

    granted: int = 0
    lost_reply: int = 0
    unheard: Mapping[str, int] = field(default_factory=dict)
    without: Mapping[str, int] = field(default_factory=dict)
    unsure: int = 0
    pushed_again: Mapping[str, int] = field(default_factory=dict)
    struck: int = 0
    lost: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Report:
    """The reconciliation.

    Attributes:
        problems: each names the order; empty if all agree.
        grants: coupons in the platform's journal.
        charges: those that a coupon was asked for.
        unasked: orders that none was asked for, by outcome.
        troubled: calls failed by chance, so that orders could come to several ends.

    """

    rows: tuple[Row, ...]
    problems: tuple[str, ...]
    records: int
    orders: int
    outcomes: int
    grants: int
    charges: "Charges"
    unasked: Mapping[str, int]
    troubled: bool = False

    @property
    def agrees(self) -> bool:
        """Every order has exactly one outcome, an expected one, and the platform says the same."""
        return not self.problems


def reconcile(
    produced: Sequence[Produced],
    outcomes: Sequence[OutcomeFields],
    journal: Journal,
    committed: Mapping[int, int] | None = None,
    *,
    troubled: bool = False,
) -> Report:
    """Joins the three by record and by event_id.

    `committed` holds the group's offset by partition; None where that is not looked at.
    `troubled` says that calls failed by chance: an order may then come to other ends
    too (`Expected.in_trouble`), and a grant may have gone unheard.
    """
    found: defaultdict[tuple[Coordinates, int], list[OutcomeFields]] = defaultdict(list)
    for outcome in outcomes:
        found[_place(outcome)].append(outcome)
    problems: list[str] = []
    rows: dict[str, Counter[str]] = {}
    for each in produced:
        row = rows.setdefault(each.sample.kind, Counter())
        for expected in each.sample.expected:
            ends = found.pop((each.coordinates, expected.index), [])
            row.update(end["outcome"] for end in ends)
            problems += _compare(_name(each.coordinates, expected), expected, ends, troubled=troubled)
    problems += [
        f"{_outcome_name(end)}: an outcome of no order that was produced"
        for ends in found.values()
        for end in ends
    ]
    problems += _compare_with_platform(outcomes, journal, troubled=troubled)
    if committed is not None:
        problems += _uncommitted(produced, committed)
    return Report(
        rows=tuple(_row(kind, produced, rows[kind]) for kind in KINDS if kind in rows),
        problems=tuple(problems),
        records=len(produced),
        orders=sum(len(each.sample.expected) for each in produced),
        outcomes=len(outcomes),
        grants=len(journal.grants),
        charges=_charges(produced, outcomes, journal),
        unasked=Counter(end["outcome"] for end in outcomes if not end["attempts"]["count"]),
        troubled=troubled,
    )


def _compare(name: str, expected: Expected, ends: Sequence[OutcomeFields], *, troubled: bool) -> list[str]:
    others = sorted(expected.in_trouble) if troubled else []
    wanted = " or ".join([_pair(expected.outcome, expected.reason), *others])
    if not ends:
        return [f"{name}: no outcome, expected {wanted}"]
    if len(ends) > 1:
        return [f"{name}: {len(ends)} outcomes ({', '.join(end['outcome'] for end in ends)}), expected one"]
    (end,) = ends
    got = (end["outcome"], end["reason"])
    if got not in [(expected.outcome, expected.reason), *((other, None) for other in others)]:
        return [f"{name}: {_pair(*got)}, expected {wanted}"]
    if expected.order_id is not None and end["order_id"] != expected.order_id:
        return [f"{name}: its outcome names order {end['order_id']}"]
    return []


def _compare_with_platform(
    outcomes: Sequence[OutcomeFields], journal: Journal, *, troubled: bool
) -> list[str]:
    """The platform granted what the outcomes say was granted, and was called as often as they say."""
    ambiguous = {outcome["event_id"] for outcome in outcomes if outcome["attempts"]["ambiguous"]}
    return [
        *_compare_claims(outcomes, journal),
        *_compare_grants(outcomes, journal, ambiguous, troubled=troubled),
        *_compare_calls(outcomes, journal, troubled=troubled),
    ]


def _compare_claims(outcomes: Sequence[OutcomeFields], journal: Journal) -> Iterator[str]:
    """What an outcome says was granted, was."""
    for outcome in outcomes:
        serial = journal.grants.get(outcome["event_id"] or "")
        if outcome["outcome"] == "granted" and outcome["grant_serial"] != serial:
            yield (
                f"{_outcome_name(outcome)}: granted {outcome['grant_serial']}, "
                f"and the platform granted {serial or 'nothing'}"
            )
        if outcome["outcome"] == "already_granted" and serial is None:
            yield f"{_outcome_name(outcome)}: already granted, and the platform granted nothing"


def _compare_grants(
    outcomes: Sequence[OutcomeFields], journal: Journal, ambiguous: AbstractSet[str], *, troubled: bool
) -> Iterator[str]:
    """What was granted, exactly one outcome says, or it went unheard."""
    for event_id, ends in _told(outcomes, journal).items():
        if ends["granted"] > 1:
            yield f"order {event_id}: {ends['granted']} outcomes say granted, the platform did it once"
        elif ends["already_granted"] and not ends["granted"] and event_id not in ambiguous:
            yield f"order {event_id}: already granted, and no outcome says by which call"
        elif not ends.keys() & set(_HEARD) and not (troubled and event_id in ambiguous):
            yield f"order {event_id}: the platform granted a coupon, and no outcome says so"


def _compare_calls(outcomes: Sequence[OutcomeFields], journal: Journal, *, troubled: bool) -> Iterator[str]:
    """Where calls fail, one may end before it arrives; a library may send what was cut off again."""
    calls: Counter[str] = Counter()
    for outcome in outcomes:
        calls[outcome["event_id"] or ""] += outcome["attempts"]["count"]
    # After these a client's library may have sent a request twice on its own.
    cut_off = {entry.event_id for entry in journal.entries if not entry.delivery.heard}
    refused = Counter(entry.event_id for entry in journal.entries if entry.answer in _REFUSALS)
    for event_id, count in sorted(calls.items()):
        seen = journal.calls_by_event[event_id] - refused[event_id]
        explained = troubled if count > seen else event_id in cut_off
        if count != seen and not explained:
            yield f"order {event_id}: {count} calls by its outcomes, the platform saw {seen}"


def _told(outcomes: Sequence[OutcomeFields], journal: Journal) -> Mapping[str, Counter[str]]:
    """Of each event_id for which the platform granted a coupon: the ends that its orders came to."""
    told: dict[str, Counter[str]] = {event_id: Counter() for event_id in journal.grants}
    for outcome in outcomes:
        if outcome["event_id"] in told:
            told[outcome["event_id"]][outcome["outcome"]] += 1
    return told


def _charges(produced: Sequence[Produced], outcomes: Sequence[OutcomeFields], journal: Journal) -> Charges:
    meant = {
        expected.order_id
        for each in produced
        for expected in each.sample.expected
        if expected.outcome in _HEARD
    }
    struck, lost = _struck(journal) & meant, Counter[str]()
    ends: defaultdict[str, list[OutcomeFields]] = defaultdict(list)
    for outcome in outcomes:
        if outcome["attempts"]["count"]:
            ends[outcome["event_id"]].append(outcome)
    heard, unheard, without, pushed_again = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    unsure = 0
    for event_id, each in ends.items():
        best, *others = sorted(each, key=_best_first)
        pushed_again.update(other["outcome"] for other in others)
        if best["outcome"] in _HEARD:
            heard[best["outcome"]] += 1
        else:
            (unheard if event_id in journal.grants else without)[best["outcome"]] += 1
            if event_id in meant and event_id not in journal.grants:
                struck.add(event_id)
                lost[best["outcome"]] += 1
            unsure += any(end["attempts"]["ambiguous"] for end in each)
    return Charges(
        heard["granted"],
        heard["already_granted"],
        unheard,
        without,
        unsure,
        pushed_again,
        struck=len(struck),
        lost=lost,
    )


def _struck(journal: Journal) -> set[str | None]:
    """Whose calls were answered otherwise than their plate asks for."""
    struck: set[str | None] = set()
    granted: set[str] = set()
    met = Counter[str]()
    for entry in journal.entries:
        answers = PLATE_ENDINGS.get(entry.plate[-4:], ("1001",))
        asked = answers[min(met[entry.event_id], len(answers) - 1)]
        if entry.answer == ("1403" if entry.event_id in granted else asked):
            met[entry.event_id] += 1
            if not entry.delivery.heard and entry.delivery is not ANSWERS[entry.answer].delivery:
                struck.add(entry.event_id)
        else:
            struck.add(entry.event_id)
        if entry.granted:
            granted.add(entry.event_id)
    return struck


def _best_first(outcome: OutcomeFields) -> int:
    name = outcome["outcome"]
    return _HEARD.index(name) if name in _HEARD else len(_HEARD)


def _uncommitted(produced: Sequence[Produced], committed: Mapping[int, int]) -> list[str]:
    """A record whose offset is not committed would be delivered again."""
    return [
        f"{_name(each.coordinates, each.sample.expected[0])}: not committed"
        for each in produced
        if each.coordinates.offset >= committed.get(each.coordinates.partition, 0)
    ]


def _place(outcome: OutcomeFields) -> tuple[Coordinates, int]:
    record = outcome["record"]
    return Coordinates(record["topic"], record["partition"], record["offset"]), outcome["order_index"]


def _name(coordinates: Coordinates, expected: Expected) -> str:
    order = f"order {expected.order_id}" if expected.order_id else "no order"
    return f"{order} (record {coordinates.topic}-{coordinates.partition}@{coordinates.offset})"


def _outcome_name(outcome: OutcomeFields) -> str:
    coordinates, index = _place(outcome)
    return _name(coordinates, Expected(index, outcome["order_id"], outcome["outcome"]))


def _pair(outcome: str, reason: str | None) -> str:
    return f"{outcome} ({reason})" if reason else outcome


def _row(kind: str, produced: Sequence[Produced], outcomes: Mapping[str, int]) -> Row:
    samples = [each.sample for each in produced if each.sample.kind == kind]
    orders = sum(len(sample.expected) for sample in samples)
    return Row(kind, KINDS[kind].words, len(samples), orders, dict(outcomes))
