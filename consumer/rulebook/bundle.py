"""Several rules documents as one, and where each part of it came from. Performs no I/O."""

import re
from collections.abc import Collection, Iterator, Sequence
from decimal import Decimal
from difflib import get_close_matches
from typing import Any, Protocol

from pydantic_core import ErrorDetails

from consumer.core.documents import Document
from consumer.core.errors import ConfigurationError, Problem
from consumer.rulebook.model import FIELD_NAME, NAME, URL, known_keys

Location = tuple[str | int, ...]
"""The keys and indexes that lead to a part of the rules."""


class StationLines(Protocol):
    """A file of stations (`stations.StationTable`)."""

    @property
    def stations(self) -> Collection[str]:
        """By id."""

    def line(self, station: str) -> str:
        """`file:line`."""


class Bundle:
    """Several documents as one, and where each part of it came from.

    Attributes:
        data: the sections merged; lists one after the other.
        problems: all that was found, in every stage.
        renamed: keys that were taken for other ones (`mending`), by where these would stand.
        station_lines: of stations that stand in files of their own.
        made_up: places where `mending` put something in that the file lacks.
        unsure_places: places around these, and around what it left out. What is wrong there is no fault of the file.
        unsure_names: keys that it left out. What is said of a name like these is no fault of the file either.

    """

    def __init__(self, documents: Sequence[Document]) -> None:
        self.data: dict[str, object] = {}
        self.problems: list[Problem] = []
        self.renamed: dict[Location, str] = {}
        self.made_up: set[Location] = set()
        self.unsure_places: set[Location] = set()
        self.unsure_names: set[str] = set()
        self.station_lines: list[StationLines] = []
        self._documents = documents
        self._merged: set[str] = set()
        self._starts: dict[str, list[tuple[int, Document]]] = {}
        for number, document in enumerate(documents):
            self._add(document, documents[:number])

    def _add(self, document: Document, before: Sequence[Document]) -> None:
        if not isinstance(document.data, dict):
            self.problems.append(_no_mapping(document))
            raise ConfigurationError(self.problems)
        for section, content in document.data.items():
            if content is None:  # a heading without anything under it
                continue
            present = self.data.get(section)
            if isinstance(content, dict) and isinstance(present, dict):
                if section not in self._merged:  # it is another document's own, and stays as it is
                    present = self.data[section] = {**present}
                    self._merged.add(section)
                for key in content:
                    other = _with(section, key, before) if key in present else None
                    if other is not None:
                        self._twice(document, (section, key), other)
                present.update(content)
            elif isinstance(content, list) and isinstance(present, list | None):
                items = present if present is not None else []
                self._starts.setdefault(section, []).append((len(items), document))
                self.data[section] = items
                items += content
            else:
                self.data[section] = content

    def _twice(self, document: Document, location: Location, other: Document) -> None:
        line, column = document.key_spot(location)
        self.problems.append(
            Problem(
                f"{document.place}:{line}:{column}",
                f"`{location[1]}` stands in {other.place} too",
                "keep one",
            )
        )

    def parts(self) -> list[object]:
        """The sections, for whoever wants to empty them little by little."""
        return [*self.data.values()]

    def file(self, location: Location) -> str:
        """The document in which this is."""
        return self._find(location)[0].place

    def place(self, location: Location, *, key: bool = False) -> str:
        """Where this is: `file:line:column`."""
        if location[:1] == ("stations",) and location[1:2]:
            for lines in self.station_lines:
                if location[1] in lines.stations:
                    return lines.line(str(location[1]))
        document, path = self._find(location)
        line, column = document.key_spot(path) if key else document.spot(path)
        return f"{document.place}:{line}:{column}"

    def remarks(self, beginning: str) -> Iterator[str]:
        """`file:line:column` of each comment that begins so."""
        for document in self._documents:
            for line, column in document.remarks(beginning):
                yield f"{document.place}:{line}:{column}"

    def written(self, location: Location) -> str | None:
        """The scalar there as it is written, `0017` and not 17."""
        document, path = self._find(location)
        return document.written(path)

    def name(self, location: Location) -> str:
        """`rules[1].skip of the rule `standard``; where there is no name, `rules[0].skip (the first rule)`."""
        document, path = self._find(location)
        path = document.written_path(path)
        text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
        text = text.removeprefix(".")
        number = next((depth for depth, part in enumerate(path) if isinstance(part, int)), None)
        if number is None:
            return text
        items: Any = document.data
        for part in path[:number]:
            items = items.get(part) if isinstance(items, dict) else None
        if not isinstance(items, list):  # what is missing has no name
            return text
        item = items[int(path[number])]
        kind = _ITEMS.get(str(path[number - 1]), "item")
        if isinstance(item, dict) and isinstance(item.get("name"), str):
            return f"{text} of the {kind} `{shown(item['name'])}`"
        index = int(path[number])
        first = index < len(_ORDINALS)
        return f"{text} ({f'the {_ORDINALS[index]} {kind}' if first else f'{kind} number {index + 1}'})"

    def is_cut_off(self, location: Location) -> bool:
        """Whether a comma within `{...}` ended the text there, and made a key of what follows it."""
        document, path = self._find(location)
        here: Any = document.data
        for part in path[:-1]:
            known = here if isinstance(here, dict) else range(len(here) if isinstance(here, list) else 0)
            here = here[part] if part in known else None
        return isinstance(here, dict) and any(_is_rest(key, value) for key, value in here.items())

    def place_in_text(self, location: Location, line: int, column: int) -> str:
        """Where a line and column within the text at this location are."""
        document, path = self._find(location)
        line, column = document.text_spot(path, line, column)
        return f"{document.place}:{line}:{column}"

    def _find(self, location: Location) -> tuple[Document, Location]:
        if self.renamed:
            location = tuple(
                self.renamed.get(location[: depth + 1], part) for depth, part in enumerate(location)
            )
        if len(location) > 1:
            section, key, *rest = location
            if isinstance(key, int):
                starts = self._starts.get(str(section), [])
                for start, document in reversed(starts):
                    if start <= key:
                        return document, (section, key - start, *rest)
            else:
                holder = _with(str(section), key, self._documents)
                if holder is not None:
                    return holder, location
        for document in self._documents:
            if location and isinstance(document.data, dict) and location[0] in document.data:
                return document, location
        return self._documents[0], location

    def error(self) -> ConfigurationError:
        """All the problems, in the order in which they stand in the files."""
        return ConfigurationError(sorted(dict.fromkeys(self.problems), key=_order))

    def problem(self, location: Location, message: str, remedy: str, *, key: bool = False) -> None:
        """Add what was found there."""
        self.add(location, Problem(self.place(location, key=key), message, remedy))

    def add(self, location: Location, problem: Problem) -> None:
        """Add what was found there, unless that is because of another problem."""
        message = problem.message
        if location in self.unsure_places or any(
            location[:depth] in self.made_up for depth in range(1, len(location) + 1)
        ):
            return
        if any(f"`{name}`" in message or f"'{name}'" in message for name in self.unsure_names):
            return
        self.problems.append(problem)


def _with(section: str, key: str, documents: Sequence[Document]) -> Document | None:
    """The last one that has this key in this section: it is the one that counts."""
    for document in reversed(documents):
        content = document.data.get(section) if isinstance(document.data, dict) else None
        if isinstance(content, dict) and key in content:
            return document
    return None


CUT_OFF = "a comma ends a value in `{...}`: put it in quotes"
_LIKE_A_KEY = re.compile(r"[A-Za-z_][\w-]*", re.ASCII)


def _is_rest(key: str, value: object) -> bool:
    """Whether this key is most probably the rest of a text that a comma ended."""
    return value is None and _LIKE_A_KEY.fullmatch(key) is None


_ITEMS = {"rules": "rule", "tests": "test", "envelope": "step", "skip": "gate"}
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


def _no_mapping(document: Document) -> Problem:
    start = "start with `version: 1`, then `sources:`, `accounts:`, `rules:`"
    if document.data is None:
        return Problem(f"{document.place}:1:1", "no rules: there is nothing in it", start)
    if isinstance(document.data, list):
        return Problem(
            f"{document.place}:1:1",
            "no rules: a list, where keys are needed",
            f"{start} with the list of rules beneath it",
        )
    return Problem(
        f"{document.place}:1:1", f"no rules: {shown(document.data)!r}, where keys are needed", start
    )


_PLACE = re.compile(r"(.*?)(?::(\d+))?(?::(\d+))?", re.DOTALL)


def _order(problem: Problem) -> tuple[str, int, int]:
    match = _PLACE.fullmatch(problem.place)
    assert match is not None
    return match[1], int(match[2] or 0), int(match[3] or 0)


_SPELLINGS = {
    NAME: "start with a letter; use letters, digits, `_`, `-` and `.`, 64 at most",
    FIELD_NAME: "start with a small letter; use small letters, digits and `_`, 64 at most",
    URL: "write it like `https://host/path`",
}


def location_of(details: ErrorDetails, data: object) -> tuple[Location, bool]:
    """Where one of pydantic's errors is, and whether it is of the key: its place then ends in `[key]`, like that of such a key."""
    location = details["loc"]
    if location[-1:] != ("[key]",) or not details["type"].startswith("string_"):
        return location, False
    here: Any = data
    for part in location[:-1]:
        if part in (here if isinstance(here, dict) else range(len(here) if isinstance(here, list) else 0)):
            here = here[part]
    is_named_so = isinstance(here, dict) and "[key]" in here
    return (location, False) if is_named_so else (location[:-1], True)


def explained(details: ErrorDetails, bundle: Bundle) -> Problem:
    """One of pydantic's errors, in our words and with its place."""
    location, is_key = location_of(details, bundle.data)
    name = bundle.name(location)
    last = str(location[-1]) if location else ""
    given = details["input"]
    place = bundle.place(location)
    match details["type"]:
        case "extra_forbidden":
            place = bundle.place(location, key=True)
            message, remedy = f"unknown key `{last}`", _known_key(last, given, location)
        case "missing":
            place = bundle.place(location[:-1], key=True)
            message = f"{bundle.name(location[:-1]) or 'the file'} has no `{last}`"
            remedy = f"add `{last}`" if location != ("version",) else f"add {_VERSION}"
        case "literal_error" if location == ("version",):
            message = (
                f"version is {repr(given) if isinstance(given, str) else shown(given)}, and only 1 is known"
            )
            remedy = f"write {_VERSION}, not of your rules"
        case "literal_error" if last == "sum" and isinstance(given, str | list):
            message, remedy = f"{name} is `true`, or left out", _SUMS
        case "string_type" if not isinstance(given, dict | list | None):
            written = bundle.written(location) or shown(given)
            message, remedy = f"{name} is no text", f'put it in quotes: "{written}"'
        case "string_too_short" | "string_too_long" | "too_short":
            place = bundle.place(location, key=is_key)
            message = _of_length(details, f"{bundle.name(location[:-1])} has a key that" if is_key else name)
            remedy = "shorten it" if details["type"].endswith("long") else "write something, or leave it out"
        case "string_pattern_mismatch":
            place = bundle.place(location, key=is_key)
            message, remedy = f"`{given}` cannot stand here", _SPELLINGS[details["ctx"]["pattern"]]
        case "model_type" | "dict_type":
            message, remedy = f"{name} is no mapping", "give it keys and values"
        case "list_type" | "tuple_type":
            message, remedy = (
                f"{name} is no list",
                "write each of its entries on a line of its own after `- `",
            )
        case _:
            what = details["msg"].removeprefix("Value error, ").removeprefix("Input ").removeprefix("Value ")
            suffix = f", not {shown(given)}" if isinstance(given, str | int | Decimal | None) else ""
            message, remedy = f"{name}: {what}{suffix}", "correct it"
            expected = re.findall(r"'([^']*)'", details.get("ctx", {}).get("expected", ""))
            meant = close_to(given, expected) if isinstance(given, str) else None
            remedy = remedy if meant is None else f"did you mean `{meant}`?"
    return Problem(place, message, remedy)


def _known_key(key: str, value: object, location: Location) -> str:
    return CUT_OFF if _is_rest(key, value) else did_you_mean(key, known_keys(location[:-1]))


def _of_length(details: ErrorDetails, what: str) -> str:
    match details["type"]:
        case "string_too_long":
            return f"{what} is longer than {details['ctx']['max_length']} characters"
        case "too_short":
            return f"{what} is an empty list"
        case _:
            return f"{what} is empty"


_SUMS = (
    "`sum: true` adds the numbers at all places of one of `paths`, like `details[*].energy`; to add two places, make each a "
    "field of its own, with `type: money` (energy, duration) and its `unit`, and write `computed: ele_fen + svc_fen` instead"
)
_VERSION = "`version: 1`: it is the version of the file's form"


def shown(value: object) -> str:
    """A value as YAML has it, for a message."""
    text = {None: "null", True: "true", False: "false"}.get(value) if isinstance(value, bool | None) else None
    return text or str(value)[:60]


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """A remedy for a name that does not exist."""
    close = close_to(word, known)
    if close is not None:
        return f"did you mean `{close}`?"
    if not known:
        return "there is none to name yet"
    more = len(known) - _MOST_NAMES
    return f"known here: {', '.join(known[:_MOST_NAMES])}" + (f" and {more} more" if more > 0 else "")


def close_to(word: str, known: Sequence[str]) -> str | None:
    """The name that was probably meant."""
    alike = [name for name in known if name.casefold() == word.casefold()]
    if len(known) > _FEW_NAMES:  # comparing with each takes long
        known = [name for name in known if name[:2] == word[:2] or name[-2:] == word[-2:]][:_FEW_NAMES]
    return next(iter(alike or get_close_matches(word, known, n=1, cutoff=0.6)), None)


_MOST_NAMES, _FEW_NAMES = 50, 1000
