"""YAML 1.2 with positions."""

from decimal import Decimal

import pytest

from consumer.core.documents import Document, DocumentError

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


def test_a_place_within_a_text_is_found_in_the_document() -> None:
    document = Document(TEXT + 'e: "quoted"\nf: plain\n', "f")

    assert document.text_spot(("c d",), 2, 3) == (5, 7)
    assert document.text_spot(("e",), 1, 1) == (6, 5)
    assert document.text_spot(("f",), 1, 3) == (7, 6)


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
            "f.yaml:2:1: not YAML: while parsing a flow sequence, did not find expected ',' or ']'; correct it there",
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
