"""`charging-coupon check`: every planted mistake is named, with its place and a remedy, in exactly these words."""

import contextlib
import io
import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from consumer import cli
from consumer.core.coupons import CouponRequest
from consumer.core.events import Order
from consumer.core.outcomes import Finding
from consumer.core.rules import RuleBook
from consumer.rulebook import report
from consumer.rulebook.compilation import preset_names, preset_sample

PLANTED = Path(__file__).parent / "rules" / "planted"
FILES = sorted(PLANTED.glob("*.yaml"))
PLATES, SECRETS = ("粤BD12345", "D12345"), ("0123456789abcdef",)


def told(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a terminal shows of a command, and how it ends."""
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    printed = capsys.readouterr()
    return f"$ charging-coupon {' '.join(arguments)}\n{printed.out}{printed.err}exit {ended.value.code}\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


STATIONS = """\
version: 1
accounts: {main: {app_id: a, secret: main, api_type: t}}
sources: {charges: {extends: canonical, zone: Asia/Shanghai}}
stations: {file: stations.csv}
rules:
  - {name: short, FIRST when: seconds < 60, skip: below_threshold}
  - {name: all, stations: [A, B, C], account: main, subject: x, metadata: {m: {name: n, value: 10 - seconds}}}
"""


@pytest.mark.parametrize(
    ("first", "tried"), [("", {"A"}), ("stations: [C],", {"A", "C"}), ("stations: [A],", {"A", "B"})]
)
def test_a_rule_is_tried_at_another_station_only_where_an_earlier_one_took_charges_at_the_first(
    first: str, tried: set[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The earlier rule itself is tried at its own station."""
    (folder / "stations.csv").write_text("id\nA\nB\nC\n", "utf-8")
    (folder / "rules.yaml").write_text(STATIONS.replace("FIRST", first), "utf-8")
    stations: set[object] = set()
    plan = RuleBook.plan

    def noted(book: RuleBook, order: Order) -> CouponRequest | Finding:
        decided = plan(book, order)
        if decided.rule == "all":
            stations.add(order.values["station_id"])
        return decided

    monkeypatch.setattr(RuleBook, "plan", noted)
    found = report.check(folder / "rules.yaml")

    assert stations == tried
    assert any("metadata.m can be negative" in each.message for each in found.found)
    assert "3 stations" in found.counts


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_planted_mistakes_are_named_in_exactly_these_words(
    path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Anew: `PYTHONPATH=. python -m tests.test_check`."""
    shutil.copy(path, folder / "rules.yaml")

    assert told(["check", "--strict"], capsys) == path.with_suffix(".txt").read_text("utf-8")


def test_there_are_more_than_twenty_in_one_file_and_all_are_told_at_once() -> None:
    report_ = report.check(PLANTED / "twenty-at-once.yaml")

    assert report_.count("error") >= 20
    assert len({(each.line, each.column) for each in report_.found}) == len(report_.found)


def test_none_shows_a_secret_or_a_whole_plate() -> None:
    for path in FILES:
        text = path.with_suffix(".txt").read_text("utf-8")
        assert [word for word in (*PLATES, *SECRETS) if word in text] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_caret_stands_under_what_is_wrong(path: Path) -> None:
    lines = path.read_text("utf-8").splitlines()

    for each in report.check(path).found:
        assert 1 <= each.line <= len(lines)
        assert lines[each.line - 1][each.column - 1 : each.column].strip() not in ("", ":", ",")
        assert each.remedy


def test_machines_read_the_same_as_people(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(PLANTED / "used-by-nothing.yaml", folder / "rules.yaml")
    with pytest.raises(SystemExit) as ended:
        cli.main(["check", "--format", "json"])
    found = json.loads(capsys.readouterr().out)

    assert ended.value.code == 0  # warnings alone are no failure unless --strict says so
    assert (found["mistakes"], found["warnings"]) == (0, 4)
    assert found["found"][0] == {
        "severity": "warning",
        "file": "rules.yaml",
        "line": 4,
        "column": 3,
        "message": "no rule uses the account `spare`",
        "remedy": "name it in a rule, or leave it out",
    }


def test_annotations_are_githubs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "50%,a.yaml").write_text("version: 1\nsources: {a: {extends: canonicl}}\n", "utf-8")
    with pytest.raises(SystemExit) as ended:
        cli.main(["check", "50%,a.yaml", "--format", "github"])

    assert ended.value.code == 2
    assert capsys.readouterr().out == (
        "::error file=50%25%2Ca.yaml,line=2,col=24::"
        "there is no source or preset `canonicl`; did you mean `canonical`?\n"
    )


def test_a_file_that_is_not_there_is_a_mistake_without_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(["check"], capsys) == (
        "$ charging-coupon check\n"
        "rules.yaml: error: cannot be read: No such file or directory\n"
        "  = name a YAML file with coupon rules, or a folder of such files\n"
        "\n"
        "rules.yaml: 1 mistake; warnings are looked for once there is none\n"
        "exit 2\n"
    )


def test_rules_that_are_as_they_should_be_have_nothing_to_be_told(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "rules.yaml").write_text(
        "version: 1\n"
        "accounts: {main: {app_id: a, secret: main, api_type: t}}\n"
        "sources: {ours: {extends: canonical, fields: {started_at: {required: true}}}}\n"
        "rules:\n"
        "  - {name: short, when: seconds < 600, skip: below_threshold}\n"
        "  - name: paid\n"
        "    when: present.fee_fen && fee_fen > 100\n"
        "    account: main\n"
        "    api_store_code: C\n"
        "    subject: '{plate} {fee_yuan}'\n"
        "    metadata: {minutes: {name: m, value: 'math.least(minutes, 120) - 10'}}\n"
        "tests: [{name: nothing, event: {}, expect: {outcome: invalid}}]\n"
    )

    assert told(["check", "--strict"], capsys) == (
        "$ charging-coupon check --strict\n"
        "rules.yaml: no mistakes, no warnings in 2 rules, 1 source, no stations, 1 test\n"
        "exit 0\n"
    )


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_has_a_sample_that_it_reads(name: str, folder: Path) -> None:
    """A rule that fails on it is told so: the sample was read, and tried."""
    extends = [name, "flat"] if preset_sample([name]) is None else [name]
    numbers = "fields: {energy_wh: {unit: kWh}, charging_seconds: {unit: s}, fee_fen: {unit: yuan}}, "
    numbers *= "flat" in extends
    (folder / "rules.yaml").write_text(
        "version: 1\n"
        f"sources: {{ours: {{extends: {json.dumps(extends)}, {numbers}zone: Asia/Shanghai}}}}\n"
        "rules: [{name: bad, when: \"plate.matches('[' + plate)\", skip: policy}]\n"
    )

    (warning,) = [each for each in report.check(Path("rules.yaml")).found if "fails" in each.message]
    assert warning.message.startswith("when fails on the sample of `")


def _write() -> None:
    for path in FILES:
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(path, f"{folder}/rules.yaml")
            os.chdir(folder)
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
                code: object = 0
                try:
                    cli.main(["check", "--strict"])
                except SystemExit as ended:
                    code = ended.code
            os.chdir("/")
        text = f"$ charging-coupon check --strict\n{printed.getvalue()}exit {code}\n"
        path.with_suffix(".txt").write_text(text, "utf-8")


if __name__ == "__main__":
    _write()
