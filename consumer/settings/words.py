"""A mistake as pydantic sees it -> in our words, with its place and what the setting takes. Performs no I/O."""

import difflib
import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Literal, cast, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic import BeforeValidator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from consumer.core.errors import Problem
from consumer.settings.model import Finding, Location, dotted, group_at
from consumer.settings.sources import FILE_VARIABLE, Sources, variable_of
from consumer.settings.values import BYTES, NAMES_A_SECRET, SECONDS, duration_seconds, in_largest, size_bytes

RULES_PATH = (
    "the path of the YAML file with the coupon rules, or of a folder of such files: in the settings file "
    f"relative to its folder, in {variable_of(('rules',))} to the working directory"
)
STARTER = f"rules to start from are in {files('consumer') / 'sandbox' / 'demo-rules.yaml'}"


def in_words(details: ErrorDetails, sources: Sources) -> Iterator[tuple[Location, Problem]]:
    """One mistake as pydantic sees it -> the settings that it is about, each with the mistake in words."""
    location: Location = details["loc"]
    name = dotted(location)
    place = sources.place(location)
    match details["type"]:
        case "missing":
            for leaf in required(location):
                how = f"set it in the settings file or as {variable_of(leaf)}"
                if sources.file is None:
                    how = (
                        f"no settings file is named: add `--settings settings.yaml`, or set {FILE_VARIABLE}; "
                        f"without such a file, set {variable_of(leaf)}"
                    )
                remedy = f"set it to {RULES_PATH}; {STARTER}" if leaf == ("rules",) else how
                yield leaf, Problem(sources.place(leaf), f"{dotted(leaf)} is missing", remedy)
        case "extra_forbidden":
            yield location, Problem(place, f"there is no setting {name}", _nearest(location))
        case "value_error":
            message, _, remedy = str(details["ctx"]["error"]).partition("; ")
            quoted = "" if message.endswith("is listed twice") else _quoted(details, sources)
            yield _setting(location), Problem(place, f"{name}: {quoted}{message}", remedy)
        case "model_type" | "dict_type":
            known = ", ".join(group_at(location).model_fields)
            remedy = "write `name: text` beneath it" if name == "secrets" else f"known beneath it: {known}"
            given = _quoted(details, sources).rstrip() or "a value"
            yield location, Problem(place, f"{name} is a group of settings, not {given}", remedy)
        case kind:
            wanted = _wanted(location)
            what = _WRONG.get(kind) or f"is not {re.split(' from | above |, ', wanted)[0]}"
            given = "" if what == _EMPTY else _quoted(details, sources)
            yield _setting(location), Problem(place, f"{name}: {given}{what}", f"write {wanted}")


_EMPTY = "is empty"
_WRONG = {
    **dict.fromkeys(
        ("greater_than", "greater_than_equal", "less_than", "less_than_equal"), "is out of bounds"
    ),
    **dict.fromkeys(("too_short", "string_too_short"), _EMPTY),
    **dict.fromkeys(("literal_error", "enum"), "is no such choice"),
    "path_type": "is not a path",
}
_TEXT = "text, in quotes where it looks like something else"


def finding_in_words(finding: Finding, sources: Sources) -> Problem:
    """Settings that do not agree, at the place of one that was set."""
    path = finding.other if finding.path not in sources.places else finding.path
    place = finding.at or sources.place(path if path in sources.places else finding.path)
    return Problem(place, f"{dotted(finding.path)} {finding.message}", finding.remedy)


def _setting(location: Location) -> Location:
    """A list's item stands for its list, a secret for itself."""
    return tuple(part for part in location if isinstance(part, str))


def _quoted(details: ErrorDetails, sources: Sources) -> str:
    """The value as it was written, and a space; nothing where it is a secret, or could hold one."""
    location: Location = details["loc"]
    field = _field_at(location)
    if (
        location[0] == "secrets"
        or field is None
        or names_a_secret(field)
        or location == ("kafka", "security")
    ):
        return ""
    value: object = sources.tree
    for part in location:
        known = (
            value if isinstance(value, dict) else dict(enumerate(value)) if isinstance(value, list) else {}
        )
        value = known.get(part, details["input"])
    text = _shown(value)
    return "" if "@" in text else f"{text} "


def _shown(value: object) -> str:
    match value:
        case None:
            return "an empty value"
        case bool():
            return str(value).lower()
        case dict():
            return "a mapping"
        case list():
            return f"[{', '.join(map(_shown, value))}]"[:_LONGEST]
        case str():
            return repr(value if len(value) <= _LONGEST else f"{value[:_LONGEST]}...")
        case _:
            return str(value)[:_LONGEST]


_LONGEST = 60


def _wanted(location: Location) -> str:
    """What a setting takes: `a duration above 0s to 7d`."""
    field = _field_at(location)
    if field is None:
        return _TEXT
    converters = {step.func for step in field.metadata if isinstance(step, BeforeValidator)}
    if location == ("rules",):
        return RULES_PATH
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


def required(location: Location) -> Iterator[Location]:
    """A group that is missing lacks those of its settings that have no default."""
    group = group_at(location)
    if location and group is group_at(location[:-1]):
        yield location
        return
    for name, field in group.model_fields.items():
        if field.is_required():
            yield from required((*location, name))


def _nearest(location: Location) -> str:
    known = list(group_at(location[:-1]).model_fields)
    close = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {'.'.join(str(part) for part in (*location[:-1], close[0]))}?"
    return f"known here: {', '.join(known)}"


def names_a_secret(field: FieldInfo) -> bool:
    """Whether its value is the name of a secret."""
    kinds = [kind for kind in get_args(field.annotation) if hasattr(kind, "__metadata__")]
    return NAMES_A_SECRET in (*field.metadata, *(step for kind in kinds for step in kind.__metadata__))


def _field_at(location: Location) -> FieldInfo | None:
    """The setting there, also from within its value."""
    names = [part for part in location if isinstance(part, str)]
    for length in range(len(names), 0, -1):
        field = group_at(tuple(names[: length - 1])).model_fields.get(names[length - 1])
        if field is not None:
            return field
    return None
