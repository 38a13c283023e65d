"""`charging-coupon test`: the tests that stand in rules, and what they find."""

import shutil
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from consumer import cli

RULES = Path(__file__).parent / "rules"


def told(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    printed = capsys.readouterr()
    return f"{printed.out}{printed.err}exit {ended.value.code}\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copy(RULES / "planted" / "test-that-fails.yaml", tmp_path / "rules.yaml")
    shutil.copy(RULES / "valid" / "example.yaml", tmp_path / "example.yaml")
    return tmp_path


def test_what_differs_is_shown_field_by_field_and_plates_are_masked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert told(["test"], capsys) == (
        "FAIL  two hours  (rules.yaml:10:5)\n"
        "        metadata.minutes\n"
        "          expected  120\n"
        "          found     60\n"
        "        request.subject\n"
        "          expected  粤B******5\n"
        "          found     粤B*****5\n"
        "                    　      ^\n"
        "\n"
        "1 of 1 test failed\n"
        "exit 1\n"
    )


def test_whole_plates_are_shown_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert "expected  粤B·D12345\n          found     粤BD12345\n" in told(["test", "--reveal"], capsys)


def test_texts_that_differ_in_a_masked_plate_say_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (folder / "rules.yaml").read_text("utf-8").replace("粤B·D12345", "粤BD12355")
    (folder / "rules.yaml").write_text(text, "utf-8")

    assert "found     粤B*****5 (another plate: see --reveal)" in told(["test"], capsys)


def test_some_can_be_chosen_by_their_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(["test", "example.yaml", "-k", "LONGER"], capsys) == (
        "ok    by night it is longer\n\n1 test passed\nexit 0\n"
    )
    assert told(["test", "example.yaml", "-k", "nothing"], capsys) == (
        "no test of example.yaml has `nothing` in its name\nexit 1\n"
    )


def test_without_tests_there_is_nothing_to_pass(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "rules.yaml").write_text("version: 1\nsources: {a: {extends: canonical}}\n")

    assert told(["test"], capsys) == "rules.yaml holds no tests; add some under `tests:`\nexit 1\n"


def test_rules_with_mistakes_are_no_failed_test(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "rules.yaml").write_text(
        "version: 1\nsources: {a: {extends: canonical}}\ntests: [{name: t, expect: {}}]\n"
    )

    assert told(["test"], capsys).endswith("needs either `event` or `raw`; give one of them\nexit 2\n")


def test_ci_servers_read_the_results(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told(["test", "--junit", "failed.xml"], capsys)
    told(["test", "example.yaml", "--junit", "passed.xml"], capsys)

    failed, passed = (ET.parse(folder / name).getroot() for name in ("failed.xml", "passed.xml"))
    assert (failed.get("tests"), failed.get("failures")) == ("1", "1")
    (case,) = failed
    assert (case.get("name"), case.get("file"), case.get("line")) == ("two hours", "rules.yaml", "10")
    assert case[0].get("message") == "metadata.minutes is 60, where 120 is expected"
    assert (passed.get("tests"), passed.get("failures")) == ("7", "0")
    assert all(len(case) == 0 for case in passed)


def test_results_that_cannot_be_written_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(["test", "--junit", "nowhere/x.xml"], capsys) == (
        "error: --junit: nowhere/x.xml cannot be written: No such file or directory; name another file\nexit 2\n"
    )


@pytest.mark.parametrize("state", ["shadow", "hold"])
@pytest.mark.parametrize("whose", ["account", "rule"])
def test_what_is_on_trial_or_on_hold_is_tested_as_if_it_were_on(
    folder: Path, capsys: pytest.CaptureFixture[str], state: str, whose: str
) -> None:
    """Else nobody could hold an account back in a hurry: the rules would be refused for their own tests."""
    text = (folder / "rules.yaml").read_text("utf-8").replace("minutes: 120", "minutes: 60")
    text = text.replace("subject: 粤B·D12345", "subject: 粤BD12345")
    begun = {"account": "app_id: ", "rule": "name: hour"}[whose]
    assert text.count(begun) == 1
    text = text.replace(begun, f"state: {state}, {begun}")
    (folder / "rules.yaml").write_text(text, "utf-8")

    assert told(["test"], capsys) == "ok    two hours\n\n1 test passed\nexit 0\n"
