"""An order -> what the first rule that matches says: the coupon to ask for, or an end without one. Performs no I/O.

Orders come by the thousand a second, and there may be ten thousand rules: what no order changes is done when they
are loaded, and what one order needs of one rule lies close together.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby

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

FEW_OTHERS = 32
"""Rules without keys that stand in the list of each text: there they are asked in two thirds of the time."""

NO_FIELD = ""
"""The name of none."""

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
        """Raises whatever a rule may.

        Every order comes here, and a call costs as much as several lines: so no step of the usual way is a function.
        Where an expression raises, one that is not on the way asks again, and has the words for it.
        """
        values, binding = order.values, None
        index = self._indexes[order.source]
        key = values.get(index.field)
        try:
            candidates: Iterable[_Candidate]
            if type(key) is str:
                candidates = index.by_text.get(key.strip(), index.others)
            else:
                binding = self._bind(values)
                candidates = index.asked(values, binding)
            for candidate in candidates:
                if candidate.rest and not candidate.fits(values):
                    continue
                if candidate.common.when(values, candidate.literals):
                    break
            else:
                return _unmatched(order)
        except Exception:  # noqa: BLE001  # the expression knows what to make of it
            binding = self._bind(values)
            found = self._first(order, binding)
            if isinstance(found, Finding):
                return found
            candidate = found
        if not candidate.common.asks and (end := _without_request(order, candidate, as_on=as_on)):
            return end
        return self._request(order, candidate, binding, as_on=as_on)

    def _first(self, order: Order, binding: Binding) -> "_Candidate | Finding":
        """The first rule that matches; an end where none does, or where one fails before."""
        for candidate in self._indexes[order.source].asked(order.values, binding):
            if not candidate.fits(order.values):
                continue
            when = candidate.rule.when
            held = True if when is None else when.evaluate(binding)
            if isinstance(held, Failure):
                # Never on to the next rule: who would know that this one does not work?
                return ended(order, Reason.RULE_ERROR, f"when: {held.message}", candidate.rule)
            if held:
                return candidate
        return _unmatched(order)

    def _request(
        self, order: Order, candidate: "_Candidate", binding: Binding | None, *, as_on: bool
    ) -> CouponRequest | Finding:
        """What an order asks for by a rule that matches; in one piece, as above."""
        values, common, literals = order.values, candidate.common, candidate.literals
        store = values.get("api_store_code")
        if type(store) is not str or not store:
            store = text_of(values, "api_store_code") or candidate.store
            if store is None:
                detail = "api_store_code: neither station nor rule has one"
                return ended(order, Reason.FIELD_MISSING, detail, candidate.rule)
        subject = candidate.subject.of(values)
        if subject is None:
            detail = f"subject: {candidate.subject.missing(values)} is absent"
            return ended(order, Reason.FIELD_MISSING, detail, candidate.rule)
        metadata: dict[str, int] = {}
        try:
            for key, give in common.amounts:
                metadata[key] = amount = give(values, literals)
                if type(amount) is not int or not 0 <= amount <= LARGEST_VALUE:
                    raise OverflowError  # noqa: TRY301  # as if the expression had
        except Exception:  # noqa: BLE001  # as above
            computed = _computed(order, candidate.rule, binding or self._bind(values))
            if isinstance(computed, Finding):
                return computed
            metadata = computed
        extra = _NONE
        if self._stations_differ:
            station = self._stations.get(text_of(values, "station_id") or "")
            extra = station.parameters if station is not None else _NONE
        return CouponRequest(
            common.account,
            candidate.name,
            common.url,
            common.form.filled(store, order.event_id, order.plate, subject, metadata.values(), extra),
            metadata,
            common.shadow and not as_on,
            common.timestamped,
        )


_NONE: Mapping[str, str] = {}


# -- Which rule --------------------------------------------------------------------------------------


class _Index:
    """One source's rules by station or field, so that ten thousand of them cost an order no more than ten.

    Attributes:
        field: by whose texts all rules with keys are found, where there is one and few others; else that of none.
        by_text: of each text all rules, in order.
        others: those of any other text.

    """

    def __init__(self, rules: Sequence[Rule], kinds: "_Kinds", compiler: Compiler) -> None:
        everywhere: list[_Candidate] = []
        self._by_field: dict[str, dict[str, Sequence[_Candidate]]] = {}
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
            self._put(candidate, *found_by)
        self.field = NO_FIELD
        self.by_text: dict[str, Sequence[_Candidate]] = {}
        self.others: Sequence[_Candidate] = ()
        self._groups: list[_Group] = []
        self._is_plain = (
            len(self._by_field) <= 1 and len(everywhere) <= FEW_OTHERS and _are_direct(everywhere)
        )
        if self._is_plain:
            self._put_everywhere(everywhere)
        else:
            self._groups += [_Group(members, compiler) for members in _grouped(everywhere)]

    def _put(self, candidate: "_Candidate", field: str, texts: frozenset[str]) -> None:
        """Enters the rule under each of its texts, where an order with that text finds it."""
        by_text, alone = self._by_field.setdefault(field, {}), (candidate,)
        for text in texts:
            here = by_text.setdefault(text, alone)
            if isinstance(here, list):
                here.append(candidate)
            elif here is not alone:
                by_text[text] = [*here, candidate]

    def _put_everywhere(self, others: "Sequence[_Candidate]") -> None:
        """Among the rules of each text, by their numbers; where the rules of two texts are the same, so is the list."""
        self.others = others
        for name, by_text in self._by_field.items():  # of which there is one, if any
            self.field, self.by_text = name, by_text
            by_text.pop("", None)  # an empty text is none
            made: dict[tuple[int, ...], Sequence[_Candidate]] = {}
            for text, found in by_text.items() if others else ():
                numbers = tuple(map(_number_of, found))
                if numbers not in made:
                    made[numbers] = sorted((*found, *others), key=_number_of)
                by_text[text] = made[numbers]

    def parts(self) -> list[object]:
        """As a book's."""
        return [*self._by_field.values()]

    def asked(self, values: Mapping[str, Value], binding: Binding) -> "Iterable[_Candidate]":
        """Those whose keys may fit, in their order, without a look at the others."""
        if not self._is_plain:
            return self._in_turn(values, binding)
        text = scalar_text(values.get(self.field))
        return self.by_text.get(text, self.others) if text else self.others

    def _in_turn(self, values: Mapping[str, Value], binding: Binding) -> "Iterator[_Candidate]":
        """Those with keys; the others between them, as far as one of their group may match."""
        keyed = self._keyed(values)
        for group in self._groups:
            while keyed and keyed[-1].number < group.members[0].number:
                yield keyed.pop()
            if group.is_out(binding):
                continue
            for member in group.members:
                while keyed and keyed[-1].number < member.number:
                    yield keyed.pop()
                yield member
        yield from reversed(keyed)

    def _keyed(self, values: Mapping[str, Value]) -> "list[_Candidate]":
        """The last one first."""
        found: list[_Candidate] = []
        for name, lists in self._by_field.items():
            text = scalar_text(values.get(name))
            if text:
                found += lists.get(text, ())
        found.sort(key=_number_of, reverse=True)
        return found


def _are_direct(candidates: "Sequence[_Candidate]") -> bool:
    """Whether none of them needs CEL to be asked."""
    return all(candidate.common.when is not _beyond for candidate in candidates)


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
        # A copy: what was read from files is spread over all the memory.
        self.name = rule.name.encode().decode()
        self.store = rule.api_store_code
        self.subject = kinds.subject(rule.subject)
        self.common, self.literals = kinds.of(rule)

    def fits(self, values: Mapping[str, Value]) -> bool:
        """Whether the order has the rest of its keys."""
        return all(scalar_text(values.get(name)) in texts for name, texts in self.rest)


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
        amounts: the keys of its metadata, each with what gives its value, likewise.
        held: no order is to be sent.
        asks: an order gets a request, and no end.

    """

    __slots__ = ("account", "amounts", "asks", "form", "held", "shadow", "skip", "timestamped", "url", "when")

    def __init__(self, rule: Rule, when: Function, amounts: tuple[Function, ...]) -> None:
        account = rule.account if rule.account is not None else _NOBODY
        states = (account.state, rule.state)
        self.when = when
        named = [(datum.key, datum.name) for datum in rule.metadata]
        self.amounts = tuple(zip([key for key, _ in named], amounts, strict=True))
        self.skip = rule.skip
        self.account = account.name
        self.url = account.url
        self.timestamped = account.timestamp
        self.held = State.HOLD in states
        self.shadow = State.SHADOW in states
        self.asks = rule.skip is None and not self.held
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
    """Stands in for an expression that only CEL can evaluate: it raises, so that the plain way is taken."""
    raise LookupError


# -- Ends without a request --------------------------------------------------------------------------


def _unmatched(order: Order) -> Finding:
    return Finding(
        order.index,
        Outcome.UNMATCHED,
        Reason.NO_RULE,
        "no rule matches",
        values=order.values,
        source=order.source,
    )


def _without_request(order: Order, candidate: _Candidate, *, as_on: bool) -> Finding | None:
    """The end of an order by a rule that skips, or is on hold; None where a request is to be made."""
    rule, skip = candidate.rule, candidate.common.skip
    if skip is not None:
        return ended(order, skip, f"rule {rule.name}", rule, outcome=Outcome.SKIPPED)
    return None if as_on or not candidate.common.held else _held(order, rule)


def _held(order: Order, rule: Rule) -> Finding:
    account = rule.account
    held = f"account {account.name}" if account and account.state is State.HOLD else f"rule {rule.name}"
    detail = f"{held} is on hold"
    return ended(order, Reason.HOLD, detail, rule, outcome=Outcome.SKIPPED, dead_letter=True)


def _computed(order: Order, rule: Rule, binding: Binding) -> dict[str, int] | Finding:
    """The values of a rule's metadata; an end where one is none, or no 32-bit integer, or negative."""
    metadata: dict[str, int] = {}
    for datum in rule.metadata:
        amount = datum.value.evaluate(binding)
        if isinstance(amount, Failure):
            return ended(order, Reason.RULE_ERROR, f"metadata.{datum.key}: {amount.message}", rule)
        if not 0 <= amount <= LARGEST_VALUE:
            detail = f"metadata.{datum.key}: {amount} is outside 0..{LARGEST_VALUE}"
            return ended(order, Reason.OVERFLOW, detail, rule)
        metadata[datum.key] = amount
    return metadata


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
