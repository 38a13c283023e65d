"""An order -> what the first rule that matches says: the coupon to ask for, or an end without one. Performs no I/O.

Orders come by the thousand a second, and there may be ten thousand rules: what no order changes is done when they
are loaded, and what one order needs of one rule lies close together.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from consumer.core.coupons import LARGEST_VALUE, Account, CouponRequest, Form, State
from consumer.core.direct import Function, Literals
from consumer.core.events import Order, Value
from consumer.core.expressions import Binding, Compiler, Expression, ExpressionError, Failure
from consumer.core.formats import scalar_text
from consumer.core.outcomes import Finding, Outcome, Reason
from consumer.core.sources import Station
from consumer.core.syntax import Kind
from consumer.core.templates import FieldText, Template, text_of

MAX_DETAIL = 300
FEW, MANY = 3, 32
"""Rules without keys that are asked together; fewer are as quickly asked one by one."""

NO_TEXT = Template.parse("")


@dataclass(frozen=True, slots=True)
class Metadatum:
    """One metadata entry of a rule: the name shown beside the value, and how the value is computed."""

    key: str
    name: str
    value: Expression


@dataclass(frozen=True, slots=True)
class Rule:
    """Which orders get which coupon.

    Attributes:
        sources, stations: only orders of these; empty means all.
        equals: only orders whose fields have one of these texts.
        when: only orders for which this holds; None means all that got here.
        account: None where the rule skips.
        skip: end the order without a request, for this reason.
        subject: what the coupon is for, over field names; empty where the rule skips.
        api_type: instead of the account's.
        api_store_code: for orders whose station has none.
        parameters: further fields of the request, the same in all.

    """

    name: str
    sources: frozenset[str] = frozenset()
    stations: frozenset[str] = frozenset()
    equals: Mapping[str, frozenset[str]] = field(default_factory=dict)
    when: Expression | None = None
    account: Account | None = None
    skip: Reason | None = None
    subject: Template = NO_TEXT
    metadata: tuple[Metadatum, ...] = ()
    api_type: str | None = None
    api_store_code: str | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    state: State = State.ON

    def expressions(self) -> Iterator[tuple[str, Expression]]:
        """All of them, with the name that messages call them by: `when`, `metadata.minutes`."""
        if self.when is not None:
            yield "when", self.when
        for datum in self.metadata:
            yield f"metadata.{datum.key}", datum.value


class Planner:
    """The rules of a book, by source, ready for orders."""

    def __init__(
        self,
        rules: Sequence[Rule],
        sources: Sequence[str],
        stations: Mapping[str, Station],
        compiler: Compiler,
    ) -> None:
        self._bind = compiler.bind
        self._stations = stations
        self._stations_differ = any(station.parameters for station in stations.values())
        kinds = _Kinds(compiler)
        self._indexes = {
            source: _Index(
                [rule for rule in rules if not rule.sources or source in rule.sources], kinds, compiler
            )
            for source in sources
        }

    def parts(self) -> list[object]:
        """As a book's."""
        return [part for index in self._indexes.values() for part in index.parts()]

    def plan(self, order: Order, *, as_on: bool) -> CouponRequest | Finding:
        """Raises whatever a rule may."""
        values = order.values
        binding = self._bind(values)
        found = self._indexes[order.source].first(values, binding)
        if found is None:
            return Finding(
                order.index,
                Outcome.UNMATCHED,
                Reason.NO_RULE,
                "no rule matches",
                values=values,
                source=order.source,
            )
        candidate, failure = found
        if failure is not None:
            # Never on to the next rule: who would know that this one does not work?
            return ended(order, Reason.RULE_ERROR, f"when: {failure.message}", candidate.rule)
        skip = candidate.common.skip
        if skip is not None:
            detail = f"rule {candidate.name}"
            return ended(order, skip, detail, candidate.rule, outcome=Outcome.SKIPPED)
        return self._request(candidate, order, binding, as_on=as_on)

    def _request(
        self, candidate: "_Candidate", order: Order, binding: Binding, *, as_on: bool
    ) -> CouponRequest | Finding:
        """What the order asks for by a rule that grants coupons."""
        values, common = order.values, candidate.common
        if common.held and not as_on:
            return _held(order, candidate.rule)
        store = text_of(values, "api_store_code") or candidate.store
        if store is None:
            detail = "api_store_code: neither station nor rule has one"
            return ended(order, Reason.FIELD_MISSING, detail, candidate.rule)
        subject, missing = candidate.subject.of(values)
        if missing is not None:
            return ended(order, Reason.FIELD_MISSING, f"subject: {missing} is absent", candidate.rule)
        amounts = candidate.amounts(values, binding)
        for amount in amounts:
            if type(amount) is not int or not 0 <= amount <= LARGEST_VALUE:
                return _unfit(order, candidate.rule, amounts)
        extra = _NONE
        if self._stations_differ:
            station = self._stations.get(text_of(values, "station_id") or "")
            extra = station.parameters if station is not None else _NONE
        return CouponRequest(
            common.account,
            candidate.name,
            common.url,
            common.form.filled(store, order.event_id, order.plate, subject, amounts, station=extra),
            dict(zip(common.keys, amounts, strict=True)),
            common.shadow and not as_on,
            common.timestamped,
        )


_NONE: Mapping[str, str] = {}


# -- Which rule --------------------------------------------------------------------------------------


class _Index:
    """One source's rules by station or field, so that ten thousand of them cost an order no more than ten."""

    def __init__(self, rules: Sequence[Rule], kinds: "_Kinds", compiler: Compiler) -> None:
        everywhere: list[_Candidate] = []
        self._by_field: dict[str, dict[str, _Candidate | list[_Candidate]]] = {}
        mine = [(rule, _keys(rule)) for rule in rules]
        crowds: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for _, keys in mine:
            for name, texts in keys:
                crowds[name].update(texts)
        for number, (rule, keys) in enumerate(mine):
            # By the key that fewest others share: a thousand rules of one station are told apart by another.
            found_by = min(keys, key=lambda key: max(map(crowds[key[0]].__getitem__, key[1])), default=None)
            rest = tuple(key for key in keys if key is not found_by)
            candidate = _Candidate(number, rule, rest, kinds)
            if found_by is None:
                everywhere.append(candidate)
                continue
            name, texts = found_by
            by_text = self._by_field.setdefault(name, {})
            for text in texts:
                here = by_text.setdefault(text, candidate)
                if isinstance(here, list):
                    here.append(candidate)
                elif here is not candidate:
                    by_text[text] = [here, candidate]
        self._groups = [_Group(members, compiler) for members in _grouped(everywhere)]
        self._end = len(mine)

    def parts(self) -> list[object]:
        """As a book's."""
        return [*self._by_field.values()]

    def first(
        self, values: Mapping[str, Value], binding: Binding
    ) -> "tuple[_Candidate, Failure | None] | None":
        """The first rule that matches, or fails, without a look at those whose keys do not fit."""
        keyed = self.keyed(values)
        for group in self._groups:
            if keyed and (found := _first_of(keyed, group.members[0].number, values, binding)):
                return found
            if group.is_out(binding):
                continue
            for member in group.members:
                if keyed and (found := _first_of(keyed, member.number, values, binding)):
                    return found
                if found := member.matched(values, binding):
                    return found
        return _first_of(keyed, self._end, values, binding)

    def keyed(self, values: Mapping[str, Value]) -> "list[_Candidate]":
        """Those whose keys fit, the last one first."""
        found: list[_Candidate] = []
        for name, by_text in self._by_field.items():
            value = values.get(name)
            text = value.strip() if type(value) is str else scalar_text(value)
            here = by_text.get(text) if text else None
            if isinstance(here, list):
                found += here
            elif here is not None:
                found.append(here)
        if len(found) > 1:
            found.sort(key=_number_of, reverse=True)
        return [candidate for candidate in found if not candidate.rest or candidate.fits(values)]


def _first_of(
    keyed: "list[_Candidate]", before: int, values: Mapping[str, Value], binding: Binding
) -> "tuple[_Candidate, Failure | None] | None":
    """The first that matches or fails, of those before a number; they are taken out."""
    while keyed and keyed[-1].number < before:
        if found := keyed.pop().matched(values, binding):
            return found
    return None


class _Candidate:
    """A rule as an order meets it: what is its own, and `common` to all that are like it.

    Where it matches and nothing fails, no other object of this rule is looked at.

    Attributes:
        number: its place among the source's rules.
        rest: its keys but the one that it is found by.
        literals: of its condition, then of its metadata.
        subject, store: what is asked for; of no use where the rule skips.

    """

    __slots__ = ("common", "literals", "name", "number", "rest", "rule", "store", "subject")

    def __init__(
        self, number: int, rule: Rule, rest: tuple[tuple[str, frozenset[str]], ...], kinds: "_Kinds"
    ) -> None:
        self.number = number
        self.rest = rest
        self.rule = rule
        self.name = (
            rule.name.encode().decode()
        )  # a copy: what was read from files is spread over all the memory
        self.store = rule.api_store_code
        self.subject = kinds.subject(rule.subject)
        self.common, self.literals = kinds.of(rule)

    def fits(self, values: Mapping[str, Value]) -> bool:
        """Whether the order has the rest of its keys."""
        return all(scalar_text(values.get(name)) in texts for name, texts in self.rest)

    def matched(
        self, values: Mapping[str, Value], binding: Binding
    ) -> "tuple[_Candidate, Failure | None] | None":
        """None where it does not match."""
        try:
            return (self, None) if self.common.when(values, self.literals) else None
        except Exception:  # noqa: BLE001  # the expression knows what to make of it
            assert self.rule.when is not None
            held = self.rule.when.evaluate(binding)
        if isinstance(held, Failure):
            return self, held
        return (self, None) if held else None

    def amounts(self, values: Mapping[str, Value], binding: Binding) -> list[Any]:
        """The values of its metadata, or failures."""
        try:
            return [give(values, self.literals) for give in self.common.amounts]
        except Exception:  # noqa: BLE001  # as above
            return [datum.value.evaluate(binding) for datum in self.rule.metadata]


def _number_of(candidate: _Candidate) -> int:
    return candidate.number


class _Group:
    """Rules without keys, one after the other: few orders are for any of them, and one expression tells which."""

    def __init__(self, members: Sequence[_Candidate], compiler: Compiler) -> None:
        self.members = members
        self._any: Expression | None = None
        if len(members) >= FEW:
            # A line of its own, since an expression may end in a comment.
            either = " || ".join(f"({member.rule.when.source}\n)" for member in members if member.rule.when)
            with suppress(ExpressionError):  # too long for one; then each is asked
                self._any = compiler.compile(either, Kind.BOOL)

    def is_out(self, binding: Binding) -> bool:
        """None of them holds, and none fails."""
        return self._any is not None and self._any.evaluate(binding) is False


def _grouped(everywhere: Sequence[_Candidate]) -> Iterator[list[_Candidate]]:
    """A rule that is for all orders stands alone."""
    for conditional, members in groupby(everywhere, lambda candidate: candidate.rule.when is not None):
        rest = list(members)
        size = MANY if conditional else 1
        for start in range(0, len(rest), size):
            yield rest[start : start + size]


def _keys(rule: Rule) -> list[tuple[str, frozenset[str]]]:
    """Fields, each with the texts of which it must have one."""
    stations = [("station_id", rule.stations)] if rule.stations else []
    return [*stations, *rule.equals.items()]


# -- What it asks for --------------------------------------------------------------------------------


class _Common:
    """What rules have in common that differ in names, keys and literals alone.

    Attributes:
        when: whether one matches; raises where only the rule's expression can tell.
        amounts: its metadata, likewise.
        keys: of the metadata.
        held: no order is to be sent.

    """

    __slots__ = ("account", "amounts", "form", "held", "keys", "shadow", "skip", "timestamped", "url", "when")

    def __init__(self, rule: Rule, when: Function, amounts: tuple[Function, ...]) -> None:
        account = rule.account if rule.account is not None else _NOBODY
        states = (account.state, rule.state)
        self.when = when
        self.amounts = amounts
        self.skip = rule.skip
        self.account = account.name
        self.url = account.url
        self.timestamped = account.timestamp
        self.held = State.HOLD in states
        self.shadow = State.SHADOW in states
        self.keys = tuple(datum.key for datum in rule.metadata)
        named = [(datum.key, datum.name) for datum in rule.metadata]
        self.form = Form(account, rule.api_type or account.api_type, named, rule.parameters)


_NOBODY = Account("", "", "", "")


class _Kinds:
    """Rules that are alike share what they can: that stays in the processor's cache, however many there are."""

    def __init__(self, compiler: Compiler) -> None:
        self._compiler = compiler
        self._common: dict[object, _Common] = {}
        self._subjects: dict[str, FieldText] = {}

    def of(self, rule: Rule) -> tuple[_Common, Literals]:
        """What it has in common with others, and the literals that are its own."""
        literals: list[int | str] = []
        when = _always if rule.when is None else self._function(rule.when, literals)
        amounts = tuple([self._function(datum.value, literals) for datum in rule.metadata])
        key = (
            when,
            amounts,
            rule.skip,
            rule.account and rule.account.name,
            rule.state,
            rule.api_type,
            tuple([(datum.key, datum.name) for datum in rule.metadata]),
            tuple(rule.parameters.items()),
        )
        found = self._common.get(key)
        if found is None:
            found = self._common[key] = _Common(rule, when, amounts)
        return found, tuple(literals)

    def _function(self, expression: Expression, literals: list[int | str]) -> Function:
        """What gives its value; its literals go behind those that there are."""
        found = self._compiler.function(expression, len(literals))
        if found is None:
            return _beyond
        give, own = found
        literals += own
        return give

    def subject(self, template: Template) -> FieldText:
        """Of the same text always the same."""
        found = self._subjects.get(template.text)
        if found is None:
            found = self._subjects[template.text] = FieldText(template)
        return found


def _always(_values: Mapping[str, Value], _literals: Literals) -> bool:
    return True


def _beyond(_values: Mapping[str, Value], _literals: Literals) -> int:
    """Of an expression that has no function."""
    raise LookupError


# -- Ends without a request --------------------------------------------------------------------------


def _held(order: Order, rule: Rule) -> Finding:
    account = rule.account
    held = f"account {account.name}" if account and account.state is State.HOLD else f"rule {rule.name}"
    detail = f"{held} is on hold"
    return ended(order, Reason.HOLD, detail, rule, outcome=Outcome.SKIPPED, dead_letter=True)


def _unfit(order: Order, rule: Rule, amounts: Sequence[int | Failure]) -> Finding:
    """A metadata value is a 32-bit integer that is not negative."""
    for datum, amount in zip(rule.metadata, amounts, strict=True):
        if isinstance(amount, Failure):
            return ended(order, Reason.RULE_ERROR, f"metadata.{datum.key}: {amount.message}", rule)
        if not 0 <= amount <= LARGEST_VALUE:
            break
    detail = f"metadata.{datum.key}: {amount} is outside 0..{LARGEST_VALUE}"
    return ended(order, Reason.OVERFLOW, detail, rule)


def ended(
    order: Order,
    reason: Reason,
    detail: str,
    rule: Rule | None = None,
    *,
    outcome: Outcome = Outcome.INVALID,
    dead_letter: bool | None = None,
) -> Finding:
    """An order that gets no request. Details may quote a value: never the plate."""
    return Finding(
        order.index,
        outcome,
        reason,
        detail.replace(order.plate, "***")[:MAX_DETAIL],
        dead_letter=outcome is Outcome.INVALID if dead_letter is None else dead_letter,
        values=order.values,
        rule=rule.name if rule else None,
        account=rule.account.name if rule and rule.account else None,
        source=order.source,
    )
