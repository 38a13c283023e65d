"""A rules file without mistakes -> what is probably not meant in it, each with its place. Reads only the presets' samples.

What can be seen in the file (rules that are never reached, names that nothing uses) is looked up;
what an expression does is tried, on the events of the file's tests, on the presets' samples and on
charges made up at the limits of what can be.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import combinations, product

from consumer.core.coupons import CouponRequest
from consumer.core.errors import Problem
from consumer.core.events import Coordinates, Order, Record, Value
from consumer.core.expressions import Failure
from consumer.core.fields import FieldType
from consumer.core.formats import Refusal, scalar_text
from consumer.core.outcomes import Finding, Reason
from consumer.core.rules import Rule, RuleBook
from consumer.core.sources import Missing, Source
from consumer.core.syntax import compared_in, guarded_in, literals_in, names_in, parts_of, place_of
from consumer.core.templates import DERIVED
from consumer.rulebook.bundle import Location
from consumer.rulebook.cases import event_bytes, record_of
from consumer.rulebook.compilation import Compilation, preset_names, preset_sample
from consumer.rulebook.model import TO_CONFIRM, TO_FILL_IN, SkipModel

__all__ = ["review"]

MAX_WARNINGS = 1000
_STATIONS = 3  # of a rule, on which it is tried where an earlier rule has taken charges at the first


def review(compilation: Compilation, book: RuleBook) -> list[Problem]:
    """All warnings, in the order in which they stand in the files."""
    work = _Review(compilation, book)
    work.look_for_placeholders()
    work.look_for_guesses()
    work.look_for_unreachable()
    work.look_for_unused()
    work.look_for_zoneless()
    work.look_for_tests()
    work.look_for_untried_gates()
    work.try_samples()
    work.try_limits()
    return work.found()


@dataclass(frozen=True, slots=True)
class _Sample:
    label: str
    order: Order


class _Review:
    def __init__(self, compilation: Compilation, book: RuleBook) -> None:
        self._compilation = compilation
        self._bundle = compilation.bundle
        self._model = compilation.model
        self._book = book
        self._warnings: dict[tuple[int, str, str], Problem] = {}
        self._unreachable: set[int] = set()
        self._sources = {source.name: source for source in book.sources}
        self._numbers = {rule.name: number for number, rule in enumerate(book.rules)}
        self._conditions = [_condition(rule) for rule in book.rules]

    def found(self) -> list[Problem]:
        in_order = sorted(dict.fromkeys(self._warnings.values()), key=_order)
        return in_order[:MAX_WARNINGS]

    def _warn(self, location: Location, message: str, remedy: str, *, key: bool = False) -> None:
        place = self._bundle.place(location, key=key)
        self._warnings.setdefault((0, place, message), Problem(place, message, remedy))

    # -- what a draft left to be filled in

    def look_for_placeholders(self) -> None:
        model = self._model
        for name, account in model.accounts.items():
            for key, value in (("app_id", account.app_id), ("api_type", account.api_type)):
                if value.startswith(TO_FILL_IN):
                    remedy = f"fill in the `{key}` that the parking platform has allotted to you"
                    self._warn(("accounts", name, key), f"`{value}` is a draft's placeholder", remedy)
        for name in model.stations:
            if name.startswith(TO_FILL_IN):
                message = f"`{name}` is a draft's placeholder"
                self._warn(("stations", name), message, "give it the station's id", key=True)
        lots: list[tuple[Location, str | None]] = [
            *((("stations", name), station.api_store_code) for name, station in model.stations.items()),
            *((("rules", number), rule.api_store_code) for number, rule in enumerate(model.rules)),
        ]
        for location, code in lots:
            if code is not None and code.startswith(TO_FILL_IN):
                message = f"`{code}` is a draft's placeholder"
                self._warn(
                    (*location, "api_store_code"), message, "fill in the parking platform's code of the lot"
                )

    def look_for_guesses(self) -> None:
        for place in self._bundle.remarks(TO_CONFIRM):
            problem = Problem(place, "a draft's guess that nobody has confirmed", _CONFIRM)
            self._warnings[0, place, TO_CONFIRM] = problem

    # -- rules that are never reached, or only in part

    def look_for_unreachable(self) -> None:
        rules = self._book.rules
        everywhere: list[int] = []
        by_station: dict[str, list[int]] = defaultdict(list)
        for number, rule in enumerate(rules):
            near = {before for station in rule.stations for before in by_station[station]}
            conditional: list[int] = []
            for before in sorted({*everywhere, *near}):
                if self._conditions[before] not in ("", self._conditions[number]):
                    conditional.append(before)
                elif self._shadows(before, number):
                    break
            else:
                self._look_at_conditions(conditional, number)
            for station in rule.stations:
                by_station[station].append(number)
            if not rule.stations:
                everywhere.append(number)

    def _shadows(self, before: int, number: int) -> bool:
        """True where the earlier rule takes all that the later one is for; warns of that, and of a part of it."""
        first, rule = self._book.rules[before], self._book.rules[number]
        keys = [
            ("source", first.sources, rule.sources, frozenset(self._sources)),
            ("station", first.stations, rule.stations, frozenset(self._compilation.stations)),
        ]
        if any(
            name not in rule.equals or not rule.equals[name] <= texts for name, texts in first.equals.items()
        ):
            return False
        partly: list[str] = []
        for what, wider, narrower, known in keys:
            if not wider or (narrower and narrower <= wider) or (what == "source" and known <= wider):
                continue
            common = wider & (narrower or known)
            if not common or not narrower:
                return False  # of the few first, the rest later: that is what the order of rules is for
            partly.append(f"{what} {', '.join(f'`{name}`' for name in sorted(common)[:3])}")
        line = self._line(("rules", before))
        if len(partly) == 1:
            message = f"for {partly[0]} rule `{rule.name}` is never reached: `{first.name}` ({line}) takes all that it is for"
            self._warn(("rules", number), message, "leave it out in one of them, or narrow the first")
            return False
        if partly:
            return False
        if _same(self._model.rules[before].model_dump(), self._model.rules[number].model_dump()):
            message, remedy = f"rule `{rule.name}` says the same as `{first.name}` ({line})", "leave one out"
        else:
            message = f"rule `{rule.name}` is never reached: `{first.name}` ({line}) takes all that it is for"
            remedy = "put it before that one, or narrow that one"
        self._unreachable.add(number)
        self._warn(("rules", number), message, remedy)
        return True

    def _look_at_conditions(self, conditional: Sequence[int], number: int) -> None:
        """Warns where these earlier rules, each with a `when` of its own, together take all that the rule is for."""
        rule = self._book.rules[number]
        takers: list[int] = []
        for before in conditional:
            if self._covers(self._book.rules[before], rule):
                takers.append(before)
                if len(takers) == _TAKERS:
                    break
        taken = self._taken_by(takers, number) if takers else []
        if not taken:
            return
        self._unreachable.add(number)
        if len(taken) > 1 and not self._conditions[number]:
            return  # the rest, after rules that tell all charges apart: it is meant to take what nobody thought of
        named = " or ".join(
            f"`{self._book.rules[before].name}` ({self._line(('rules', before))})" for before in taken[:3]
        )
        named += f" or {len(taken) - 3} more" if len(taken) > 3 else ""
        message = f"rule `{rule.name}` is never reached: each charge tried that is for it goes to {named}"
        remedy = (
            "put it before that one, or narrow that one"
            if len(taken) == 1
            else "put it before those, or narrow them"
        )
        self._warn(("rules", number), message, remedy)

    def _covers(self, first: Rule, rule: Rule) -> bool:
        """Whether the earlier rule's keys are among those of all orders that have the later one's."""
        return (
            (not first.stations or (bool(rule.stations) and rule.stations <= first.stations))
            and (not first.sources or (rule.sources or self._sources.keys()) <= first.sources)
            and all(
                name in rule.equals and rule.equals[name] <= texts for name, texts in first.equals.items()
            )
        )

    def _taken_by(self, takers: Sequence[int], number: int) -> list[int]:
        """Those that take the charges tried, one if that is enough; none where it cannot be told.

        A condition of an earlier rule that is one of the rule's own too always holds there. All others must
        be comparisons with literals, of what the rule's own conditions do not calculate with.
        """
        rule, rules = self._book.rules[number], self._book.rules
        parts = _parts(rule)
        own = {_dense(part) for part in parts}
        compared = [compared_in(part) for part in parts]
        calculated = {
            name
            for part, names in zip(parts, compared, strict=True)
            if names is None
            for name in _made_up(names_in(part))
        }
        looked_at: dict[int, frozenset[str]] = {}
        for before in takers:
            rest = [compared_in(part) for part in _parts(rules[before]) if _dense(part) not in own]
            names = _made_up(name for each in rest for name in each or ())
            if None not in rest and not names & (_FIXED | calculated):
                looked_at[before] = names
        for names in sorted({*looked_at.values(), frozenset().union(*looked_at.values())}, key=len):
            found = self._taken_of([before for before in looked_at if looked_at[before] <= names], rule)
            if found:
                return found
        return []

    def _taken_of(self, takers: Sequence[int], rule: Rule) -> list[int]:
        """Of these, all that take some of the charges tried; none where one is left, or too many are to be tried."""
        whens = {before: when for before in takers if (when := self._book.rules[before].when) is not None}
        conditions = [when.source for when in whens.values()]
        conditions += [] if rule.when is None else [rule.when.source]
        enough, taken = list(whens), set[int]()
        station = min(rule.stations, default=None)
        zoned = station is not None and self._compilation.stations[station].zone is not None
        for source in self._sources.values():
            if rule.sources and source.name not in rule.sources:
                continue
            charges = _Charges(source, rule, station, zoned).at_all_limits(conditions)
            if charges is None:
                return []
            for values in charges:
                binding = self._book.compiler.bind(values)
                if rule.when is not None and rule.when.evaluate(binding) is not True:
                    continue
                first = next((each for each, when in whens.items() if when.evaluate(binding) is True), None)
                if first is None:
                    return []
                taken.add(first)
                enough = [each for each in enough if whens[each].evaluate(binding) is True]
        return enough[:1] if taken and enough else sorted(taken)

    def _line(self, location: Location) -> str:
        return "line " + self._bundle.place(location).rsplit(":", 2)[1]

    # -- what nothing uses

    def look_for_unused(self) -> None:
        rules = self._book.rules
        if not rules:
            self._warn((), "no rules: every charge ends as `unmatched`", "add `rules:`")
            return
        accounts = {rule.account.name for rule in rules if rule.account is not None}
        for name in self._model.accounts:
            if name not in accounts:
                self._warn(("accounts", name), f"no rule uses the account `{name}`", _LEAVE_OUT, key=True)
        extended = {
            wanted
            for model in self._model.sources.values()
            for wanted in model.extends or ()
            if wanted not in preset_names()
        }
        for name in self._model.sources:
            if name not in extended and not any(not rule.sources or name in rule.sources for rule in rules):
                message = f"no rule is for the source `{name}`: all that it reads ends as `unmatched`"
                self._warn(("sources", name), message, "add a rule for it, or leave it out", key=True)
        if all(rule.stations for rule in rules):
            used = {station for rule in rules for station in rule.stations}
            unused = [name for name in self._compilation.stations if name not in used]
            for name in unused:
                if name in self._model.stations:
                    message = f"no rule is for the station `{name}`: its charges end as `unmatched`"
                    self._warn(("stations", name), message, "add it to a rule, or leave it out", key=True)
            listed = [name for name in unused if name not in self._model.stations]
            if listed:
                names = ", ".join(f"`{name}`" for name in listed[:3]) + (" ..." if len(listed) > 3 else "")
                message = f"no rule is for {len(listed)} of the stations that are in files: {names}"
                self._warn(("stations",), message, "add them to a rule, or leave them out")

    def look_for_zoneless(self) -> None:
        """Times that never say their zone, and for which none is configured: no order that has one is read."""
        for source in self._book.sources:
            for place in (
                place for fields in (source.fields, *source.overrides.values()) for place in fields
            ):
                zoned = place.zone is not None or place.station_zone or place.zone_from
                if place.type is not FieldType.TIMESTAMP or zoned:
                    continue
                if place.formats and all(written.is_local for written in place.formats):
                    message = f"source `{source.name}` has no zone, and `{place.name}` never says its own: it cannot be read"
                    remedy = "give the source `zone: Asia/Shanghai`, or `zone: station`"
                    self._warn(("sources", source.name), message, remedy, key=True)

    def look_for_tests(self) -> None:
        if self._book.rules and not self._model.tests:
            message = "no tests: nothing shows what becomes of a charge"
            remedy = "write an event, and what is expected of it, under `tests:`"
            self._warn(("rules",), message, remedy, key=True)

    def look_for_untried_gates(self) -> None:
        """Gates at whose path no event has anything, and those that should skip some of the events and skip none."""
        if not self._model.tests:
            return  # that is told already
        held, skipping = self._try_gates()
        for name, model in self._model.sources.items():
            for number, gate in enumerate(model.skip or ()):
                location = ("sources", name, "skip", number)
                if any(path.startswith(("$headers", "$key")) for path in gate.paths):
                    continue  # no test's event has them
                if id(gate) not in held:
                    self._warn_of_path(location, gate)
                elif id(gate) not in skipping and _lists_what_it_skips(gate):
                    message = "this gate skips no event of the tests: nothing shows that it ever skips one"
                    self._warn(location, message, f"correct it, or {_to_skip(gate)}")

    def _warn_of_path(self, location: Location, gate: SkipModel) -> None:
        places = " or ".join(f"`{path}`" for path in gate.paths)
        becomes = _BECOMES[gate.without_a_value]
        message = f"no test has anything at {places}; where nothing stands there, {becomes}"
        shown = (
            _to_skip(gate)
            if _lists_what_it_skips(gate)
            else "write a test with an event that has something there"
        )
        self._warn((*location, "paths"), message, f"correct the path, or {shown}")

    def _try_gates(self) -> tuple[set[int], set[int]]:
        """The gates at whose path an event has something, and those of them that skip it, by the `id` of their model."""
        gates = {
            name: list(zip(self._compilation.gates_of(name), source.gates, strict=True))
            for name, source in self._sources.items()
        }
        held, skipping = set[int](), set[int]()
        for _, source, record in self._events():
            event = source.envelope.open(record)
            if isinstance(event, Refusal):
                continue
            for (row, around), (model, gate) in product(source.rows(event), gates[source.name]):
                if gate.finds(row, around) is not None:
                    held.add(id(model))
                    if gate.test(row, around) is not None:
                        skipping.add(id(model))
        return held, skipping

    # -- events that are known

    def try_samples(self) -> None:
        """Every rule, on every sample that its keys fit, whether another one would come first or not."""
        samples = list(self._samples())
        tried: set[tuple[str, str, int]] = set()
        for number, rule in enumerate(self._book.rules):
            for which, sample in enumerate(samples):
                order = sample.order
                if not fits(rule, order):
                    continue
                binding = self._book.compiler.bind(order.values)
                for name, expression in rule.expressions():
                    signature = (expression.source, name, which)
                    value = None if signature in tried else expression.evaluate(binding)
                    tried.add(signature)
                    if isinstance(value, Failure):
                        self._failed(number, name, value.message, f"on {sample.label}", order)
                    if name == "when" and value is not True:
                        break

    def _samples(self) -> Iterator[_Sample]:
        for label, source, record in self._events():
            items = self._book.read_as(source, record, None)
            yield from (_Sample(label, item) for item in items if isinstance(item, Order))

    def _events(self) -> Iterator[tuple[str, Source, Record]]:
        """What it is, who reads it, and the record: of each test, and of the presets."""
        compilation = self._compilation
        for _, case, source in compilation.cases(self._book):
            yield f"the event of test `{case.name}`", source, record_of(source, case)
        for name, source in self._sources.items():
            presets = compilation.presets_of(name)
            event = preset_sample(presets)
            if event is not None:
                record = Record(Coordinates("sample", 0, 0), -1, None, event_bytes(event))
                yield f"the sample of {' and '.join(f'`{preset}`' for preset in presets)}", source, record

    # -- charges at the limits

    def try_limits(self) -> None:
        tried: set[tuple[object, ...]] = set()
        for number, rule in enumerate(self._book.rules):
            if number in self._unreachable:
                continue
            expressions = tuple(expression.source for _, expression in rule.expressions())
            kinds = (
                expressions,
                rule.subject.names,
                rule.sources,
                frozenset(rule.equals),
                bool(rule.stations),
            )
            if kinds in tried:
                continue
            tried.add(kinds)
            for source in self._sources.values():
                stations: list[str | None] = [*sorted(rule.stations)[:_STATIONS]]
                seen: set[bool] = set()
                for station in stations or [None]:
                    if not rule.sources or source.name in rule.sources:
                        zoned = station is not None and self._compilation.stations[station].zone is not None
                        if zoned not in seen and self._try_rule(
                            number, rule, _Charges(source, rule, station, zoned)
                        ):
                            seen.add(zoned)

    def _try_rule(self, number: int, rule: Rule, charges: "_Charges") -> bool:
        """Warns of what these charges show. True where the rule need not be tried on charges of another station.

        It must where an earlier rule that is for some stations only has taken one of these.
        """
        reached, alone = False, True
        for values in charges.complete():
            plan = self._plan(charges.source, values)
            reached = reached or plan.rule == rule.name
            alone = alone and not self._is_taken(plan, number)
            if isinstance(plan, Finding) and plan.rule == rule.name:
                self._judge(number, plan, values, charges)
        for absent in charges.optional():
            for values in charges.complete():
                plan = self._plan(charges.source, charges.without(values, absent))
                alone = alone and not self._is_taken(plan, number)
                if isinstance(plan, Finding) and plan.rule == rule.name and _is_absence(plan, absent):
                    name, _, _ = plan.detail.partition(": ")
                    self._absent(number, name, absent, charges.source)
                    break
            else:
                if not reached:
                    self._absent_by_its_text(number, rule, absent, charges.source)
        return alone

    def _is_taken(self, plan: CouponRequest | Finding, number: int) -> bool:
        """By an earlier rule that is for some stations only: elsewhere the charge may reach this one."""
        before = number if plan.rule is None else self._numbers[plan.rule]
        return before < number and bool(self._book.rules[before].stations)

    def _plan(self, source: Source, values: Mapping[str, Value]) -> CouponRequest | Finding:
        order = Order(0, source.name, "A1", "A1", _PLATE, {**values, "api_store_code": "C"})
        return self._book.plan(order)

    def _judge(self, number: int, plan: Finding, values: Mapping[str, Value], charges: "_Charges") -> None:
        name, _, what = plan.detail.partition(": ")
        where = charges.shown(values, name)
        if plan.reason is Reason.OVERFLOW:
            amount = what.partition(" ")[0]
            negative = amount.startswith("-")
            message = f"{name} can be negative: {amount}{where}"
            remedy = "make it `math.greatest(0, ...)`, or let `when` leave such charges out"
            if not negative:
                message = f"{name} can be more than 2147483647: {amount}{where}"
                remedy = "use a larger unit, or `math.least(2147483647, ...)`"
            kind = "negative" if negative else "overflow"
            place = self._bundle.place(self._location(number, name))
            self._warnings.setdefault((number, name, kind), Problem(place, message, remedy))
        elif plan.reason is Reason.RULE_ERROR and not what.endswith("has no value"):
            self._failed(number, name, what, where.removeprefix(" ") or "on some charges", None)

    def _failed(self, number: int, name: str, what: str, where: str, order: Order | None) -> None:
        absent = what.removesuffix(" has no value")
        if absent != what and order is not None:
            self._absent(number, name, absent, self._sources[order.source])
            return
        location = self._location(number, name)
        message = f"{name} fails {where}: {what}"
        if order is not None:
            message = message.replace(order.plate, "***")
        problem = Problem(
            self._bundle.place(location), message, "an order like that is `invalid`: correct it"
        )
        self._warnings.setdefault((number, name, "fails"), problem)

    def _absent_by_its_text(self, number: int, rule: Rule, absent: str, source: Source) -> None:
        guards = set().union(*(guarded_in(expression.source) for _, expression in rule.expressions()), set())
        for name, expression in rule.expressions():
            if absent in names_in(expression.source) and absent not in guards:
                self._absent(number, name, absent, source)
                return

    def _absent(self, number: int, name: str, absent: str, source: Source) -> None:
        if (number, name, f"absent {absent}") in self._warnings:
            return
        location = self._location(number, name)
        place = self._bundle.place(location)
        expressions = dict(self._book.rules[number].expressions())
        if name in expressions:
            place = self._bundle.place_in_text(location, *place_of(expressions[name].source, absent))
        message = (
            f"{name} fails where a charge has no `{absent}`, which source {source.name} does not require"
        )
        base = DERIVED.get(absent, absent)
        remedy = f"begin `when` with `present.{base} &&`, or make it `required: true` in the source"
        self._warnings.setdefault((number, name, f"absent {absent}"), Problem(place, message, remedy))

    def _location(self, number: int, name: str) -> Location:
        """Of what messages call `when`, `subject` or `metadata.minutes`."""
        section, _, key = name.partition(".")
        return ("rules", number, section, key, "value") if key else ("rules", number, section)


_CONFIRM = "correct what is under it where it is wrong, and take the mark away"
_BECOMES = {
    Missing.KEEP: "a charge passes",
    Missing.SKIP: "a charge is skipped",
    Missing.INVALID: "a charge is `invalid`",
}
_LEAVE_OUT = "name it in a rule, or leave it out"
_PLATE = "粤BD12345"
_TAKERS = 50
"""Earlier rules with a `when` of their own against which one is tried."""

_NAMED_BY = {"minutes": "seconds", "started_at": "seconds"}
"""By which of the made-up values these come to be."""

_FIXED = frozenset(
    {"order_id", "event_id", "plate", "station_id", "api_store_code", "zone", "ended_at", "present"}
)
"""What made-up charges do not differ in, or not at limits."""


def _lists_what_it_skips(gate: SkipModel) -> bool:
    """By `in` or `present`: so an event of the tests can be one of these. `not_in` lists what may pass."""
    return gate.values_in is not None or gate.present is not None


def _to_skip(gate: SkipModel) -> str:
    return f"write a test with an event that it skips: `expect: {{outcome: skipped, reason: {gate.reason}}}`"


def fits(rule: Rule, order: Order) -> bool:
    """Whether the rule's indexed keys are the order's."""
    return not any(unfit_keys(rule, order))


def unfit_keys(rule: Rule, order: Order) -> Iterator[str]:
    """The indexed keys that are not the order's, each with what they are."""
    if rule.sources and order.source not in rule.sources:
        yield f"source is {order.source}, not {_one_of(rule.sources)}"
    station = order.values.get("station_id")
    if rule.stations and station not in rule.stations:
        yield f"station_id is {'absent' if station is None else station}, not {_one_of(rule.stations)}"
    for name, texts in rule.equals.items():
        text = scalar_text(order.values.get(name))
        if text not in texts:
            yield f"{name} is {'absent' if text is None else text}, not {_one_of(texts)}"


def _one_of(texts: Iterable[str]) -> str:
    listed = sorted(texts)
    return ", ".join(listed[:3]) + (f" or {len(listed) - 3} others" if len(listed) > 3 else "")


def _condition(rule: Rule) -> str:
    text = "" if rule.when is None else "".join(rule.when.source.split())
    return "" if text == "true" else text


def _parts(rule: Rule) -> list[str]:
    return [] if rule.when is None or not _condition(rule) else parts_of(rule.when.source)


def _made_up(names: Iterable[str]) -> frozenset[str]:
    return frozenset(_NAMED_BY.get(name, name) for name in names)


def _dense(text: str) -> str:
    return "".join(text.split())


def _same(one: Mapping[str, object], other: Mapping[str, object]) -> bool:
    return {**one, "name": ""} == {**other, "name": ""}


def _is_absence(plan: Finding, absent: str) -> bool:
    if plan.reason is Reason.FIELD_MISSING:
        return plan.detail.startswith("subject: ")
    return plan.reason is Reason.RULE_ERROR and plan.detail.endswith(f": {absent} has no value")


def _order(problem: Problem) -> tuple[str, int, int]:
    file, line, column = problem.place.rsplit(":", 2)
    return file, int(line), int(column)


# -- Charges made up ----------------------------------------------------------------------------------

_NOON = datetime(2026, 3, 2, 4, 0, tzinfo=UTC)
_TYPICAL: Mapping[FieldType, Sequence[Value]] = {
    FieldType.ENERGY: (20_000, 0, 1, 100_000_000),
    FieldType.MONEY: (2_000, 0, 1, 100_000_000),
    FieldType.DURATION: (3_600, 0, 1, 30 * 86_400),
    FieldType.INT: (2, 0, 1, 1_000_000),
    FieldType.BOOL: (True, False),
    FieldType.DECIMAL: (Decimal(1), Decimal(0), Decimal(1_000_000)),
    FieldType.STRING: ("x",),
    FieldType.TIMESTAMP: tuple(_NOON + timedelta(hours=hours) for hours in (0, 6, 12, 18)),
}
"""First what is ordinary, then what is at the limits: 100 MWh, a million yuan, 30 days."""

MAX_CHARGES = 200
MAX_WAYS = 4000
_EXTREMES = 4  # of each field's values the first that are tried together with another's
_LARGEST_LIMIT = 10_000_000


@dataclass
class _Charges:
    """Charges that a source could read and whose keys are a rule's."""

    source: Source
    rule: Rule
    station: str | None
    zoned: bool
    _complete: list[dict[str, Value]] = field(default_factory=list)

    def complete(self) -> Sequence[Mapping[str, Value]]:
        """With all their fields."""
        if not self._complete:
            self._complete = list(self._made())
        return self._complete

    def _made(self) -> Iterator[dict[str, Value]]:
        choices = self._choices()
        ordinary = {name: values[0] for name, values in choices.items()}
        made = [ordinary]
        made += [{**ordinary, name: value} for name, values in choices.items() for value in values[1:]]
        made += [{name: values[-1] for name, values in choices.items()}]
        for (one, ones), (other, others) in combinations(choices.items(), 2):
            made += [{**ordinary, one: a, other: b} for a in ones[1:_EXTREMES] for b in others[1:_EXTREMES]]
        for values in made[:MAX_CHARGES]:
            yield self._whole(values)

    def at_all_limits(self, conditions: Sequence[str]) -> Iterator[dict[str, Value]] | None:
        """Every way in which what these conditions look at can be, or be absent; None where there are too many."""
        literals = {literal for each in conditions for literal in literals_in(each)}
        numbers = [literal for literal in literals if isinstance(literal, int)]
        texts = sorted(literal for literal in literals if isinstance(literal, str))
        near = sorted(
            {value for number in numbers for value in (number - 1, number, number + 1) if value >= 0}
        )
        names = _made_up(name for each in conditions for name in names_in(each) | guarded_in(each))
        choices: dict[str, Sequence[Value | None]] = {}
        count, certain = 1, self._certain()
        for name, type_ in self._types().items():
            found: list[Value | None] = list(_TYPICAL[type_])
            if name not in names:
                found = found[:1]
            elif type_ is FieldType.STRING:
                found += texts
            elif type_ is FieldType.DURATION:
                found += [*near, *(60 * value for value in near)]
            elif type_ is not FieldType.BOOL and isinstance(found[0], int):
                found += near
            if name in self.rule.equals:
                found = [_typed(text, type_) for text in sorted(self.rule.equals[name])]
            elif name in names and name not in certain:
                found.append(None)
            choices[name] = tuple(dict.fromkeys(found))
            count *= len(choices[name])
        if count > MAX_WAYS:
            return None
        return (
            self._whole({name: value for name, value in zip(choices, way, strict=True) if value is not None})
            for way in product(*choices.values())
        )

    def _choices(self) -> dict[str, Sequence[Value]]:
        """What the fields that the rule looks at can be; `seconds` stands for the times around it."""
        literals = {literal for _, each in self.rule.expressions() for literal in literals_in(each.source)}
        numbers = sorted(each for each in literals if isinstance(each, int) and each <= _LARGEST_LIMIT)
        texts = sorted(literal for literal in literals if isinstance(literal, str))
        near = [value for number in numbers for value in (number - 1, number, number + 1) if value >= 0]
        found: dict[str, Sequence[Value]] = {}
        looked_at = self._looked_at()
        for name, type_ in self._types().items():
            typical = list(_TYPICAL[type_])
            if type_ is FieldType.STRING:
                typical += texts
            elif type_ is FieldType.DURATION:
                typical += [*near, *(60 * number for number in numbers)]
            elif isinstance(typical[0], int) and type_ is not FieldType.BOOL:
                typical += near
            found[name] = tuple(dict.fromkeys(typical)) if name in looked_at else typical[:1]
            if name in self.rule.equals:
                found[name] = (_typed(min(self.rule.equals[name]), type_),)
        return found

    def _types(self) -> dict[str, FieldType]:
        types = {place.name: place.type for place in self.source.fields}
        if {"started_at", "ended_at"} <= types.keys() or "charging_seconds" in types:
            types["seconds"] = FieldType.DURATION
        types.pop("started_at", None)
        return types

    def _looked_at(self) -> set[str]:
        names = {name for _, each in self.rule.expressions() for name in names_in(each.source)}
        names |= {DERIVED.get(name, name) for name in self.rule.subject.names}
        return names | ({"seconds"} if names & {"minutes", "started_at"} else set())

    def _whole(self, values: Mapping[str, Value]) -> dict[str, Value]:
        whole: dict[str, Value] = {**values, "order_id": "A1", "event_id": "A1", "plate": _PLATE}
        seconds, ended = values.get("seconds"), values.get("ended_at")
        if isinstance(seconds, int):
            whole["minutes"] = seconds // 60
            if isinstance(ended, datetime) and any(p.name == "started_at" for p in self.source.fields):
                whole["started_at"] = ended - timedelta(seconds=seconds)
        whole["zone"] = self.source.zone.name if self.source.zone is not None else "Asia/Shanghai"
        if self.station is not None:
            whole["station_id"] = self.station
        return whole

    def optional(self) -> list[str]:
        """The names that the rule uses of what a charge may lack."""
        used = {name for _, each in self.rule.expressions() for name in names_in(each.source)}
        used |= {DERIVED.get(name, name) for name in self.rule.subject.names}
        possible = {*self._types(), "started_at", "minutes", "zone", "seconds"}
        return sorted(name for name in used & possible if name not in self._certain())

    def _certain(self) -> set[str]:
        fields = {place.name: place for place in self.source.fields}
        certain = {"order_id", "event_id", "plate", *self.rule.equals}
        certain |= {name for name, place in fields.items() if place.required or place.default is not None}
        for name, place in fields.items():
            if place.computed is not None and {place.computed.left, place.computed.right} <= certain:
                certain.add(name)
        if {"started_at", "ended_at"} <= certain or "charging_seconds" in certain:
            certain.add("seconds")
        if "seconds" in certain:
            certain.add("minutes")
        if self.station is not None:
            certain.add("station_id")
        if self.source.zone is not None or self.zoned:
            certain.add("zone")
        return certain

    def without(self, values: Mapping[str, Value], absent: str) -> dict[str, Value]:
        """The charge without this, and without what comes of it."""
        gone = {absent, *({"seconds", "minutes"} if absent in ("seconds", "minutes") else ())}
        return {name: value for name, value in values.items() if name not in gone}

    def shown(self, values: Mapping[str, Value], name: str) -> str:
        """The numbers that an expression looks at: ` where minutes is 0`."""
        expression = dict(self.rule.expressions()).get(name)
        used = names_in(expression.source) if expression is not None else set()
        parts = [f"{each} is {values[each]}" for each in sorted(used) if type(values.get(each)) is int]
        return f" where {' and '.join(parts[:4])}" if parts else ""


def _typed(text: str, type_: FieldType) -> Value:
    if type_ is FieldType.BOOL:
        return text == "true"
    if type_ is FieldType.DECIMAL:
        return Decimal(text)
    numeric = type_ not in (FieldType.STRING, FieldType.TIMESTAMP)
    return int(text) if numeric and text.lstrip("-").isdigit() else text
