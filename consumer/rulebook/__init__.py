"""Rules file or folder -> RuleBook, with all its mistakes at once. Reads those files, and does no other I/O.

`model` is the file's shape. What it cannot say (names that must exist, expressions,
templates, the file's own tests) is checked by `compilation`.
"""

from collections.abc import Sequence
from pathlib import Path

from consumer.core.documents import Document, DocumentError
from consumer.core.errors import ConfigurationError, Problem
from consumer.core.rules import RuleBook
from consumer.rulebook.bundle import Bundle
from consumer.rulebook.compilation import Compilation
from consumer.rulebook.mending import validated
from consumer.rulebook.model import schema_text

__all__ = ["compiled", "load", "parse", "schema_text"]


def load(
    path: Path, remedy: str = "name a YAML file with coupon rules, or a folder of such files"
) -> RuleBook:
    """The rules of a file, or of all `*.yaml` files of a folder together.

    Raises:
        ConfigurationError: with all that is wrong; `remedy` says what to do where there is nothing to read.

    """
    return _build(_documents(path, remedy))


def compiled(
    path: Path, remedy: str = "name a YAML file with coupon rules, or a folder of such files"
) -> tuple[Compilation, RuleBook]:
    """As `load`, for commands that look closer: the file's own tests are not run. Raises ConfigurationError."""
    return _compiled(_documents(path, remedy))


def _documents(path: Path, remedy: str) -> list[Document]:
    problems: list[Problem] = []
    documents: list[Document] = []
    for file in _files(path, remedy):
        try:
            documents.append(Document(file.read_bytes().decode("utf-8-sig"), str(file)))
        except DocumentError as error:
            problems += error.problems
        except UnicodeDecodeError as error:
            problems.append(Problem(str(file), f"not UTF-8 at byte {error.start}", "save it as UTF-8"))
        except OSError as error:
            problems.append(Problem(str(file), f"cannot be read: {error.strerror}", remedy))
    if problems:
        raise ConfigurationError(problems)
    return documents


def _files(path: Path, remedy: str) -> list[Path]:
    if not path.is_dir():
        return [path]
    # Kubernetes keeps a mounted ConfigMap's versions in hidden folders beside the links to them.
    try:
        files = sorted(path.iterdir())
    except OSError as error:
        raise ConfigurationError([Problem(str(path), f"cannot be read: {error.strerror}", remedy)]) from error
    found = [file for file in files if file.suffix in (".yaml", ".yml") and not file.name.startswith(".")]
    if not found:
        raise ConfigurationError([Problem(str(path), "a folder without a *.yaml file", remedy)])
    return found


def parse(text: str, place: str = "rules.yaml") -> RuleBook:
    """The rules in a text. Raises ConfigurationError."""
    try:
        return _build([Document(text, place)])
    except DocumentError as error:
        raise ConfigurationError(error.problems) from error


def _build(documents: Sequence[Document]) -> RuleBook:
    compilation, book = _compiled(documents)
    compilation.run_tests(book)
    if compilation.bundle.problems:
        raise compilation.bundle.error()
    return book


def _compiled(documents: Sequence[Document]) -> tuple[Compilation, RuleBook]:
    bundle = Bundle(documents)
    model = validated(bundle)
    if model is None:
        raise bundle.error()
    compilation = Compilation(model, bundle)
    book = compilation.book()
    if book is None or bundle.problems:
        raise bundle.error()
    return compilation, book
