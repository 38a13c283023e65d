"""YAML 1.2 with positions."""

import re
import sys
from decimal import Decimal
from itertools import pairwise

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.core.documents import PIECE, Document, DocumentError, lines_of
from consumer.core.slices import let_go

TEXT = """\
a:
  b: [1, x]
"c d": |
  first
    second
"""


def problems(text: str) -> list[str]:
    with pytest.raises(DocumentError) as caught:
        Document(text, "f.yaml")
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("22:30", "22:30"),
        ("on", "on"),
        ("yes", "yes"),
        ("No", "No"),
        ("2026-01-01", "2026-01-01"),
        ("0o17", "0o17"),
        ("1_000", "1_000"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("017", 17),
        ("-5", -5),
        ("1.50", Decimal("1.50")),
        ("1e3", Decimal(1000)),
        (".5", Decimal("0.5")),
        ("'5'", "5"),
        ('"true"', "true"),
        (".inf", ".inf"),
        ("=", "="),
    ],
)
def test_scalars_are_what_json_takes_them_for(text: str, value: object) -> None:
    data = Document(f"k: {text}\n", "f").data
    assert isinstance(data, dict)

    assert data["k"] == value
    assert type(data["k"]) is type(value)


def test_keys_are_always_text() -> None:
    assert Document("1002: a\ntrue: b\n", "f").data == {"1002": "a", "true": "b"}


def test_an_empty_text_says_nothing() -> None:
    assert Document("# only a comment\n", "f").data is None


def test_values_and_keys_know_where_they_stand() -> None:
    document = Document(TEXT, "f")

    assert document.spot(("a", "b", 1)) == (2, 10)
    assert document.key_spot(("a", "b")) == (2, 3)
    assert document.spot(("a", "nowhere", "deeper")) == (2, 3)
    assert document.key_spot(("c d",)) == (3, 1)
    assert document.spot(()) == (1, 1)


WRITTEN = {
    "plain": "e: u >\n  v ?\n",
    "in single quotes": "e: 'u >\n\n   v ''?'\n",
    "in double quotes": 'e: "u >\\n\\n\\n\\tv \\x3e\\x20\\\n   ?"\n',
    "literal": "e: |-  # as it stands\n    u >\n      v ?\n",
    "folded": "e: >-\n\n  u >\n    v\n\n\n  ?\n",
    "under a tag and an anchor": "e: &it !!str\n  u >\n  v ?\n",
    "with a line of Unicode's in it": "e: 'u > \u2028 v ?'\n",
    "in lines of Windows": 'e: "u >\r\n\r\n  v \\\r\n  ?"\r\n',
    "in lines of a Macintosh": "e: |\r  u >\r  v ?\r",
}


@pytest.mark.parametrize("text", WRITTEN.values(), ids=WRITTEN)
def test_a_place_within_a_text_is_where_an_editor_has_it(text: str) -> None:
    document = Document(f"a: b\n{text}", "f")
    assert isinstance(document.data, dict)
    value = document.data["e"]
    lines = re.split(r"\r\n?|\n", f"a: b\n{text}")

    for character in "uv?":
        before = value[: value.index(character)]
        line, column = document.text_spot(("e",), before.count("\n") + 1, len(before) - before.rfind("\n"))
        assert lines[line - 1][column - 1] == character
    end = value.rstrip()
    line, column = document.text_spot(("e",), end.count("\n") + 1, len(end) - end.rfind("\n"))
    assert lines[line - 1][column - 2] == "?"


@settings(max_examples=200)
@given(
    st.text(st.sampled_from("ab  '\"\\\n\t:#&!|>é𝒳\u2028\x85\xa0\ufeff"), min_size=1),
    st.sampled_from(["'", '"', "|", ">", None]),
    st.sampled_from([10, 80]),
    st.booleans(),
)
def test_every_character_of_a_text_is_found_in_whatever_way_it_is_written(
    value: str, style: str | None, width: int, escaped: bool
) -> None:
    written = yaml.dump(
        {"k": [value]}, default_style=style, width=width, allow_unicode=not escaped, Dumper=yaml.SafeDumper
    )
    document = Document(written, "f")
    assert isinstance(document.data, dict)
    [value] = map(str, document.data["k"])  # not every line end is read as it was written
    lines = lines_of(written)

    for offset, character in enumerate(value):
        before = value[:offset]
        line, column = document.text_spot(("k", 0), before.count("\n") + 1, offset - before.rfind("\n"))
        assert 1 <= line <= len(lines)
        if not character.isspace():
            assert lines[line - 1][column - 1] in (character, "\\")


def test_a_place_is_in_a_line_that_there_is() -> None:
    long = Document('a: "x\\n\\n\\n\\ny"\n', "f")

    assert long.text_spot(("a",), 5, 1) == (1, 14)
    assert long.text_spot(("a",), 9, 9) == (1, 15)
    assert Document("a: b\nc:\n\n\n", "f").spot(("c",)) == (2, 3)
    assert problems("a: [\n\n\n") == [
        "f.yaml:1:5: not YAML: while parsing a flow node, did not find expected node content; correct it there"
    ]
    assert Document("a: '\u2028'\nb: c", "f").key_spot(("b",)) == (2, 1)


def test_one_thing_may_stand_where_a_list_could_and_is_found_there() -> None:
    document = Document("a:\n  b:\n    c: 017\n", "f")

    assert document.spot(("a", 0, "b", 0, "c")) == (3, 8)
    assert document.key_spot(("a", 0, "b", 0, "c")) == (3, 5)
    assert document.written(("a", 0, "b", 0, "c")) == "017"
    assert document.written_path(("a", 0, "b", 0, "c")) == ("a", "b", "c")
    assert document.written_path(("a", 0, "x", 0)) == ("a", "x", 0)


def test_aliases_stand_for_what_they_name() -> None:
    assert Document("a: &x [1]\nb: *x\n", "f").data == {"a": [1], "b": [1]}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\na: 2\n", "f.yaml:2:1: the key `a` stands here a second time; keep one of them"),
        (
            "a: !!int '5'\n",
            "f.yaml:1:4: the tag `!!int` is not used here; leave it out; quote what is text",
        ),
        ("? [a]\n: b\n", "f.yaml:1:3: a key that is a list or a mapping; use text as the key"),
        (
            "a: &x [*x]\n",
            "f.yaml:1:4: an alias that leads back to itself, or unfolds without end; write it out",
        ),
        (
            "a: [1, 2\n",
            "f.yaml:1:4: not YAML: while parsing a flow sequence, did not find expected ',' or ']'; correct it there",
        ),
        (
            "a: 1\n---\nb: 2\n",
            "f.yaml:2:1: not YAML: expected a single document in the stream, but found another document; correct it there",
        ),
        (
            "a: \x01\n",
            "f.yaml: not YAML: unacceptable character #x0001: control characters are not allowed; write it as UTF-8 text",
        ),
    ],
    ids=[
        "key twice",
        "tag",
        "list as key",
        "alias circle",
        "open list",
        "two documents",
        "control character",
    ],
)
def test_what_is_no_document_of_ours_says_where(text: str, problem: str) -> None:
    assert problems(text) == [problem]


def test_aliases_that_unfold_without_end_are_stopped() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]

    with pytest.raises(DocumentError, match="unfolds without end") as caught:
        Document("\n".join(lines), "f.yaml", max_nodes=10_000)

    assert len(caught.value.problems) == 1


def test_a_text_is_parsed_a_little_at_a_time_wherever_its_slices_end() -> None:
    text = "".join(f"充电站-{number}: {{名: 'é 😀', n: {number}}}\n" for number in range(1000))
    breaths: list[None] = []
    whole = Document(text, "f")

    for before in ("", "\ufeff", "#\n", "# 1\n", "# 12\n"):
        breaths.clear()
        written = (before + text).encode()
        document = Document(written, "f", breathe=lambda: breaths.append(None))
        assert document.data == whole.data
        assert document.spot(("充电站-999", "n")).column == whole.spot(("充电站-999", "n")).column
        assert len(breaths) > len(written) / PIECE


@pytest.mark.parametrize("end", ["x: [", "k1: 2\n", ""])
def test_nothing_long_is_left_of_a_document_to_be_freed_at_once(end: str) -> None:
    """Nor of one with a mistake in its last line."""
    text = "".join(f"k{number}: {{a: [{number}, 2], b: {{c: d}}}}\n" for number in range(2000)) + end
    parts: list[object] = []
    blocks: list[int] = []

    def count() -> None:
        blocks.append(sys.getallocatedblocks())

    try:
        document = Document(text, "f", breathe=count)
        parts += document.parts()
        del document
    except DocumentError:
        pass
    count()
    let_go(parts, count)

    freed = [before - after for before, after in pairwise(blocks)]
    assert sum(each for each in freed if each > 0) > 50_000
    assert max(freed) < 5_000
