"""`charging-coupon replay`: what it chooses, and what it refuses to be asked."""

import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from consumer import cli
from consumer.core.events import Coordinates
from consumer.core.letters import DeadLetter, Receipt
from consumer.replay import Kind, Selection
from tests.core.test_letters import LETTER

pytestmark = pytest.mark.usefixtures("logging_as_before")

KIND = Kind("rejected", "policy", "400", "an-hour")


def letter(number: int, **change: Any) -> DeadLetter:
    """One of the same kind as others."""
    origin = Coordinates("charges", 3, number)
    return replace(LETTER, outcome_id=f"cluster/charges/3/{number}/1", origin=origin, **change)


def held_back(selection: Selection) -> dict[str, tuple[int, list[int]]]:
    return {
        why: (held.count, [place.offset for place in held.places])
        for why, held in selection.held_back.items()
    }


# -- What it chooses --------------------------------------------------------------------------------


def test_what_has_a_receipt_does_not_go() -> None:
    selection = Selection()
    for number in (1, 2, 3):
        selection.choose(letter(number), 0, number + 10, None)

    selection.acknowledge(Receipt("cluster/charges/3/2/1", 0, 12), 0)

    assert (len(selection), selection.offsets(0), selection.offsets(1)) == (2, {11, 13}, set())
    assert selection.kinds == {KIND: 2}
    assert held_back(selection) == {"sent back already": (1, [2])}


def test_a_receipt_for_what_was_not_chosen_changes_nothing() -> None:
    selection = Selection()
    selection.choose(letter(1), 0, 11, None)

    selection.acknowledge(Receipt("of another one", 0, 12), 0)

    assert (len(selection), held_back(selection)) == (1, {})


def test_a_receipt_that_was_copied_to_another_partition_says_nothing_of_what_stands_there() -> None:
    selection = Selection()
    selection.choose(letter(1), 1, 11, None)

    selection.acknowledge(Receipt("cluster/charges/3/1/1", 0, 11), 1)

    assert len(selection) == 1


def test_of_repetitions_the_first_goes_once() -> None:
    selection = Selection()
    selection.choose(letter(1), 0, 11, None)
    selection.choose(letter(1), 1, 5, None)
    selection.acknowledge(Receipt("cluster/charges/3/1/1", 0, 11), 0)
    selection.choose(letter(1), 2, 6, None)

    assert len(selection) == 0
    assert held_back(selection) == {"repeats another one": (2, [1, 1]), "sent back already": (1, [1])}


def test_of_those_that_do_not_go_some_are_named() -> None:
    selection = Selection()
    for number in range(5):
        selection.choose(letter(number), 0, number, "a reason")

    assert held_back(selection) == {"a reason": (5, [0, 1, 2])}


# -- What it is asked -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        ([], ["replay: no dead letter is chosen; give filters (--help lists them), or --all for all"]),
        (
            ["--send"],
            ["replay: no dead letter is chosen; give filters (--help lists them), or --all for all"],
        ),
        (["--all", "--code", "503"], ["--all: there are filters, too; leave out one or the other"]),
        (
            ["--offset", "17"],
            ["--offset: each partition has such an offset; give its --partition, and its --topic"],
        ),
        (
            ["--offset", "17-", "--offset", "x", "--since", "soon", "--until", "2026-04-05"],
            [
                "--offset: '17-' is no offset; write 17, or 17-40",
                "--offset: 'x' is no offset; write 17, or 17-40",
                "--since: 'soon' is no time; write 2026-03-01T00:00:00+08:00, or 30m, 2h, 7d for so long ago",
                (
                    "--until: '2026-04-05' is a time without a zone; "
                    "write 2026-04-05T00:00:00+08:00, or 30m, 2h, 7d for so long ago"
                ),
            ],
        ),
        (
            ["--rule", "", "--order", " ", "--since", "", "--topic", ""],
            [
                f"{option}: it is empty; give a value, or leave it out"
                for option in ("--rule", "--order", "--since", "--topic")
            ],
        ),
        (
            ["--code", "abc", "--code", "5xx", "--code", "1405", "--partition", "-1", "--offset", "40-17"],
            [
                "--code: '5xx' is not a code; write one of the platform's, such as 1405 or 503",
                "--code: 'abc' is not a code; write one of the platform's, such as 1405 or 503",
                "--partition: -1 is below 0; write 0, 1 ...",
                "--offset: '40-17' ends before it begins; write 17-40",
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
        (
            ["--plate", " -"],
            ["--plate: nothing is left of it as a plate; write it whole"],
        ),
        (
            ["--outcome", "lost"],
            [
                (
                    "--outcome: 'lost' is none; it is one of granted, already_granted, not_entered, limited, "
                    "not_configured, lot_failed, platform_failed, rejected, unknown, unmatched, skipped, invalid, "
                    "suspect, expired, shadow"
                )
            ],
        ),
    ],
)
def test_mistakes_are_told_all_at_once(
    arguments: list[str], lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["replay", *arguments])

    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines() == [f"error: {line}" for line in lines]


def test_the_rights_that_it_needs_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(
        '{kafka: {bootstrap_servers: "k:9092", topics: {events: [a, b]}}, rules: r, privacy: {plates: clear}}',
        "utf-8",
    )

    with pytest.raises(SystemExit) as ended:
        cli.main(["topics", "-s", str(file), "--acls", "--for", "replay"])

    rows = capsys.readouterr().out.split("\n\n")[0].splitlines()[1:]
    assert ended.value.code == 0
    assert [row.split()[:3] for row in rows if row.split()[0] == "replay"] == [
        ["replay", "topic", "coupon-dead-letters"],
        ["replay", "topic", "a"],
        ["replay", "topic", "b"],
        ["replay", "transactional-id", "charging-coupon/replay"],
    ]


def test_it_needs_no_secret_of_the_service(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        file = tmp_path / "settings.yaml"
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        file.write_text(f"kafka: {{bootstrap_servers: '{address}', topics: {{events: [a]}}}}", "utf-8")

        with pytest.raises(SystemExit) as ended:
            cli.main(["replay", "-s", str(file), "--all"])

    assert (
        ended.value.code,
        capsys.readouterr().err.startswith(f"error: Kafka at {address} is not there"),
    ) == (3, True)
