"""Which orders are treated differently by two sides, in groups, as text and JSON. Performs no I/O.

A side is rules, what became of orders (outcomes), or what another integration sent.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from consumer.core.coupons import CouponRequest, is_metadata
from consumer.core.events import Order, Record
from consumer.core.outcomes import Finding, Reason, inert, with_plates_masked
from consumer.core.rules import RuleBook
from consumer.core.sources import Source
from consumer.core.templates import text_of

REQUEST, SHADOW, WAITS = "request", "shadow", f"waits ({Reason.HOLD})"
_ON_HOLD = (
    f"{WAITS}: its account or rule is on hold: it waits in the retry topics, and is asked for once that is released; "
    "with `retries.delays: []` it is skipped, with a dead letter"
)
_MOST_VALUES = 6
"""Changes of one value that are told apart in a group; the others are counted together."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of an order on one side.

    Attributes:
        verdict: `request`, `shadow`, `waits (hold)`, or why there is none: `skipped (policy)`, `not sent`.
        rule: that decided; None where none did, or nobody knows.
        fields: of the request, but for its metadata; none without one.
        metadata: its values; none without one.
        wire: the metadata as it travels, where that is known.
        whole: all fields of the request are known.

    """

    verdict: str
    rule: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, int] = field(default_factory=dict)
    wire: Mapping[str, str] | None = None
    whole: bool = True

    @property
    def asks(self) -> bool:
        """For a coupon."""
        return self.verdict == REQUEST

    def __str__(self) -> str:
        return self.verdict if self.rule is None else f"{self.verdict} by {self.rule}"


NO_SUCH_ORDER = Decision("no such order")


class Pair(NamedTuple):
    """An order, and what both sides do with it.

    Attributes:
        order: its number; empty where it has none.
        place: where its event stands.
        plate: to be masked; empty where it has none.
        alike: also where the sides differ in why they ask for nothing.

    """

    order: str
    place: str
    plate: str
    old: Decision
    new: Decision
    alike: bool = False


class Change(NamedTuple):
    """Of one field of a request, or one value of its metadata."""

    name: str
    old: str | None
    new: str | None


Kind = tuple[str, str, tuple[str, ...]]
"""What becomes of orders on both sides, and the names of what changes."""


class Difference(NamedTuple):
    """An order that is treated differently, and what of it changes."""

    pair: Pair
    changes: tuple[Change, ...]


@dataclass
class Comparison:
    """All orders: those treated alike counted, the others in groups; a rule that only has another name is no difference.

    Attributes:
        events: that were read; None where what is compared are no events.
        alike: how many, by what becomes of them on both sides.
        groups: by what becomes of them on both sides and the names of what changes.
        rules: that decided on anything, on each side.
        asked: requests of both sides.
        totals: of each value of metadata, on both sides.
        notes: what else to know of what was compared.

    """

    events: int | None = None
    alike: Counter[tuple[str, str]] = field(default_factory=Counter)
    groups: dict[Kind, list[Difference]] = field(default_factory=dict)
    rules: tuple[set[str | None], set[str | None]] = field(default_factory=lambda: (set(), set()))
    asked: list[int] = field(default_factory=lambda: [0, 0])
    totals: dict[str, list[int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, pair: Pair) -> None:
        """Each order belongs to one group, or is alike."""
        if WAITS in (pair.old.verdict, pair.new.verdict) and _ON_HOLD not in self.notes:
            self.notes.append(_ON_HOLD)
        for side, decision in enumerate((pair.old, pair.new)):
            self.asked[side] += decision.asks
            self.rules[side].add(decision.rule)
            for key, value in decision.metadata.items():
                self.totals.setdefault(key, [0, 0])[side] += value
        changes = tuple(_changes(pair.old, pair.new))
        if pair.alike or not (changes or _differ(pair.old, pair.new)):
            self.alike[str(pair.old), str(pair.new)] += 1
            return
        kind = (str(pair.old), str(pair.new), tuple(change.name for change in changes))
        self.groups.setdefault(kind, []).append(Difference(pair, changes))

    @property
    def different(self) -> int:
        """Orders that are not treated alike."""
        return sum(len(members) for _, members in self.largest_first())

    def largest_first(self) -> list[tuple[Kind, list[Difference]]]:
        """The groups, without those that differ in no more than how their rule is called."""
        groups = [group for group in self.groups.items() if not self._is_renamed(group[1])]
        return sorted(groups, key=lambda group: (-len(group[1]), group[0]))

    def renamed(self) -> dict[tuple[str, str], int]:
        """Orders of which the same becomes, by a rule that has another name now: by what becomes of them on both sides."""
        groups = sorted(self.groups.items(), key=lambda group: (-len(group[1]), group[0]))
        return {(old, new): len(members) for (old, new, _), members in groups if self._is_renamed(members)}

    def _is_renamed(self, members: list[Difference]) -> bool:
        """Neither name is of a rule that decides on anything on the other side."""
        old, new = members[0].pair.old, members[0].pair.new
        if members[0].changes or old.verdict != new.verdict:
            return False
        return old.rule not in self.rules[1] and new.rule not in self.rules[0]


def _differ(old: Decision, new: Decision) -> bool:
    other_rule = None not in (old.rule, new.rule) and old.rule != new.rule
    return old.verdict != new.verdict or other_rule


def _changes(old: Decision, new: Decision) -> Iterator[Change]:
    for key in dict.fromkeys([*old.metadata, *new.metadata]):
        values = old.metadata.get(key), new.metadata.get(key)
        if values[0] != values[1]:
            yield Change(f"metadata.{key}", *(None if value is None else str(value) for value in values))
    if not (old.fields and new.fields):
        return
    if None not in (old.wire, new.wire) and old.metadata == new.metadata and old.wire != new.wire:
        yield Change("metadata", *(" ".join((side.wire or {}).values()) or None for side in (old, new)))
    for name in dict.fromkeys([*old.fields, *new.fields]):
        if old.fields.get(name) != new.fields.get(name):
            yield Change(name, old.fields.get(name), new.fields.get(name))


# -- What becomes of an order -------------------------------------------------------------------------


def decision_of(plan: CouponRequest | Finding, *, on_trial: bool = False) -> Decision:
    """What rules say. On trial, what would be sent counts as if it were."""
    if isinstance(plan, Finding):
        return Decision(WAITS if plan.reason is Reason.HOLD else f"{plan.outcome} ({plan.reason})", plan.rule)
    fields = {name: text for name, text in plan.parameters.items() if not is_metadata(name)}
    wire = {name: text for name, text in plan.parameters.items() if is_metadata(name)}
    if plan.url is not None:
        fields["url"] = plan.url
    verdict = SHADOW if plan.shadow and not on_trial else REQUEST
    return Decision(verdict, plan.rule, fields, plan.metadata, wire)


def planned(
    book: RuleBook, record: Record, now: datetime | None, source: Source | None
) -> Iterator[tuple[Order | Finding, CouponRequest | Finding]]:
    """Each order of an event with what the rules say of it; read by this source, or as the service does at `now`."""
    if source is not None:
        read = book.read_as(source, record, now)
    else:
        assert now is not None
        read = book.read(record, now)
    for item in read:
        yield item, book.plan(item) if isinstance(item, Order) else item


Planned = Iterable[tuple[Order | Finding, CouponRequest | Finding]]


def pairs_of(old: Planned, new: Planned, place: str) -> Iterator[Pair]:
    """One event's orders, as two rule books read and plan them."""
    sides = [{item.index: (item, plan) for item, plan in side} for side in (old, new)]
    for index in sorted(sides[0].keys() | sides[1].keys()):
        before, after = (side.get(index) for side in sides)
        known = next(filter(None, (after, before)))[0].values or {}
        yield Pair(
            text_of(known, "order_id") or "",
            place_of(place, index),
            text_of(known, "plate") or "",
            NO_SUCH_ORDER if before is None else decision_of(before[1]),
            NO_SUCH_ORDER if after is None else decision_of(after[1]),
        )


def place_of(event: str, index: int) -> str:
    """An order's within its event."""
    return f"{event} #{index}" if index else event


# -- For people ---------------------------------------------------------------------------------------


def in_text(compared: Comparison, *, rows: int | None, reveal: bool) -> Iterator[str]:
    """A summary whose counts add up, then each group with so many of its orders; None: with all of them."""
    renamed = compared.renamed()
    same, different = compared.alike.total(), compared.different
    orders = same + different + sum(renamed.values())
    events = "" if compared.events is None else f" of {_counted(compared.events, 'event')}"
    by_name = f", {sum(renamed.values())} alike but for their rule's name" if renamed else ""
    yield f"{_counted(orders, 'order')}{events}: {same} treated alike{by_name}, {different} differently"
    yield from compared.notes
    if not orders:
        return
    yield ""
    sums = [("", "OLD", "NEW"), ("requests", *map(str, compared.asked))]
    sums += [(f"metadata.{key}, in all", *map(str, both)) for key, both in compared.totals.items()]
    yield from _columns(sums, right=(1, 2))
    yield ""
    heads = [("ORDERS", "OLD", "NEW", "CHANGES")]
    groups = [
        (str(len(members)), old, new, ", ".join(names) or _nothing_else(members))
        for (old, new, names), members in compared.largest_first()
    ]
    alike = [(str(count), old, new, "renamed") for (old, new), count in renamed.items()]
    alike += [(str(count), old, new, "alike") for (old, new), count in compared.alike.most_common()]
    yield from _columns(heads + groups + alike, right=(0,))
    for (old, new, _), members in compared.largest_first():
        yield ""
        yield f"{_counted(len(members), 'order')}: {old} → {new}"
        yield from _values(members)
        yield from _members(members[:rows], reveal=reveal)
        if rows is not None and len(members) > rows:
            yield f"  ... and {len(members) - rows} more; --rows shows more of them"


def _nothing_else(members: list[Difference]) -> str:
    pair = members[0].pair
    return "only the rule" if pair.old.verdict == pair.new.verdict else "-"


def _values(members: list[Difference]) -> Iterator[str]:
    """How each value of metadata changes within a group."""
    found: dict[str, Counter[str]] = {}
    for member in members:
        for change in member.changes:
            if change.name.startswith("metadata."):
                found.setdefault(change.name, Counter())[
                    f"{change.old or 'none'} → {change.new or 'none'}"
                ] += 1
    for name, counts in found.items():
        most = counts.most_common(_MOST_VALUES)
        text = ", ".join(f"{change} ({count})" for change, count in most)
        others = len(counts) - len(most)
        left = sum(counts.values()) - sum(count for _, count in most)
        yield f"  {name}: {text}" + (f", {others} others ({left})" if others else "")


def _members(members: list[Difference], *, reveal: bool) -> Iterator[str]:
    rows = [("ORDER", "EVENT", "PLATE", "CHANGE")]
    for pair, changes in members:
        mask = masker(pair.plate, reveal=reveal)
        first = (mask(pair.order) or "-", mask(pair.place), mask(pair.plate) or "-")
        texts = [_change(change, mask) for change in changes] or [""]
        rows += [(*(first if number == 0 else ("", "", "")), text) for number, text in enumerate(texts)]
    if not any(row[1] for row in rows[1:]):
        rows = [(order, "", plate, text) for order, _, plate, text in rows]
    yield from (f"  {line}" for line in _columns(rows))


def _change(change: Change, mask: Callable[[str], str]) -> str:
    old, new = ("none" if side is None else mask(side) for side in (change.old, change.new))
    if old == new:
        new += " (another plate: see --reveal)"
    return f"{change.name} {old} → {new}"


def masker(plate: str, *, reveal: bool) -> Callable[[str], str]:
    """Takes an order's plate out of a text, and what a terminal would obey."""

    def mask(text: str) -> str:
        return inert(text if reveal else with_plates_masked(text, [plate]))

    return mask


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _columns(rows: Sequence[tuple[str, ...]], right: tuple[int, ...] = ()) -> Iterator[str]:
    used = [number for number in range(len(rows[0])) if any(row[number] for row in rows)]
    widths = {number: max(len(row[number]) for row in rows) for number in used}
    for row in rows:
        cells = (
            row[number].rjust(widths[number]) if number in right else row[number].ljust(widths[number])
            for number in used
        )
        yield "  ".join(cells).rstrip()


# -- For machines -------------------------------------------------------------------------------------


def in_json(compared: Comparison, *, reveal: bool) -> str:
    """All of it, each order that is treated differently too."""
    old, new = compared.asked
    renamed = compared.renamed()
    by_verdict: Counter[str] = Counter()
    for (_, verdict), count in compared.alike.items():
        by_verdict[verdict] += count
    found = {
        "events": compared.events,
        "orders": compared.alike.total() + sum(renamed.values()) + compared.different,
        "alike": compared.alike.total(),
        "renamed": sum(renamed.values()),
        "different": compared.different,
        "requests": {"old": old, "new": new},
        "metadata": {
            key: dict(zip(("old", "new"), both, strict=True)) for key, both in compared.totals.items()
        },
        "notes": compared.notes,
        "alike_by_verdict": dict(by_verdict.most_common()),
        "renamed_rules": [{"old": old, "new": new, "orders": count} for (old, new), count in renamed.items()],
        "groups": [
            {
                "old": old,
                "new": new,
                "changes": list(names),
                "orders": len(members),
                "members": [_member_json(member, reveal=reveal) for member in members],
            }
            for (old, new, names), members in compared.largest_first()
        ],
    }
    return json.dumps(found, ensure_ascii=False, indent=2)


def _member_json(member: Difference, *, reveal: bool) -> dict[str, object]:
    pair = member.pair
    mask = masker(pair.plate, reveal=reveal)
    return {
        "order_id": mask(pair.order) or None,
        "event": mask(pair.place) or None,
        "plate": mask(pair.plate) or None,
        "changes": [
            {
                "name": name,
                "old": None if old is None else mask(old),
                "new": None if new is None else mask(new),
            }
            for name, old, new in member.changes
        ],
    }
