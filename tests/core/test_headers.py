"""Our own headers: what a retry and a replay say of the event that they carry."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.core.events import Attempts, Coordinates, GatewayWords, Replay, RetryContext, Wait
from consumer.core.headers import (
    event_headers,
    own_headers,
    read_replay,
    read_retry,
    replay_headers,
    retry_headers,
)

AT = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
INSTANTS = st.integers(0, 10**12).map(lambda ms: AT + timedelta(milliseconds=ms))
NUMBERS = st.integers(0, 2**53)
CONTEXTS = st.builds(
    RetryContext,
    origin=st.builds(Coordinates, TEXT, NUMBERS, NUMBERS),
    timestamp_ms=st.integers(-(2**63), 2**63 - 1),
    index=NUMBERS,
    wait=st.sampled_from(Wait),
    written_at=INSTANTS,
    due_at=INSTANTS,
    tier=NUMBERS,
    waits=NUMBERS,
    excused_seconds=st.integers(0, 10**9).map(lambda ms: ms / 1000),
    attempts=st.builds(
        Attempts,
        count=NUMBERS,
        first_at=st.none() | INSTANTS,
        last_at=st.none() | INSTANTS,
        seconds=st.none() | st.integers(0, 10**9).map(lambda us: us / 1_000_000),
        ambiguous=st.booleans(),
    ),
    label=TEXT,
    words=st.builds(
        GatewayWords,
        code=st.none() | TEXT,
        http_status=st.none() | st.integers(100, 599),
        message=st.none() | TEXT,
        seqno=st.none() | TEXT,
        enter_time=st.none() | TEXT,
    ),
    event_id=st.none() | TEXT,
    order_id=st.none() | TEXT,
)


def context(**changes: Any) -> RetryContext:
    whole: dict[str, Any] = {
        "origin": Coordinates("charges", 3, 17),
        "timestamp_ms": 1,
        "index": 0,
        "wait": Wait.REPLY,
        "written_at": AT,
        "due_at": AT + timedelta(minutes=1),
    }
    return RetryContext(**(whole | changes))


@given(CONTEXTS)
def test_what_is_known_of_a_waiting_order_is_read_as_it_was_written(known: RetryContext) -> None:
    assert read_retry(tuple(own_headers(retry_headers(known)))) == known


@pytest.mark.parametrize("name", [name for name, text in retry_headers(context()).items() if text])
def test_a_record_without_one_of_the_headers_is_not_taken_for_a_retry_or_lacks_only_that(name: str) -> None:
    headers = tuple(h for h in own_headers(retry_headers(context())) if h[0] != f"coupon_{name}")

    assert read_retry(headers) == f"no header coupon_{name}: not written by this service"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("offset", "x"),
        ("due_at", "soon"),
        ("due_at", "2026-11-25T12:00:00"),
        ("waits_for", "luck"),
        ("tier", ""),
        ("waits", "-5"),
        ("partition", "9" * 30),
        ("offset", "9" * 5000),
        ("excused_seconds", "nan"),
        ("excused_seconds", "inf"),
        ("excused_seconds", "1e300"),
        ("excused_seconds", "-1e9"),
        ("seconds", "nan"),
        ("due_at", "9999-12-31T23:59:59-23:59"),
        ("written_at", "0001-01-01T00:00:00+23:59"),
        ("first_at", "0001-01-01T00:00:00+23:59"),
    ],
)
def test_headers_that_cannot_be_read_are_told(name: str, text: str) -> None:
    found = read_retry(tuple(own_headers(retry_headers(context()) | {name: text})))

    assert isinstance(found, str)
    assert found.startswith("its coupon_ headers cannot be read: ")


@given(
    st.builds(
        Replay,
        of=TEXT,
        count=st.integers(0, 2**31),
        index=st.none() | st.integers(0, 1000),
        release=st.booleans(),
    )
)
def test_a_replay_is_read_as_it_was_written(replay: Replay) -> None:
    assert read_replay(tuple(replay_headers(replay))) == replay


def test_what_nobody_sent_back_is_no_replay() -> None:
    assert read_replay((("coupon_order_index", b"1"), ("traceparent", b"x"))) is None


def test_a_replays_headers_that_cannot_be_read_are_none() -> None:
    assert read_replay((("coupon_replay_of", b"x"), ("coupon_replay_count", b"many"))) is None


def test_an_events_own_headers_go_along_byte_for_byte_and_so_does_the_replays_guard() -> None:
    theirs = [("a", b"\xff"), ("a", None), ("a", b"")]
    guard = replay_headers(Replay("x", 1, 0))

    assert event_headers([*theirs, *own_headers(retry_headers(context())), *guard]) == [*theirs, *guard]
