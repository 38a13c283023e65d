"""A mistake as pydantic sees it -> in our words, with its place and what the setting takes. Performs no I/O."""

import difflib
import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Literal, cast, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic import BeforeValidator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from consumer.core.errors import Problem
from consumer.settings.model import Location, group_at
from consumer.settings.sources import Sources, variable_of
from consumer.settings.values import BYTES, SECONDS, duration_seconds, in_largest, size_bytes


def in_words(details: ErrorDetails, sources: Sources) -> Iterator[Problem]:
    """One mistake as pydantic sees it -> in words, with its place."""
    location: Location = details["loc"]
    name = ".".join(str(part) for part in location)
    match details["type"]:
        case "disagreement":
            for finding in details["ctx"]["findings"]:
                path = finding.other if finding.path not in sources.places else finding.path
                place = sources.place(path if path in sources.places else finding.path)
                yield Problem(place, f"{'.'.join(finding.path)} {finding.message}", finding.remedy)
        case "missing":
            for leaf in _required(location):
                yield Problem(
                    sources.place(leaf),
                    f"{'.'.join(str(part) for part in leaf)} is missing",
                    f"set it in the settings file or as {variable_of(leaf)}",
                )
        case "extra_forbidden":
            yield Problem(sources.place(location), f"there is no setting {name}", _nearest(location))
        case "value_error":
            message, _, remedy = str(details["ctx"]["error"]).partition("; ")
            yield Problem(sources.place(location), f"{name}: {message}", remedy)
        case "model_type" | "dict_type":
            known = ", ".join(group_at(location).model_fields)
            remedy = "write `name: text` beneath it" if name == "secrets" else f"known beneath it: {known}"
            yield Problem(sources.place(location), f"{name} is a group of settings, not a value", remedy)
        case kind:
            wanted = _wanted(location)
            what = _WRONG.get(kind) or f"is not {re.split(' from | above |, ', wanted)[0]}"
            yield Problem(sources.place(location), f"{name}: {what}", f"write {wanted}")


_WRONG = {
    **dict.fromkeys(
        ("greater_than", "greater_than_equal", "less_than", "less_than_equal"), "is out of bounds"
    ),
    **dict.fromkeys(("too_short", "string_too_short"), "is empty"),
    **dict.fromkeys(("literal_error", "enum"), "no such choice"),
}
_TEXT = "text, in quotes where it looks like something else"


def _wanted(location: Location) -> str:
    """What a setting takes: `a duration above 0s to 7d`."""
    field = _field_at(location)
    if field is None:
        return _TEXT
    converters = {step.func for step in field.metadata if isinstance(step, BeforeValidator)}
    if duration_seconds in converters:
        return f"a duration{_bounds(field, SECONDS)}"
    if size_bytes in converters:
        return f"a size{_bounds(field, BYTES)}"
    kind: object = field.annotation
    if type(None) in get_args(kind):
        kind = get_args(kind)[0]
    if choices := get_args(kind) if get_origin(kind) is Literal else _members(kind):
        return f"one of {', '.join(map(str, choices))}"
    words: dict[object, str] = {
        int: f"a whole number{_bounds(field, {'': 1})}",
        bool: "true or false",
        Path: "a path, as text",
        tuple: "one or more names, in a list or separated by commas",
    }
    return words.get(get_origin(kind) or kind, _TEXT)


def _members(kind: object) -> list[str]:
    return [str(member) for member in kind] if isinstance(kind, type) and issubclass(kind, StrEnum) else []


def _bounds(field: FieldInfo, units: Mapping[str, float]) -> str:
    low, high = "", ""
    for step in field.metadata:
        match step:
            case Ge(ge=bound):
                low = f" from {in_largest(cast('float', bound), units)}"
            case Gt(gt=bound):
                low = f" above {in_largest(cast('float', bound), units)}"
            case Le(le=bound):
                high = f" to {in_largest(cast('float', bound), units)}"
    return low + high


def _required(location: Location) -> Iterator[Location]:
    """A group that is missing lacks those of its settings that have no default."""
    group = group_at(location)
    if group is group_at(location[:-1]):
        yield location
        return
    for name, field in group.model_fields.items():
        if field.is_required():
            yield from _required((*location, name))


def _nearest(location: Location) -> str:
    known = list(group_at(location[:-1]).model_fields)
    close = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {'.'.join(str(part) for part in (*location[:-1], close[0]))}?"
    return f"known here: {', '.join(known)}"


def _field_at(location: Location) -> FieldInfo | None:
    """The setting there, also from within its value."""
    names = [part for part in location if isinstance(part, str)]
    for length in range(len(names), 0, -1):
        field = group_at(tuple(names[: length - 1])).model_fields.get(names[length - 1])
        if field is not None:
            return field
    return None
