"""Dead letters as a replay reads them."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.core.events import Coordinates, GatewayWords, Record, Replay
from consumer.core.headers import read_replay, replay_headers
from consumer.core.letters import (
    DeadLetter,
    Filters,
    Receipt,
    obstacle,
    plates_of,
    read_letter,
    read_receipt,
    receipt_headers,
    replayed_headers,
    unlettered,
)
from consumer.core.outcomes import Outcome, OutcomeContext, Reason, Resolution, encode_dead_letter
from consumer.rulebook import parse

AT = datetime(2026, 11, 25, 12, 0, 0, 123_000, tzinfo=UTC)
LETTER = DeadLetter(
    outcome_id="cluster/charges/3/17/1",
    outcome="rejected",
    origin=Coordinates("charges", 3, 17),
    timestamp_ms=1_764_000_000_000,
    index=1,
    decided_at=AT,
    reason="policy",
    detail="why",
    code="400",
    rule="an-hour",
    account="main",
    order_id="ORDER1",
    event_id="EVENT1",
    replays=2,
)


def written(max_bytes: int = 1_000_000) -> list[tuple[str, bytes | None]]:
    """The headers of that dead letter, as the service writes them."""
    resolution = Resolution(
        record=Record(
            LETTER.origin, LETTER.timestamp_ms, b"k", b"v", tuple(replay_headers(Replay("x", 2, 1)))
        ),
        index=1,
        outcome=Outcome.REJECTED,
        decided_at=AT,
        reason=Reason.POLICY,
        detail="why",
        dead_letter=True,
        rule="an-hour",
        account="main",
        values={"order_id": "ORDER1", "event_id": "EVENT1"},
        words=GatewayWords("400"),
    )
    return encode_dead_letter(resolution, OutcomeContext("cluster"), max_bytes).headers


def test_a_dead_letter_is_read_as_the_service_writes_it() -> None:
    assert read_letter(written()) == LETTER
    assert read_letter(written(0)) == replace(LETTER, original=False, replays=0)


@pytest.mark.parametrize(
    "name", ["outcome_id", "outcome", "topic", "partition", "offset", "timestamp", "order_index", "decided_at", "payload"]
)  # fmt: skip  # a row
def test_without_what_a_replay_needs_it_is_none(name: str) -> None:
    lacking = [header for header in written() if header[0] != f"coupon_{name}"]

    assert read_letter(lacking) == "not written by this service"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("partition", "-1"),
        ("offset", "9" * 30),
        ("order_index", "9" * 5000),
        ("decided_at", "0001-01-01T00:00:00+23:59"),
        ("decided_at", "9999-12-31T23:59:59-23:59"),
        ("decided_at", "2026-11-25T12:00:00"),
    ],
)
def test_with_numbers_and_times_that_are_none_it_is_none(name: str, text: str) -> None:
    headers = [(key, value) for key, value in written() if key != f"coupon_{name}"]

    assert read_letter([*headers, (f"coupon_{name}", text.encode())]) == "not written by this service"


TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)


@given(
    st.builds(Coordinates, TEXTS, st.integers(0, 2**31), st.integers(0, 2**63 - 1)),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 1000),
    st.dictionaries(st.sampled_from(["order_id", "event_id"]), TEXTS),
    st.sampled_from(Reason),
)
def test_whatever_a_dead_letter_is_about_it_is_read_as_it_was_written(
    origin: Coordinates, timestamp_ms: int, index: int, ids: dict[str, str], reason: Reason
) -> None:
    record = Record(origin, timestamp_ms, None, b"v")
    resolution = Resolution(record, index, Outcome.INVALID, AT, reason=reason, values=dict(ids))
    letter = read_letter(encode_dead_letter(resolution, OutcomeContext("cluster"), 1_000_000).headers)

    assert isinstance(letter, DeadLetter)
    assert (letter.origin, letter.timestamp_ms, letter.index) == (origin, timestamp_ms, index)
    assert (letter.order_id, letter.event_id) == (ids.get("order_id"), ids.get("event_id"))
    assert (letter.decided_at, letter.reason, letter.original) == (AT, reason, True)


def test_a_receipt_is_no_dead_letter_and_is_read_as_it_was_written() -> None:
    receipt = Receipt("cluster/charges/3/17/1", 0, 5)
    headers = receipt_headers(receipt, to="charges", count=3, at=AT)

    assert read_receipt(headers) == receipt
    assert read_receipt(written()) is None
    assert read_letter(headers) == "not written by this service"


# -- Which are meant --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("filters", "fits"),
    [
        ({}, True),
        ({"outcomes": {"unknown", "rejected"}}, True),
        ({"outcomes": {"unknown"}}, False),
        ({"reasons": {"policy"}, "codes": {"400"}}, True),
        ({"reasons": {"policy"}, "codes": {"503"}}, False),
        ({"rules": {"another"}}, False),
        ({"accounts": {"main"}}, True),
        ({"accounts": {"other"}}, False),
        ({"orders": {"ORDER2", "ORDER1"}}, True),
        ({"topics": {"charges"}, "partitions": {3}, "offsets": (range(1, 2), range(17, 41))}, True),
        ({"topics": {"others"}}, False),
        ({"partitions": {4}}, False),
        ({"offsets": (range(18, 41),)}, False),
        ({"since": AT, "until": AT + timedelta(milliseconds=1)}, True),
        ({"since": AT + timedelta(milliseconds=1)}, False),
        ({"until": AT}, False),
    ],
)
def test_of_one_kind_any_must_hold_and_of_several_kinds_all(filters: dict[str, Any], fits: bool) -> None:
    assert Filters(**filters).fit(LETTER) is fits
    assert Filters(**filters).none is (filters == {})


def test_of_final_refusals_there_are_no_dead_letters_to_be_chosen() -> None:
    outcomes = frozenset({Outcome.NOT_CONFIGURED, Outcome.SUSPECT, Outcome.REJECTED})

    assert unlettered(Filters(outcomes=outcomes, codes=frozenset({"1401", "503", "4711"}))) == [
        "not_configured",
        "1401",
    ]
    assert unlettered(Filters()) == []


def test_what_a_dead_letter_lacks_no_filter_finds() -> None:
    assert not Filters(codes=frozenset({"400"})).fit(replace(LETTER, code=None))


@pytest.mark.parametrize(
    ("change", "topics", "why"),
    [
        ({}, {"charges": ""}, None),
        ({"original": False}, {"charges": ""}, "the original was too large to be kept"),
        ({}, {"others": ""}, "its topic charges: none of kafka.topics.events"),
        ({}, {"charges": "it does not exist"}, "its topic charges: it does not exist"),
        ({"replays": 3}, {"charges": ""}, "sent back 3 times already, see --max-replays"),
    ],
)
def test_what_keeps_one_from_going_back_is_told(
    change: dict[str, Any], topics: dict[str, str], why: str | None
) -> None:
    assert obstacle(replace(LETTER, **change), topics, 3) == why


# -- What goes with them ----------------------------------------------------------------------------


def test_the_guard_counts_on_and_there_is_one_of_it() -> None:
    theirs = [("a", b"1"), ("a", None)]
    replay = LETTER.replay(release=True)
    headers = replayed_headers([*theirs, *written()], replay)

    assert replay == Replay(LETTER.outcome_id, 3, 1, release=True)
    assert read_replay(tuple(headers)) == replay
    assert headers == [*theirs, *replay_headers(replay)]


@pytest.mark.parametrize(
    ("change", "index"),
    [
        ({}, None),
        ({"order_id": "ORDER1"}, 0),
        ({"event_id": "EVENT1"}, 0),
        ({"index": 2}, 2),
        ({"reason": "id_missing"}, 0),
        ({"outcome": "rejected"}, 0),
    ],
)
def test_only_of_an_event_that_could_not_be_read_all_orders_are_run(
    change: dict[str, Any], index: int | None
) -> None:
    unreadable = replace(LETTER, index=0, outcome="invalid", reason="not_json", order_id=None, event_id=None)

    assert replace(unreadable, **change).replay(release=False).index == index


def test_a_repetition_of_the_same_outcome_is_known_and_a_topic_that_was_made_anew_is_not_mistaken_for_one() -> (
    None
):
    later = replace(LETTER, decided_at=AT + timedelta(hours=1))

    assert later.identity == LETTER.identity
    assert replace(LETTER, timestamp_ms=1).identity != LETTER.identity
    assert replace(LETTER, outcome_id="other").identity != LETTER.identity


# -- Whose they are ---------------------------------------------------------------------------------

RULES = """
version: 1
sources: {any: {extends: canonical, zone: Asia/Shanghai}}
"""


@pytest.mark.parametrize(
    ("value", "index", "plates"),
    [
        (b'[{"plate": "X"}, {"order_id": "A1", "plate": "\xe7\xb2\xa4b\xc2\xb712345"}]', 1, ("粤B12345",)),
        (b'[{"order_id": "A1", "plate": "\xe7\xb2\xa4b12345"}]', 1, ()),
        (b"{", 0, ()),
        (None, 0, ()),
    ],
)
def test_the_plate_is_that_of_the_order_as_the_rules_read_it(
    value: bytes | None, index: int, plates: tuple[str, ...]
) -> None:
    record = Record(LETTER.origin, 0, None, value)

    assert plates_of(parse(RULES), replace(LETTER, index=index), record) == plates
