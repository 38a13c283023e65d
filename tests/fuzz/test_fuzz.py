"""The fuzzer's examples hold, changed or not; it finds the bugs that are planted, and without them nothing."""

import shlex
import subprocess
import sys
from random import Random, SystemRandom

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import __main__, run, trees
from tests.fuzz.planted import PLANTED
from tests.fuzz.targets import TARGETS

SECONDS = 300
"""In which a planted bug must be found; it takes ten on a machine of its own, a minute or two on one that does much else."""

needs_atheris = pytest.mark.skipif(run.missing() is not None, reason=run.missing() or "")


@pytest.mark.parametrize("name", TARGETS)
def test_every_example_of_a_target_holds_and_can_be_changed(name: str) -> None:
    target = TARGETS[name]
    changed = 0
    for number, data in enumerate(target.seeds()):
        target.check(data)
        assert len(data) <= target.longest
        changed += target.changed(data, Random(number), lambda part: part) not in (None, data)

    assert changed > 3


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.sampled_from(sorted(set(TARGETS) - {"rules"})), st.integers(0, 1 << 30), st.binary(max_size=4))
def test_whatever_an_example_is_changed_to_holds(name: str, number: int, noise: bytes) -> None:
    target, random = TARGETS[name], Random(number)
    data = random.choice(list(target.seeds()))
    for _ in range(10):
        data = target.changed(data, random, lambda part: part + noise) or data + noise
        target.check(data)


def test_a_tree_is_written_as_it_was_read_with_all_its_digits() -> None:
    text = '{"a":[1.50,-0,1E+400,"1.50",null,true,{"b":{}}],"粤":"\\"\\n"}'

    assert trees.written(trees.from_json(text)) == text
    assert trees.in_lines(trees.from_yaml('a: {b: 1.50, c: "1.50"}\nd: [x, null]\n')) == (
        '"a":\n  "b": 1.50\n  "c": "1.50"\n"d":\n  - "x"\n  - null\n'
    )


def test_where_there_is_no_atheris_the_command_says_where_there_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run, "find_spec", lambda name: None)

    assert "it has wheels for Linux on x86-64 with Python 3.11 to 3.13" in (run.missing() or "")


@pytest.mark.long
@needs_atheris
@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_found_and_can_be_replayed_and_without_it_nothing_is_found(name: str) -> None:
    target, seed = PLANTED[name].target, SystemRandom().randrange(1, 1 << 31)

    found = run.fuzz(target, SECONDS, seed, name)
    print(found)
    assert found.what.startswith("PlantedError"), found.what
    again = [sys.executable, *shlex.split(found.replay)[1:]]
    assert "PlantedError" in _said([*again, "--planted", name]).splitlines()[-1]
    assert _said(again) == "nothing is wrong with it\n"
    without = run.fuzz(target, SECONDS, seed, executions=found.executions)
    print(without)  # what else it may find is told by `python -m tests.fuzz`, and no fault of this search
    assert "PlantedError" not in without.what
    assert without.finding or without.executions >= found.executions or without.seconds >= SECONDS
    assert without.edges > 1000


def test_a_search_that_fails_ends_otherwise_than_one_that_finds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(*given: object) -> run.Report:
        raise RuntimeError("the fuzzer itself failed")

    def finding(name: str, seconds: float, seed: int, bug: str) -> run.Report:
        return run.Report(name, seed, seconds, 1, 1, b"x", "AssertionError")

    monkeypatch.setattr(__main__, "missing", lambda: None)
    monkeypatch.setattr("sys.argv", ["fuzz", "replies"])
    ends = []
    for search in (failing, finding):
        monkeypatch.setattr(__main__, "fuzz", search)
        ends.append(__main__.main())
    monkeypatch.setattr(__main__, "missing", lambda: "there is no wheel")
    ends.append(__main__.main())

    assert ends == [2, 1, 3]
    assert "the fuzzer itself failed" in capsys.readouterr().err


def _said(command: list[str]) -> str:
    ended = subprocess.run(command, cwd=run.ROOT, capture_output=True, text=True, timeout=60, check=False)
    return ended.stdout + ended.stderr
