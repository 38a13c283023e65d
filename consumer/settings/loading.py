"""Settings file, environment and secret files -> Settings, or all that is wrong with them. Reads the files."""

import os
from collections.abc import Collection, Iterator, Mapping
from copy import deepcopy
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BeforeValidator, SecretStr, ValidationError
from pydantic_core import ErrorDetails

from consumer.core.errors import ConfigurationError, Problem
from consumer.settings.model import PLATE_HASH_SECRET, Group, Location, Settings, disagreements
from consumer.settings.sources import Sources, anchor_paths, lay_over, near_misses, read_file
from consumer.settings.values import BYTES, SECONDS, canonical, duration_seconds, in_largest, size_bytes
from consumer.settings.words import finding_in_words, in_words, names_a_secret, required

HIDDEN = "***"


STAND_INS = {"bootstrap_servers": "missing:1", "events": "missing", "rules": "missing"}
"""For whatever has no default, so that the rest can be looked at."""


class InForce(NamedTuple):
    """A setting as it is in force, in words of the settings file (a secret as `***`), and where it was set."""

    name: str
    value: str | int | float | list[str] | None
    source: str
    names_secret: bool = False


class Reading:
    """Settings as they were read, and all that is wrong with them.

    Attributes:
        settings: what is missing or wrong has its default there, or a stand-in: ask `usable`.
        problems: in the order in which they stand in the files; with them what is only a warning otherwise.
        warnings: variables that set nothing, and look as if they were meant to.

    """

    def __init__(
        self,
        settings: Settings,
        problems: list[Problem],
        sources: Sources,
        wrong: Collection[Location],
        warnings: list[Problem],
    ) -> None:
        self.settings = settings
        self.problems = sorted([*problems, *warnings] if problems else [], key=_reading_order)
        self.warnings = warnings
        self._sources = sources
        self._wrong = wrong

    def usable(self, *names: str) -> bool:
        """Whether each of these, with all that is beneath it, is there and fine by itself."""
        return not any(_overlap(tuple(name.split(".")), wrong) for name in names for wrong in self._wrong)

    def place(self, name: str) -> str:
        """Where a setting was set."""
        return self._sources.told(tuple(name.split(".")))

    def in_force(self) -> list[InForce]:
        """Every setting, and every secret by its name."""
        return [
            *_in_force(self.settings, (), self.settings, self._sources),
            *_secrets_in_force(self.settings, self._sources),
        ]


def load_settings(
    file: Path | None, environ: Mapping[str, str] = os.environ, *, needed: Collection[str] | None = None
) -> Settings:
    """Reads the file, lays the environment over it, checks all of it.

    Raises:
        ConfigurationError: with every mistake that was found; see `read_settings` for `needed`.

    """
    reading = read_settings(file, environ, needed=needed)
    if reading.problems:
        raise ConfigurationError(reading.problems)
    return reading.settings


def read_settings(
    file: Path | None, environ: Mapping[str, str] = os.environ, *, needed: Collection[str] | None = None
) -> Reading:
    """The settings, with all their mistakes; raises ConfigurationError only where the file cannot be read.

    Outside of the settings `needed` (all by default) only what is written wrongly is a mistake: nothing
    is missed there, and nothing looked for on this machine.
    """
    sources = Sources(file)
    if file is not None:
        read_file(file, sources)
        anchor_paths(file, sources)
    problems = lay_over(environ, sources)
    settings, mistakes = _validated(sources)

    def counts(path: Location) -> bool:
        return needed is None or any(
            path[: len(way)] == way for way in (tuple(name.split(".")) for name in needed)
        )

    wrong: set[Location] = set()
    for details in mistakes:
        for path, problem in in_words(details, sources):
            wrong.add(path)
            if details["type"] != "missing" or counts(path):
                problems.append(problem)
    problems += _folder_missing(settings, sources, wrong) if needed is None else ()
    for finding in disagreements(settings, sources.told):
        involved = (finding.path, *finding.depends, *([finding.other] if finding.other else ()))
        if counts(finding.path) and not any(_overlap(path, bad) for path in involved for bad in wrong):
            problems.append(finding_in_words(finding, sources))
    key = ("secrets", PLATE_HASH_SECRET)
    if counts(key) and not any(
        _overlap(path, bad) for path in (("privacy", "plates"), ("secrets_dir",), key) for bad in wrong
    ):
        try:
            settings.plate_privacy()
        except ConfigurationError as error:
            problems += error.problems
    warnings = [*near_misses(environ), *_proxies_passed_over(settings, environ)]
    return Reading(settings, problems, sources, wrong, warnings)


def _proxies_passed_over(settings: Settings, environ: Mapping[str, str]) -> Iterator[Problem]:
    """Other programs go by these variables, and whoever set them for ours would wait for a connection that never comes."""
    gateway = settings.gateway
    if gateway.proxy is None and gateway.url.startswith("https:"):
        for variable in sorted(environ):
            if variable.upper() in {"HTTPS_PROXY", "ALL_PROXY"} and environ[variable]:
                remedy = "if the platform is reached through a proxy only, set gateway.proxy"
                yield Problem(variable, "sets nothing here", remedy)


def _folder_missing(settings: Settings, sources: Sources, wrong: set[Location]) -> Iterator[Problem]:
    """A folder of secrets that is not there is one mistake, however many secrets it lacks."""
    folder, path = settings.secrets_dir, ("secrets_dir",)
    if folder is not None and path not in wrong and not folder.is_dir():
        wrong.add(path)
        remedy = "make or mount it, or remove secrets_dir where every secret is a variable"
        yield Problem(sources.place(path), f"secrets_dir: there is no folder {folder}", remedy)


def _validated(sources: Sources) -> tuple[Settings, list[ErrorDetails]]:
    """The settings; where some are wrong, what is wrong and the others, which may be wrong together."""
    try:
        return Settings.model_validate(sources.tree), []
    except ValidationError as error:
        mistakes = error.errors(include_url=False)
    tree = deepcopy(sources.tree)
    for details in mistakes:
        _remove(tree, tuple(part for part in details["loc"] if isinstance(part, str)))
    for *groups, name in required(()):
        inner: Any = tree
        for group in groups:
            inner = inner.setdefault(group, {})  # whatever is no group was removed
        inner.setdefault(name, STAND_INS[str(name)])
    return Settings.model_validate(tree), mistakes


def _remove(tree: object, location: Location) -> None:
    """Take out what stands there, or the innermost on the way that is no group."""
    for depth, part in enumerate(location):
        if not isinstance(tree, dict):
            return
        found = [key for key in tree if key == part or (location[0] == "secrets" and canonical(key) == part)]
        if depth == len(location) - 1 or not all(isinstance(tree[key], dict) for key in found):
            for key in found:
                del tree[key]
            return
        tree = tree[found[0]] if found else None


def _overlap(one: Location, other: Location) -> bool:
    """Whether one of them is the other, or a group around it."""
    one, other = (tuple(part for part in path if isinstance(part, str)) for path in (one, other))
    length = min(len(one), len(other))
    return one[:length] == other[:length]


def _reading_order(problem: Problem) -> list[tuple[int, str]]:
    """By file, line and column."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in problem.place.split(":")]


def _in_force(group: Group, here: Location, settings: Settings, sources: Sources) -> Iterator[InForce]:
    for name, field in type(group).model_fields.items():
        location = (*here, name)
        value = getattr(group, name)
        if isinstance(value, Group):
            yield from _in_force(value, location, settings, sources)
        elif location != ("secrets",):
            converters = {step.func for step in field.metadata if isinstance(step, BeforeValidator)}
            source = sources.places.get(location, "default")
            written = _as_written(value, converters)
            names_secret = names_a_secret(field) and value is not None
            if names_secret and value != field.default and not _is_there(str(value), settings):
                written = HIDDEN  # not a secret's name: perhaps the secret itself
            yield InForce(".".join(map(str, location)), written, source, names_secret)


def _is_there(secret: str, settings: Settings) -> bool:
    try:
        settings.secret(secret)
    except ConfigurationError:
        return False
    return True


def _as_written(value: object, converters: Collection[object]) -> str | int | float | list[str] | None:
    written: str | int | float | list[str] | None
    match value:
        case SecretStr():
            written = HIDDEN
        case tuple():
            written = [in_largest(item, SECONDS) if isinstance(item, float) else str(item) for item in value]
        case float() if duration_seconds in converters:
            written = in_largest(value, SECONDS)
        case int() if size_bytes in converters:
            written = in_largest(value, BYTES)
        case datetime():
            written = value.isoformat()
        case None | bool() | int() | float():
            written = value
        case _:
            written = str(value)
    return written


def _secrets_in_force(settings: Settings, sources: Sources) -> Iterator[InForce]:
    for name in settings.secrets:
        yield InForce(f"secrets.{name}", HIDDEN, sources.places["secrets", name])
    try:
        files = sorted(settings.secrets_dir.iterdir()) if settings.secrets_dir is not None else []
    except OSError:
        return  # whoever needs one of them says so
    for file in files:
        if file.is_file() and not file.name.startswith(".") and canonical(file.name) not in settings.secrets:
            yield InForce(f"secrets.{file.name}", HIDDEN, str(file))
