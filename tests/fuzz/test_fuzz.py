"""The fuzzer's examples hold, changed or not; it finds the bugs that are planted, and without them nothing."""

import shlex
import subprocess
import sys
from random import Random, SystemRandom

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import run, trees
from tests.fuzz.planted import PLANTED
from tests.fuzz.targets import TARGETS

SECONDS = 300
"""In which a planted bug must be found; on a machine of its own it takes less than one minute."""

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

    # A bug that nobody planted may be found before it: that is told, and the search begins anew.
    for number in range(3):
        found = run.fuzz(target, SECONDS, seed + number, name)
        print(found)
        if found.what.startswith("PlantedError"):
            break
    assert found.what.startswith("PlantedError"), found.what
    again = [sys.executable, *shlex.split(found.replay)[1:]]
    assert "PlantedError" in _said([*again, "--planted", name]).splitlines()[-1]
    assert _said(again) == "nothing is wrong with it\n"
    without = run.fuzz(target, SECONDS, found.seed, executions=found.executions)
    print(without)
    assert "PlantedError" not in without.what
    assert without.finding or without.executions >= found.executions or without.seconds >= SECONDS
    assert without.edges > 1000


def _said(command: list[str]) -> str:
    ended = subprocess.run(command, cwd=run.ROOT, capture_output=True, text=True, timeout=60, check=False)
    return ended.stdout + ended.stderr
