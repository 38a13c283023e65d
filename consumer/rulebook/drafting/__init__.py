"""Sample messages of a platform -> a first rules file, each guess in it marked to be confirmed. Performs no I/O.

`samples` takes the messages out of files, `shapes` finds where in them the orders stand, `guessing`
(with `naming`) which of their fields is what. What came of that is tried on the messages, and the rest of
the file depends on how it reads them; `pruning` makes the file's test of one, `writing` writes YAML.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from textwrap import wrap

from consumer import rulebook
from consumer.core import plates
from consumer.core.coupons import CouponRequest
from consumer.core.envelopes import ENCRYPTED, is_encrypted
from consumer.core.errors import ConfigurationError, Problem
from consumer.core.events import Coordinates, Order, Record
from consumer.core.fields import kind_of
from consumer.core.formats import Path, Refusal, found_at, scalar_text
from consumer.core.outcomes import LIKE_A_PLATE, Finding, Reason
from consumer.core.rules import RuleBook
from consumer.core.sources import Source
from consumer.core.templates import text_of
from consumer.rulebook.cases import event_bytes
from consumer.rulebook.drafting import shapes
from consumer.rulebook.drafting.guessing import (
    OTHER,
    ZONE,
    Guess,
    Leaf,
    guesses_of,
    looks,
    names_message_or_state,
)
from consumer.rulebook.drafting.pruning import PLATE, Pruning, without_real_plates
from consumer.rulebook.drafting.samples import MOST_PROBLEMS, Sample, Samples, samples_of
from consumer.rulebook.drafting.shapes import ENVELOPES, Shape
from consumer.rulebook.drafting.writing import flow, lines_of, scalar
from consumer.rulebook.model import TO_CONFIRM, TO_FILL_IN

__all__ = ["Draft", "draft", "samples_of"]

_SOURCE = "charging"
_WIDTH = 100
_MOST_STATIONS = 50
_MOST_TOLD = 5
_MOST_LEFT = 20
_LETTERS_AND_DIGITS = re.compile(r"(?=\w*\d)(?=\w*[^\W\d])\w{5,}")  # a word of the file itself has no digits
_LONGEST_KEY = 200


@dataclass(frozen=True)
class Draft:
    """A first rules file.

    Attributes:
        text: of the file.
        told: what it is and what it does not know, for whoever asked for it.

    """

    text: str
    told: Sequence[str]


def draft(samples: Samples) -> Draft:
    """A rules file that reads these messages. Raises ConfigurationError where there is nothing to read in one."""
    messages = _readable(samples)
    shape = _shape(messages, samples)
    source = _source_of(shape) if shape.preset is None else _source_of_preset(shape, messages)
    if shape.preset is None:
        source = replace(source, gates=tuple(_gates(source, messages)))
    file = _File(source, messages, samples.charset)
    return Draft(file.text(), tuple(file.told(samples.left_out)))


def _readable(samples: Samples) -> list[Sample]:
    """The messages that can hold orders; tombstones are left out."""
    problems: list[Problem] = []
    found: list[Sample] = []
    for sample in samples.messages:
        body = sample.body
        if isinstance(body, str):
            inner = shapes.inside(body)
            body = body if inner is None else inner[1]
        if is_encrypted(body):
            problems.append(Problem(sample.place, ENCRYPTED.detail, "and give the plain message"))
        elif isinstance(body, dict | list) and body:
            found.append(sample)
        elif body is not None:
            empty = isinstance(body, dict | list)
            what = "an empty message" if empty else f"{kind_of(body)} where an object is expected"
            problems.append(Problem(sample.place, what, "give messages that hold orders"))
    if not problems and not found:
        remedy = "give a message that holds an order"
        problems.append(Problem(samples.messages[0].place, "only null, which means deleted", remedy))
    if problems:
        raise ConfigurationError(problems[:MOST_PROBLEMS])
    return found


def _shape(messages: Sequence[Sample], samples: Samples) -> Shape:
    envelope: tuple[object, ...] = ("schema_registry",) if samples.registry else ()
    if samples.charset is not None:
        envelope = (*envelope, {"charset": samples.charset})
    bodies = [sample.body for sample in messages]
    wrappers = {shapes.wrapper_of(body) for body in bodies}
    wrapper = wrappers.pop() if len(wrappers) == 1 else None
    if wrapper is None:
        return shapes.shape_of(bodies, envelope)
    bare = _Source(Shape((wrapper,), envelope), _named_at_all({}, has_id=False))
    (reader,) = _book(bare).sources
    opened = [reader.envelope.open(_record(sample.value)) for sample in messages]
    events = [event for event in opened if not isinstance(event, Refusal)]
    if not events:
        why = next(event.detail for event in opened if isinstance(event, Refusal))
        raise ConfigurationError([Problem(messages[0].place, why, f"give messages as {wrapper} makes them")])
    if wrapper in ENVELOPES:
        around = [event.message for event in events] if wrapper == "cloudevents" else ()
        return shapes.shape_of([event.body for event in events], (*envelope, wrapper), around)
    rows = [row for event in events for row, _ in reader.rows(event) if isinstance(row, dict) and row]
    preset = shapes.preset_of(rows)
    extends = (wrapper,) if preset is None else (wrapper, preset)
    return Shape(extends, envelope, None, guesses_of(rows))


# -- The source -------------------------------------------------------------------------------------

_WANTED = ("plate", "station_id", "started_at", "ended_at", "energy_wh")
_SURE = 0.5


@dataclass(frozen=True)
class _Source:
    """What the file says of the messages.

    Attributes:
        fields: those that the file has to name.
        zone, event_id: where they have to be told, and why.
        missing: fields that were looked for in vain, and are not in the file.
        required: fields that the rule needs, and those by which a charge is told to be finished.
        gates: what may tell finished charges from others.

    """

    shape: Shape
    fields: Mapping[str, Guess]
    zone: tuple[str, str] | None = None
    event_id: tuple[str, str] | None = None
    missing: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    gates: "tuple[_Gate, ...]" = ()

    @property
    def not_found(self) -> Sequence[str]:
        """Fields of which nothing in the samples is known to be one, whether the file has a place for them or not."""
        return (*(name for name, guess in self.fields.items() if not guess.sure), *self.missing)

    @property
    def left(self) -> Iterator[str]:
        """The fields that were left over, each with how it looks, where a field was looked for in vain."""
        if not self.not_found:
            return
        others = sorted(self.shape.guesses.left, key=lambda leaf: bool(leaf.concepts & OTHER))
        for leaf in others[:_MOST_LEFT]:
            yield f"`{leaf.path}`: {looks(leaf)}"
        if len(others) > _MOST_LEFT:
            yield f"and {len(others) - _MOST_LEFT} more"

    @property
    def is_sure_of_its_end(self) -> bool:
        """A charge that has only begun is not taken for one that has ended."""
        end = self.fields.get("ended_at")
        if end is None:
            return "ended_at" not in self.missing
        return "computed" in end.spec or end.sure > _SURE


def _source_of(shape: Shape) -> _Source:
    guesses = shape.guesses
    fields = dict(guesses.by_name)
    time = next((name for name in ("started_at", "ended_at") if name in fields), None)
    event_id = None
    if time is not None and "order_id" not in fields:
        event_id = (
            f"{{plate}}/{{{time}}}",
            "the samples have no order number; a car has one charge at a time",
        )
    missing = tuple(name for name in _WANTED if name not in {*fields, "plate"})
    zone = (ZONE, _SHOWN_IN if guesses.zoned else _NO_OFFSET)
    return _Source(shape, _named_at_all(fields, has_id=event_id is not None), zone, event_id, missing)


def _source_of_preset(shape: Shape, messages: Sequence[Sample]) -> _Source:
    """What a preset leaves to be said."""
    guesses = shape.guesses
    source = _Source(shape, {})
    items = list(_items(_read(source, messages)))
    if any(item.reason is Reason.ZONE_MISSING for item in items if isinstance(item, Finding)):
        zone = (ZONE, _NO_OFFSET)
        if len(guesses.offsets) == 1:
            zone = (
                guesses.offsets[0],
                f"some times come without an offset, the others with {guesses.offsets[0]}",
            )
        source = replace(source, zone=zone)
        items = list(_items(_read(source, messages)))
    seen = {name for item in items for name in item.values or ()}
    fields = {
        name: guesses.by_name[name]
        for name in _WANTED
        if name not in seen and name in guesses.by_name and guesses.by_name[name].sure >= _SURE
    }
    event_id = None
    if {"order_id", "started_at"} <= seen and all(
        getattr(item, "reason", None) is Reason.ID_MISSING for item in items
    ):
        event_id = (
            "{order_id}/{started_at}",
            "the order number alone is not unique, and nothing says what it is one of",
        )
    missing = tuple(name for name in _WANTED if name not in {*seen, *fields})
    return replace(source, fields=fields, event_id=event_id, missing=missing)


_NO_OFFSET = "times come without an offset"
_SHOWN_IN = "times come with their offset, and are shown in this zone"


def _named_at_all(fields: Mapping[str, Guess], *, has_id: bool) -> Mapping[str, Guess]:
    """With a place for what every source has to name."""
    found = dict(fields)
    if "plate" not in found:
        why = "nothing in the samples looks like a plate; without one a charge ends as plate_missing"
        found["plate"] = Guess({"paths": "plate"}, why, 0)
    if "order_id" not in found and not has_id:
        why = "nothing in the samples looks like an order's number; without one a charge ends as invalid"
        found = {"order_id": Guess({"paths": "order_id"}, why, 0), **found}
    return found


def _source_lines(source: _Source) -> Iterator[str]:
    shape = source.shape
    yield "sources:"
    yield f"  {_SOURCE}:"
    yield "    # topics: [NAME]           # fill in; without it, it reads whatever topic no other source names"
    if shape.extends:
        names = " and ".join(f"`{name}`" for name in shape.extends)
        yield from _confirm(f"every message looks like one for the preset {names}", 4)
        yield f"    extends: {flow(shape.extends[0] if len(shape.extends) == 1 else list(shape.extends))}"
    for key, value, why in _keys(source):
        yield from _confirm(why, 4)
        yield f"    {key}: {value}"
    yield from _skip_lines(source.gates)
    yield from _field_lines(source)


def _keys(source: _Source) -> Iterator[tuple[str, str, str]]:
    """What the source says of events as a whole: key, value and why."""
    shape = source.shape
    if shape.envelope:
        why = "what is around the event is taken off first, in this order"
        yield "envelope", flow(list(shape.envelope)), why
    if shape.orders is not None:
        yield "orders", scalar(shape.orders), "there stand the orders, or the one"
    for key, told in (("zone", source.zone), ("event_id", source.event_id)):
        if told is not None:
            yield key, scalar(told[0]), told[1]


def _skip_lines(gates: Sequence["_Gate"]) -> Iterator[str]:
    active = [gate for gate in gates if gate.active]
    others = [gate for gate in gates if not gate.active]
    if active:
        for gate in active:
            yield from _confirm(gate.why, 4)
        yield "    skip:"
        for gate in active:
            yield f"      - {flow(gate.spec)}"
    if others:
        what = "if one of these tells finished charges from others, keep its line and correct it"
        yield from _confirm(what, 4)
        if not active:
            yield "    # skip:"
        for gate in others:
            yield f"    {'  # ' if active else '#   '}- {flow(gate.spec)}"


def _field_lines(source: _Source) -> Iterator[str]:
    of_preset = [name for name in source.required if name not in source.fields]
    beside = {} if source.shape.preset is not None else source.shape.guesses.beside
    if source.fields or of_preset:
        yield "    fields:"
    elif source.missing:
        yield "    # fields:"
    for name, guess in source.fields.items():
        yield from _confirm(guess.why, 6)
        spec = dict(guess.spec)
        if name in source.required:
            spec["required"] = True
        yield f"      {name}: {flow(spec['paths'] if list(spec) == ['paths'] else spec)}"
    for name in of_preset:
        yield f"      {name}: {{required: true}}   # the example's value is computed from it"
    for name, guess in beside.items():
        yield from _confirm(f"only where a rule needs it: {guess.why}", 6)
        yield f"      # {name}: {flow(dict(guess.spec))}"
    for name in source.missing:
        yield f"      # {name}: {_HOW[name]}   # fill in: not found in the samples"
    left = list(source.left)
    if left:
        yield "      # left over in the samples, if it is one of these:"
        yield from (f"      #   {told}" for told in left)


_HOW = {
    "plate": "PATH",
    "station_id": "PATH",
    "started_at": "{paths: PATH, format: iso}",
    "ended_at": "{paths: PATH, format: iso}",
    "energy_wh": "{paths: PATH, unit: kWh}",
}


def _confirm(why: str, indent: int) -> Iterator[str]:
    space = " " * indent
    first, *others = wrap(
        f"{TO_CONFIRM} {why}", _WIDTH - indent, break_long_words=False, break_on_hyphens=False
    )
    yield f"{space}# {first}"
    for line in others:
        yield f"{space}#   {line}"


# -- Try it on the messages -------------------------------------------------------------------------

_Read = Sequence[tuple[Order | Finding, ...]]


def _book(source: _Source, rest: Sequence[str] = ()) -> RuleBook:
    return rulebook.parse("\n".join(["version: 1", *_source_lines(source), *rest, ""]))


def _record(value: bytes) -> Record:
    return Record(Coordinates("events", 0, 0), -1, None, value)


def _read(source: _Source, messages: Sequence[Sample]) -> _Read:
    book = _book(source)
    return [book.read_as(book.sources[0], _record(sample.value), None) for sample in messages]


def _items(read: _Read) -> Iterator[Order | Finding]:
    for items in read:
        yield from items


# -- What tells finished charges from others ---------------------------------------------------------

_MOST_SHOWN = 3


@dataclass(frozen=True)
class _Gate:
    """A field that names a state or the kind of message, and what is made of it.

    Attributes:
        active: it stands in the file as it is, so that what was not seen is skipped rather than granted.
        why: for whoever confirms it.

    """

    leaf: Leaf
    spec: Mapping[str, object]
    active: bool
    why: str


def _gates(source: _Source, messages: Sequence[Sample]) -> Iterator[_Gate]:
    """Where finished and unfinished ones are among the samples, the first field that tells them apart decides alone."""
    (reader,) = _book(source).sources
    read = _read(source, messages)
    readable = [item for item in _items(read) if item.values is not None]
    finished = [not _lacks(item, source) for item in readable]
    seen: list[tuple[Leaf, list[str], list[str], bool]] = []
    for leaf in source.shape.guesses.gates:
        values = list(_values_at(Path.parse(leaf.path), reader, messages, read))
        ends = [value for value, is_finished in zip(values, finished, strict=True) if is_finished]
        others = [value for value, is_finished in zip(values, finished, strict=True) if not is_finished]
        texts = list(dict.fromkeys(text for text in ends or others if text is not None))
        parts = bool(ends and others) and None not in ends and not set(ends) & set(others)
        rest = list(dict.fromkeys("nothing" if text is None else text for text in others)) if parts else []
        if texts and None not in ends:
            seen.append((leaf, texts, rest, None in others))
    deciding = next((leaf for leaf, _, rest, _ in seen if rest), None)
    for leaf, texts, rest, lacking in seen:
        spec = {
            "paths": leaf.path,
            "not_in": texts[0] if len(texts) == 1 else texts,
            "reason": "not_finished",
        }
        if leaf is deciding:
            why = f"charges that have ended have {_one_of(leaf, texts)}, others {_one_of(None, rest)}; or list with `in` what to skip"
            yield _Gate(leaf, {**spec, "missing": "skip"} if lacking else spec, True, why)
        else:
            only = all(finished) and bool(finished) and names_message_or_state(leaf)
            why = f"only {_one_of(leaf, texts)} was seen: is this topic only that? If others are charges that have ended, add them"
            yield _Gate(leaf, spec, only and len(texts) == 1, why)


def _one_of(leaf: Leaf | None, texts: Sequence[str]) -> str:
    shown = " or ".join(texts[:_MOST_SHOWN]) + (" ..." if len(texts) > _MOST_SHOWN else "")
    return shown if leaf is None else f"{leaf.name} = {shown}"


def _values_at(path: Path, reader: Source, messages: Sequence[Sample], read: _Read) -> Iterator[str | None]:
    """What stands there, for each item of which something can be read."""
    for sample, items in zip(messages, read, strict=True):
        event = reader.envelope.open(_record(sample.value))
        if not isinstance(event, Refusal):
            rows = reader.rows(event)
            for item in items:
                if item.values is not None:
                    yield scalar_text(next(found_at((path,), *rows[item.index]), None))


_NAMES = {
    "plate": "plate",
    "station_id": "station",
    "started_at": "start",
    "ended_at": "end",
    "energy_wh": "energy",
}


def _unread(item: Order | Finding, source: _Source) -> str:
    """What is not read of this order, though others have it; empty where all is that was found at all."""
    found = (name for name in ("station_id", "energy_wh") if name not in source.missing)
    lacking = (_NAMES[name] for name in found if name not in (item.values or {}))
    return _lacks(item, source) or next(lacking, "")


def _lacks(item: Order | Finding, source: _Source) -> str:
    """What a finished charge has and this one does not; empty where it is finished."""
    values = item.values or {}
    if "ended_at" not in values:
        return "end"
    if not source.is_sure_of_its_end:
        return "time that is surely its end"
    amounts = (values.get(name) for name in ("energy_wh", "seconds", "charging_seconds"))
    return "" if any(amounts) else "energy and no duration"


# -- The rest of the file ---------------------------------------------------------------------------


class _File:
    """The source, and what depends on how it reads the messages."""

    def __init__(self, source: _Source, messages: Sequence[Sample], charset: str | None) -> None:
        self.messages = messages
        self.charset = charset
        self.source = source
        self.read = _read(source, messages)
        self.orders = [item for item in _items(self.read) if isinstance(item, Order)]
        self.whole = [item for item in self.orders if not _lacks(item, source)]
        self.real = {
            str(item.values["plate"]) for item in _items(self.read) if item.values and "plate" in item.values
        }
        self.metadatum = self._metadatum()
        self.source = replace(source, required=self._required())
        self.read = _read(self.source, messages)

    def text(self) -> str:
        sampled = _counted(len(self.messages), "message")
        head = [
            "# yaml-language-server: $schema=rules.v1.schema.json",
            f"# Drafted from {sampled}. What is guessed is marked: look at it, correct it, take the mark away.",
            "version: 1",
        ]
        rest = [*_ACCOUNTS, *self._stations(), *self._rules()]
        sections = (_ACCOUNTS, _source_lines(self.source), self._stations(), self._rules(), self._tests(rest))
        texts = ("\n".join(lines) for lines in (head, *sections))
        return self._masked("\n\n".join(filter(None, texts)) + "\n")

    def told(self, left_out: int) -> Iterator[str]:
        """For whoever asked for the file."""
        more = f" ({left_out} more were not looked at)" if left_out else ""
        all_items = sum(map(len, self.read))
        yield f"{_counted(len(self.messages), 'message')}{more}, {_counted(all_items, 'order')}, {self._tally()}"
        places = [sample.place for sample, items in zip(self.messages, self.read, strict=True) for _ in items]
        odd = [
            f"{place}: {item.outcome} ({item.reason}): {item.detail}"
            if isinstance(item, Finding)
            else f"{place}: it has no {_unread(item, self.source)}"
            for place, item in zip(places, _items(self.read), strict=True)
            if isinstance(item, Finding) or _unread(item, self.source)
        ]
        yield from map(self._masked, odd[:_MOST_TOLD])
        if self.source.shape.extends:
            yield f"preset: {', '.join(self.source.shape.extends)}"
        for key, value, why in _keys(self.source):
            yield self._masked(f"confirm {key}: {value}: {why}")
        for name, guess in self.source.fields.items():
            yield self._masked(f"confirm {name}: {guess.why}")
        for gate in self.source.gates:
            if gate.active:
                yield self._masked(f"confirm skip: {gate.why}")
        for name in self.source.missing:
            yield f"not found: {name}"
        left = list(self.source.left)
        if left:
            yield "left over in the samples, if it is one of these:"
            yield from (self._masked(f"  {told}") for told in left)
        if not self._ids("station_id"):
            yield _ANY_STATION if not self._own_connectors() else _BY_CONNECTOR
        if not self.source.is_sure_of_its_end:
            yield f"{_SHADOW}: the rule is on `state: shadow` till then"

    # -- parts

    def _tally(self) -> str:
        """How many are read whole, and what is read of how many."""
        items = list(_items(self.read))
        missing = {"station_id", "energy_wh"} & {*self.source.missing}
        whole = sum(
            isinstance(item, Order) and not missing and not _unread(item, self.source) for item in items
        )
        told = f"{whole} of them read whole"
        if whole == len(items):
            return told
        by_count: dict[int, list[str]] = {}
        for name, word in _NAMES.items():
            by_count.setdefault(sum(name in (item.values or {}) for item in items), []).append(word)
        parts = []
        for count in sorted(by_count, reverse=True):
            *words, last = by_count[count]
            names = f"{', '.join(words)} and {last}" if words else last
            parts.append(f"{names} in {'all' if count == len(items) else count or 'none'}")
        return f"{told}: read {', '.join(parts)}"

    def _metadatum(self) -> tuple[str, str, str]:
        """Key, name and value of what the example's coupon is computed from."""
        if self._have("minutes"):
            return "minutes", "充电时长", "minutes"
        if self._have("energy_wh"):
            return "kwh", "充电电量", "energy_wh / 1000"
        return "minutes", "停车时长", "60"

    def _required(self) -> tuple[str, ...]:
        """What the example's value is computed from, and what every finished one has."""
        of_minutes = (
            ("started_at", "ended_at") if self._have("started_at", "ended_at") else ("charging_seconds",)
        )
        computed = {"minutes": of_minutes, "energy_wh / 1000": ("energy_wh",)}.get(self.metadatum[2], ())
        of_finished = [
            name for name in ("ended_at", "energy_wh") if name in self.source.fields and self._have(name)
        ]
        return tuple(dict.fromkeys((*computed, *of_finished)))

    def _have(self, *names: str) -> bool:
        """Every order has them, as far as orders are read whole."""
        having = [item.values for item in self.whole or self.orders]
        having = having or [item.values or {} for item in _items(self.read)]
        return bool(having) and all(name in values for values in having for name in names)

    def _ids(self, name: str) -> list[str]:
        found = [str(item.values[name]) for item in _items(self.read) if item.values and name in item.values]
        fit = [text for text in dict.fromkeys(found) if len(text) <= _LONGEST_KEY and text.isprintable()]
        return [text for text in fit if text != "file"]

    def _stations(self) -> Iterator[str]:
        stations, connectors = self._ids("station_id"), self._own_connectors()
        if stations:
            yield "stations:"
            what = "fill in the parking platform's code of each station's lot; remove those of lots that take no part, and name the others in the rule's `stations`"
            yield from _confirm(what, 2)
            for number, station in enumerate(stations[:_MOST_STATIONS], 1):
                yield f"  {scalar(station)}: {{api_store_code: {_STORE}{number}}}"
            if len(stations) > _MOST_STATIONS:
                yield f"  # and {len(stations) - _MOST_STATIONS} more in the samples: see `stations: {{file: stations.csv}}`"
        elif connectors:
            yield "stations:"
            yield from _confirm(f"{_BY_CONNECTOR}, or tell which of these connectors are whose", 2)
            known = {"api_store_code": f"{_STORE}1", "connectors": connectors[:_MOST_STATIONS]}
            yield from lines_of(f"{TO_FILL_IN}STATION-1", known, 2)

    def _own_connectors(self) -> list[str]:
        """Those by which a station can be known: a 1 or 2 is one at every station."""
        found = self._ids("connector_id")
        return found if all(len(text) > _LONGEST_OF_A_STATION for text in found) else []

    def _rules(self) -> Iterator[str]:
        key, name, value = self.metadatum
        yield "rules:"
        yield from _confirm("an example; say who gets which coupon", 2)
        yield "  - name: charged"
        yield "    account: main"
        if not self.source.is_sure_of_its_end:
            yield from _confirm(f"{_SHADOW}; then take this line away", 4)
            yield "    state: shadow"
        if not self._ids("station_id") and not self._own_connectors():
            yield from _confirm(_ANY_STATION, 4)
            yield f"    api_store_code: {_STORE}1"
        yield '    subject: "【{plate}】充电"'
        yield "    metadata:"
        yield f"      {key}: {flow({'name': name, 'value': value})}"

    def _tests(self, rest: Sequence[str]) -> Iterator[str]:
        """Of the first message with an order read whole, or with one, or the first."""
        book = _book(self.source, rest)
        (source,) = book.sources
        suited = [
            max(isinstance(item, Order) * (1 + (not _lacks(item, self.source))) for item in items)
            for items in self.read
        ]
        body = self.messages[suited.index(max(suited))].body

        def items_of(message: object) -> tuple[Order | Finding, ...]:
            return book.read_as(source, _record(self._encoded(message)), None)

        def first_two(message: object) -> object:
            return [
                (type(item), item.values, getattr(item, "reason", None)) for item in items_of(message)[:2]
            ]

        guesses = [*self.source.fields.values(), *self.source.shape.guesses.beside.values()]
        kept = [keys for guess in guesses for keys in guess.used]
        kept += [leaf.keys for leaf in self.source.shape.guesses.gates]
        event = Pruning(first_two, kept).pruned(without_real_plates(body, self.real))
        items = items_of(event)
        if self.charset == "utf-16":
            return
        yield "tests:"
        yield "  - name: the first sample, with another plate"
        if self.charset is None:
            yield from lines_of("event", event, 4)
        else:
            yield f"    raw: {scalar(self._encoded(event).decode())}"
        expected = [self._expected(book, item) for item in items]
        yield from lines_of("expect", expected[0] if len(expected) == 1 else expected, 4)

    def _encoded(self, message: object) -> bytes:
        """As the test sends it: where UTF-8 is not expected, with nothing but ASCII in it."""
        value = event_bytes(message)
        if self.charset is None:
            return value
        text = value.decode()
        return "".join(
            character if character.isascii() else _escaped(character) for character in text
        ).encode()

    def _expected(self, book: RuleBook, item: Order | Finding) -> dict[str, object]:
        plan = book.plan(item) if isinstance(item, Order) else item
        values = item.values or {}
        told = {
            name: values[name] if type(values[name]) is int else text_of(values, name)
            for name in _TOLD
            if name in values
        }
        shown_values = {"values": told} if told else {}
        if isinstance(plan, CouponRequest):
            return {"rule": plan.rule, **shown_values}
        return {"outcome": str(plan.outcome), "reason": str(plan.reason), **shown_values}

    def _masked(self, text: str) -> str:
        """Whatever the way by which a plate got there, such as an order number that is made of it."""
        for plate in sorted(self.real, key=len, reverse=True):
            if plate != PLATE and _LETTERS_AND_DIGITS.fullmatch(plate):
                text = re.sub(re.escape(plate), plates.mask(plate), text, flags=re.IGNORECASE)
        return "\n".join(LIKE_A_PLATE.sub(_hidden, line) for line in text.split("\n"))


def _hidden(match: re.Match[str]) -> str:
    return match[0] if plates.normalise(match[0]) == PLATE else plates.mask(match[0])


_TOLD = ("order_id", "started_at", "ended_at", "energy_wh", "minutes")

_SHADOW = "nothing in the samples surely tells that a charge has ended: say where its end stands, or what a finished one has"
_STORE = f"{TO_FILL_IN}STORE-"
_ANY_STATION = "no field is known to be the station: as it is, a coupon is granted for whatever station a charge was at, all with one lot's code; name the field as `station_id` in the source"
_BY_CONNECTOR = "no field is known to be the station: as it is, charges at the connectors of the samples get a coupon with one lot's code, and those at any other end as `invalid`; name the field as `station_id` in the source"
_LONGEST_OF_A_STATION = 3

_ACCOUNTS = (
    "accounts:",
    "  main:",
    f"    # {TO_CONFIRM} fill in what the parking platform has allotted to you.",
    f"    app_id: {TO_FILL_IN}APP-ID",
    "    secret: main               # the secret's name; the settings hold the secret itself",
    f"    api_type: {TO_FILL_IN}API-TYPE",
)


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
