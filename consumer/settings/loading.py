"""Settings file, environment and secret files -> Settings, or all that is wrong with them. Reads the files."""

import os
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from pydantic import BeforeValidator, SecretStr, ValidationError

from consumer.core.errors import ConfigurationError, Problem
from consumer.settings.model import Group, Location, Settings
from consumer.settings.sources import Sources, anchor_paths, lay_over, read_file
from consumer.settings.values import BYTES, SECONDS, canonical, duration_seconds, in_largest, size_bytes
from consumer.settings.words import in_words

HIDDEN = "***"


def load_settings(file: Path | None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Reads the file, lays the environment over it, checks all of it.

    Raises:
        ConfigurationError: with every mistake that was found.

    """
    return _load(file, environ)[0]


class InForce(NamedTuple):
    """A setting as it is in force, in words of the settings file (a secret as `***`), and where it was set."""

    name: str
    value: str | int | float | list[str] | None
    source: str


def settings_in_force(file: Path | None, environ: Mapping[str, str] = os.environ) -> list[InForce]:
    """Every setting, and every secret by its name. Raises ConfigurationError as `load_settings` does."""
    settings, sources = _load(file, environ)
    return [*_in_force(settings, (), sources), *_secrets_in_force(settings, sources)]


def _load(file: Path | None, environ: Mapping[str, str]) -> tuple[Settings, Sources]:
    sources = Sources(file)
    if file is not None:
        read_file(file, sources)
        anchor_paths(file, sources)
    problems = lay_over(environ, sources)
    try:
        settings = Settings.model_validate(sources.tree)
    except ValidationError as error:
        for details in error.errors(include_input=False, include_url=False):
            problems += in_words(details, sources)
        raise ConfigurationError(sorted(problems, key=_reading_order)) from None
    if not problems:
        try:
            settings.plate_privacy()
        except ConfigurationError as error:
            problems += error.problems
    if problems:
        raise ConfigurationError(problems)
    return settings, sources


def _reading_order(problem: Problem) -> list[tuple[int, str]]:
    """By file, line and column."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in problem.place.split(":")]


def _in_force(group: Group, here: Location, sources: Sources) -> Iterator[InForce]:
    for name, field in type(group).model_fields.items():
        location = (*here, name)
        value = getattr(group, name)
        if isinstance(value, Group):
            yield from _in_force(value, location, sources)
        elif location != ("secrets",):
            converters = {step.func for step in field.metadata if isinstance(step, BeforeValidator)}
            source = sources.places.get(location, "default")
            yield InForce(".".join(map(str, location)), _as_written(value, converters), source)


def _as_written(value: object, converters: Collection[object]) -> str | int | float | list[str] | None:
    written: str | int | float | list[str] | None
    match value:
        case SecretStr():
            written = HIDDEN
        case tuple():
            written = [str(item) for item in value]
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
