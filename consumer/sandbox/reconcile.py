"""What was produced, the outcomes and the platform's journal -> whether every order is accounted for. Performs no I/O."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from consumer.core.events import Coordinates
from consumer.sandbox.journal import Journal
from consumer.sandbox.samples import KINDS, Expected, SampleEvent

OutcomeFields = Mapping[str, Any]
"""The value of a record of the outcome topic, as `schemas/coupon-outcome.v1.schema.json` describes it."""

_CUT_OFF = frozenset({"reset", "lost", "truncated", "hang"})
"""Answers after which a client's library may have sent a request twice on its own."""


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
class Report:
    """The reconciliation.

    Attributes:
        problems: each names the order; empty if all agree.

    """

    rows: tuple[Row, ...]
    problems: tuple[str, ...]
    records: int
    orders: int
    outcomes: int
    grants: int

    @property
    def agrees(self) -> bool:
        """Every order has exactly one outcome, the expected one, and the platform says the same."""
        return not self.problems


def reconcile(
    produced: Sequence[Produced],
    outcomes: Sequence[OutcomeFields],
    journal: Journal,
    committed: Mapping[int, int] | None = None,
) -> Report:
    """Joins the three by record and by event_id.

    `committed` holds the group's offset by partition; None where that is not looked at.
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
            problems += _compare(_name(each.coordinates, expected), expected, ends)
    problems += [
        f"{_outcome_name(end)}: an outcome of no order that was produced"
        for ends in found.values()
        for end in ends
    ]
    problems += _compare_with_platform(outcomes, journal)
    if committed is not None:
        problems += _uncommitted(produced, committed)
    return Report(
        rows=tuple(_row(kind, produced, rows[kind]) for kind in KINDS if kind in rows),
        problems=tuple(problems),
        records=len(produced),
        orders=sum(len(each.sample.expected) for each in produced),
        outcomes=len(outcomes),
        grants=len(journal.grants),
    )


def _compare(name: str, expected: Expected, ends: Sequence[OutcomeFields]) -> list[str]:
    if not ends:
        return [f"{name}: no outcome, expected {expected.outcome}"]
    if len(ends) > 1:
        return [f"{name}: {len(ends)} outcomes ({', '.join(end['outcome'] for end in ends)}), expected one"]
    (end,) = ends
    wanted, got = (expected.outcome, expected.reason), (end["outcome"], end["reason"])
    if got != wanted:
        return [f"{name}: {_pair(*got)}, expected {_pair(*wanted)}"]
    if expected.order_id is not None and end["order_id"] != expected.order_id:
        return [f"{name}: its outcome names order {end['order_id']}"]
    return []


def _compare_with_platform(outcomes: Sequence[OutcomeFields], journal: Journal) -> list[str]:
    """The platform granted what the outcomes say was granted, and was called as often as they say."""
    problems: list[str] = []
    calls: Counter[str] = Counter()
    told: defaultdict[str, set[str]] = defaultdict(set)
    for outcome in outcomes:
        event_id = outcome["event_id"] or ""
        calls[event_id] += outcome["attempts"]["count"]
        told[event_id].add(outcome["outcome"])
        name = _outcome_name(outcome)
        serial = journal.grants.get(event_id)
        if outcome["outcome"] == "granted" and outcome["grant_serial"] != serial:
            problems.append(
                f"{name}: granted {outcome['grant_serial']}, and the platform granted {serial or 'nothing'}"
            )
        if outcome["outcome"] == "already_granted" and serial is None:
            problems.append(f"{name}: already granted, and the platform granted nothing")
    problems += [
        f"order {event_id}: the platform granted a coupon, and no outcome says so"
        for event_id in journal.grants
        if not told[event_id] & {"granted", "already_granted"}
    ]
    cut_off = {entry.event_id for entry in journal.entries if entry.answer in _CUT_OFF}
    for event_id in sorted(calls):
        said, seen = calls[event_id], journal.calls_by_event[event_id]
        if said != seen and not (event_id in cut_off and said < seen):
            problems.append(f"order {event_id}: {said} calls by its outcomes, the platform saw {seen}")
    return problems


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
