"""The demo as a user runs it: in a process of its own, on a Kafka of its own."""

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console

from consumer.cli import demo as demo_command
from consumer.cli.stage import Names, Play
from consumer.sandbox.broker import DEFAULT_VERSION, REPOSITORY_VARIABLE, cache_folder
from consumer.sandbox.reconcile import Charges, OutcomeFields, Report
from consumer.sandbox.scenarios import BROWN_OUT, SCENARIOS, STEADY, Scenario
from consumer.sandbox.screen import Screen

pytestmark = pytest.mark.broker

SECONDS = 120
WHOLE_PLATE = re.compile(r"[粤川京沪浙苏鄂][A-Z][A-Z0-9]{4}")


class Demo:
    """A demo that was started, whose temporary files are in a folder of its own."""

    def __init__(self, temporary: Path, *arguments: str, **environment: str) -> None:
        self.temporary = temporary
        self.lines: list[str] = []
        self._process = subprocess.Popen(
            [sys.executable, "-u", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # Ctrl-C goes to all processes of a terminal's group
            env=_environment()
            | {
                "TMPDIR": str(temporary),
                "XDG_CACHE_HOME": str(cache_folder().parent),
                "PYTHONWARNINGS": "error::ResourceWarning",
            }
            | environment,
        )

    def read_until(self, text: str) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.rstrip())
            if text in line:
                return
        raise AssertionError(f"{text!r} never came:\n{self.output}")

    def interrupt(self, number: signal.Signals) -> None:
        os.killpg(self._process.pid, number)

    def end(self) -> int:
        rest, _ = self._process.communicate(timeout=SECONDS)
        self.lines += rest.splitlines()
        return self._process.returncode

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()

    def line(self, text: str) -> str:
        return next(line for line in self.lines if text in line)

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def leftovers(self) -> list[str]:
        """Temporary files, and processes that know of them."""
        processes = [
            f"process {process.name}"
            for process in Path("/proc").iterdir()
            if process.name.isdecimal() and str(self.temporary).encode() in _read(process / "cmdline")
        ]
        return [*(path.name for path in self.temporary.iterdir()), *processes]


Start = Callable[..., Demo]


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}


def _shell(*commands: str) -> str:
    return subprocess.check_output(["sh", "-c", "\n".join(commands)], text=True, env=_environment())


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as response:
        return str(response.read().decode())


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:  # it has just ended
        return b""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Demo] = []
    temporary = tmp_path / "temporary"
    temporary.mkdir()

    def start_one(*arguments: str, **environment: str) -> Demo:
        started.append(Demo(temporary, *arguments, **environment))
        return started[-1]

    yield start_one
    for demo in started:
        demo.kill()


async def _play(servers: str, prefix: str, scenario: Scenario, **options: Any) -> tuple[Report, str]:
    """In this process, on a Kafka that others use too."""
    text = io.StringIO()
    names = Names(f"{prefix}.events", f"{prefix}.outcomes", f"{prefix}.dead", f"{prefix}.group")
    with Screen(Console(file=text)) as screen:
        async with Play(scenario, names=names, **options) as play:
            report = await play.run(servers, screen)
    return report, text.getvalue()


def _lose(outcomes: list[OutcomeFields]) -> list[OutcomeFields]:
    first = _granted(outcomes)
    return [each for each in outcomes if each is not first]


def _double(outcomes: list[OutcomeFields]) -> list[OutcomeFields]:
    return [*outcomes, _granted(outcomes)]


def _granted(outcomes: list[OutcomeFields]) -> OutcomeFields:
    return next(each for each in outcomes if each["outcome"] == "granted")


@pytest.mark.parametrize(
    ("tamper", "problem"),
    [(_lose, "no outcome, expected granted"), (_double, "2 outcomes (granted, granted), expected one")],
)
async def test_the_demo_names_the_order_whose_outcome_is_lost_or_doubled(
    broker: str, topic_prefix: str, tamper: Callable[[list[OutcomeFields]], list[OutcomeFields]], problem: str
) -> None:
    orders: list[str] = []

    def tampered(outcomes: list[OutcomeFields]) -> list[OutcomeFields]:
        orders.append(_granted(outcomes)["order_id"])
        return tamper(outcomes)

    report, shown = await _play(broker, topic_prefix, STEADY, events=25, tamper=tampered)

    assert not report.agrees
    assert re.search(rf"order {orders[0]} \(record \S+\): {re.escape(problem)}", shown)


async def test_through_a_brown_out_every_order_has_one_outcome_and_the_platform_says_the_same(
    broker: str, topic_prefix: str
) -> None:
    report, shown = await _play(broker, topic_prefix, BROWN_OUT.scaled(0.25), events=300)

    assert report.problems == ()
    assert report.outcomes == report.orders
    good = next(row for row in report.rows if row.kind == "good")
    assert good.outcomes["granted"] > good.orders / 2
    assert "The platform fails most calls" in shown
    assert "one that the scenario allows" in shown
    charges = report.charges
    assert charges.struck > 0, "the platform never failed"
    assert charges.without["platform_failed"] > 0, "every charge got its coupon"
    with_coupon = charges.granted + charges.lost_reply + sum(charges.unheard.values())
    others = (charges.without, charges.pushed_again, report.unasked)
    assert with_coupon == report.grants
    assert with_coupon + sum(sum(each.values()) for each in others) == report.orders


ON_THE_WIRE = [
    "redirects",
    "html-200",
    *(name for name, each in SCENARIOS.items() if each.phases[0].deliveries),
]


@pytest.mark.long
@pytest.mark.parametrize("name", ON_THE_WIRE)
async def test_on_a_wire_that_misbehaves_every_charge_has_one_outcome_and_no_coupon_twice(
    broker: str, topic_prefix: str, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    scenario = SCENARIOS[name]
    report, _ = await _play(broker, topic_prefix, scenario, events=150)

    assert report.problems == ()
    assert report.outcomes == report.orders
    charges = report.charges
    # Whatever went wrong was made good by a second or third call.
    assert charges.granted + charges.lost_reply >= 0.95 * report.grants
    # The first redirect stops the account, and may be of a charge that is meant to get no coupon;
    # a call that finds nobody is in no journal, and mostly made good by the next one.
    if name == "redirects":
        assert "the platform refuses this account" in capfd.readouterr().err, "else nothing was tried"
    elif name != "half-open":
        assert (charges.struck > 0) == scenario.fails, "else nothing was tried"


def test_the_demo_says_that_all_agree_and_leaves_nothing(start: Start) -> None:
    demo = start("-m", "consumer", "demo", "--events", "40")

    assert demo.end() == 0, demo.output
    assert "Every order has exactly one outcome, the expected one" in demo.output
    assert re.search(r"40 records held \d+ orders", demo.output)
    assert f"  {sys.executable} -m consumer demo --scenario brown-out" in demo.output
    assert "--events" not in demo.output, "that has just been tried"
    assert [line for line in demo.lines if line != line.rstrip()] == []
    assert not WHOLE_PLATE.search(demo.output)
    assert demo.leftovers() == []


@pytest.mark.parametrize(
    ("scenario", "sized", "keep", "suggested"),
    [
        ("steady", False, False, ["--scenario brown-out", "--events 20000", "--keep"]),
        ("slow", False, False, ["--scenario brown-out", "--events 20000", "--keep"]),
        ("brown-out", False, False, ["--scenario slow", "--events 20000", "--keep"]),
        ("brown-out", True, False, ["--scenario slow", "--keep"]),
        ("steady", False, True, ["--scenario brown-out", "--events 20000"]),
    ],
)
def test_what_a_demo_suggests_is_not_what_was_just_done(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    logging_as_before: None,
    scenario: str,
    sized: bool,
    keep: bool,
    suggested: list[str],
) -> None:
    async def show(play: Play, screen: Screen) -> Report:
        return Report((), (), 1, 1, 1, 1, Charges(granted=1), {})

    monkeypatch.setattr(demo_command, "_show", show)
    monkeypatch.setattr("sys.argv", [".venv/bin/charging-coupon"])

    demo_command.demo(scenario=scenario, events=100 if sized else None, keep=keep)

    assert re.findall(r"  \.venv/bin/charging-coupon demo (.+?)  ", capsys.readouterr().out) == suggested


def test_a_demo_that_disagrees_ends_with_1(monkeypatch: pytest.MonkeyPatch, logging_as_before: None) -> None:
    async def show(play: Play, screen: Screen) -> Report:
        return Report((), ("order A1: no outcome, expected granted",), 1, 1, 0, 0, Charges(), {})

    monkeypatch.setattr(demo_command, "_show", show)

    with pytest.raises(typer.Exit) as ended:
        demo_command.demo()

    assert ended.value.exit_code == 1


@pytest.mark.parametrize(
    ("moment", "number", "status"),
    [
        ("Starting Kafka", signal.SIGINT, 130),
        ("Sending", signal.SIGINT, 130),
        ("Stopping the service", signal.SIGINT, 130),
        ("granted", signal.SIGTERM, 143),
    ],
)
def test_an_interrupted_demo_leaves_nothing(
    start: Start, moment: str, number: signal.Signals, status: int
) -> None:
    demo = start("-m", "consumer", "demo", "--events", "30")
    demo.read_until(moment)
    began = time.monotonic()

    demo.interrupt(number)

    assert demo.end() == status, demo.output
    assert time.monotonic() - began < 15
    assert "Traceback" not in demo.output
    assert demo.leftovers() == []


def test_a_demo_interrupted_while_it_fetches_kafka_leaves_nothing(start: Start, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        repository = f"http://127.0.0.1:{silent.getsockname()[1]}"
        cache = tmp_path / "cache"
        demo = start(
            "-m", "consumer", "demo", **{REPOSITORY_VARIABLE: repository, "XDG_CACHE_HOME": str(cache)}
        )
        demo.read_until(f"Fetching Kafka {DEFAULT_VERSION} from {repository}")
        silent.accept()[0].close()

        demo.interrupt(signal.SIGINT)

        assert demo.end() == 130, demo.output
    assert "Traceback" not in demo.output
    assert [path.name for path in cache.rglob("*") if path.is_file()] == [
        f"kafka_2.13-{DEFAULT_VERSION}.lock"
    ]
    assert demo.leftovers() == []


def test_a_demo_that_stays_up_says_how_to_reach_it_and_ends_well_when_it_is_interrupted(start: Start) -> None:
    demo = start("-m", "consumer", "demo", "--events", "20", "--keep")
    demo.read_until("Further outcomes")
    export, send, look = (
        line.strip() for line in demo.lines if re.search(r"^  (export|echo|.* outcomes --order) ", line)
    )
    journal, page = (
        re.search(r"http://\S+", demo.line(name)) for name in ("  platform's journal", "  service's page")
    )
    assert journal
    assert page

    assert "op0000000000000demo" in _get(f"{journal[0]}journal")
    assert "coupon_outcomes_total" in _get(f"{page[0]}metrics")
    assert json.loads(_get(page[0]))["group"] == "charging-coupon-demo"
    sent = _shell(export, send)
    demo.read_until("granted")
    told = _shell(export, look)
    demo.interrupt(signal.SIGINT)

    assert demo.end() == 0, demo.output
    assert re.search(r"1 event was sent: charging-completed-\d@\d+", sent)
    assert "order MINE-1  粤B****5  granted" in told
    assert not WHOLE_PLATE.search(demo.output.replace('"plate": "粤B12345"', ""))
    assert demo.leftovers() == []
