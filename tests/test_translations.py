"""The Chinese editions of the pages are in step: section by section the same code, names, numbers, links."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.pages import PAIRS, Section, sections, text

ENGLISH = {chinese: english for english, chinese in PAIRS.items()}


def names(section: Section) -> set[str]:
    """What stands in backticks."""
    return set(re.findall(r"`([^`]+)`", section.prose))


def first_columns(section: Section) -> list[str]:
    """Of each row of a table, the names in its first cell."""
    rows = [line for line in section.prose.splitlines() if line.startswith("|")]
    return [" ".join(re.findall(r"`[^`]+`", row.split("|")[1])) for row in rows]


def numbers(section: Section) -> set[str]:
    """Those in digits, other than in names and links."""
    plain = re.sub(r"`[^`]*`|\]\([^)]*\)|<img[^>]*>|https?://\S+", " ", section.prose)
    return set(re.findall(r"\d+(?:\.\d+)*", plain))


def fingerprint(section: Section) -> str:
    """The same in both editions."""
    return f"{section.level} {sorted(names(section))} {section.code}"


def items(section: Section) -> int:
    return len(re.findall(r"^- ", section.prose, re.MULTILINE))


def links(section: Section) -> list[str]:
    """In whichever order, by the name of the English edition and the section's number; those to the other edition are none."""
    leading = [
        link for link in section.links if link.to != PAIRS.get(section.page, ENGLISH.get(section.page))
    ]
    return sorted(f"{ENGLISH.get(link.to, link.to)} {link.section}" for link in leading)


def switch(page: str) -> str:
    """Leads to the other edition."""
    if page in PAIRS:
        return f"English · [简体中文]({Path(PAIRS[page]).name})"
    return f"[English]({Path(ENGLISH[page]).name}) · 简体中文"


each_pair = pytest.mark.parametrize(("english", "chinese"), PAIRS.items(), ids=lambda name: Path(name).name)


@each_pair
def test_each_leads_to_the_other_at_its_top(english: str, chinese: str) -> None:
    for file in (english, chinese):
        assert text(file).splitlines()[2] == switch(file)


@each_pair
def test_the_chinese_edition_leads_to_chinese_editions(english: str, chinese: str) -> None:
    english_ones = {link.to for section in sections(chinese) for link in section.links if link.to in PAIRS}

    assert english_ones == {english}


@each_pair
def test_both_have_the_same_sections_in_the_same_order(english: str, chinese: str) -> None:
    one, other = sections(english), sections(chinese)

    if [each.level for each in one] != [each.level for each in other]:
        pytest.fail("\n".join(_without_a_counterpart(english, chinese)))


def _without_a_counterpart(english: str, chinese: str) -> list[str]:
    """Sections are taken for each other's editions by what is the same in both."""
    one, other = sections(english), sections(chinese)
    same = difflib.SequenceMatcher(
        None, [fingerprint(each) for each in one], [fingerprint(each) for each in other]
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
        for what in _differences(ours, theirs)
    ]

    assert behind == [], "\n" + "\n".join(behind)


def _differences(ours: Section, theirs: Section) -> list[str]:
    found = []
    ways = {
        "code blocks": (_lines(ours.code), _lines(theirs.code)),
        "names in the tables' first columns": (first_columns(ours), first_columns(theirs)),
        "links": (links(ours), links(theirs)),
    }
    for what, (english, chinese) in ways.items():
        if english != chinese:
            changed = list(difflib.unified_diff(chinese, english, lineterm="", n=0))
            found.append(
                f"{what} are to be the same (- the Chinese, + the English): {' / '.join(changed[2:8])}"
            )
    for what, of in {"names": names, "numbers": numbers}.items():
        lacks, has = of(ours) - of(theirs), of(theirs) - of(ours)
        if lacks or has:
            found.append(f"{what} that only the English has {sorted(lacks)}, only the Chinese {sorted(has)}")
    if items(ours) != items(theirs):
        found.append(f"it lists {items(theirs)} things, the English {items(ours)}")
    return found


def _lines(blocks: Sequence[str]) -> list[str]:
    return "\n".join(blocks).splitlines()
