"""`charging-coupon outcomes`: what it refuses to be asked. What it finds: `broker/test_outcomes`."""

from pathlib import Path

import pytest

from consumer import cli

pytestmark = pytest.mark.usefixtures("logging_as_before")


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (
            ["--order", "", "--event-id", " ", "--lot", ""],
            [
                f"{option}: it is empty; give a value, or leave it out"
                for option in ("--lot", "--order", "--event-id")
            ],
        ),
        (
            ["--reason", "lost", "--code", "5xx", "--plate", " -", "--since", "soon"],
            [
                "--code: '5xx' is not a code; write one of the platform's, such as 1405 or 503",
                "--plate: nothing is left of it as a plate; write it whole",
                "--since: 'soon' is no time; write 2026-03-01T00:00:00+08:00, or 30m, 2h, 7d for so long ago",
            ],
        ),
        (
            ["--format", "csv"],
            ["--format: csv is one row for each charge; add --by-charge, or take json"],
        ),
        (
            ["--outcome", "lost"],
            [
                (
                    "--outcome: 'lost' is none; it is one of granted, already_granted, not_entered, limited, "
                    "not_configured, lot_failed, platform_failed, rejected, unknown, unmatched, skipped, invalid, "
                    "suspect, expired, shadow, waiting"
                )
            ],
        ),
        (
            ["--since", "2026-03-02T00:00:00+08:00", "--until", "2026-03-01T15:00:00+00:00"],
            [
                (
                    "--until: 2026-03-01T15:00:00+00:00 is not after --since, 2026-03-02T00:00:00+08:00: "
                    "nothing was decided between them; give the earlier time to --since"
                )
            ],
        ),
    ],
)
def test_mistakes_are_told_all_at_once(
    arguments: list[str], lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["outcomes", *arguments])

    said = [line for line in capsys.readouterr().err.splitlines() if "--reason" not in line]
    assert ended.value.code == 2
    assert said == [f"error: {line}" for line in lines]


@pytest.mark.parametrize(
    ("plates", "said"),
    [
        (
            "none",
            "error: --plate: outcomes hold no plates (privacy.plates: none in the settings); ask by --order or --event-id\n",
        ),
        ("hash", "error: CHARGING_COUPON__SECRETS__PLATE_HASH"),
    ],
)
def test_a_plate_cannot_be_asked_for_where_outcomes_hide_it_and_the_key_is_missing(
    plates: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(f"kafka: {{bootstrap_servers: 'k:9092'}}\nprivacy: {{plates: {plates}}}\n", "utf-8")

    with pytest.raises(SystemExit) as ended:
        cli.main(["outcomes", "-s", str(file), "--plate", "粤BD12345"])

    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(said)
