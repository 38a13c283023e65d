"""Bytes -> JSON, and where in it a value stands. Performs no I/O.

Numbers stay exact and nothing is guessed. A value that is missing, null or empty text
is absent; 0 and false are values.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import NoReturn

import msgspec

from consumer.core import likenesses
from consumer.core.events import Headers
from consumer.core.outcomes import Reason
from consumer.core.templates import Template
from consumer.core.values import Frozen

_UNROUNDED = range(-40, 1)  # exponents of numbers that were written with all their digits
_LARGEST_DOUBLE = 2**53  # beyond it a number with a point has lost digits somewhere
_BOM = b"\xef\xbb\xbf"


# -- Decode -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Refusal:
    """Bytes that are no event, and why."""

    reason: Reason
    detail: str


decoder = msgspec.json.Decoder(float_hook=Decimal)
"""Exact: orjson turns a 27-digit order number into a float."""

UNDECODABLE = (RecursionError, msgspec.DecodeError, UnicodeDecodeError, InvalidOperation)
"""What it raises where `decode` has to say why, or can mend it."""


def decode(value: bytes | str) -> object | Refusal:
    """JSON with its numbers exact: whole ones as int, others as Decimal. Of repeated keys the last wins."""
    if isinstance(value, str):
        value = value.encode("utf-8", "surrogatepass")
    try:
        event: object = decoder.decode(value)
    except RecursionError:
        return Refusal(Reason.TOO_DEEP, "objects or lists are nested too deeply")
    except (msgspec.ValidationError, InvalidOperation):
        return Refusal(Reason.OVERFLOW, "a number has too many digits")
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if not value.startswith(_BOM):
            plain = value.removeprefix(b"\x1e").rstrip(
                b"\0"
            )  # a sequence's separator; a buffer of fixed length
            if plain != value and plain[:1] in (b"{", b"["):
                return decode(plain)
            return _explain_or_mend(value, str(error))
        while value.startswith(_BOM):
            value = value.removeprefix(_BOM)
        return decode(value)
    return event


def _explain_or_mend(value: bytes, complaint: str) -> object | Refusal:
    """The slow path of what msgspec refuses: say why, or read it without its broken characters."""
    try:
        text = value.decode()
    except UnicodeDecodeError as error:
        like = likenesses.of_bytes(value)
        if value.lstrip()[:1] in (b"{", b"[", b'"'):
            like = like or "if it is of another charset, such as GBK, see `charset` of `envelope`"
            return Refusal(Reason.NOT_TEXT, f"not UTF-8 at byte {error.start} ({like})")
        return Refusal(Reason.NOT_JSON, f"neither JSON nor text ({like or likenesses.BINARY})")
    try:
        json.loads(text, parse_constant=_refuse_constant)
        # What is left are halves of surrogate pairs, from names that were cut: they cannot be encoded again.
        event: object = decoder.decode(_ESCAPE.sub(_mend, text))
    except _NotFiniteError as error:
        return Refusal(Reason.NOT_FINITE, f"{error} is not a number of JSON")
    except RecursionError:
        return Refusal(Reason.TOO_DEEP, "objects or lists are nested too deeply")
    except (ValueError, InvalidOperation) as error:
        place = error.pos if isinstance(error, json.JSONDecodeError) else len(text)
        like = likenesses.of_bytes(value) or likenesses.of_text(text, place)
        detail = f"not JSON: {complaint}{f' ({like})' if like else ''}" if text.strip() else "empty"
        return Refusal(Reason.NOT_JSON, detail)
    return event


class _NotFiniteError(ValueError):
    pass


def _refuse_constant(name: str) -> NoReturn:
    raise _NotFiniteError(name)


_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u([dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)


def _mend(escape: re.Match[str]) -> str:
    return "\\ufffd" if escape.group(1) else escape.group()


# -- An event ---------------------------------------------------------------------------------------


class Event(Frozen):
    """A decoded record.

    Attributes:
        body: what is read, once the envelope is off.
        message: the record's whole JSON.
        key: the record's.
        headers: the record's.
        above: what the list of rows stands in, where those come from several lists.

    """

    body: object
    message: object = None
    key: bytes | None = None
    headers: Headers = ()
    above: object = None

    def header(self, name: str) -> str | None:
        """The last header of this name, in any case, as text."""
        wanted = name.casefold()
        found = next((value for key, value in reversed(self.headers) if key.casefold() == wanted), None)
        try:
            return None if found is None else found.decode()
        except UnicodeDecodeError:
            return None


# -- Find -------------------------------------------------------------------------------------------

_STEP = re.compile(
    r"\[(-?\d{1,6})\]|\[(\*)\]|\[([^\[\]=\"]*=[^\[\]]*)\]|\[\"([^\"]*)\"\]|(?:^|\.)([^.\[\]\"]+)"
)
_ROOT = re.compile(r"\$(message|headers|key|above)?(?=$|[.\[])")
_NEXT_CONDITION = re.compile(r",(?=[^,=]+=)")


@dataclass(frozen=True, slots=True)
class _Items:
    """The items of a list that fulfil all conditions: a name's way, and the texts that it may have there."""

    conditions: tuple[tuple[tuple[str, ...], frozenset[str]], ...] = ()

    @classmethod
    def parse(cls, text: str) -> "_Items":
        conditions = []
        for condition in _NEXT_CONDITION.split(text):
            name, _, values = condition.partition("=")
            way = tuple(part.strip() for part in name.split(".")) if name else ()
            conditions.append((way, frozenset(value.strip() for value in values.split("|"))))
        return cls(tuple(conditions))

    def among(self, items: object) -> Iterator[object]:
        if isinstance(items, dict) and items and all(map(str.isdecimal, items)):
            items = list(items.values())  # places that became names
        # A converter from XML writes a list of one as the one.
        for item in items if isinstance(items, list) else [items]:
            if all(any(text in texts for text in _texts_at(item, way)) for way, texts in self.conditions):
                yield item


def _texts_at(item: object, way: tuple[str, ...]) -> Iterator[str]:
    """What stands there, through any item of the lists on the way; empty text where nothing does."""
    if isinstance(item, list) and item:
        if way and way[0].isdecimal():  # `[0=plate]`: its first is that
            yield from _texts_at(item[int(way[0])] if int(way[0]) < len(item) else None, way[1:])
            return
        for inner in item:
            yield from _texts_at(inner, way)
    elif way and isinstance(item, dict):
        yield from _texts_at(item.get(way[0]), way[1:])
    else:
        yield "" if way else scalar_text(item) or ""


@dataclass(frozen=True, slots=True)
class _Each:
    """All that an object's names lead to."""


_Step = str | int | _Items | _Each


@dataclass(frozen=True, slots=True)
class Path:
    """Where in a row a value stands.

    `cdr_location.id`, `list[0].id`, `list[-1].id`, `["a.b"]`; `list[*].id` is the first that
    there is in any item, `usage[type=ENERGY].volume` in those items whose type is that
    (`[a=1|2,b.c=]`: 1 or 2, and no b.c; `[0=a][1]` of lists: the second where the first is a; `[=a]` of texts: those that are a). `$` is the whole event, `$.header.id` a place in it,
    also where the row is a part of it; `$message` the record's JSON with its envelope,
    `$headers.name` a Kafka header, `$key` the record's key (`$key.id` where it is JSON);
    `$above` the item that the way to the rows last went through. `orders.*` is all that an object's
    names lead to, whichever these are, and `$above.key` the name. Text on the way is JSON again.

    Attributes:
        text: as written.
        many: it can lead to several values.
        name: set where it is no more than a name in the row.
        whole: it is `$`, the event itself.

    """

    text: str
    _root: str | None
    _steps: tuple[_Step, ...]
    many: bool
    name: str | None = None
    whole: bool = False

    @classmethod
    def parse(cls, text: str) -> "Path":
        """Raises ValueError."""
        match = _ROOT.match(text)
        root = None if match is None else match[1] or "event"
        rest = text if match is None else text[match.end() :].removeprefix(".")
        steps: list[_Step] = []
        position = 0
        while position < len(rest):
            match = _STEP.match(rest, position)
            if match is None:
                raise ValueError(f"`{text}` is no path: see character {position + 1}")
            index, each, conditions, quoted, plain = match.groups()
            if index is not None:
                steps.append(int(index))
            elif each is not None or conditions is not None:
                steps.append(_Items.parse(conditions) if conditions else _Items())
            else:
                steps.append(_Each() if plain == "*" else plain if plain is not None else quoted)
            position = match.end()
        if (not steps and root in (None, "headers")) or rest.startswith("."):
            raise ValueError(f"`{text}` is no path: it leads nowhere")
        many = any(isinstance(step, _Items | _Each) for step in steps)
        name = steps[0] if root is None and len(steps) == 1 and isinstance(steps[0], str) else None
        return cls(text, root, tuple(steps), many, name, whole=root == "event" and not steps)

    def find(self, row: object, event: Event) -> object:
        """The value there; None where there is none, or null."""
        if self.name is not None:
            return row.get(self.name) if isinstance(row, dict) else None
        if self.whole:
            return event.body
        here, steps = (row, self._steps) if self._root is None else self._start(event)
        if self.many:
            return next(_walk(here, steps), None)
        for step in steps:
            if isinstance(step, str):
                here = here.get(step) if isinstance(here, dict) else _named(here, step)
            else:
                here = _item(here, step)
            if here is None:
                return None
        return here

    def find_all(self, row: object, event: Event) -> Iterator[object]:
        """The values there: more than one only with `[*]` and conditions."""
        if self.many:
            here, steps = (row, self._steps) if self._root is None else self._start(event)
            yield from _walk(here, steps)
        else:
            yield self.find(row, event)

    def find_rows(self, event: Event) -> Iterator[tuple[object, object]]:
        """All values there, each with the item that the way last went through."""
        here, steps = (event.body, self._steps) if self._root is None else self._start(event)
        yield from _walk_below(here, steps, event.above)

    def finds_empty_list(self, event: Event) -> bool:
        """There is a list on its way, or an object, with nothing in it to go through."""
        here, steps = (event.body, self._steps) if self._root is None else self._start(event)
        for step in steps:
            if isinstance(step, _Items | _Each):
                return opened(here) in ([], {})
            here = _named(here, step) if isinstance(step, str) else _item(here, step)
        return False

    @property
    def is_positional(self) -> bool:
        """It begins with a place in a list, which the row then is."""
        return self._root is None and isinstance(self._steps[0], int)

    def _start(self, event: Event) -> tuple[object, tuple[_Step, ...]]:
        match self._root:
            case "event":
                return event.body, self._steps
            case "message":
                return event.message, self._steps
            case "headers":
                return event.header(str(self._steps[0])), self._steps[1:]
            case "above":
                return event.above, self._steps
            case _:
                return _key(event.key or b"", whole=not self._steps), self._steps


def _walk(here: object, steps: tuple[_Step, ...]) -> Iterator[object]:
    return (value for value, _ in _walk_below(here, steps, None))


def _walk_below(here: object, steps: tuple[_Step, ...], above: object) -> Iterator[tuple[object, object]]:
    for number, step in enumerate(steps):
        here = opened(here)
        if isinstance(here, Refusal):
            break
        if isinstance(step, _Items):
            for item in step.among(here):
                yield from _walk_below(item, steps[number + 1 :], opened(item))
            return
        if isinstance(step, _Each):
            for name, item in here.items() if isinstance(here, dict) else ():
                yield from _walk_below(item, steps[number + 1 :], {"key": name})
            return
        here = _named(here, step) if isinstance(step, str) else _item(here, step)
        if here is None:
            return
    yield here, above


def _named(here: object, name: str) -> object:
    """In text too, which is JSON then; what is broken is told of, since it may be what is looked for."""
    here = opened(here)
    return here.get(name) if isinstance(here, dict) else here if isinstance(here, Refusal) else None


def _item(items: object, step: _Step) -> object:
    """Of an object too, which may be the list's only item, or a list whose places have become names."""
    items = opened(items)
    if isinstance(items, Refusal):
        return items
    if not isinstance(items, list | dict) or not isinstance(step, int):
        return None
    if isinstance(items, list):
        return items[step] if -len(items) <= step < len(items) else None
    name = str(step if step >= 0 else len(items) + step)
    return items.get(name, items if step in (0, -1) else None)


def opened(found: object) -> object:
    """What stands there; text that begins like JSON is JSON, or a Refusal."""
    if isinstance(found, str) and found.lstrip()[:1] in ("{", "["):
        return decode(found)
    return found


def _key(key: bytes, *, whole: bool) -> object:
    """A record's key: JSON where a path leads into it, else its text."""
    try:
        text = key.decode()
    except UnicodeDecodeError:
        return None
    decoded = decode(key) if not whole or text.startswith('"') else text
    return None if isinstance(decoded, Refusal) else decoded


def scalar_text(value: object) -> str | None:
    """A scalar as text, so that 3, "3" and 3.0 compare equal; None for absent values, objects and lists.

    None too for a number like 1.2E+26: somebody has rounded it, and other orders' numbers to the same.
    """
    match value:
        case str():
            return value.strip() or None
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case Decimal():
            return _decimal_text(value) if value.as_tuple().exponent in _UNROUNDED else None
        case _:
            return None


def _decimal_text(number: Decimal) -> str | None:
    if number != number.to_integral_value():
        return f"{number:f}"
    # A whole number with a point went through a double.
    return str(int(number)) if abs(number) <= _LARGEST_DOUBLE else None


def found_at(paths: tuple[Path, ...], row: object, event: Event) -> Iterator[object]:
    """The values at these paths that are not absent, in order."""
    for path in paths:
        for value in path.find_all(row, event):
            if value is not None and not (isinstance(value, str) and not value.strip()):
                yield value


def first_at(paths: tuple[Path, ...], row: object, event: Event) -> object:
    """The first of these; None where there is none."""
    for path in paths:
        if path.many:
            found = next(found_at((path,), row, event), None)
            if found is not None:
                return found
            continue
        value = path.find(row, event)
        if value is not None and not (isinstance(value, str) and not value.strip()):
            return value
    return None


_OR = re.compile(r"\|(?![^\[]*\])")


def alternatives(placeholder: str) -> list[str]:
    """The paths of a template's placeholder: `{id|number}`."""
    return [path.strip() for path in _OR.split(placeholder)]


@lru_cache(maxsize=1024)
def _paths_of(placeholder: str) -> tuple[Path, ...]:
    return tuple(map(Path.parse, alternatives(placeholder)))


def placed_text(placeholder: str, row: object, event: Event) -> str | None:
    """What a template's placeholder leads to, as text."""
    return scalar_text(first_at(_paths_of(placeholder), row, event))


def fill_paths(template: Template, row: object, event: Event) -> str | None:
    """A template whose placeholders are paths; None where one leads nowhere."""
    text, missing = template.fill(lambda placeholder: placed_text(placeholder, row, event))
    return None if missing is not None else text
