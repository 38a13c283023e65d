"""Settings file and environment -> one tree of values, each with its place. Reads the file."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import get_origin

from consumer.core.documents import Document, DocumentError
from consumer.core.errors import ConfigurationError, Problem
from consumer.settings.model import DEFAULT, Group, Location, Settings, one_problem
from consumer.settings.values import PREFIX, canonical

FILE_VARIABLE = f"{PREFIX}SETTINGS"
"""Names the settings file itself; the command line reads it."""


class Sources:
    """The merged tree, and where each of its values stands."""

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self.tree: dict[str, object] = {}
        self.places: dict[Location, str] = {}

    def place(self, location: Location) -> str:
        """Where the value stands, else its group, else what is within it, else the file, else its variable."""
        for length in range(len(location), 0, -1):
            if location[:length] in self.places:
                return self.places[location[:length]]
        for inner, place in self.places.items():
            if inner[: len(location)] == location:
                return place
        return str(self.file) if self.file is not None else variable_of(location)

    def told(self, location: Location) -> str:
        """Where the value was set."""
        written = (location[:length] for length in range(len(location), 0, -1))
        setting = next((part for part in written if isinstance(part[-1], str)), location)
        return self.places.get(location) or self.places.get(setting, DEFAULT)


def read_file(file: Path, sources: Sources) -> None:
    """The file becomes the tree. Raises ConfigurationError."""
    try:
        document = Document(file.read_text("utf-8-sig"), str(file))
    except DocumentError as error:
        raise ConfigurationError(error.problems) from None
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8"
        remedy = "name a readable settings file in UTF-8"
        raise one_problem(str(file), f"cannot be read: {why}", remedy) from None
    match document.data:
        case None:
            return
        case dict() as tree:
            sources.tree = tree
        case _:
            raise one_problem(f"{file}:1:1", "is not a mapping", "write `kafka:`, `gateway:` ... at the top")
    for location in _locations(document.data, ()):
        line, column = document.key_spot(location)
        sources.places[location] = f"{file}:{line}:{column}"
        if location[0] == "secrets" and len(location) == 2:
            sources.places["secrets", canonical(str(location[1]))] = sources.places[location]


def _locations(value: object, here: Location) -> Iterator[Location]:
    match value:
        case dict():
            steps = list(value.items())
        case list():
            steps = list(enumerate(value))
        case _:
            return
    for step, inner in steps:
        yield (*here, step)
        yield from _locations(inner, (*here, step))


def anchor_paths(file: Path, sources: Sources) -> None:
    """A path in the file is relative to the file, wherever the command is started."""
    for *groups, name in _paths(Settings, ()):
        group: object = sources.tree
        for part in groups:
            group = group.get(part) if isinstance(group, dict) else None
        path = group.get(name) if isinstance(group, dict) else None
        if isinstance(group, dict) and isinstance(path, str) and path:
            group[name] = str(file.parent / path)


def _paths(group: type[Group], here: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Which settings are paths."""
    for name, field in group.model_fields.items():
        if field.annotation in {Path, Path | None}:
            yield (*here, name)
        elif isinstance(field.annotation, type) and issubclass(field.annotation, Group):
            yield from _paths(field.annotation, (*here, name))


def lay_over(environ: Mapping[str, str], sources: Sources) -> list[Problem]:
    """The environment wins over the tree."""
    problems: list[Problem] = []
    seen: dict[Location, str] = {}
    for variable in sorted(environ):
        if not variable.startswith(PREFIX) or variable == FILE_VARIABLE:
            continue
        location = tuple(variable.removeprefix(PREFIX).lower().split("__"))
        if location in seen:
            problems.append(Problem(variable, f"says the same as {seen[location]}", "remove one of the two"))
            continue
        seen[location] = variable
        *groups, name = location
        group: object = sources.tree
        for part in groups:
            group = group.setdefault(part, {}) if isinstance(group, dict) else None
        if isinstance(group, dict):  # else the file is wrong there, and pydantic says so
            group[name] = environ[variable]
            for inner in [place for place in sources.places if place[: len(location)] == location]:
                del sources.places[inner]  # what the file has within it counts no more
            sources.places[location] = variable
    return problems


def near_misses(environ: Mapping[str, str]) -> list[Problem]:
    """Variables that set nothing, and were meant to: one underscore too few, or small letters.

    Not those that Kubernetes makes of a service's name, such as `CHARGING_COUPON_PORT_8080_TCP`.
    """
    found: list[Problem] = []
    for variable in sorted(environ):
        if variable.startswith(PREFIX) or not variable.upper().startswith(_NAME):
            continue
        written = variable.upper().removeprefix(_NAME).lstrip("_")
        meant = PREFIX + written
        if meant == FILE_VARIABLE or _is_setting(tuple(written.lower().split("__"))):
            found.append(Problem(variable, "sets nothing", f"did you mean {meant}?"))
        elif variable.upper().startswith(PREFIX):
            found.append(Problem(variable, "sets nothing", f"capitals count: {meant}"))
    return found


_NAME = PREFIX.rstrip("_")


def _is_setting(location: Location) -> bool:
    group: object = Settings
    for part in location:
        if group is dict:
            return True
        fields = group.model_fields if isinstance(group, type) and issubclass(group, Group) else {}
        if part not in fields:
            return False
        kind = fields[str(part)].annotation
        group = get_origin(kind) or kind
    return not (isinstance(group, type) and issubclass(group, Group | dict))


def variable_of(location: Location) -> str:
    """The variable that sets it."""
    return PREFIX + "__".join(str(part).upper() for part in location)
