"""Rules with mistakes in their shape -> the nearest ones without, so that what else is wrong is told too. No I/O.

What comes of it is never used as rules.
"""

from collections.abc import Iterator, Mapping
from copy import copy, deepcopy
from itertools import islice
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from consumer.core.slices import ITEMS, Breathe, let_go
from consumer.rulebook.bundle import Bundle, Location, close_to, explained, location_of, shown
from consumer.rulebook.model import RulesModel, known_keys

_ROUNDS = 8
_FILLERS: dict[str, object] = {
    "version": 1,
    "app_id": "x",
    "secret": "x",
    "api_type": "x",
    "paths": "x",
    "reason": "policy",
    "stations": ["x"],
    "value": "0",
    "expect": {},
}
"""Something valid for each key that cannot be left out; names are made up one by one."""


def validated(bundle: Bundle, breathe: Breathe) -> RulesModel | None:
    """The rules, or, with their mistakes added to the bundle's, such as would have none; None where they cannot be guessed."""
    mending: _Mending | None = None
    data = bundle.data
    for _ in range(_ROUNDS):
        model, mistakes = _checked(data, breathe)
        if model is not None:
            return model
        mending = mending or _Mending(bundle)
        data = mending.data
        # A key that is only misspelled is not missing too.
        for details in sorted(mistakes, key=lambda details: details["type"] == "missing"):
            mending.mend(details)
    return None


def _checked(data: Mapping[str, object], breathe: Breathe) -> tuple[RulesModel | None, list[ErrorDetails]]:
    """The rules, or what is wrong with them: pydantic checks what it is given in one go, so it is given a little at a time."""
    long = {name: content for name, kind in _LONG.items() if isinstance(content := data.get(name), kind)}
    model, mistakes = _checked_at_once({**data, **{name: type(content)() for name, content in long.items()}})
    checked: dict[str, Any] = {}
    for name, content in long.items():
        checked[name] = found = type(content)()
        for start, some in _slices(content, breathe):
            part, wrong = _checked_at_once({"version": 1, name: some})
            mistakes += (_shifted(details, start) for details in wrong)
            if part is not None:
                more = getattr(part, name)
                found.update(more) if isinstance(found, dict) else found.extend(more)
    if model is not None and not mistakes:
        return model.model_copy(update=checked), []
    let_go([*checked.values()], breathe)
    return None, mistakes


_LONG: dict[str, type[dict[Any, Any] | list[Any]]] = {"stations": dict, "rules": list, "tests": list}


def _checked_at_once(data: Mapping[str, object]) -> tuple[RulesModel | None, list[ErrorDetails]]:
    try:
        return RulesModel.model_validate(data), []
    except ValidationError as error:
        return None, error.errors(include_url=False)


def _slices(content: Any, breathe: Breathe) -> Iterator[tuple[int, Any]]:
    """So much of it as is checked in one go, with the number of its first item."""
    items = iter(content.items() if isinstance(content, dict) else content)
    for start in range(0, len(content), ITEMS):
        breathe()
        yield start, type(content)(islice(items, ITEMS))


def _shifted(details: ErrorDetails, start: int) -> ErrorDetails:
    """Of one of the slices, where it is in all of it."""
    section, number, *rest = details["loc"]
    return {**details, "loc": (section, number + start if isinstance(number, int) else number, *rest)}


class _Mending:
    def __init__(self, bundle: Bundle) -> None:
        self.data = {**bundle.data}
        self._bundle = bundle
        self._own = {id(self.data)}
        self._ours: set[Location] = set()
        self._made_up = 0

    def mend(self, details: ErrorDetails) -> None:
        location, is_key = location_of(details, self.data)
        written = self._reached(location, beyond=details["type"] == "missing")
        if details["type"] == "missing" and written in self._bundle.renamed:
            return
        made_up = any(location[:depth] in self._bundle.made_up for depth in range(1, len(location) + 1))
        if location not in self._ours and not made_up:  # else what is missing is what we took away
            self._bundle.problems.append(explained(details, self._bundle))
        if not written:
            return
        alone = written[-1] != location[-1]  # a text stands there, and not the mapping of one key that may
        location = written
        parent = self._at(location[:-1])
        last: Any = location[-1]
        if alone and details["type"] == "extra_forbidden":
            parent[last] = close_to(str(parent[last]), known_keys(location)) or "connect"
            self._bundle.made_up.add(location)
        elif details["type"] == "missing":
            parent[last] = self._filler(str(last))
            self._bundle.unsure_places.add(location[:-1])
            self._bundle.made_up.add(location)
        elif is_key or details["type"] == "extra_forbidden":
            self._rename(location, parent)
        elif details["type"] == "string_type" and not isinstance(details["input"], dict | list | None):
            parent[last] = shown(details["input"])
            self._ours.add(location)
        elif isinstance(parent, list):
            parent[last] = {} if details["type"] in ("model_type", "dict_type") else "x"
            self._ours |= {(*location, key) for key in known_keys(location)}
            self._bundle.made_up.add(location)
        else:
            parent.pop(last, None)
            self._ours.add(location)
            self._bundle.unsure_places |= {location, location[:-1]}

    def _rename(self, location: Location, parent: Any) -> None:
        """What is written wrongly goes on as what was probably meant."""
        written = str(location[-1])
        close = close_to(written, known_keys(location[:-1]))
        content = parent.pop(written)
        if close is None or close in parent:
            self._bundle.unsure_names.add(written)
            return
        parent[close] = content
        self._bundle.renamed[*location[:-1], close] = written

    def _filler(self, key: str) -> object:
        self._made_up += 1
        return deepcopy(_FILLERS.get(key, f"x{self._made_up}"))

    def _reached(self, location: Location, *, beyond: bool) -> Location:
        """The location without the steps that are not written: the list around an item that stands alone, `paths` above one path.

        `beyond`: its last step is kept, since it names what is missing.
        """
        here: Any = self.data
        found: list[str | int] = []
        for depth, part in enumerate(location):
            if part in (
                here if isinstance(here, dict) else range(len(here) if isinstance(here, list) else 0)
            ):
                here = here[part]
            elif not (beyond and depth == len(location) - 1 and isinstance(here, dict)):
                continue
            found.append(part)
        return tuple(found)

    def _at(self, location: Location) -> Any:
        """What is there, to be changed: it, and all that is around it, are copied first."""
        here: Any = self.data
        for part in location:
            if id(here[part]) not in self._own:
                here[part] = copy(here[part])
                self._own.add(id(here[part]))
            here = here[part]
        return here
