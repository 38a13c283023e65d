"""The status page: what it says, that it needs nothing but itself, and that nothing from outside becomes markup."""

import base64
import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC
from html.parser import HTMLParser
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.core.status import Status, printable, with_texts
from consumer.page import MOST_ROWS, POLICY, page
from tests.statuses import granting, held_up, partition

MOMENTS: list[Callable[[], Status]] = [granting, held_up]


class Parsed(HTMLParser):
    """What a browser makes of it: elements with their attributes, and the text between them."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, tuple[tuple[str, str | None], ...]]] = []
        self.texts: list[str] = []
        self.others: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def handle_comment(self, data: str) -> None:
        self.others.append(data)

    def handle_pi(self, data: str) -> None:
        self.others.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.texts)

    @property
    def structure(self) -> list[tuple[str, list[str]]]:
        return [(tag, [name for name, _ in attributes]) for tag, attributes in self.elements]


def shown(status: Status) -> Parsed:
    return Parsed(page(status, UTC))


def test_it_begins_with_how_things_stand() -> None:
    assert "<h1>Granting: 212 coupons in the last minute, 3 records to go</h1>" in page(granting(), UTC)


def test_it_says_what_holds_it_up_and_what_else_is_wrong() -> None:
    text = shown(held_up()).text

    assert "Held up: the platform's breaker for account main is open since 04:03 (503)" in text
    assert "Held up: the platform refuses account airport since 2026-02-28 14:13 (401)" in text
    assert "The rules files as they are now are refused since 03:35" in text
    assert "did you mean `minutes`?" in text


@pytest.mark.parametrize(
    "told",
    [
        "0.1.0 on coupons-7d9c6b5f4-x2x8k, group charging-coupon, up for 3 d 5 h",
        "charging-completed-1",
        "309,877",
        "coupon-retries.30m",
        "due 04:07:24",
        "5f0c9b1a2c3d",
        "not entered",
        "668,204",
        "waits for reply",
        "粤B*****5",
        "below threshold",
        "33%",
    ],
)
def test_it_tells_each_fact_of_a_member_that_grants(told: str) -> None:
    assert told in shown(granting()).text


@pytest.mark.parametrize("moment", MOMENTS)
def test_it_loads_nothing_and_runs_nothing(moment: Callable[[], Status]) -> None:
    parsed = shown(moment())

    assert {tag for tag, _ in parsed.elements}.isdisjoint(
        {"script", "img", "iframe", "form", "object", "base"}
    )
    attributes = [attribute for _, attributes in parsed.elements for attribute in attributes]
    assert [name for name, _ in attributes if name.startswith("on") or name in ("style", "src")] == []
    links = {value for name, value in attributes if name == "href"}
    assert {link for link in links if link is not None and not link.startswith("data:")} == {
        "?refresh=off",
        "status.json",
        "metrics",
        "readyz",
        "healthz",
    }


def test_its_policy_allows_its_own_style_and_no_other() -> None:
    (style,) = re.findall("<style>(.*?)</style>", page(granting(), UTC), re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()

    assert f"style-src 'sha256-{digest}';" in POLICY
    assert "default-src 'none'" in POLICY
    assert "unsafe" not in POLICY
    assert "url(" not in style
    assert "@import" not in style


def test_it_loads_itself_again_unless_told_not_to() -> None:
    assert 'http-equiv="refresh"' in page(granting(), UTC)
    assert 'http-equiv="refresh"' not in page(granting(), UTC, refresh=False)


def test_of_very_many_partitions_those_are_shown_that_are_behind() -> None:
    many = [partition(number, 100, lag=number) for number in range(MOST_ROWS + 40)]
    text = shown(replace(granting(), partitions=many)).text

    assert f"charging-completed-{MOST_ROWS + 39} " in text
    assert "charging-completed-39 " not in text
    assert "and 40 more, in the JSON" in text


hostile = st.one_of(
    st.sampled_from(
        [
            "<script>alert(1)</script>",
            "\"'><img src=x onerror=alert(1)>",
            "</td></table><h1>",
            "<!--",
            "]]>",
            "</style><style>*{display:none}",
            "&lt;b&gt;",
            "\x00\x1b[31m",
            "\ud800",
            "javascript:alert(1)",
            "{{7*7}}${7*7}",
            "\u202e\u2066",
            "%0d%0aSet-Cookie: a=b",
        ]
    ),
    st.text(st.characters(), min_size=1, max_size=40),
)


@given(st.lists(hostile, min_size=8, max_size=8), st.sampled_from(MOMENTS))
def test_no_text_from_outside_becomes_markup(texts: list[str], moment: Callable[[], Status]) -> None:
    numbers = count()

    def planted(_: str) -> str:
        return f"x{texts[next(numbers) % len(texts)]}"

    plain = shown(with_texts(moment(), lambda _: "x"))
    parsed = shown(with_texts(with_texts(moment(), planted), printable))

    assert parsed.structure == plain.structure
    assert parsed.others == []
    assert "x" + printable(texts[0]).replace("\r\n", "\n") in "".join(parsed.texts).replace("\r\n", "\n")
