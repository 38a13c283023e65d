"""Runs the fuzzer on a target for some time and says what came of it. Starts a process and uses a temporary folder."""

import re
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).parents[2]
SLOW_SECONDS = 20
"""An input that takes longer is a finding too; on a busy machine all take longer."""

_GRACE_SECONDS = 300
"""On a busy machine its start alone takes minutes."""
_NEWS = re.compile(r"^#(\d+)\s+\w+ +cov: (\d+) ft: (\d+)", re.MULTILINE)
_END = re.compile(r"^stat::number_of_executed_units: (\d+)", re.MULTILINE)
_WHAT = re.compile(
    r"=== Uncaught Python exception: ===\n(.*?)(?=\n==\d|\Z)|^==\d+== (ERROR: .*?)$", re.DOTALL | re.MULTILINE
)


@dataclass(frozen=True)
class Report:
    """What came of a run.

    Attributes:
        edges: of the consumer's code that were reached, as libFuzzer counts them.
        finding: the input that something does not hold for; None where there was none.
        what: does not hold.

    """

    target: str
    seed: int
    seconds: float
    executions: int
    edges: int
    finding: bytes | None = None
    what: str = ""

    @property
    def replay(self) -> str:
        """The command that shows the finding again."""
        return f"python -m tests.fuzz {self.target} --replay {b64encode(self.finding or b'').decode()}"

    def __str__(self) -> str:
        rate = self.executions / self.seconds if self.seconds else 0
        text = (
            f"{self.target:9} {self.executions:8} executions in {self.seconds:.0f} s, {rate:.0f}/s, "
            f"{self.edges} edges, {0 if self.finding is None else 1} findings, seed {self.seed}"
        )
        return text if self.finding is None else f"{text}\n{self.what}\n{self.replay}"


def missing() -> str | None:
    """Why there can be no fuzzing here."""
    if find_spec("atheris") is not None:
        return None
    return (
        "atheris is not installed: it has wheels for Linux on x86-64 with Python 3.11 to 3.13, "
        f"and this is {sys.platform} with Python {sys.version.split()[0]}; "
        "there `pip install -r requirements/test.txt` brings it (--replay needs none)"
    )


def fuzz(name: str, seconds: float, seed: int, bug: str = "", executions: int = -1) -> Report:
    """Until the time is over, or the executions, or something is found. With a `bug` of `planted` in the code."""
    target = TARGETS[name]
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        place = Path(folder)
        (place / "corpus").mkdir()
        for number, data in enumerate(target.seeds()):
            (place / "corpus" / f"{number:04}").write_bytes(data)
        (place / "words").write_text("".join(map(_entry, target.words())), "ascii")
        started = [
            *(sys.executable, "-W", "ignore", "-m", "tests.fuzz.fuzzer", name, bug),
            *(f"-max_total_time={max(1, round(seconds))}", f"-timeout={SLOW_SECONDS}", f"-seed={seed}"),
            f"-runs={executions}",
            *(f"-max_len={target.longest}", f"-dict={place / 'words'}", f"-artifact_prefix={place}/found-"),
            *("-print_final_stats=1", "-rss_limit_mb=2048", f"{place / 'corpus'}"),
        ]
        since = time.monotonic()
        ended = subprocess.run(
            started,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds + _GRACE_SECONDS,
            check=False,
        )
        took = time.monotonic() - since
        said = ended.stdout.decode("utf-8", "replace")
        # Not `slow-unit`: what was slow and ended.
        found = next((file.read_bytes() for file in sorted(place.glob("found-[!s]*"))), None)
    if found is None and ended.returncode:
        raise RuntimeError(f"the fuzzer itself failed:\n{said[-3000:]}")
    return _report(name, seed, took, said, found)


def _entry(word: str) -> str:
    """A line of libFuzzer's dictionary."""
    return '"' + "".join(f"\\x{byte:02x}" for byte in word.encode("utf-8", "replace")) + '"\n' if word else ""


def _report(name: str, seed: int, seconds: float, said: str, found: bytes | None) -> Report:
    news = _NEWS.findall(said)
    edges = int(news[-1][1]) if news else 0
    end = _END.findall(said)
    what = _WHAT.search(said)
    return Report(
        name,
        seed,
        seconds,
        int(end[-1]) if end else int(news[-1][0]) if news else 0,
        edges,
        found,
        ((what[1] or what[2]).strip() if what else said[-1000:]) if found is not None else "",
    )
