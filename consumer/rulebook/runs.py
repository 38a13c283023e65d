"""The tests that stand in rules, run one by one, and what they found as text or JUnit's XML. Reads the rules' files."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from consumer import rulebook
from consumer.core.expressions import space_of
from consumer.core.outcomes import inert
from consumer.rulebook.cases import Difference, differences_of


@dataclass(frozen=True, slots=True)
class Run:
    """One test that was run.

    Attributes:
        place: where it stands: `rules.yaml:12:5`.
        differences: what is not as it expects; none where it passed.

    """

    name: str
    place: str
    seconds: float
    differences: tuple[Difference, ...]


def run(path: Path, part: str = "", *, reveal: bool = False) -> list[Run]:
    """Those whose name holds this part of a text, whatever its case. Raises ConfigurationError."""
    compilation, book = rulebook.compiled(path)
    cases = list(compilation.cases(book))
    if compilation.bundle.problems:
        raise compilation.bundle.error()
    runs: list[Run] = []
    for location, case, source in cases:
        if part.casefold() in case.name.casefold():
            started = time.perf_counter()
            differences = tuple(differences_of(book, source, case, reveal=reveal))
            took = time.perf_counter() - started
            runs.append(Run(case.name, compilation.bundle.place(location), took, differences))
    return runs


def in_text(runs: Sequence[Run], *, width: int = 72) -> Iterator[str]:
    """For people: a line for each, what differs beneath it."""
    for each in runs:
        if not each.differences:
            yield f"ok    {each.name}"
            continue
        yield f"FAIL  {each.name}  ({each.place})"
        for difference in each.differences:
            yield f"        {difference.name}"
            yield f"          expected  {difference.expected}"
            yield f"          found     {difference.found}"
            mark = _first_difference(difference.expected, difference.found)
            if mark is not None and len(difference.found) < width:
                yield f"                    {mark}"
    failed = sum(bool(each.differences) for each in runs)
    yield ""
    tests = f"{len(runs)} test{'' if len(runs) == 1 else 's'}"
    yield f"{failed} of {tests} failed" if failed else f"{tests} passed"


def _first_difference(expected: str, found: str) -> str | None:
    """A mark under what is found, where two longer texts begin to differ."""
    common = next(
        (number for number, pair in enumerate(zip(expected, found, strict=False)) if len(set(pair)) > 1), None
    )
    if common is None:
        common = min(len(expected), len(found))
    return f"{space_of(found[:common])}^" if common > 3 else None


def in_junit(runs: Sequence[Run], name: str) -> bytes:
    """As CI servers read it."""
    suite = ET.Element(
        "testsuite",
        name=_written(name),
        tests=str(len(runs)),
        failures=str(sum(bool(each.differences) for each in runs)),
        errors="0",
        time=f"{sum(each.seconds for each in runs):.3f}",
    )
    for each in runs:
        file, line, _ = each.place.rsplit(":", 2)
        case = ET.SubElement(
            suite,
            "testcase",
            classname=_written(name),
            name=_written(each.name),
            file=_written(file),
            line=line,
            time=f"{each.seconds:.3f}",
        )
        if each.differences:
            texts = [_written(difference.text) for difference in each.differences]
            failure = ET.SubElement(case, "failure", message=texts[0], type="difference")
            failure.text = "\n".join(texts)
    ET.indent(suite)
    content: bytes = ET.tostring(suite, encoding="utf-8", xml_declaration=True)
    return content + b"\n"


def _written(text: str) -> str:
    """As XML can have it."""
    return inert(text, keep="\t\n")
