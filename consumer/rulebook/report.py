"""Mistakes and warnings of rules files -> text with carets, JSON, annotations. Reads those files again, for their lines."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from consumer import rulebook
from consumer.core.documents import lines_of
from consumer.core.errors import ConfigurationError, Problem
from consumer.core.expressions import space_of
from consumer.core.outcomes import LIKE_A_PLATE, without_plates
from consumer.rulebook.review import review

WIDTH = 100
"""Characters of a line that are shown around a mistake."""


@dataclass(frozen=True, slots=True)
class Found:
    """One mistake or warning.

    Attributes:
        line, column: from 1; 0 where it is about the whole file.

    """

    severity: str
    file: str
    line: int
    column: int
    message: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Report:
    """All that was found in a file or folder, and how much there is to it."""

    found: tuple[Found, ...]
    counts: str = ""

    def count(self, severity: str) -> int:
        """How many of them are `error` or `warning`."""
        return sum(each.severity == severity for each in self.found)


def check(path: Path) -> Report:
    """What is wrong with these rules; where nothing is, what is probably not meant."""
    try:
        with rulebook.without_collections():
            compilation, book = rulebook.compiled(path)
            compilation.run_tests(book)
            warnings = review(compilation, book)
            problems = compilation.bundle.error().problems
    except ConfigurationError as error:
        return Report(tuple(_found("error", problem) for problem in error.problems))
    counts = [
        (len(book.rules), "rule"),
        (len(book.sources), "source"),
        (len(book.stations), "station"),
        (len(compilation.model.tests), "test"),
    ]
    return Report(
        (
            *(_found("error", problem) for problem in problems),
            *(_found("warning", problem) for problem in warnings),
        ),
        ", ".join(_counted(number, what) for number, what in counts),
    )


def _found(severity: str, problem: Problem) -> Found:
    place = re.fullmatch(r"(.*?):(\d+)(?::(\d+))?", problem.place, re.DOTALL)
    file, line, column = (place[1], int(place[2]), int(place[3] or 1)) if place else (problem.place, 0, 0)
    # The line with its caret is shown from the file.
    remedy = problem.remedy.partition("\n")[0]
    return Found(severity, file, line, column, without_plates(problem.message), without_plates(remedy))


def in_text(report: Report, name: str) -> Iterator[str]:
    """For people: each with its line and a caret, the sum at the end."""
    lines = {file: _lines(file) for file in {each.file for each in report.found}}
    for each in report.found:
        place = f"{each.file}:{each.line}:{each.column}" if each.line else each.file
        yield f"{place}: {each.severity}: {each.message}"
        yield from _framed(each, lines[each.file])
        yield f"  = {each.remedy}"
        yield ""
    mistakes, warnings = report.count("error"), report.count("warning")
    if mistakes and not report.counts:
        yield f"{name}: {_counted(mistakes, 'mistake')}; warnings are looked for once there is none"
        return
    told = [_counted(mistakes, "mistake"), _counted(warnings, "warning")]
    yield f"{name}: {', '.join(told)} in {report.counts}"


def in_json(report: Report) -> str:
    """For machines."""
    found = [
        {
            "severity": each.severity,
            "file": each.file,
            "line": each.line or None,
            "column": each.column or None,
            "message": each.message,
            "remedy": each.remedy,
        }
        for each in report.found
    ]
    sums = {"mistakes": report.count("error"), "warnings": report.count("warning")}
    return json.dumps({**sums, "found": found}, ensure_ascii=False, indent=2)


def for_github(report: Report) -> Iterator[str]:
    """Annotations of a workflow."""
    for each in report.found:
        where = f"file={_property(each.file)}"
        if each.line:
            where += f",line={each.line},col={each.column}"
        yield f"::{each.severity} {where}::{_data(f'{each.message}; {each.remedy}')}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _counted(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"


def _framed(found: Found, lines: Sequence[str]) -> Iterator[str]:
    if not 0 < found.line <= len(lines):
        return
    line = LIKE_A_PLATE.sub(lambda match: "*" * len(match[0]), lines[found.line - 1])
    line = _HIDDEN.sub(lambda match: match[1] + "*" * len(match[2]), line)
    column = min(found.column - 1, len(line))
    start = max(0, column - WIDTH * 2 // 3) if len(line) > WIDTH else 0
    shown = line[start : start + WIDTH]
    before, after = "... " if start else "", " ..." if len(line) > start + WIDTH else ""
    margin = f"{found.line:>5} | "
    yield f"{margin}{before}{shown}{after}"
    yield f"{' ' * (len(margin) - 2)}| {space_of(before + line[start:column])}^"


_HIDDEN = re.compile(
    r"""(\b\w*(?:secret|password|token|passwd)\w*["']?\s*:\s*["']?)([^\s"',}]+)""", re.IGNORECASE
)
"""What may be a secret where only its name should stand."""


def _lines(file: str) -> Sequence[str]:
    try:
        return lines_of(Path(file).read_bytes().decode("utf-8-sig").expandtabs(1))
    except (OSError, UnicodeDecodeError):
        return ()
