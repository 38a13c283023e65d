"""Log lines: their form, and what they never hold."""

import io
import json
import logging
import subprocess
import sys
from typing import Any

import pytest
import structlog

from consumer import logs

PLATE = "粤B12345"
SECRET = 'top"secret'


pytestmark = pytest.mark.usefixtures("logging_as_before")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def configured(level: str = "info", format: logs.Format = "json") -> io.StringIO:  # noqa: A002  # as the setting
    stream = io.StringIO()
    logs.configure(level, format, stream, hide=[SECRET])
    return stream


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_json_with_time_level_and_logger() -> None:
    stream = configured()

    structlog.get_logger("consumer.intake").info("joined", partitions=3)

    [line] = lines(stream)
    assert line.pop("time").endswith("Z")
    assert line == {"event": "joined", "level": "info", "logger": "consumer.intake", "partitions": 3}


def test_lines_of_the_standard_library_take_the_same_form() -> None:
    stream = configured()

    logging.getLogger("somewhere").warning("lost %s", "it", extra={"node": 1})

    [line] = lines(stream)
    assert (line["event"], line["level"], line["logger"], line["node"]) == (
        "lost it",
        "warning",
        "somewhere",
        1,
    )


def test_lines_below_the_level_are_not_written() -> None:
    stream = configured("warning")

    structlog.get_logger("a").info("quiet")
    logging.getLogger("b").info("quiet")
    structlog.get_logger("a").warning("loud")

    assert [line["event"] for line in lines(stream)] == ["loud"]


def test_the_kafka_clients_chatter_is_not_written_but_its_warnings_are() -> None:
    stream = configured("debug")

    logging.getLogger("aiokafka.conn").info("chatter")
    logging.getLogger("aiokafka.conn").warning("lost a broker")

    assert [line["event"] for line in lines(stream)] == ["lost a broker"]


def raised_with(text: str) -> None:
    local = text
    raise ValueError(local)


@pytest.mark.parametrize("format", ["json", "console"])
@pytest.mark.parametrize("text", [PLATE, SECRET])
def test_a_plate_or_a_secret_is_in_no_line_wherever_it_stood(format: logs.Format, text: str) -> None:  # noqa: A002  # as the setting is called
    stream = configured(format=format)
    log = structlog.get_logger("a")

    message = f"message {text}"
    log.info(message, field=text, nested={"a": [text]}, plate=text, object=ValueError(text))
    logging.getLogger("b").warning("standard %s", text)
    try:
        raised_with(text)
    except ValueError:
        log.exception("failed")

    assert "message" in stream.getvalue()
    assert "raised_with" in stream.getvalue()
    assert text not in stream.getvalue()
    assert json.dumps(text, ensure_ascii=False)[1:-1] not in stream.getvalue()


def test_fields_that_are_called_secret_are_never_written() -> None:
    stream = configured()

    structlog.get_logger("a").info("x", app_secret="of no one", Password="p4ss", sign="ABCD")

    [line] = lines(stream)
    assert (line["app_secret"], line["Password"], line["sign"]) == ("***", "***", "***")


def test_a_field_that_is_called_plate_is_masked_whatever_it_looks_like() -> None:
    stream = configured()

    structlog.get_logger("a").info("x", plate="TESTCAR")

    assert lines(stream)[0]["plate"] == "TE****R"


@pytest.mark.parametrize("value", ["\ud800", 10**30, b"\xff", object(), {1: 2}])
def test_whatever_is_logged_becomes_a_line(value: object) -> None:
    stream = configured()

    structlog.get_logger("a").info("x", value=value)

    assert len(lines(stream)) == 1


@pytest.mark.parametrize("text", ["\x1b[2J\x1b[31mred", "\rover it", "\x9b2J", "\u202egnorw", "\u2066hidden"])
def test_what_others_wrote_commands_no_terminal(text: str) -> None:
    stream = configured(format="console")

    structlog.get_logger("a").warning("x", problem=text)
    logging.getLogger("b").warning("said: %s", text)

    assert stream.getvalue().count("\n") == 2
    assert not set(stream.getvalue()) & set("\x1b\x9b\r\u202e\u2066")


def test_a_terminal_gets_the_readable_form_and_a_file_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal, file = Terminal(), io.StringIO()

    logs.configure("info", "auto", terminal)
    structlog.get_logger("a").info("hello")
    logs.configure("info", "auto", file)
    structlog.get_logger("b").info("hello")

    assert "\x1b[" in terminal.getvalue()
    assert lines(file)[0]["event"] == "hello"


def test_colours_are_left_out_where_no_one_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = Terminal()
    logs.configure("info", "auto", terminal)

    structlog.get_logger("a").info("hello")

    assert "hello" in terminal.getvalue()
    assert "\x1b[" not in terminal.getvalue()


def test_standard_output_stays_free_for_results() -> None:
    code = (
        "from consumer import logs; import structlog; logs.configure(); structlog.get_logger('a').info('x')"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == ""
    assert '"event":"x"' in done.stderr


def test_what_aiokafka_repeats_is_told_less_and_less_often() -> None:
    stream = configured()
    repeated = logging.getLogger("aiokafka.client")
    for number in range(500):
        repeated.error("Unable connect to node with id %s: %s", number, "refused")
    repeated.warning("Something else")
    logging.getLogger("ours").warning("of our own")
    logging.getLogger("ours").warning("of our own")
    events = [json.loads(line)["event"] for line in stream.getvalue().splitlines()]
    assert events == [
        "Unable connect to node with id 0: refused",
        "Something else",
        "of our own",
        "of our own",
    ]


def test_a_matter_that_goes_on_is_told_at_growing_intervals_with_how_often_it_was_met() -> None:
    intervals = logs.Intervals(first=10.0, longest=100.0)
    told = {second: count for second in range(400) if (count := intervals.due("away", second)) is not None}
    assert told == {0: 0, 10: 9, 30: 19, 70: 39, 150: 79, 250: 99, 350: 99}
    assert intervals.due("away", 501) == 0  # quiet for longer than the longest: a new matter
    assert intervals.due("something else", 501) == 0
