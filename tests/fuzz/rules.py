"""A rules file's bytes -> a rule book that reads, plans and explains, or all its mistakes, each with its place.

An input is the file, and after a line `---stations` the CSV file of stations that it may name. Reads the tests' rules.
"""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random

import msgspec
import yaml

from consumer.core.documents import Document, DocumentError, lines_of
from consumer.core.errors import ConfigurationError, Problem
from consumer.core.events import Coordinates, Order, Record
from consumer.core.rules import RuleBook
from consumer.rulebook import _compiled
from consumer.rulebook.compilation import preset_names, preset_sample
from consumer.rulebook.explanation import explain
from consumer.rulebook.model import schema_text
from consumer.rulebook.review import review
from tests.fuzz import records, trees
from tests.fuzz.target import Mutate, Target, scribbling

RULES = Path(__file__).parents[1] / "rules"
EXAMPLES = Path(__file__).parents[2] / "schemas" / "examples" / "rules" / "1"
STATIONS = b"\n---stations\n"
PLACE = re.compile(r"(?:rules\.yaml|stations\S*|.*\.csv)(?::(\d+)(?::(\d+))?)?", re.DOTALL)


# -- What must hold ---------------------------------------------------------------------------------


def check(data: bytes) -> None:
    file, _, stations = data.partition(STATIONS)
    text = file.decode("utf-8", "replace")

    def read(path: Path) -> bytes:
        if path.suffix != ".csv":  # there is nothing but that one file
            raise FileNotFoundError(2, "No such file or directory")
        return stations

    problems = []
    try:
        document = Document(text, "rules.yaml")
        compilation, book = _compiled([document], read)
        compilation.run_tests(book)
        problems = [*compilation.bundle.problems, *review(compilation, book)]
    except (DocumentError, ConfigurationError) as error:
        problems = error.problems
        assert problems
        for problem in problems:
            is_told_well(problem, text)
        return
    for problem in problems:
        is_told_well(problem, text)
    for value in events():
        reads(book, value)


def is_told_well(problem: Problem, text: str) -> None:
    """A place in the file, what is wrong, and what to do."""
    assert problem.message
    assert problem.remedy
    match = PLACE.fullmatch(problem.place)
    assert match is not None
    if problem.place.startswith("rules.yaml") and match[1]:
        lines = lines_of(text.removeprefix("\ufeff"))
        assert 1 <= int(match[1]) <= len(lines)
        assert match[2] is None or 1 <= int(match[2]) <= len(lines[int(match[1]) - 1]) + 1
    str(problem).encode()


def reads(book: RuleBook, value: bytes) -> None:
    for source in book.sources[:4]:
        record = Record(Coordinates(next(iter(source.topics), "t"), 0, 0), -1, b"k", value)
        for item in book.read_as(source, record, records.NOW):
            assert "cannot be read" not in getattr(item, "detail", "")
            if isinstance(item, Order):
                book._planner.plan(item, as_on=False)  # what `plan` calls, and then hides what it raises
        explain(book, record, records.NOW, source)


@cache
def events() -> tuple[bytes, ...]:
    samples = [preset_sample([name]) for name in ("canonical", "cec", "ocpi-2.2.1")]
    return (*map(msgspec.json.encode, samples), records.READING.encode(), b'[{"order_id":1,"plate":"x"}]')


# -- Where it starts --------------------------------------------------------------------------------


def seeds() -> Iterator[bytes]:
    stations = (RULES / "valid" / "stations-file.csv").read_bytes()
    for example in _examples():
        for part in _parts(example):
            content = trees.in_lines(part).encode()
            yield content + STATIONS + stations if b".csv" in content else content
    for file in sorted(RULES.glob("*/*.yaml")):
        content = file.read_bytes()
        # Where a place in a text of several lines is told, is for the fuzzer to come upon.
        if (
            len(content) <= LONGEST // 4
            and file.parent.name != "valid"
            and file.stem != "expression-over-lines"
        ):
            yield content + STATIONS + stations if b"csv" in content else content
    for file in sorted(RULES.glob("*/*.csv")):
        yield (
            b"version: 1\nstations: {file: s.csv}\nsources: {a: {extends: flat}}\n"
            + STATIONS
            + file.read_bytes()
        )
    yield records.SHAPES.encode()
    for name in preset_names():
        yield f"version: 1\nsources: {{a: {{extends: [{name}, flat], zone: Asia/Shanghai}}}}\n".encode()


def _examples() -> Iterator[trees.Tree]:
    for file in sorted([*(RULES / "valid").glob("*.yaml"), *EXAMPLES.glob("*.yaml")]):
        yield trees.from_yaml(file.read_text("utf-8"))


def _parts(tree: trees.Tree) -> Iterator[trees.Tree]:
    """The file without what is not of one source, for each; small ones are changed at a certain place more often."""
    for name, source in tree["sources"].items():
        rules = [
            {**rule, "sources": name} if "sources" in rule else rule
            for rule in tree.get("rules", ())
            if name in rule.get("sources", name)
        ]
        tests = [test for test in tree.get("tests", ()) if name == test.get("source", name)]
        wanted = {"sources": {name: source}, "rules": rules, "tests": tests[:2]}
        yield {key: wanted.get(key, part) for key, part in tree.items()}


LONGEST = 8192


@cache
def vocabulary() -> trees.Vocabulary:
    """Every key of the schema, and what stands in the examples."""
    schema = trees.from_json(schema_text())
    keys = {key for model in (schema, *schema["$defs"].values()) for key in model.get("properties", ())}
    found = [tree for seed in seeds() if (tree := _tree(seed)) is not None]
    words = [*trees.Vocabulary.of([schema, *found]).words, *preset_names(), *records.vocabulary().words]
    right = [part for file in _examples() for part in _parts(file)]
    return trees.Vocabulary.of(right, words, keys)


def _tree(data: bytes) -> trees.Tree:
    try:
        return trees.from_yaml(data.partition(STATIONS)[0].decode())
    except (yaml.YAMLError, ValueError, RecursionError):
        return None


def changed(data: bytes, random: Random, mutate: Mutate) -> bytes | None:
    tree = _tree(data)
    if tree is None:
        return None
    tree = trees.Mutator(vocabulary(), scribbling(mutate)).changed(tree, random)
    try:
        text = trees.in_lines(tree) if random.randrange(4) else trees.written(tree)
    except RecursionError:
        return None
    _, mark, stations = data.partition(STATIONS)
    return text.encode("utf-8", "surrogatepass") + mark + stations


TARGET = Target(check, seeds, changed, lambda: vocabulary().words, LONGEST)
