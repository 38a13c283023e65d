"""How the service sums up how things stand; what it keeps of an order; what it counts as the last minute."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.core.breakers import State as BreakerState
from consumer.core.breakers import Why
from consumer.core.events import Attempts, Coordinates, GatewayWords, Record, Wait
from consumer.core.outcomes import Later, Outcome, PlateMode, Reason, Resolution
from consumer.core.status import (
    LONGEST_TEXT,
    Counted,
    Recent,
    State,
    Status,
    Window,
    printable,
    sentences,
    tiers_of,
    with_texts,
)
from tests.statuses import AT, ago, granting, held_up, partition, waiting

# -- In words ---------------------------------------------------------------------------------------


def told(status: Status) -> list[tuple[State, str]]:
    return sentences(status, UTC)


def idle() -> Status:
    well = granting()
    none = [replace(each, last_minute=0) for each in well.counts.outcomes]
    return replace(
        well, counts=replace(well.counts, outcomes=none), partitions=[partition(0, 7), waiting("1m", 3, 9, 5)]
    )


def test_it_tells_how_many_coupons_were_granted() -> None:
    status = replace(granting(), partitions=[partition(0, 7)])

    assert told(status) == [(State.GRANTING, "Granting: 212 coupons in the last minute, nothing is held up")]


def test_it_tells_of_a_backlog() -> None:
    status = replace(granting(), partitions=[partition(0, 7, lag=4_000), partition(1, 7, lag=212)])

    assert told(status) == [(State.GRANTING, "Granting: 212 coupons in the last minute, 4,212 records to go")]


def test_what_was_granted_before_is_no_further_coupon() -> None:
    well = granting()
    counts = replace(well.counts, window_seconds=20.0, outcomes=[Counted("already_granted", 1, 9)])

    assert told(replace(well, counts=counts, partitions=[])) == [
        (State.WORKING, "Working: 1 order ended in 20 s, none with a coupon; nothing is held up")
    ]


def test_it_is_idle_where_nothing_is_to_do_however_much_waits_to_be_retried() -> None:
    assert told(idle()) == [(State.IDLE, "Idle: all records are done, and no order ended in the last minute")]


def test_a_member_without_partitions_stands_by() -> None:
    assert told(replace(idle(), partitions=[]))[0] == (
        State.IDLE,
        "Standing by: the group's other members have all partitions",
    )


def test_records_of_which_none_ends_are_told() -> None:
    assert told(replace(idle(), partitions=[partition(0, 7, lag=1)])) == [
        (State.WORKING, "Working: no order ended in the last minute; 1 record to go")
    ]


def test_one_account_that_is_held_up_while_others_go_on_holds_up_a_part() -> None:
    well, bad = granting(), held_up()

    assert told(replace(well, accounts=[well.accounts[0], bad.accounts[1]])) == [
        (
            State.PARTLY_HELD_UP,
            "Partly held up: the platform refuses account airport since 2026-02-28 14:13 (401): check its app_id and secret; other accounts go on",
        )
    ]


def test_the_only_account_needs_no_name() -> None:
    status = replace(granting(), accounts=[held_up().accounts[0]])

    assert told(status) == [
        (
            State.HELD_UP,
            "Held up: the platform's breaker is open since 04:03 (503): most calls failed; next try in 3 s",
        )
    ]


def test_calls_that_reach_nobody_are_told_with_the_address_and_the_systems_words() -> None:
    error = "ConnectionRefusedError (Connection refused: 192.0.2.7 port 443)"
    main = replace(held_up().accounts[0], code="connect", error=error)
    status = replace(granting(), accounts=[main])

    assert told(status) == [
        (
            State.HELD_UP,
            (
                "Held up: the platform's breaker is open since 04:03 (connect): most calls to "
                f"{main.endpoint} failed, {error}; next try in 3 s"
            ),
        )
    ]


def test_times_of_day_are_those_of_the_zone() -> None:
    status = replace(granting(), accounts=[held_up().accounts[0]])

    ((_, text),) = sentences(status, timezone(timedelta(hours=8)))

    assert "since 12:03 (503)" in text


def test_a_breaker_that_is_closing_holds_nothing_up() -> None:
    main = replace(held_up().accounts[0], breaker=BreakerState.CLOSING, breaker_why=Why.FAILURES)

    assert told(replace(granting(), accounts=[main]))[0][0] is State.GRANTING


@pytest.mark.parametrize(
    ("changes", "state", "text"),
    [
        ({"alive": False}, State.STUCK, "Stuck: Kafka has not been polled for minutes; restart it"),
        ({"stopping": True}, State.STOPPING, "Stopping: what was begun ends, then it leaves the group"),
        ({"joined": False}, State.STARTING, "Waiting for Kafka: joining the group"),
        (
            {"joined": False, "waiting_for": "topic a: missing"},
            State.STARTING,
            "Waiting for Kafka: topic a: missing",
        ),
        ({"waiting_for": "cannot write outcomes: x"}, State.HELD_UP, "Held up: cannot write outcomes: x"),
        ({"rebalancing": True}, State.STARTING, "Rebalancing: the group divides the partitions anew"),
        (
            {"unreadable_topics": ["charges"]},
            State.PARTLY_HELD_UP,
            "Partly held up: nothing in topic charges can be read; correct its source",
        ),
        (
            {"partitions": [partition(3, 1, paused="damaged")]},
            State.PARTLY_HELD_UP,
            "Partly held up: the batch of charging-completed-3 at offset 1 is damaged, nothing behind it is read",
        ),
        (
            {"partitions": [partition(0, 1, paused="offset_map")]},
            State.PARTLY_HELD_UP,
            "Partly held up: 1 partition takes in nothing more until its oldest record ends",
        ),
    ],
)
def test_what_holds_it_up_comes_first(changes: dict[str, object], state: State, text: str) -> None:
    assert told(replace(granting(), **changes))[0] == (state, text)  # type: ignore[arg-type]  # as the names say


def test_credentials_that_are_kept_are_told_beside_whatever_else_is_so() -> None:
    kept = "the way to Kafka: Kafka at k-1:9093 does not accept our certificate"

    assert told(replace(granting(), credentials_kept=[kept]))[1:] == [
        (
            "partly_held_up",
            f"A secret or certificate that was exchanged is of no use, and the one before goes on: {kept}",
        )
    ]


def test_refused_rules_are_told_beside_whatever_else_is_so() -> None:
    rules = held_up().rules

    assert [state for state, _ in told(replace(granting(), rules=rules))] == [
        State.GRANTING,
        State.PARTLY_HELD_UP,
    ]
    assert told(held_up())[-1][1] == (
        "The rules files as they are now are refused since 03:35; those that were in force before go on"
    )


# -- What is kept of an order -----------------------------------------------------------------------

PLATE = "粤BD12345"


def resolution(**changes: object) -> Resolution:
    whole = {
        "record": Record(Coordinates("charges", 0, 7), 0, PLATE.encode(), b"{}" * 1000),
        "index": 0,
        "outcome": Outcome.GRANTED,
        "decided_at": AT,
        "account": "main",
        "rule": "free",
        "values": {"plate": PLATE, "order_id": "A1"},
        "attempts": Attempts(2),
        "words": GatewayWords("1001", 200, "操作成功"),
        "label": "1001",
    }
    return Resolution(**(whole | changes))  # type: ignore[arg-type]  # as the names say


def test_of_an_order_its_end_is_kept_and_a_masked_plate() -> None:
    assert Recent.of(resolution(), PlateMode.BOTH) == Recent(
        at=AT,
        outcome="granted",
        reason=None,
        code="1001",
        waits_for=None,
        due_at=None,
        order_id="A1",
        plate="粤B*****5",
        account="main",
        rule="free",
        attempts=2,
        message="操作成功",
    )


def test_of_one_that_waits_it_is_kept_what_for_and_until_when() -> None:
    later = Later(Wait.REPLY, 0, AT + timedelta(minutes=1), 1, 0, 0.0)
    kept = Recent.of(resolution(outcome=Outcome.NOT_ENTERED, later=later), PlateMode.CLEAR)

    assert (kept.outcome, kept.waits_for, kept.due_at) == (None, "reply", later.due_at)


@pytest.mark.parametrize("mode", PlateMode)
@pytest.mark.parametrize("plate", [PLATE, "ABC-123", "粤B12345", "WJ粤12345", "X"])
def test_nothing_that_is_kept_holds_a_whole_plate_whatever_the_privacy(mode: PlateMode, plate: str) -> None:
    kept = Recent.of(
        resolution(
            values={"plate": plate, "order_id": f"{plate}-2026"},
            words=GatewayWords("400", 400, f"no such car: {plate}, {plate.lower()}"),
        ),
        mode,
    )
    texts: list[str] = []
    with_texts(kept, lambda text: texts.append(text) or text)  # type: ignore[func-returns-value]  # collects

    assert len(texts) >= 5
    assert [text for text in texts if len(plate) > 1 and plate.lower() in text.lower()] == []
    assert (kept.plate is not None) == mode.clear


def test_without_a_plate_our_own_words_are_kept() -> None:
    kept = Recent.of(
        resolution(
            outcome=Outcome.INVALID,
            reason=Reason.NOT_JSON,
            values=None,
            words=GatewayWords(),
            label="",
            detail="the value is not JSON",
        ),
        PlateMode.CLEAR,
    )

    assert (kept.plate, kept.order_id, kept.reason, kept.message) == (
        None,
        None,
        "not_json",
        "the value is not JSON",
    )


def test_no_text_that_is_kept_is_long() -> None:
    kept = Recent.of(
        resolution(
            values={"plate": "P" * 10_000, "order_id": "9" * 10_000}, words=GatewayWords(message="m" * 10_000)
        ),
        PlateMode.CLEAR,
    )

    assert {len(kept.plate or ""), len(kept.order_id or ""), len(kept.message)} == {LONGEST_TEXT}


@given(st.text(st.characters()))
def test_what_is_printable_can_be_encoded(text: str) -> None:
    assert len(printable(text).encode()) <= 4 * LONGEST_TEXT


def test_closed_sets_stay_as_they_are_when_texts_are_changed() -> None:
    changed = with_texts(held_up(), lambda _: "x")

    assert changed.accounts[0].breaker is BreakerState.OPEN
    assert changed.accounts[0].name == "x"
    assert changed.rules.problems == ["x", "x"]
    assert changed.at == AT


# -- Counting ---------------------------------------------------------------------------------------


def test_a_minute_is_told_of_once_there_was_one() -> None:
    window = Window(0.0, {"replies": {}})
    for second in range(2, 200, 2):
        window.note(second, {"replies": {"1001": second * 10, "503": 7}})

    counts = window.counts(199.0, {"replies": {"1001": 1990, "503": 7}})

    assert counts.window_seconds == 61.0
    assert counts.replies == (Counted("1001", 610, 1990), Counted("503", 0, 7))


def test_a_young_service_tells_for_how_long_it_has_counted() -> None:
    counts = Window(100.0, {"replies": {"1001": 0}}).counts(107.5, {"replies": {"1001": 3}})

    assert counts.window_seconds == 7.5
    assert counts.replies == (Counted("1001", 3, 3),)


def test_what_is_kept_of_the_past_is_bounded() -> None:
    window = Window(0.0, {})
    for second in range(2, 10_000, 2):
        window.note(second, {})

    assert len(window._noted) <= 32


def test_a_count_that_began_anew_is_not_negative() -> None:
    assert Window(0.0, {"outcomes": {"granted": 9}}).counts(5.0, {"outcomes": {"granted": 1}}).outcomes == (
        Counted("granted", 0, 1),
    )


def test_retry_topics_sum_up_what_waits_in_their_partitions() -> None:
    partitions = [waiting("1m", 5, 7, 30.0), waiting("1m", 9, 2, 12.0), partition(0, 5, lag=99)]

    first, second = tiers_of(partitions, {"coupon-retries.1m": 60.0, "coupon-retries.5m": 300.0})

    assert (first.partitions, first.waiting, first.next_due_at) == (2, 9, ago(-12.0))
    assert (second.partitions, second.waiting, second.next_due_at) == (0, 0, None)


def test_a_date_is_told_where_it_is_not_todays() -> None:
    late = replace(granting(), at=datetime(2026, 3, 2, 0, 1, tzinfo=UTC), rules=held_up().rules)

    assert "refused since 2026-03-01 03:35;" in told(late)[-1][1]
