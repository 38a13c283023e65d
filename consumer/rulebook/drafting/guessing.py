"""The orders of sample messages -> which of their fields is what, from names and values, each with why. Performs no I/O."""

import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from functools import cached_property
from itertools import permutations
from statistics import fmean
from typing import NamedTuple
from zoneinfo import ZoneInfo

from consumer.core import plates
from consumer.core.fields import (
    ARRAY,
    EPOCHS,
    EXCEL,
    IN_TEXT,
    KNOWN_FIELDS,
    NOTHING,
    TICKS,
    UNITS,
    Field,
    FieldType,
    NoUnitError,
    TimeFormat,
    UnreadableError,
    is_placeholder,
    spelled_unit,
)
from consumer.core.formats import Path, opened, scalar_text
from consumer.core.outcomes import inert, without_plates
from consumer.core.sources import MAX_ID, NO_PLATE
from consumer.rulebook.drafting.naming import concepts_of, words_of

MOST_LEAVES = 400
"""Fields of an order that are looked at."""

MOST_ROWS = 200
"""Orders, at about, that are looked at."""

_DEEPEST = 5
_LONGEST_KEY = 100
_LONGEST_SHOWN = 40

Keys = tuple[str | int, ...]
"""Where in a row something stands."""


# -- Leaves -----------------------------------------------------------------------------------------

_ENCODINGS = frozenset(
    {
        *("string", "text", "long", "int", "double", "float", "bytes", "boolean"),  # Avro's unions
        *(
            "#text",
            "_text",
            "$text",
            "$t",
            "$",
            "_",
            "#cdata-section",
            "__cdata",
        ),  # XML's text beside attributes
        *("S", "N", "B", "BOOL"),  # DynamoDB
        *("stringValue", "integerValue", "doubleValue", "booleanValue", "timestampValue"),  # Firestore
        *("$numberDecimal", "$numberDouble", "$numberInt", "$numberLong", "$date", "$oid"),  # MongoDB
    }
)
"""Keys that say how a value is encoded, and nothing of what it is."""


@dataclass(frozen=True)
class Leaf:
    """One field of the rows, with its value in each of them.

    Attributes:
        path: as a rules file names it.
        values: None where a row has none, or nothing in it.

    """

    keys: Keys
    path: str
    values: tuple[object, ...]

    @cached_property
    def names(self) -> Sequence[str]:
        """Those of its keys that say what it is."""
        keys = [key for key in self.keys if isinstance(key, str)]
        return [key for key in keys if key not in _ENCODINGS] or keys

    @property
    def name(self) -> str:
        """The last of them."""
        return next(reversed(self.names), "")

    @cached_property
    def concepts(self) -> frozenset[str]:
        """What its name is about; that of what it stands in helps a name that says little."""
        own, names = concepts_of(self.name), self.names
        if len(names) > 1 and not own - {"id", "time", "label", "status", "kind", "total", "charging"}:
            return own | (concepts_of(names[-2]) - {"order"} if own else concepts_of(names[-2]))
        return own

    @property
    def is_part_of_fee(self) -> bool:
        """It stands in a `fee`, so that its `electricity` is money."""
        outer = (str(key) for key in self.keys[:-1] if isinstance(key, str))
        return any(word in _FEES for key in outer for word in words_of(key))

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """Its values as text, those that are some."""
        found = (scalar_text(value) for value in self.values)
        return tuple(text for text in found if text is not None and text.lower() not in NOTHING)

    @cached_property
    def notations(self) -> Sequence["_Notation"]:
        """How its numbers are written, the likeliest first; empty where one of its values is no number."""
        return _notations(self, _PLAIN)

    @cached_property
    def shown(self) -> str:
        """A value of it, for a comment; a plate masked."""
        return shown(next((value for value in self.values if value is not None), None))


_FEES = frozenset({"fee", "fees", "cost", "costs", "price", "money", "feiyong", "jine", "费用", "金额"})


def shown(value: object) -> str:
    """A value on one line; a plate masked."""
    text = inert(without_plates(str(scalar_text(value) if scalar_text(value) is not None else value)))
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def leaves_of(rows: Sequence[object]) -> list[Leaf]:
    """The fields of these rows that a path leads to."""
    found: dict[Keys, list[object]] = {}
    for number, row in enumerate(rows):
        for keys, value in _walk(row, ()):
            if keys in found or len(found) < MOST_LEAVES:
                found.setdefault(keys, [None] * len(rows))[number] = value
    longer = {keys for keys, values in found.items() if any(isinstance(each, list) for each in values)}
    return [
        Leaf(keys, path, tuple(values))
        for keys, values in found.items()
        # The first item is all that there is in some rows, and in others one of several.
        if not any(key == 0 and keys[:place] in longer for place, key in enumerate(keys))
        and (path := path_of(keys)) is not None
    ]


def _walk(value: object, keys: Keys) -> Iterator[tuple[Keys, object]]:
    if isinstance(value, dict) and len(keys) < _DEEPEST and not is_by_number(value):
        for key, inner in value.items():
            yield from _walk(inner, (*keys, str(key)))
    elif isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict) and len(keys) < _DEEPEST:
        yield from _walk(value[0], (*keys, 0))
    elif isinstance(value, str) and keys and len(keys) < _DEEPEST and isinstance(opened(value), dict):
        yield from _walk(opened(value), keys)
    elif keys and not isinstance(value, dict):
        empty = isinstance(value, str) and not value.strip()
        yield keys, None if empty else value


_NUMBER = re.compile(r".*\d\d")


def is_by_number(value: Mapping[str, object]) -> bool:
    """Whether its names look like the numbers of orders, and what stands under them is alike: they are no fields then."""
    rows = [row for row in value.values() if isinstance(row, dict)]
    alike = frozenset.intersection(*map(frozenset, rows)) if rows else ()
    return len(rows) == len(value) and len(alike) > 1 and all(_NUMBER.match(str(key)) for key in value)


def path_of(keys: Keys) -> str | None:
    """As a rules file writes it; None where it cannot, or where a key would show a plate."""
    text = ""
    for key in keys:
        if isinstance(key, int):
            text += f"[{key}]"
        elif '"' in key or not key or len(key) > _LONGEST_KEY or not key.isprintable():
            return None
        elif re.search(r"[.\[\]]", key) or key != key.strip() or (not text and key.startswith("$")):
            text += f'["{key}"]'
        else:
            text += f".{key}" if text else key
    if without_plates(text) != text:
        return None
    try:
        Path.parse(text)
    except ValueError:
        return None
    return text


# -- Guesses ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Guess:
    """What a field is read from, and why.

    Attributes:
        spec: what a rules file says of it.
        why: for whoever confirms it.
        sure: between 0 and 1.
        used: where it stands, and where else it may.

    """

    spec: Mapping[str, object]
    why: str
    sure: float
    used: tuple[Keys, ...] = ()


@dataclass(frozen=True)
class Guesses:
    """All that was found in the rows.

    Attributes:
        by_name: the fields, in the order of a rules file.
        beside: what may be of use, but is left out: with a spec too.
        gates: fields that name a state, or the kind of message, the likeliest first.
        zoned: the times that are used say their offset.
        offsets: those that are seen in them, but for UTC's.
        left: fields with values of which nothing is read, and that are no gates.

    """

    by_name: Mapping[str, Guess] = field(default_factory=dict)
    beside: Mapping[str, Guess] = field(default_factory=dict)
    gates: Sequence[Leaf] = ()
    zoned: bool = False
    offsets: Sequence[str] = ()
    left: Sequence[Leaf] = ()

    @property
    def score(self) -> float:
        """How much these rows are orders."""
        return sum(_WEIGHTS.get(name, 0) * guess.sure for name, guess in self.by_name.items())


_WEIGHTS = {"order_id": 2, "plate": 2, "ended_at": 2, "started_at": 1, "energy_wh": 2, "station_id": 1}


def guesses_of(rows: Sequence[object]) -> Guesses:
    """Which field is what; of very many rows some are looked at, from the first to the last."""
    return _Guessing(rows[:: max(1, len(rows) // MOST_ROWS)]).all()


class _Guessing:
    """One field after the other; what one is read from, none of the later ones is."""

    def __init__(self, rows: Sequence[object]) -> None:
        self.leaves = leaves_of(rows)
        self.found: dict[str, Guess] = {}
        self.taken: set[Keys] = set()
        self.elapsed: Sequence[float | None] = [None] * len(rows)
        self.zoned = False

    def all(self) -> Guesses:
        self._plate()
        self._times()
        self._station()
        self._order_id()
        self._energy()
        beside, gates = dict(self._fee()), list(self._gates())
        used = {*self.taken, *(keys for guess in beside.values() for keys in guess.used)}
        used |= {leaf.keys for leaf in gates}
        return Guesses(
            {name: self.found[name] for name in KNOWN_FIELDS if name in self.found},
            beside,
            gates,
            self.zoned,
            self._offsets(),
            [leaf for leaf in self.leaves if leaf.keys not in used and leaf.texts],
        )

    def _add(
        self,
        name: str,
        spec: Mapping[str, object],
        why: str,
        sure: float,
        *used: Leaf,
        also: Sequence[Leaf] = (),
    ) -> None:
        keys = tuple(leaf.keys for leaf in (*used, *also))
        self.found[name] = Guess(spec, why, max(0.05, min(1.0, sure)), keys)
        self.taken |= {leaf.keys for leaf in used}

    def _best(self, score: Callable[[Leaf], float]) -> list[tuple[float, Leaf]]:
        """What is not taken yet, the likeliest first; the unlikely left out."""
        free = (leaf for leaf in self.leaves if leaf.keys not in self.taken)
        scored = [(found, leaf) for leaf in free if (found := score(leaf)) > 0]
        return sorted(scored, key=lambda each: -each[0])

    def _offsets(self) -> list[str]:
        texts = [text for leaf in self.leaves if leaf.concepts & _TIMELY for text in leaf.texts]
        found = (_OFFSET.fullmatch(text) for text in texts)
        return sorted({match[1] for match in found if match is not None})

    # -- who and where

    def _plate(self) -> None:
        for score, leaf in (scored := self._best(_plate_score))[:1]:
            alike = sum(map(_is_plate, leaf.texts))
            example = plates.mask(plates.normalise(next(filter(_is_plate, leaf.texts), "")))
            if alike == len(leaf.texts) > 0:
                why = f"by its values, such as {example}"
            elif alike:
                why = f"{alike} of its {len(leaf.texts)} values look like plates, such as {example}"
            else:
                why = "by its name; " + (
                    "nothing in it looks like a plate" if leaf.texts else "no value seen"
                )
            self._add("plate", {"paths": leaf.path}, why + _or_else(scored), score, leaf)

    def _station(self) -> None:
        for name, judge in (("station_id", _station_score), ("connector_id", _connector_score)):
            for score, leaf in (scored := self._best(judge))[:1]:
                why = _seen(leaf)
                if name == "station_id" and not concepts_of(leaf.name):
                    why += f", {len(set(leaf.texts))} different ones in {len(leaf.texts)} orders: only its first letters tell"
                self._add(name, {"paths": leaf.path}, why + _or_else(scored), score, leaf)

    def _order_id(self) -> None:
        for score, leaf in (scored := self._best(_order_id_score))[:1]:
            why = _seen(leaf)
            if len(leaf.texts) > 1:
                why += f", {len(set(leaf.texts))} different ones in {len(leaf.texts)} orders"
            why += _or_else(scored)
            also = [other for _, other in scored[1:3]]
            self._add("order_id", {"paths": leaf.path}, why, score, leaf, also=also)

    # -- when

    def _times(self) -> None:
        free = [leaf for leaf in self.leaves if leaf.keys not in self.taken]
        times = [time for leaf in free if (time := _time_of(leaf)) is not None]
        durations = [duration for _, leaf in self._best(_duration_score) for duration in _durations_of(leaf)]
        pair = _pair(times, durations) or _pair_of_day(free)
        if pair is not None:
            self._both(*pair, times)
        elif times:
            self._one(times, durations)
        if pair is None or not pair[0].of_day:
            chosen = [time for time in times if time.leaf.keys in self.taken]
            self.zoned = bool(chosen) and all(time.zoned for time in chosen)
        if "charging_seconds" not in self.found:
            self._duration(durations)

    def _both(self, start: "_Time", end: "_Time", times: Sequence["_Time"]) -> None:
        self.elapsed = _elapsed(start, end)
        lasted = next((seconds for seconds in self.elapsed if seconds is not None), None)
        why = _seen(end.leaf) + end.how
        why += "" if lasted is None else f", {_span(lasted)} after the start"
        others = [time for time in times if time is not start and time is not end and time.may_be_end]
        for other in others[:2]:
            later = next((s for s in _elapsed(end, other, signed=True) if s is not None), None)
            if later is not None:
                when = f"{_span(abs(later))} {'later' if later > 0 else 'earlier'}" if later else "the same"
                why += f"; or `{other.leaf.path}`, {when}"
        sure = 1.0 if end.leaf.concepts & {"end"} else 0.5
        self._add("started_at", start.spec, _seen(start.leaf) + start.how, sure, *start.leaves)
        also = [time.leaf for time in others]
        self._add("ended_at", end.spec, why, sure, *end.leaves, also=also)

    def _one(self, times: Sequence["_Time"], durations: Sequence["_Duration"]) -> None:
        """One time, and perhaps how long it lasted: the other one is computed."""
        time = max(times, key=lambda each: max(each.as_start, each.as_end))
        starts = "start" in time.leaf.concepts  # else it is rather when the message was written
        ours, theirs = ("started_at", "ended_at") if starts else ("ended_at", "started_at")
        why = _seen(time.leaf) + time.how
        if not time.leaf.concepts & {"start", "end"}:
            why += f"; its name does not tell whether it is `{ours}` or `{theirs}`"
        sure = 0.6 if time.leaf.concepts & {"start", "end"} else 0.5
        self._add(ours, time.spec, why, sure, time.leaf)
        self._duration(durations)
        duration = self.found.get("charging_seconds")
        if duration is not None:
            how = "started_at + charging_seconds" if theirs == "ended_at" else "ended_at - charging_seconds"
            self._add(theirs, {"computed": how}, "no time of its own in the samples", 0.4)

    def _duration(self, durations: Sequence["_Duration"]) -> None:
        for duration in durations:
            leaf = duration.leaf
            if leaf.keys in self.taken:
                continue
            options = sorted(
                ((_duration_fit(seconds, self.elapsed), unit) for unit, seconds in duration.by_unit.items()),
                reverse=True,
            )
            fit, unit = options[0]
            if fit < _UNFIT:
                continue
            seconds = duration.by_unit[unit]
            number, first = next(((index, s) for index, s in enumerate(seconds) if s), (0, None))
            why = _seen(leaf)
            if first is not None:
                why += f", {_span(first)}"
                lasted = self.elapsed[number]
                why += f" of {_span(lasted)} from start to end" if lasted is not None else ""
                for _, other in options[1:2]:
                    why += f"; in {other} it would be {_span(duration.by_unit[other][number] or 0)}"
            signs, written = _written(leaf, FieldType.DURATION, in_text=unit == IN_TEXT)
            spec = {"paths": leaf.path, "unit": unit, **signs}
            self._add("charging_seconds", spec, why + written, 0.7, leaf)
            if not any(self.elapsed):
                self.elapsed = [each if each and each > 0 else None for each in seconds]
            return

    # -- how much

    def _energy(self) -> None:
        scored = self._best(_energy_score)
        if not scored:
            self._difference()
            return
        judged = [(score + _fit_of(leaf, self.elapsed), leaf) for score, leaf in scored]
        judged.sort(key=lambda each: -each[0])
        score, leaf = judged[0]
        numbers = _numbers(leaf)
        if numbers is None:
            signs, written = _written(leaf, FieldType.ENERGY, in_text=True)
            spec = {"paths": leaf.path, "unit": IN_TEXT, **signs}
            self._add("energy_wh", spec, _seen(leaf) + written + _or_else(judged), score, leaf)
            return
        also = [other for _, other in judged[1:3]]
        signs, written = _written(leaf, FieldType.ENERGY)
        beside = self._unit_beside(leaf)
        if beside is not None:
            spec = {"paths": leaf.path, "unit_from": beside.path, **signs}
            why = f"{_seen(leaf)}{written}, in what `{beside.path}` says, such as {beside.shown}{_or_else(judged)}"
            self._add("energy_wh", spec, why, score, leaf, beside, also=also)
            return
        unit, why = _unit_of(leaf, numbers, self.elapsed)
        spec = {"paths": leaf.path, "unit": unit, **signs}
        self._add("energy_wh", spec, _seen(leaf) + written + why + _or_else(judged), score, leaf, also=also)

    def _unit_beside(self, leaf: Leaf) -> Leaf | None:
        """What says the unit of this energy wherever it has a value."""
        for other in self.leaves:
            if other is leaf or other.keys[:-1] != leaf.keys[:-1]:
                continue
            pairs = zip(leaf.values, other.values, strict=True)
            units = [_spelled_energy(unit) for number, unit in pairs if number is not None]
            if units and all(units):
                return other
        return None

    def _difference(self) -> None:
        """Of a meter's readings at the end and at the start."""
        meters = [leaf for _, leaf in self._best(lambda leaf: float("meter" in leaf.concepts))]
        ends = [leaf for leaf in meters if _is_last(leaf)]
        starts = [leaf for leaf in meters if _is_first(leaf)]
        if not ends or not starts:
            return
        end, start = ends[0], starts[0]
        last, first = _numbers(end), _numbers(start)
        if last is None or first is None or end.notations[0] != start.notations[0]:
            return
        numbers = [None if b is None or a is None else b - a for a, b in zip(first, last, strict=True)]
        unit, why = _unit_of(end, numbers, self.elapsed)
        signs, written = _written(end, FieldType.ENERGY)
        why = f"the difference of two readings, such as {end.shown} and {start.shown}{written}{why}"
        spec = {"paths": end.path, "minus": start.path, "unit": unit, **signs}
        self._add("energy_wh", spec, why, 0.6, end, start)

    # -- what else may be wanted

    def _fee(self) -> Iterator[tuple[str, Guess]]:
        for score, leaf in (scored := self._best(_money_score))[:1]:
            signs, written = _written(leaf, FieldType.MONEY, in_text=not leaf.notations)
            why = _seen(leaf) + written
            unit = IN_TEXT
            if leaf.notations:
                whole = all(leaf.notations[0].decimal not in text for text in leaf.texts)
                unit, other = ("fen", "yuan") if whole else ("yuan", "fen")
                why += f", in {unit}, or {other}?"
            why += _or_else(scored) + _sum_with(leaf, scored)
            yield "fee_fen", Guess({"paths": leaf.path, "unit": unit, **signs}, why, score, (leaf.keys,))

    def _gates(self) -> Iterator[Leaf]:
        """Fields that may tell finished charges from others."""
        for _, leaf in self._best(_status_score)[:_MOST_GATES]:
            values = set(leaf.texts)
            if 0 < len(values) <= _MOST_STATES and all(map(_STATE.fullmatch, values)):
                yield leaf


_FAR_FROM = 0.45


def _spelled_energy(value: object) -> bool:
    return isinstance(value, str) and spelled_unit(value.strip(), FieldType.ENERGY) in UNITS[FieldType.ENERGY]


def _seen(leaf: Leaf) -> str:
    values = any(value is not None for value in leaf.values)
    return f"by its name; {f'such as {leaf.shown}' if values else 'no value seen'}"


def looks(leaf: Leaf) -> str:
    """A value of it, in how many of the orders one is, and of what kind they are."""
    value = leaf.shown
    if leaf.concepts & OTHER or any(map(_PHONE.search, leaf.texts)):
        value = f"{len(leaf.texts[0])} characters, not shown here"
    kind = "true or false" if all(isinstance(value, bool | None) for value in leaf.values) else "text"
    if leaf.notations:
        kind = "a number"
    if _time_of(leaf) is not None:
        kind = "a time"
    told = f"{value}, in {len(leaf.texts)} of {len(leaf.values)} orders; {kind}"
    if len(leaf.texts) > 1:
        different = len(set(leaf.texts))
        told += ", the same in all" if different == 1 else f", {different} different ones"
    return told


_PHONE = re.compile(r"(?<!\d)1[3-9]\d{9}(?!\d)")
"""A mobile number of mainland China."""


def _or_else(scored: Sequence[tuple[float, Leaf]]) -> str:
    others = ", ".join(f"`{leaf.path}`" for score, leaf in scored[1:4] if score > scored[0][0] - _FAR_FROM)
    return f"; or {others}?" if others else ""


def _written(leaf: Leaf, type_: FieldType, *, in_text: bool = False) -> tuple[Mapping[str, str], str]:
    """The signs in its numbers, as a rules file says them, and what is to be said of how it is written."""
    if not in_text:
        return _signs(leaf.notations)
    signs, told = _signs(_notations(leaf, _TEXTS[type_]))
    amounts = _amounts_in_text(leaf, type_)
    bare = [value for value, amount in zip(leaf.values, amounts, strict=True) if amount is _NO_UNIT]
    told = f", with its unit in it{told}"
    if not bare:
        return signs, told
    some = f"{len(bare)} of {len(leaf.texts)} values {'says' if len(bare) == 1 else 'say'} none"
    return signs, (
        f"{told}; but {some}, such as {shown(bare[0])}: such an order ends as `invalid`, "
        "with a dead letter, until the platform says the unit"
    )


def _sum_with(leaf: Leaf, scored: Sequence[tuple[float, Leaf]]) -> str:
    """Where parts of a fee stand beside each other, and nothing is their total."""
    beside = [other for _, other in scored[1:] if other.keys[:-1] == leaf.keys[:-1]]
    if "total" in leaf.concepts or not beside:
        return ""
    return (
        f"; or `{leaf.path}` and `{beside[0].path}` together: each a field of its own with `type: money`, "
        "and `computed: ONE + OTHER` here"
    )


# -- Scores -----------------------------------------------------------------------------------------

_MOST_STATES = 8
_MOST_GATES = 3
_STATE = re.compile(r"-?\d{1,4}|(?=.*[^\W\d_])(?!.*\d{5})[\w.:/ -]{1,40}")
"""A small number, or a word."""

OTHER = frozenset({"other", "message", "event"})
"""What a name is about that is not the charge's own."""


def _is_plate(text: str) -> bool:
    return plates.is_normal(plates.normalise(text))


def _plate_score(leaf: Leaf) -> float:
    """By its values; by its name where they are no mainland plates, or none."""
    about = leaf.concepts
    texts = [text for text in leaf.texts if text.lower() not in NO_PLATE and not is_placeholder(text)]
    if not all(isinstance(value, str | None) for value in leaf.values):
        return 0
    alike = sum(map(_is_plate, texts)) / len(texts) if texts else 0
    named = 0.4 if "plate" in about else 0.2 if "car" in about else 0
    if alike >= 0.5:
        return 0.6 * alike + named
    if "label" in about or "kind" in about or "status" in about or any(len(text) > 20 for text in texts):
        return 0
    if about & {"connector", "station", "order"}:
        return 0
    return 0.5 if named > 0.3 else 0.35 if named and "id" in about else 0


def _is_id(leaf: Leaf) -> bool:
    """All its values could be numbers or names of things."""
    return all(
        isinstance(value, str | int | None) and not isinstance(value, bool) for value in leaf.values
    ) and all(len(text) <= MAX_ID and not re.search(r"\s\S*\s", text) for text in leaf.texts)


_NO_THING = frozenset({"time", "money", "energy", "status", "kind", "partial"})


def _thing_score(leaf: Leaf, concept: str) -> float:
    about = leaf.concepts
    if concept not in about or not _is_id(leaf) or about & _NO_THING:
        return 0
    score = 0.6 + 0.4 * ("id" in about) - 0.3 * ("label" in about) - 0.3 * bool(about & OTHER)
    return score - (0 if leaf.texts else 0.3)


_LIKE_A_STATION = re.compile(r"zd|zhan", re.IGNORECASE)
_SHORT = 16


def _station_score(leaf: Leaf) -> float:
    """By its name; or by how that begins, where few short values come again and again."""
    texts = leaf.texts
    again = len(set(texts)) < len(texts) and all(len(text) <= _SHORT for text in texts)
    if again and not concepts_of(leaf.name) and _LIKE_A_STATION.match(leaf.name) and _is_id(leaf):
        return 0.3
    return _thing_score(leaf, "station")


def _connector_score(leaf: Leaf) -> float:
    longest = max((len(text) for text in leaf.texts), default=0)
    return _thing_score(leaf, "connector") + min(longest, 20) / 1000 if _thing_score(leaf, "connector") else 0


_APART = frozenset({"time", "money", "energy", "status", "kind", "label", "duration", "partial"})


_AMOUNT = re.compile(r"-?[0-9]{1,6}\.[0-9]{1,3}", re.ASCII)


def _order_id_score(leaf: Leaf) -> float:
    about, texts = leaf.concepts, leaf.texts
    if not _is_id(leaf) or about & _APART or not about & {"order", "id"}:
        return 0
    if texts and all(map(_AMOUNT.fullmatch, texts)):
        return 0
    score = 0.5 * ("order" in about) + 0.4 * ("id" in about) + 0.05 * ("charging" in about)
    if "order" not in about:
        score = 0.4 if concepts_of(leaf.name) == {"id"} and len(leaf.keys) == 1 else 0.15
    score -= 0.3 * (len(about & {"station", "car", "plate"}) + bool(about & OTHER)) + 0.1 * (
        "connector" in about
    )
    score -= 0.1 * (len(leaf.keys) > 1)
    if texts:
        score -= 0.5 * (1 - len(set(texts)) / len(texts)) + 0.3 * (
            sum(map(is_placeholder, texts)) / len(texts)
        )
        score += min(fmean(map(len, texts)), 30) / 1000
    return score - (0 if texts else 0.2)


def _duration_score(leaf: Leaf) -> float:
    about = leaf.concepts
    if about & {"money", "energy", "status", "kind", "partial", "leave", *OTHER}:
        return 0
    if "duration" in about:
        return 0.8 + 0.2 * ("charging" in about)
    return 0.4 + 0.2 * ("charging" in about) if "time" in about and not about & {"start", "end"} else 0


def _energy_score(leaf: Leaf) -> float:
    about, words = leaf.concepts, set(words_of(leaf.name))
    if (
        leaf.is_part_of_fee
        or "energy" not in about
        or about
        & {
            "money",
            "time",
            "duration",
            "status",
            "kind",
            "label",
            "meter",
            "id",
            *OTHER,
        }
    ):
        return 0
    if _numbers(leaf) is None and not _says_unit(leaf, FieldType.ENERGY):
        return 0
    score = 0.6 + 0.1 * ("total" in about) + 0.1 * ("charging" in about)
    score += 0.2 * bool(words & {"kwh", "wh", "energy", "quantity", "dianliang"})
    score -= 0.35 * ("partial" in about) + 0.3 * ("service" in about) + 0.3 * bool(about & {"start", "end"})
    return score - 0.3 * (not leaf.texts) - 0.1 * ("power" in words and "total" not in about)


def _money_score(leaf: Leaf) -> float:
    about = leaf.concepts
    if (
        not ("money" in about or leaf.is_part_of_fee)
        or about & {"time", "id", "status", "kind", "label"}
        or not (any(_numbers(leaf) or ()) or _says_unit(leaf, FieldType.MONEY))
    ):
        return 0
    return 0.6 + 0.2 * ("total" in about) - 0.2 * bool(about & {"service", "energy", "partial", "station"})


def _status_score(leaf: Leaf) -> float:
    about = leaf.concepts
    if about & {"other", "car", "plate", "connector", "station", "time", "money"} or {"event", "id"} <= about:
        return 0
    if names_message_or_state(leaf):
        return 0.8 if "status" in about else 0.6
    return 0.5 if "kind" in about else 0


def names_message_or_state(leaf: Leaf) -> bool:
    """Rather than a kind of something else, such as `chargeType`."""
    about = leaf.concepts
    if "message" in about:
        return "kind" in about
    return bool(about & {"status", "event"}) or about == {"kind"}


def _is_first(leaf: Leaf) -> bool:
    return "start" in leaf.concepts or bool({"initial", "first"} & set(words_of(leaf.name)))


def _is_last(leaf: Leaf) -> bool:
    return "end" in leaf.concepts or bool({"final", "latest"} & set(words_of(leaf.name)))


# -- Numbers ----------------------------------------------------------------------------------------


class _Notation(NamedTuple):
    """The signs in a number that is text."""

    decimal: str = "."
    thousands: str = ""

    @property
    def spec(self) -> Mapping[str, str]:
        """What a rules file says of it."""
        said = {"decimal": self.decimal if self.decimal != "." else "", "thousands": self.thousands}
        return {key: sign for key, sign in said.items() if sign}

    def field(self, type_: FieldType, written: str = "") -> Field:
        """What reads numbers written so."""
        return Field("number", type_, written=written, comma=self.decimal == ",", thousands=self.thousands)

    def fits(self, value: object) -> bool:
        """No number has thousands and begins with 0: `0,500` is a half."""
        return self.thousands != "," or not isinstance(value, str) or _BEGINS_WITH_0.search(value) is None


_BEGINS_WITH_0 = re.compile(r"(?<![\d.,])0\d*,")
_USUAL, _BY_THOUSANDS, _BY_COMMA = _Notation(), _Notation(thousands=","), _Notation(decimal=",")
_NOTATIONS = (_USUAL, _BY_THOUSANDS, _BY_COMMA, _Notation(",", "."), _Notation(".", "'"))
_PLAIN = {notation: notation.field(FieldType.DECIMAL) for notation in _NOTATIONS}
_TEXTS = {
    type_: {notation: notation.field(type_, IN_TEXT) for notation in _NOTATIONS}
    for type_ in (FieldType.ENERGY, FieldType.MONEY, FieldType.DURATION)
}
_NO_UNIT = "no unit"


def _notations(leaf: Leaf, fields: Mapping[_Notation, Field]) -> list[_Notation]:
    """Those in which all its values are written, the likeliest first; a number without its unit is written in any."""
    return [
        notation
        for notation, field in fields.items()
        if all(notation.fits(value) and _is_read(value, field) for value in leaf.values)
    ]


def _is_read(value: object, field: Field) -> bool:
    try:
        _ = _is_nothing(value) or field.read(value)
    except NoUnitError:
        return True
    except UnreadableError:
        return False
    return True


def _is_nothing(value: object) -> bool:
    return value is None or (isinstance(value, str) and value.strip().lower() in NOTHING)


def _signs(notations: Sequence[_Notation]) -> tuple[Mapping[str, str], str]:
    """What a rules file says of these notations of one field, and what is to be said of that."""
    if not notations or notations[0] == _USUAL:
        return {}, ""
    if notations[0] == _BY_THOUSANDS and _BY_COMMA in notations:
        return notations[0].spec, '; `,` between thousands, or before fractions (`decimal: ","`)?'
    says = {"decimal": "before fractions", "thousands": "between thousands"}
    told = " and ".join(f"`{sign}` {says[key]}" for key, sign in notations[0].spec.items())
    return notations[0].spec, f", with {told}"


def _all_match(leaf: Leaf, pattern: re.Pattern[str]) -> bool:
    texts = [unicodedata.normalize("NFKC", text) for text in leaf.texts]
    return bool(texts) and all(map(pattern.fullmatch, texts))


def _numbers(leaf: Leaf) -> list[float | None] | None:
    """None where one of them is no number; one that stands for nothing is none."""
    notations = leaf.notations
    if not notations:
        return None
    field = _PLAIN[notations[0]]
    found = (None if _is_nothing(value) else field.read(value) for value in leaf.values)
    return [float(number) if isinstance(number, Decimal) else None for number in found]


def _amounts_in_text(leaf: Leaf, type_: FieldType) -> list[int | str | None]:
    """In base units; `_NO_UNIT` for a number alone. Empty where one is neither."""
    fields = _TEXTS[type_]
    notations = _notations(leaf, fields)
    return [_amount_in_text(value, fields[notations[0]]) for value in leaf.values] if notations else []


def _amount_in_text(value: object, field: Field) -> int | str | None:
    if _is_nothing(value):
        return None
    try:
        amount = field.read(value)
    except NoUnitError:
        return _NO_UNIT
    assert isinstance(amount, int)
    return amount


def _says_unit(leaf: Leaf, type_: FieldType) -> bool:
    """At least half of its values do, and the others are numbers."""
    amounts = _amounts_in_text(leaf, type_)
    said = sum(isinstance(amount, int) for amount in amounts)
    return said > 0 and 2 * said >= sum(amount is not None for amount in amounts)


_ENERGY_UNITS = {
    "kWh": (1.0, 1.0),
    "Wh": (0.001, 0.6),
    "0.01kWh": (0.01, 0.35),
    "0.0001kWh": (0.0001, 0.15),
    "0.1kWh": (0.1, 0.08),
    "MWh": (1000.0, 0.0001),
}
"""What one of them is in kWh, and how often it is met."""

_USUAL_KW, _USUAL_KWH = 20, 20


def _likely(unit: str, numbers: Sequence[float | None], elapsed: Sequence[float | None]) -> float:
    """How likely these are energies of charges in this unit, as a logarithm."""
    size, often = _ENERGY_UNITS[unit]
    found = [math.log(often)]
    ended = any(number and seconds for number, seconds in zip(numbers, elapsed, strict=True))
    for number, seconds in zip(numbers, elapsed, strict=True):
        if number and (seconds or not ended):  # what has no end yet has not its energy either
            kwh = abs(number) * size
            far = math.log(kwh / _USUAL_KWH) ** 2 / 2.5
            if seconds:
                far += math.log(kwh * 3600 / seconds / _USUAL_KW) ** 2 / 2.5
            found.append(-far)
    fraction = any(number is not None and number != int(number) for number in numbers)
    return found[0] + (fmean(found[1:]) if found[1:] else 0) - 4 * (fraction and unit not in ("kWh", "MWh"))


def _fit_of(leaf: Leaf, elapsed: Sequence[float | None]) -> float:
    """Below 0 where it could be an energy in no unit."""
    numbers = _numbers(leaf)
    if numbers is None or not any(numbers):
        return 0
    return max(-0.5, min(0.0, 0.1 * max(_likely(unit, numbers, elapsed) + 4 for unit in _ENERGY_UNITS)))


def _unit_of(leaf: Leaf, numbers: Sequence[float | None], elapsed: Sequence[float | None]) -> tuple[str, str]:
    """The likeliest unit, and why, beside the next one."""
    told = {"kwh": "kWh", "wh": "Wh", "mwh": "MWh"}
    words = [word for word in words_of(leaf.name) if word in told]
    spelled = told[words[0]] if words else "kWh" if re.search(r"kwh$|度|千瓦时", leaf.name.lower()) else None
    ranked = sorted(
        _ENERGY_UNITS, key=lambda unit: _likely(unit, numbers, elapsed) + 50 * (unit == spelled), reverse=True
    )
    unit, other = ranked[:2]
    first = next(((n, s) for n, s in zip(numbers, elapsed, strict=True) if n), None)
    if first is None:
        return unit, f"; nothing shows its unit: {unit}, or {other}?"
    return unit, f": in {unit} {_power(*first, unit)}; in {other} it would be {_power(*first, other)}"


def _power(number: float, seconds: float | None, unit: str) -> str:
    kwh = number * _ENERGY_UNITS[unit][0]
    kw = f" at {kwh * 3600 / seconds:.3g} kW" if seconds else ""
    return f"{kwh:.4g} kWh{kw}"


# -- Times ------------------------------------------------------------------------------------------

_FORMATS = tuple(
    TimeFormat.parse(text)
    for text in (
        "iso",
        "yyyy-MM-dd HH:mm:ss",
        "yyyy/MM/dd HH:mm:ss",
        "yyyy/MM/dd HH:mm",
        "yyyyMMddHHmmss",
        "yyyyMMddHHmm",
        "yyyyMMdd HH:mm:ss",
        "yyyy.MM.dd HH:mm:ss",
        "yyyy年MM月dd日 HH:mm:ss",
        "yyyy年MM月dd日 HH:mm",
        "yyyy年MM月dd日 HH时mm分ss秒",
        "yyyy年MM月dd日 HH时mm分",
        "yyyyMMddHHmmssSSS",
        "dd/MM/yyyy HH:mm:ss",
        "MM/dd/yyyy HH:mm:ss",
        "dd/MM/yyyy HH:mm",
        "MM/dd/yyyy HH:mm",
        "dd.MM.yyyy HH:mm:ss",
        "dd.MM.yyyy HH:mm",
        "dd-MM-yyyy HH:mm:ss",
        "yyyy-MM-dd hh:mm:ss a",
        "MM/dd/yyyy hh:mm:ss a",
        ARRAY,
        "epoch_s",
        "epoch_ms",
        "epoch_us",
        "epoch_ns",
        "epoch_min",
        TICKS,
        "filetime",
        EXCEL,
    )
)
_OFFSET = re.compile(r"\d{4}-\d\d-\d\d[T ]\S*([+-]\d\d:\d\d)")
_SWAPPED = {"dd/MM": "MM/dd", "MM/dd": "dd/MM"}
_TIMELY = frozenset({"time", "start", "end", "create", "leave"})
_YEARS = range(2000, 2100)

ZONE = "Asia/Shanghai"
"""Of times without an offset, until somebody confirms it."""

_LOCAL = ZoneInfo(ZONE)


@dataclass(frozen=True)
class _Time:
    """A field that holds times.

    Attributes:
        instants: in each row; those without an offset in the zone that a draft takes them to be in.
        zoned: all say their offset.
        how: what is to be said about the format.
        leaves: what it is made of.

    """

    leaf: Leaf
    spec: Mapping[str, object]
    instants: Sequence[datetime | None]
    zoned: bool
    how: str
    leaves: tuple[Leaf, ...]
    of_day: bool = False

    @property
    def as_start(self) -> float:
        about = self.leaf.concepts
        score = 1.0 * ("start" in about) + 0.3 * ("create" in about) - 1.0 * ("end" in about)
        return score + 0.3 * ("charging" in about) - 0.4 * (bool(about & OTHER) + ("leave" in about))

    @property
    def as_end(self) -> float:
        about = self.leaf.concepts
        score = 1.0 * ("end" in about) - 1.0 * ("start" in about) - 0.2 * ("create" in about)
        score += 0.3 * ("charging" in about)
        return score - 0.3 * bool(about & OTHER) - 0.2 * ("leave" in about)

    @property
    def may_be_end(self) -> bool:
        return "start" not in self.leaf.concepts and "create" not in self.leaf.concepts


def _time_of(leaf: Leaf) -> _Time | None:
    values = [value for value in leaf.values if value is not None]
    fits = [(written, found) for written in _FORMATS if (found := _instants(leaf, written)) is not None]
    if not values or not fits:
        return None
    written, instants = fits[0]
    spec: dict[str, object] = {"paths": leaf.path}
    how = ""
    if written.text != "iso":
        spec["format"] = written.text
        how = f" as `{written.text}`"
    if written.text in EPOCHS:
        first = next((instant for instant in instants if instant is not None), None)
        how += f", {first:%Y-%m-%d %H:%M} UTC" if first is not None else ""
        how += "" if written.is_local else f" (`{written.text}_local` if that is the local time)"
    elif len(fits) > 1 and fits[1][0].text[:5] == _SWAPPED.get(written.text[:5]):
        how += f"; or `{fits[1][0].text}`?"
    zoned = (written.text in EPOCHS and not written.is_local) or all(
        value is None or _says_offset(written, value) for value in leaf.values
    )
    return _Time(leaf, spec, instants, zoned, how, (leaf,))


def _may_be_days(leaf: Leaf) -> bool:
    """As spreadsheets count them: whole numbers, and those of meters, are as large."""
    if leaf.concepts - _TIMELY - {"charging"}:
        return False
    return any("." in str(value) for value in leaf.values if value is not None)


def _instants(leaf: Leaf, written: TimeFormat) -> list[datetime | None] | None:
    """None where they are not written so; a time that means none, such as 0001-01-01, is none."""
    epoch = written.text in EPOCHS
    # Only milliseconds are so long that a number under a name that says nothing can hardly be another.
    if epoch and not leaf.concepts & _TIMELY and (leaf.concepts or written.text != "epoch_ms"):
        return None
    if written.text == EXCEL and not _may_be_days(leaf):
        return None
    if written.text == "epoch_min" and not set(words_of(leaf.name)) & {"minute", "minutes", "min"}:
        return None
    found: list[datetime | None] = []
    for value in leaf.values:
        try:
            moment = None if value is None else written.read(value)
        except (ValueError, OverflowError, UnreadableError):
            moment = None
        if value is not None and (moment is None or moment.year not in _YEARS):
            if not _means_none(value):
                return None
            moment = None
        if moment is not None:
            moment = (moment.replace(tzinfo=_LOCAL) if moment.tzinfo is None else moment).astimezone(UTC)
        found.append(moment)
    never = all(isinstance(value, str | None) for value in leaf.values) and written.text == "iso"
    return found if any(found) or (never and leaf.concepts & {"start", "end"}) else None


_NO_TIME = re.compile(r"0{4}\D.*|0|0001\D.*|1970\D.*|9999\D.*", re.DOTALL)


def _means_none(value: object) -> bool:
    text = scalar_text(value)
    return text is not None and (text.lower() in NOTHING or _NO_TIME.fullmatch(text) is not None)


def _says_offset(written: TimeFormat, value: object) -> bool:
    try:
        found = written.read(value)
    except (ValueError, OverflowError, UnreadableError):
        return True
    return found is None or found.tzinfo is not None


def _elapsed(start: _Time, end: _Time, *, signed: bool = False) -> list[float | None]:
    """Seconds in each row."""
    found: list[float | None] = []
    for one, other in zip(start.instants, end.instants, strict=True):
        seconds = None if one is None or other is None else (other - one).total_seconds()
        found.append(seconds if signed or (seconds is not None and seconds > 0) else None)
    return found


_DAYS = 3 * 86400


def _pair(times: Sequence[_Time], durations: Sequence["_Duration"]) -> tuple[_Time, _Time] | None:
    """Start and end: by their names, in order, as far apart as a charge lasts, and as a duration says."""
    best: tuple[float, _Time, _Time] | None = None
    for start, end in permutations(times[:30], 2):
        score = start.as_start + end.as_end
        between = [seconds for seconds in _elapsed(start, end, signed=True) if seconds is not None]
        if between and not all(0 <= seconds <= _DAYS for seconds in between):
            score -= 1.5
        elif any(between):
            score += 0.5
            lasted = _elapsed(start, end)
            score += 0.4 * any(
                _agree(seconds, lasted) for duration in durations for seconds in duration.by_unit.values()
            )
        if score > _PAIRED and (best is None or score > best[0]):
            best = (score, start, end)
    return None if best is None else best[1:]


_PAIRED = 0.4


def _agree(seconds: Sequence[float | None], elapsed: Sequence[float | None]) -> bool:
    both = [(one, other) for one, other in zip(seconds, elapsed, strict=True) if one and other]
    return bool(both) and all(abs(one - other) <= 60 for one, other in both)


_CLOCK = re.compile(r"(?:[01]?\d|2[0-3]):[0-5]\d(?::[0-5]\d)?")
_DATES = {
    re.compile(r"\d{4}-\d\d-\d\d"): "yyyy-MM-dd",
    re.compile(r"\d{4}/\d\d?/\d\d?"): "yyyy/MM/dd",
    re.compile(r"2\d{3}[01]\d[0-3]\d"): "yyyyMMdd",
}
_IN_TEMPLATE = re.compile(r"[\w.-]+")


def _pair_of_day(leaves: Sequence[Leaf]) -> tuple[_Time, _Time] | None:
    """Times of day, with a date beside them."""
    clocks = [leaf for leaf in leaves if _all_match(leaf, _CLOCK) and _IN_TEMPLATE.fullmatch(leaf.path)]
    starts = [leaf for leaf in clocks if "start" in leaf.concepts]
    ends = [leaf for leaf in clocks if "end" in leaf.concepts]
    dates = [
        (leaf, written)
        for leaf in leaves
        for pattern, written in _DATES.items()
        if _all_match(leaf, pattern) and _IN_TEMPLATE.fullmatch(leaf.path)
    ]
    if not (starts and ends and dates):
        return None
    date, day = dates[0]
    found: list[_Time] = []
    for leaf in (starts[0], ends[0]):
        clock = "HH:mm:ss" if leaf.texts[0].count(":") == 2 else "HH:mm"
        written = TimeFormat.parse(f"{day} {clock}")
        instants = []
        for on, at in zip(date.values, leaf.values, strict=True):
            moment = written.read(f"{on} {at}") if on is not None and at is not None else None
            instants.append(None if moment is None else moment.replace(tzinfo=_LOCAL).astimezone(UTC))
        spec: dict[str, object] = {"template": f"{{{date.path}}} {{{leaf.path}}}", "format": written.text}
        how = f" on `{date.path}`"
        if found:
            spec["not_before"] = "started_at"
            how += ", or on the next day where it would lie before the start"
        found.append(_Time(leaf, spec, instants, zoned=False, how=how, leaves=(leaf, date), of_day=True))
    return found[0], found[1]


# -- Durations --------------------------------------------------------------------------------------

_LONG_CLOCK = re.compile(r"\d{1,3}:[0-5]\d:[0-5]\d")
_DURATION_UNITS = {"s": (1.0, 0.5), "min": (60.0, 0.4), "h": (3600.0, 0.2), "ms": (0.001, 0.2)}
"""Seconds, and how often it is met."""

_UNIT_WORDS = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds", "秒"), "s"),
    **dict.fromkeys(("min", "mins", "minute", "minutes", "分钟"), "min"),
    **dict.fromkeys(("h", "hour", "hours", "小时"), "h"),
    **dict.fromkeys(("ms", "millis", "毫秒"), "ms"),
}
_UNFIT = -8.0
_USUAL_SECONDS = 3600


@dataclass(frozen=True)
class _Duration:
    """A field that may say how long an order lasted: its seconds in each row, by unit."""

    leaf: Leaf
    by_unit: Mapping[str, Sequence[float | None]]


def _durations_of(leaf: Leaf) -> Iterator[_Duration]:
    if _all_match(leaf, _LONG_CLOCK):
        yield _Duration(leaf, {"HH:MM:SS": [_clock_seconds(value) for value in leaf.values]})
        return
    if _says_unit(leaf, FieldType.DURATION):
        amounts = _amounts_in_text(leaf, FieldType.DURATION)
        seconds = [float(amount) if isinstance(amount, int) else None for amount in amounts]
        yield _Duration(leaf, {IN_TEXT: seconds})
        return
    numbers = _numbers(leaf)
    if numbers is None or not any(numbers) or _time_of(leaf) is not None:
        return
    told = [_UNIT_WORDS[word] for word in words_of(leaf.name) if word in _UNIT_WORDS]
    units = told[-1:] or list(_DURATION_UNITS)
    yield _Duration(
        leaf,
        {unit: [None if n is None else n * _DURATION_UNITS[unit][0] for n in numbers] for unit in units},
    )


def _clock_seconds(value: object) -> float | None:
    if not isinstance(value, str):
        return None
    hours, minutes, seconds = map(int, unicodedata.normalize("NFKC", value).strip().split(":"))
    return hours * 3600.0 + minutes * 60 + seconds


def _duration_fit(seconds: Sequence[float | None], elapsed: Sequence[float | None]) -> float:
    """How likely that is how long they lasted: no longer than from start to end, and not much shorter."""
    far: list[float] = []
    for each, lasted in zip(seconds, elapsed, strict=True):
        if not each or each < 0:
            continue
        if lasted and each > lasted + 90:
            far.append(3 * _UNFIT)
        else:
            far.append(-(math.log(each / (lasted or _USUAL_SECONDS)) ** 2))
    return fmean(far) if far else 0.0


def _span(seconds: float) -> str:
    """`50 min`, `1 h 5 min`; begun ones are not counted, as everywhere."""
    minutes = int(seconds // 60)
    if seconds < 60:
        return f"{int(seconds)} s" if seconds >= 1 else f"{seconds:.4g} s"
    if minutes < 120:
        return f"{minutes} min"
    if minutes < 2880:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 144 / 10:g} days"
