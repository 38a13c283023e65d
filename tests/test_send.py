"""`charging-coupon send`: what it refuses before it speaks to Kafka. What it sends: `broker/test_send`."""

from pathlib import Path

import pytest

from consumer import cli

pytestmark = pytest.mark.usefixtures("logging_as_before")

SETTINGS = "kafka: {bootstrap_servers: 'k:9092'}\n"
RAW = "correct it, or send it as it is with --raw"


@pytest.mark.parametrize(
    ("content", "arguments", "lines"),
    [
        (
            b'{"id": 1}\n{"id": \n\nid=3\n',
            [],
            ["events.jsonl:2: {what}; {raw}", "events.jsonl:4: {what}; {raw}"],
        ),
        (b"x\n" * 7, [], [*["{what}"] * 5, "events.jsonl: 2 more events cannot be sent; see those above"]),
        (b"\n \n", [], ["events.jsonl: there is no event in it; name a file with one event, or one a line"]),
        (
            b'{"plate": "A"}\n{"plate": ""}\n',
            ["--key", "plate"],
            [
                "events.jsonl:2: no text with anything in it stands at `plate`, and no number; name another --key"
            ],
        ),
        (
            b"{}",
            ["--key", "a..b"],
            ["--key: `a..b` is no path: see character 2; write it like plate, or data.order.plate"],
        ),
        (
            b"{}",
            ["--key", "a", "--raw"],
            ["--key: nothing is looked for in what is sent raw; leave out one of --key and --raw"],
        ),
        (
            b"{}",
            ["--header", "ce_type"],
            ["--header: a header is NAME=VALUE; write it like ce_type=charge.ended"],
        ),
        *(
            (
                b"{}",
                ["--topic", topic],
                [f"--topic: the service itself writes {topic}; name a topic that it reads events from"],
            )
            for topic in ("coupon-outcomes", "coupon-dead-letters", "coupon-retries.5m")
        ),
    ],
)
def test_mistakes_are_told_with_their_place(
    content: bytes,
    arguments: list[str],
    lines: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("events.jsonl").write_bytes(content)
    Path("settings.yaml").write_text(SETTINGS, "utf-8")

    with pytest.raises(SystemExit) as ended:
        cli.main(["send", "events.jsonl", "-s", "settings.yaml", "--topic", "charges", "--yes", *arguments])

    said = capsys.readouterr().err.splitlines()
    assert (ended.value.code, len(said)) == (2, len(lines))
    for line, expected in zip(said, lines, strict=True):
        before, _, after = expected.format(what="\0", raw=RAW).partition("\0")
        assert line.startswith(f"error: {before}")
        assert line.endswith(after)
