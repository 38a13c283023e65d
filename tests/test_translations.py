"""The Chinese editions of the README and the runbook are in step: section by section the same code, names, numbers, links."""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RUNBOOK = "helm/charging-coupon-consumer/RUNBOOK"
PAIRS = {"README.md": "README.zh-CN.md", f"{RUNBOOK}.md": f"{RUNBOOK}.zh-CN.md"}

_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Section:
    """One heading, and what stands below it up to the next."""

    level: int
    heading: str
    text: str

    @property
    def code(self) -> list[str]:
        """What is to be the same to the letter."""
        return _FENCED.findall(self.text)

    @property
    def prose(self) -> str:
        return _FENCED.sub("\n", self.text)

    @property
    def names(self) -> set[str]:
        """What stands in backticks."""
        return set(re.findall(r"`([^`]+)`", self.prose))

    @property
    def first_columns(self) -> list[str]:
        """Of each row of a table, the names in its first cell."""
        rows = [line for line in self.prose.splitlines() if line.startswith("|")]
        return [" ".join(re.findall(r"`[^`]+`", row.split("|")[1])) for row in rows]

    @property
    def numbers(self) -> set[str]:
        """Those in digits, other than in names and links."""
        plain = re.sub(r"`[^`]*`|\]\([^)]*\)|<img[^>]*>|https?://\S+", " ", self.prose)
        return set(re.findall(r"\d+(?:\.\d+)*", plain))

    @property
    def fingerprint(self) -> str:
        """The same in both editions."""
        return f"{self.level} {sorted(self.names)} {self.code}"

    @property
    def items(self) -> int:
        return len(re.findall(r"^- ", self.prose, re.MULTILINE))

    @property
    def links(self) -> list[str]:
        """To files, in whichever order, by the name of the English edition."""
        found = re.findall(r"\]\(([^)#]+)\)", self.prose) + re.findall(r'src="([^"]+)"', self.prose)
        return sorted(link.replace(".zh-CN.md", ".md") for link in found)


def sections(file: str) -> list[Section]:
    """In the order of the file; the language links at its top are no part of any."""
    text = (ROOT / file).read_text("utf-8")
    hidden = _FENCED.sub(lambda found: re.sub(r"^#", "\0", found[0], flags=re.MULTILINE), text)
    parts = re.split(r"^(#+) (.+)\n", hidden, flags=re.MULTILINE)[1:]
    return [
        Section(len(marks), heading, body.replace("\0", "#").replace(_switch(file), ""))
        for marks, heading, body in zip(parts[::3], parts[1::3], parts[2::3], strict=True)
    ]


def _switch(file: str) -> str:
    """Leads to the other edition."""
    english, chinese = next((Path(en).name, Path(zh).name) for en, zh in PAIRS.items() if file in (en, zh))
    return f"English · [简体中文]({chinese})" if file in PAIRS else f"[English]({english}) · 简体中文"


def anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _targets(section: Section, all_of_them: Sequence[Section]) -> list[int]:
    """Which sections of the page it leads to, by number; -1 where there is none."""
    anchors = [anchor(each.heading) for each in all_of_them]
    return sorted(
        anchors.index(to) if to in anchors else -1 for to in re.findall(r"\]\(#([^)]+)\)", section.prose)
    )


each_pair = pytest.mark.parametrize(("english", "chinese"), PAIRS.items(), ids=lambda name: Path(name).name)


@each_pair
def test_each_leads_to_the_other_at_its_top(english: str, chinese: str) -> None:
    for file in (english, chinese):
        assert (ROOT / file).read_text("utf-8").splitlines()[2] == _switch(file)


@each_pair
def test_both_have_the_same_sections_in_the_same_order(english: str, chinese: str) -> None:
    one, other = sections(english), sections(chinese)

    if [each.level for each in one] != [each.level for each in other]:
        pytest.fail("\n".join(_without_a_counterpart(english, chinese)))


def _without_a_counterpart(english: str, chinese: str) -> list[str]:
    """Sections are taken for each other's editions by what is the same in both."""
    one, other = sections(english), sections(chinese)
    same = difflib.SequenceMatcher(
        None, [each.fingerprint for each in one], [each.fingerprint for each in other]
    )
    found = []
    for kind, first, last, begin, end in same.get_opcodes():
        if kind != "equal":
            after = f", after “{other[begin - 1].heading}”," if begin else ""
            has = [each.heading for each in other[begin:end]] or "nothing"
            found.append(
                f"{english} has {[each.heading for each in one[first:last]]} where {chinese}{after} has {has}"
            )
    return found


@each_pair
def test_each_section_is_in_step(english: str, chinese: str) -> None:
    one, other = sections(english), sections(chinese)
    if [each.level for each in one] != [each.level for each in other]:
        pytest.skip("the sections themselves are not the same")
    behind = [
        f"{chinese}, section “{theirs.heading}”, is not in step with “{ours.heading}”: {what}"
        for ours, theirs in zip(one, other, strict=True)
        for what in _differences(ours, theirs, one, other)
    ]

    assert behind == [], "\n" + "\n".join(behind)


def _differences(ours: Section, theirs: Section, one: list[Section], other: list[Section]) -> list[str]:
    found = []
    ways = {
        "code blocks": (_lines(ours.code), _lines(theirs.code)),
        "names in the tables' first columns": (ours.first_columns, theirs.first_columns),
        "links": (ours.links, theirs.links),
    }
    for what, (english, chinese) in ways.items():
        if english != chinese:
            changed = list(difflib.unified_diff(chinese, english, lineterm="", n=0))
            found.append(
                f"{what} are to be the same (- the Chinese, + the English): {' / '.join(changed[2:8])}"
            )
    for what in ("names", "numbers"):
        lacks, has = getattr(ours, what) - getattr(theirs, what), getattr(theirs, what) - getattr(ours, what)
        if lacks or has:
            found.append(f"{what} that only the English has {sorted(lacks)}, only the Chinese {sorted(has)}")
    if ours.items != theirs.items:
        found.append(f"it lists {theirs.items} things, the English {ours.items}")
    if _targets(ours, one) != _targets(theirs, other):
        found.append("its links within the page lead to other sections, or to none")
    return found


def _lines(blocks: Sequence[str]) -> list[str]:
    return "\n".join(blocks).splitlines()
