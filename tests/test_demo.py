"""The demo as a user runs it: in a process of its own, on a Kafka of its own."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from consumer.sandbox.broker import REPOSITORY_VARIABLE, cache_folder

pytestmark = pytest.mark.broker

SECONDS = 120

TAMPERED = """
import sys
from functools import partial
from consumer.cli import demo, main

def tamper(outcomes):
    first = next(each for each in outcomes if each["outcome"] == "granted")
    print("tampered with", first["order_id"])
    return [*outcomes, first] if {doubled} else [each for each in outcomes if each is not first]

demo.show = partial(demo.show, tamper=tamper)
main(["demo", "--events", "25"])
"""


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
            env=os.environ
            | {
                "TMPDIR": str(temporary),
                "XDG_CACHE_HOME": str(cache_folder().parent),
                "PYTHONPATH": os.pathsep.join(sys.path),
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


def test_every_event_of_the_demo_is_accounted_for(start: Start) -> None:
    demo = start("-m", "consumer", "demo", "--events", "60")

    assert demo.end() == 0, demo.output
    assert "Every order has exactly one outcome, the expected one" in demo.output
    assert re.search(r"│ all +│ +60 │ +\d+ │ \d+ +│", demo.output)
    assert not re.search(r"[粤川京沪浙苏鄂][A-Z][A-Z0-9]{4}", demo.output), "a whole plate was shown"
    assert demo.leftovers() == []


@pytest.mark.parametrize(
    ("doubled", "problem"),
    [(False, "no outcome, expected granted"), (True, "2 outcomes (granted, granted), expected one")],
)
def test_the_demo_fails_and_names_the_order_whose_outcome_is_lost_or_doubled(
    start: Start, doubled: bool, problem: str
) -> None:
    demo = start("-c", TAMPERED.format(doubled=doubled))

    assert demo.end() == 1, demo.output
    order = re.search(r"tampered with (\S+)", demo.output)
    assert order is not None
    assert re.search(rf"order {order[1]} \(record \S+\): {re.escape(problem)}", demo.output)
    assert demo.leftovers() == []


@pytest.mark.parametrize(
    ("moment", "number", "status"),
    [
        ("Starting Kafka", signal.SIGINT, 130),
        ("Producing", signal.SIGINT, 130),
        ("Stopping the service", signal.SIGINT, 130),
        ("granted", signal.SIGTERM, 143),
    ],
)
def test_an_interrupted_demo_leaves_nothing(
    start: Start, moment: str, number: signal.Signals, status: int
) -> None:
    demo = start("-m", "consumer", "demo")
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
        demo.read_until(f"Fetching Kafka 4.1.2 from {repository}")
        silent.accept()[0].close()

        demo.interrupt(signal.SIGINT)

        assert demo.end() == 130, demo.output
    assert "Traceback" not in demo.output
    assert [path.name for path in cache.rglob("*") if path.is_file()] == ["kafka_2.13-4.1.2.lock"]
    assert demo.leftovers() == []


def test_a_demo_that_keeps_running_ends_well_when_it_is_interrupted(start: Start) -> None:
    demo = start("-m", "consumer", "demo", "--events", "20", "--keep-running")
    demo.read_until("Ctrl-C ends it")

    demo.interrupt(signal.SIGINT)

    assert demo.end() == 0, demo.output
    assert demo.leftovers() == []
