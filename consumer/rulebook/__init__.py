"""Rules file or folder -> RuleBook, with all its mistakes at once. Reads those files, and does no other I/O.

`model` is the file's shape. What it cannot say (names that must exist, expressions,
templates, the file's own tests) is checked by `compilation`; `mending` goes on where the shape
is wrong, so that all mistakes are told at once. For the integrator's commands `review` looks for
what is probably not meant (`report` prints both), `runs` runs the tests, and `explanation` tells
how an event is read and decided (`telling` prints it). `comparison` tells which orders are treated
differently by two rule books, `trial` by the service and what it is to replace. `drafting` makes a
first file from raw messages.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from consumer.core.documents import Document, DocumentError
from consumer.core.errors import ConfigurationError
from consumer.core.rules import RuleBook
from consumer.core.slices import Breathe, at_once, let_go
from consumer.rulebook.bundle import Bundle
from consumer.rulebook.compilation import Compilation
from consumer.rulebook.files import REMEDY, Files
from consumer.rulebook.mending import validated
from consumer.rulebook.model import schema_text

__all__ = ["Files", "compiled", "let_go", "load", "load_files", "parse", "schema_text", "without_collections"]


_Stage = Document | Bundle | Compilation | RuleBook
"""On the way to a book that is used."""


def load(path: Path, remedy: str = REMEDY) -> RuleBook:
    """The rules of a file, or of all `*.yaml` files of a folder together.

    Raises:
        ConfigurationError: with all that is wrong; `remedy` says what to do where there is nothing to read.

    """
    return load_files(Files(path, remedy))


def load_files(files: Files, breathe: Breathe = at_once) -> RuleBook:
    """As `load`; `breathe` is called now and then, so that others can do something meanwhile."""
    with without_collections():
        stages: list[_Stage] = []
        try:
            return _tested(files.documents(breathe), files.read, breathe, stages)
        except ConfigurationError as error:
            problems = error.problems
        finally:
            parts = [part for stage in stages for part in stage.parts()]
            stages.clear()
            let_go(parts, breathe)
        raise ConfigurationError(problems)  # of its own: the other one holds on to the documents


@contextmanager
def without_collections() -> Iterator[None]:
    """Nodes of YAML by the million would be looked at again and again; none of them is garbage."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def compiled(path: Path, remedy: str = REMEDY) -> tuple[Compilation, RuleBook]:
    """As `load`, for commands that look closer: the file's own tests are not run. Raises ConfigurationError."""
    files = Files(path, remedy)
    return _compiled(files.documents(), files.read)


def parse(text: str, place: str = "rules.yaml") -> RuleBook:
    """The rules in a text. Raises ConfigurationError."""
    try:
        return _tested([Document(text, place)])
    except DocumentError as error:
        raise ConfigurationError(error.problems) from error


def _tested(
    documents: Sequence[Document],
    read: Callable[[Path], bytes] = Path.read_bytes,
    breathe: Breathe = at_once,
    stages: list[_Stage] | None = None,
) -> RuleBook:
    stages = [] if stages is None else stages
    compilation, book = _compiled(documents, read, breathe, stages)
    stages.append(book)
    compilation.run_tests(book)
    if compilation.bundle.problems:
        raise compilation.bundle.error()
    stages.pop()
    return book


def _compiled(
    documents: Sequence[Document],
    read: Callable[[Path], bytes] = Path.read_bytes,
    breathe: Breathe = at_once,
    stages: list[_Stage] | None = None,
) -> tuple[Compilation, RuleBook]:
    """`stages` gets what is of no use any more when there is a book, or none."""
    stages = [] if stages is None else stages
    stages += documents
    bundle = Bundle(documents)
    stages.append(bundle)
    tables = _station_files(bundle, read)
    model = validated(bundle, breathe)
    if model is None:
        raise bundle.error()
    compilation = Compilation(model, bundle, tables, breathe)
    stages.append(compilation)
    book = compilation.book()
    if book is None or bundle.problems:
        raise bundle.error()
    return compilation, book


def _station_files(bundle: Bundle, read: Callable[[Path], bytes]) -> list[tuple[str, bytes]]:
    """What stands in the files that `stations: {file: ...}` names, beside the rules file; each with its place."""
    stations = bundle.data.get("stations")
    named = stations.get("file") if isinstance(stations, dict) else None
    names = [named] if isinstance(named, str) else named
    if not isinstance(stations, dict) or not isinstance(names, list):
        return []
    found: list[tuple[str, bytes]] = []
    for name in names:
        file = Path(bundle.file(("stations", "file"))).parent / str(name)
        try:
            found.append((str(file), read(file)))
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or "no name of a file"
            message, remedy = f"{file} cannot be read: {why}", "name a CSV file, seen from this file"
            bundle.problem(("stations", "file"), message, remedy)
    bundle.data["stations"] = {key: station for key, station in stations.items() if key != "file"}
    return found
