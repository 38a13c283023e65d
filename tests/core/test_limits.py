"""The stop line: who may call a refused account, and when."""

from consumer.core.limits import Pass, StopLine


def closed_line(now: float = 0.0) -> StopLine:
    line = StopLine(probe_seconds=30, probe_cap_seconds=300)
    assert line.stop(leave(line, now), now)
    return line


def leave(line: StopLine, now: float) -> Pass:
    given = line.admit(now)
    assert given is not None
    return given


def test_an_open_line_lets_everyone_through() -> None:
    line = StopLine()

    assert Pass(0) == line.admit(0) == line.admit(0)
    assert not line.stopped(0)


def test_a_stop_closes_the_line_until_a_probe_is_due() -> None:
    line = closed_line()

    assert line.closed
    assert line.stopped(29.9)
    assert line.admit(29.9) is None
    assert line.probe_in(20.0) == 10.0
    assert leave(line, 30.0).probe


def test_one_probe_goes_at_a_time() -> None:
    line = closed_line()
    leave(line, 30)

    assert line.probing
    assert line.admit(31) is None
    assert line.admit(10_000) is None


def test_refused_probes_wait_twice_as_long_each_time_up_to_the_cap() -> None:
    line = closed_line()
    now, waits = 0.0, []
    for _ in range(6):
        waits.append(line.probe_in(now))
        now += line.probe_in(now)
        assert not line.stop(leave(line, now), now), "it was closed already"

    assert waits == [30, 60, 120, 240, 300, 300]


def test_any_other_answer_opens_the_line_and_forgets_the_interval() -> None:
    line = closed_line()
    line.stop(leave(line, 30), 30)
    leave(line, 90)

    assert line.answer()
    assert not line.answer(), "it is open already"
    line.stop(leave(line, 91), 91)
    assert line.probe_in(91) == 30


def test_many_stops_of_calls_sent_before_the_line_closed_count_once() -> None:
    line = StopLine(probe_seconds=30)
    leaves = [leave(line, 0) for _ in range(5)]

    assert [line.stop(each, 1) for each in leaves] == [True, False, False, False, False]
    assert line.probe_in(1) == 30


def test_a_stop_of_a_call_sent_before_the_line_opened_does_not_close_it() -> None:
    line = StopLine()
    early, late = leave(line, 0), leave(line, 0)
    line.stop(early, 1)
    line.answer()

    assert not line.stop(late, 2)
    assert not line.closed


def test_a_probe_without_an_answer_waits_as_long_again() -> None:
    line = closed_line()
    line.lost(leave(line, 30), 35)

    assert line.probe_in(35) == 30
    assert line.admit(64) is None
    assert leave(line, 65).probe


def test_a_lost_call_that_was_no_probe_changes_nothing() -> None:
    line = StopLine()
    line.lost(leave(line, 0), 0)

    assert not line.closed


def test_a_leave_holds_until_the_line_moves() -> None:
    line = StopLine()
    before = leave(line, 0)
    assert line.holds(before)

    line.stop(before, 0)

    assert not line.holds(before)
