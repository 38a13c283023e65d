"""The command line: exit codes, one line an error, what it loads, how it stops."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from consumer import __version__, cli
from consumer.cli.run import serve
from consumer.core.errors import BrokerUnavailableError, ConfigurationError, Problem, RefusedError


def exit_code(*arguments: str) -> object:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    return ended.value.code


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("--version") == 0
    assert capsys.readouterr().out == f"charging-coupon {__version__}\n"


def test_help_names_the_commands_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("--help") == 0

    text = capsys.readouterr().out
    for word in ("run", "demo", "sandbox", "Exit codes"):
        assert word in text


def test_an_unknown_option_is_wrong_configuration() -> None:
    assert exit_code("run", "--speed", "9") == 2


@pytest.mark.parametrize(
    ("error", "code", "lines"),
    [
        (
            ConfigurationError([Problem("a:1", "is bad", "mend it"), Problem("b:2", "is too", "mend it")]),
            2,
            ["error: a:1: is bad; mend it", "error: b:2: is too; mend it"],
        ),
        (BrokerUnavailableError("kafka:9092 does not answer"), 3, ["error: kafka:9092 does not answer"]),
        (RefusedError("no right to write"), 4, ["error: no right to write"]),
        (
            ValueError("two\nlines"),
            1,
            ["error: unexpected ValueError: two lines; `charging-coupon --debug ...` shows where"],
        ),
    ],
    ids=["configuration", "unavailable", "refused", "unexpected"],
)
def test_an_error_is_a_line_and_an_exit_code(
    error: Exception,
    code: int,
    lines: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cli, "app", failing_with(error))

    assert exit_code("run") == code
    assert capsys.readouterr().err.splitlines() == lines


def test_debug_shows_where_an_error_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "app", failing_with(RefusedError("no")))

    with pytest.raises(RefusedError):
        cli.main(["--debug", "run"])


def failing_with(error: BaseException) -> Any:
    def app(*_: object, **__: object) -> None:
        raise error

    return app


def test_all_mistakes_in_the_settings_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("CHARGING_COUPON")]:
        monkeypatch.delenv(name)
    file = tmp_path / "settings.yaml"
    file.write_text("kafka:\n  bootstrap_server: x\n", "utf-8")

    assert exit_code("run", "--settings", str(file)) == 2
    assert (
        f"error: {file}:2:3: there is no setting kafka.bootstrap_server; did you mean kafka.bootstrap_servers?"
        in capsys.readouterr().err.splitlines()
    )


def test_asking_for_help_loads_nothing_heavy() -> None:
    code = "import sys, consumer.cli; print(sorted({'aiokafka', 'aiohttp', 'cel_expr_python', 'pydantic'} & set(sys.modules)))"

    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


class StoppableService:
    """Runs until it is stopped, and then asks for a signal once more, if the test wants it."""

    def __init__(self, number: signal.Signals, *, again: bool = False) -> None:
        self.number, self.again = number, again
        self.stopped = 0
        self._told = asyncio.Event()

    def stop(self) -> None:
        self.stopped += 1
        self._told.set()

    async def run(self) -> None:
        os.kill(os.getpid(), self.number)
        await self._told.wait()
        if self.again:
            os.kill(os.getpid(), self.number)
            await asyncio.sleep(5)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_service_and_waits_for_its_end(number: signal.Signals) -> None:
    service: Any = StoppableService(number)

    serve(service)

    assert service.stopped == 1


def test_a_second_interrupt_does_not_wait() -> None:
    service: Any = StoppableService(signal.SIGINT, again=True)

    with pytest.raises(KeyboardInterrupt):
        serve(service)

    assert service.stopped == 1


def test_an_interrupted_command_exits_as_shells_expect() -> None:
    code = (
        "import os, signal, sys; from consumer import cli\n"
        "@cli.app.command()\n"
        "def wait() -> None: os.kill(os.getpid(), signal.SIGINT)\n"
        "cli.main(['wait'])"
    )

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 130


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "consumer", "--version"], capture_output=True, text=True, check=True
    )

    assert done.stdout == f"charging-coupon {__version__}\n"
