"""`charging-coupon diff`: which orders two sides treat differently, whatever the sides are."""

import asyncio
import io
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from consumer import cli
from consumer.core.errors import ConfigurationError
from consumer.rulebook import comparison, trial
from consumer.rulebook.comparison import Comparison
from tests.conftest import CreateTopics

HERE = Path(__file__).parent
RULES = """
version: 1
accounts: {main: {app_id: op01, secret: main, api_type: "5"}}
sources:
  charging: {extends: canonical, topics: [charging], zone: Asia/Shanghai, fields: {started_at: {required: true}}}
stations: {S1: {api_store_code: store-1}}
rules:
  - {name: hardly-charged, when: seconds < 600, skip: below_threshold}
  - name: two-hours-free
    account: main
    stations: [S1]
    subject: "【{plate}】充电 {minutes} 分钟"
    metadata: {minutes: {name: 充电时长, value: "math.least(minutes, 120)"}}
"""
PLATES = ["粤BD12345", "粤B12346", "粤B12347", "粤B12348", "粤B12349"]


def charge(order: str, plate: str, minutes: int, station: str = "S1") -> dict[str, Any]:
    ended = f"2026-03-01 {10 + minutes // 60}:{minutes % 60:02}:00"
    return {
        "order_id": order,
        "plate": plate,
        "station_id": station,
        "started_at": "2026-03-01 10:00:00",
        "ended_at": ended,
        "energy_kwh": 10,
    }


EVENTS = [
    charge("A1", PLATES[0], 90),
    charge("A2", PLATES[1], 150),
    charge("A3", PLATES[2], 20),
    charge("A4", PLATES[3], 45),
    charge("A5", PLATES[4], 5),
    charge("A6", PLATES[4], 25, "S9"),
]
SENT: list[dict[str, object]] = [
    {"order_id": "A1", "plate": PLATES[0], "subject": f"【{PLATES[0]}】充电 90 分钟", "metadata": {"minutes": 90}, "at": 1},
    {"order_id": "A1", "plate": PLATES[0], "subject": "again", "metadata": {"minutes": 91}},
    {"order_id": "A2", "plate": PLATES[1], "subject": "充电", "metadata": {"minutes": {"name": "x", "value": 150}}},
    {"order_id": "A4", "plate": "粤B·12348", "subject": f"【{PLATES[3]}】充电 45 分钟", "metadata[minutes].value": "45"},
    {"event_id": "A5", "plate": PLATES[4], "metadata": '{"minutes": {"name": "x", "value": 5}}'},
    {"order_id": 9, "plate": PLATES[4], "metadata": {"minutes": 5}},
]  # fmt: skip  # a line each


def lines(objects: Sequence[Mapping[str, object]]) -> str:
    return "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in objects)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CHARGING_COUPON__SETTINGS", raising=False)
    (tmp_path / "old.yaml").write_text(RULES, "utf-8")
    changed = RULES.replace("minutes, 120", "minutes, 60").replace("seconds < 600", "seconds < 1800")
    (tmp_path / "new.yaml").write_text(changed, "utf-8")
    (tmp_path / "events.jsonl").write_text(lines(EVENTS) + "\nno JSON\n", "utf-8")
    (tmp_path / "sent.jsonl").write_text(lines(SENT), "utf-8")
    return tmp_path


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def tell(*arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            cli.main(["diff", *arguments])
        printed = capsys.readouterr()
        return f"{printed.out}{printed.err}exit {ended.value.code}\n"

    return tell


Told = Callable[..., str]


def in_json(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text[: text.rindex("exit")])
    return found


@pytest.mark.parametrize(
    ("file", "arguments"),
    [
        ("compared.txt", ("old.yaml", "new.yaml", "events.jsonl")),
        ("compared-trial.txt", ("--against", "sent.jsonl", "old.yaml", "events.jsonl")),
    ],
)
def test_what_differs_is_told_in_groups_with_counts_that_add_up(
    file: str, arguments: tuple[str, ...], told: Told
) -> None:
    text = told(*arguments)

    assert text == (HERE / "rules" / file).read_text("utf-8")


@pytest.mark.parametrize("arguments", [("old.yaml", "new.yaml"), ("--against", "sent.jsonl", "new.yaml")])
def test_machines_get_every_order_and_counts_that_add_up(arguments: tuple[str, ...], told: Told) -> None:
    found = in_json(told(*arguments, "events.jsonl", "--format", "json"))

    assert found["orders"] == found["alike"] + found["renamed"] + found["different"]
    assert found["alike"] == sum(found["alike_by_verdict"].values())
    assert found["different"] == sum(group["orders"] for group in found["groups"])
    assert all(len(group["members"]) == group["orders"] for group in found["groups"])
    members = [member for group in found["groups"] for member in group["members"]]
    assert len({member["order_id"] for member in members}) == len(members)
    for key, both in found["metadata"].items():
        differing = [
            change for each in members for change in each["changes"] if change["name"] == f"metadata.{key}"
        ]
        more = sum(int(change["new"] or 0) - int(change["old"] or 0) for change in differing)
        assert both["new"] - both["old"] == more


def test_no_whole_plate_is_shown_unless_it_is_asked_for(told: Told) -> None:
    for arguments in (("old.yaml", "new.yaml"), ("--against", "sent.jsonl", "old.yaml")):
        for form in ("text", "json"):
            masked = told(*arguments, "events.jsonl", "--format", form)
            whole = told(*arguments, "events.jsonl", "--format", form, "--reveal")
            assert [plate for plate in (*PLATES, "粤B·12348") if plate in masked] == []
            assert PLATES[2] in whole


def test_the_same_rules_treat_every_order_alike(folder: Path, told: Told) -> None:
    (folder / "rules").mkdir()
    (folder / "rules" / "all.yaml").write_text(f"# another file\n{RULES}", "utf-8")

    text = told("old.yaml", "rules", "events.jsonl")

    assert text.startswith("7 orders of 7 events: 7 treated alike, 0 differently\n")
    assert text.endswith("exit 0\n")


@pytest.mark.parametrize(
    ("was", "becomes", "old", "new", "changes"),
    [
        ("secret: main", "secret: main, state: shadow", "request by two-hours-free", "shadow by two-hours-free", []),
        ("secret: main", "secret: main, state: hold", "request by two-hours-free", "waits (hold) by two-hours-free", ["metadata.minutes"]),
        ('"math.least(minutes, 120)"', "minutes - 1000", "request by two-hours-free", "invalid (overflow) by two-hours-free", ["metadata.minutes"]),
        ("secret: main", "secret: main, metadata_format: dotted", "request by two-hours-free", "request by two-hours-free", ["metadata"]),
        ("app_id: op01", "app_id: op02", "request by two-hours-free", "request by two-hours-free", ["app_id"]),
        ("secret: main", "url: 'https://b.example/', secret: main", "request by two-hours-free", "request by two-hours-free", ["url"]),
        ("secret: main", "parameters: {merchant: m}, secret: main", "request by two-hours-free", "request by two-hours-free", ["merchant"]),
        ("充电 {minutes}", "{minutes}", "request by two-hours-free", "request by two-hours-free", ["subject"]),
        ("name: 充电时长", "name: 时长", "request by two-hours-free", "request by two-hours-free", ["metadata"]),
        ("extends: canonical", "extends: canonical, event_id: 'E-{order_id}'", "request by two-hours-free", "request by two-hours-free", ["event_id"]),
        ("stations: [S1]", "stations: [S2]", "request by two-hours-free", "unmatched (no_rule)", ["metadata.minutes"]),
    ],
)  # fmt: skip  # a line each
def test_every_kind_of_change_is_a_group_of_its_own(
    was: str, becomes: str, old: str, new: str, changes: list[str], folder: Path, told: Told
) -> None:
    assert was in RULES
    text = RULES.replace(was, becomes).replace("{S1: {", "{S2: {api_store_code: store-2}, S1: {")
    (folder / "new.yaml").write_text(text, "utf-8")
    (folder / "event.json").write_text(json.dumps(EVENTS[0], ensure_ascii=False, indent=2), "utf-8")

    found = in_json(told("old.yaml", "new.yaml", "event.json", "--format", "json"))

    (group,) = found["groups"]
    assert (found["events"], found["orders"], group["orders"]) == (1, 1, 1)
    assert (group["old"], group["new"], group["changes"]) == (old, new, changes)


def test_that_an_order_on_hold_waits_is_told_once(folder: Path, told: Told) -> None:
    (folder / "new.yaml").write_text(RULES.replace("secret: main", "secret: main, state: hold"), "utf-8")

    text = told("old.yaml", "new.yaml", "events.jsonl")

    assert "request by two-hours-free → waits (hold) by two-hours-free\n" in text
    assert text.count("it waits in the retry topics, and is asked for once that is released; ") == 1


def test_a_renamed_rule_is_told_beside_the_orders_that_are_treated_alike(folder: Path, told: Told) -> None:
    (folder / "new.yaml").write_text(
        RULES.replace("two-hours-free", "free").replace("hardly", "barely"), "utf-8"
    )

    text = told("old.yaml", "new.yaml", "events.jsonl")
    found = in_json(told("old.yaml", "new.yaml", "events.jsonl", "--format", "json"))

    assert text.startswith(
        "7 orders of 7 events: 2 treated alike, 5 alike but for their rule's name, 0 differently\n"
    )
    assert (
        "     4  request by two-hours-free                    request by free                              renamed\n"
        in text
    )
    assert text.endswith("exit 0\n")
    assert (found["renamed"], found["different"], found["groups"]) == (5, 0, [])
    assert found["renamed_rules"] == [
        {"old": "request by two-hours-free", "new": "request by free", "orders": 4},
        {
            "old": "skipped (below_threshold) by hardly-charged",
            "new": "skipped (below_threshold) by barely-charged",
            "orders": 1,
        },
    ]


def test_an_order_that_another_of_the_rules_decides_on_is_treated_differently(
    folder: Path, told: Told
) -> None:
    """Though the same comes of it today."""
    free = RULES[RULES.index("  - name: two-hours-free") :]
    longer = free.replace("two-hours-free", "longer").replace(
        "    account", "    when: minutes > 60\n    account"
    )
    (folder / "old.yaml").write_text(RULES.replace(free, f"{longer}{free}"), "utf-8")
    (folder / "new.yaml").write_text(RULES, "utf-8")

    text = told("old.yaml", "new.yaml", "events.jsonl")

    (row,) = [line.split() for line in text.splitlines() if line.endswith("only the rule")]
    assert row[:4] == ["2", "request", "by", "longer"]
    assert "renamed" not in text
    assert text.endswith("exit 1\n")


def test_an_order_that_only_one_side_finds_in_an_event_is_told(folder: Path, told: Told) -> None:
    (folder / "new.yaml").write_text(RULES.replace("extends: canonical", "extends: canonical, orders: rows"))
    (folder / "event.json").write_text(json.dumps({"rows": [EVENTS[0], EVENTS[1]]}), "utf-8")

    found = in_json(told("old.yaml", "new.yaml", "event.json", "--format", "json"))

    assert [(group["old"], group["new"]) for group in found["groups"]] == [
        ("invalid (id_missing)", "request by two-hours-free"),
        ("no such order", "request by two-hours-free"),
    ]
    assert [group["members"][0]["event"] for group in found["groups"]] == ["event.json", "event.json #1"]


def test_events_may_come_from_standard_input(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    class Piped:
        buffer = io.BytesIO(lines(EVENTS).encode())

    monkeypatch.setattr(sys, "stdin", Piped)

    assert told("old.yaml", "new.yaml", "-").startswith("6 orders of 6 events: ")


def test_a_group_shows_a_few_orders_and_says_how_many_more_there_are(folder: Path, told: Told) -> None:
    many = [charge(f"B{number}", PLATES[0], 61 + number) for number in range(9)]
    (folder / "events.jsonl").write_text(lines(many), "utf-8")

    text = told("old.yaml", "new.yaml", "events.jsonl")

    assert (
        "  metadata.minutes: 61 → 60 (1), 62 → 60 (1), 63 → 60 (1), 64 → 60 (1), 65 → 60 (1), 66 → 60 (1), 3 others (3)"
        in text
    )
    assert "  B2 " in text
    assert "  B3 " not in text
    assert "  ... and 6 more; --rows shows more of them\n" in text
    assert "  B8 " in told("old.yaml", "new.yaml", "events.jsonl", "--rows", "9")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "diff: two rules files are compared; name the OLD and the NEW one, or --against FILE"),
        (("old.yaml",), "diff: two rules files are compared; name the OLD and the NEW one, or --against FILE"),
        (("old.yaml", "new.yaml"), "EVENTS: there are none; name files, or - for standard input, or --topic with --last"),
        (("old.yaml", "none.yaml", "events.jsonl"), "none.yaml: cannot be read: No such file or directory; name a YAML file with coupon rules, or a folder of such files"),
        (("old.yaml", "new.yaml", "none.jsonl"), "none.jsonl: cannot be read: No such file or directory; name a file with events"),
        (("old.yaml", "new.yaml", "events.jsonl", "--topic", "x"), "--topic: no source reads the topic x; name one of charging, or --source"),
        (("old.yaml", "new.yaml", "events.jsonl", "--source", "x"), "--source: there is no source `x`; known here: charging"),
        (("old.yaml", "new.yaml", "events.jsonl", "--last", "5"), "--last and --since: events of files are all read; leave these out, or the files"),
        (("old.yaml", "new.yaml", "--topic", "x", "-s", "settings.yaml"), "--last: x may hold months; say how much of it: --last 10000, or --since 1d"),
        (("old.yaml", "new.yaml", "--topic", "x", "-s", "settings.yaml", "--since", "now"), "--since: 'now' is no time; write 2026-03-01T00:00:00+08:00, or 30m, 2h, 7d for so long ago"),
        (("--against", "none.jsonl", "old.yaml", "events.jsonl"), "none.jsonl: cannot be read: No such file or directory; name a file with a line of JSON for each order that was sent"),
    ],
)  # fmt: skip  # a line each
def test_what_cannot_be_compared_is_refused(
    arguments: tuple[str, ...], complaint: str, folder: Path, told: Told
) -> None:
    (folder / "settings.yaml").write_text("kafka: {bootstrap_servers: 'localhost:1', topics: {events: x}}\n")

    assert told(*arguments) == f"error: {complaint}\nexit 2\n"


def test_every_wrong_line_of_what_was_sent_is_told_at_once() -> None:
    text = 'no\n\n[1]\n{"plate": "粤B12345"}\n{"order_id": "1", "metadata": {"m": 1.5}}\n{"order_id": "2", "metadata": [1]}\n'

    with pytest.raises(ConfigurationError) as raised:
        trial.sent_rows(text, "sent.jsonl")

    assert [(problem.place, problem.message) for problem in raised.value.problems] == [
        ("sent.jsonl:1", "not JSON"),
        ("sent.jsonl:3", "no object"),
        ("sent.jsonl:4", "neither order_id nor event_id"),
        ("sent.jsonl:5", "metadata.m is no whole number"),
        ("sent.jsonl:6", "metadata is no object"),
    ]
    assert "粤B12345" not in str(raised.value)


# -- Outcomes -----------------------------------------------------------------------------------------

EXAMPLES = HERE.parent / "schemas" / "examples" / "coupon-outcome" / "1"


def outcome(name: str, **changed: object) -> dict[str, Any]:
    return {**json.loads((EXAMPLES / f"{name}.json").read_text("utf-8")), **changed}


def beside(sent: Mapping[str, Any], *outcomes: dict[str, Any]) -> Comparison:
    compared = Comparison()
    ours = [trial.outcome_row(body) for body in outcomes]
    trial.compare(trial.sent_rows(json.dumps(sent), "sent"), ours, compared)
    return compared


@pytest.mark.parametrize("name", sorted(path.stem for path in EXAMPLES.iterdir()))
def test_every_outcome_says_whether_a_coupon_was_asked_for(name: str) -> None:
    body = outcome(name, order_id="A1")
    asks = body["attempts"]["count"] > 0 or body["outcome"] == "shadow"

    compared = beside({"order_id": "A1"}, body)

    assert (compared.asked, compared.different) == ([1, int(asks)], int(not asks))


SHADOW = outcome("shadow")
FORM = {**SHADOW["request"], "sign": "0123456789ABCDEF0123456789ABCDEF", "timestamp": "1764000000000"}


def test_what_was_posted_is_compared_field_by_field() -> None:
    assert beside(FORM, SHADOW).different == 0
    changed = {"subject": "other", "metadata": '{"minutes":{"name":"充电时长","value":91}}'}
    ((_, (difference,)),) = beside({**FORM, **changed}, SHADOW).groups.items()

    assert [change.name for change in difference.changes] == ["metadata.minutes", "subject"]


def test_of_a_call_that_was_made_only_what_its_outcome_holds_is_compared() -> None:
    granted = outcome("granted")
    sent = {
        "order_id": granted["order_id"],
        "plate": granted["plate"],
        "subject": "other",
        "metadata": granted["metadata"],
    }

    assert beside(sent, granted).different == 0
    assert beside({**sent, "plate": "粤B00000"}, granted).different == 1


def test_where_outcomes_hold_no_plates_neither_they_nor_subjects_are_compared() -> None:
    request = {**SHADOW["request"], "subject": "【***】充电"}
    del request["plate"]

    compared = beside(FORM, {**SHADOW, "plate": None, "request": request})

    assert compared.different == 0
    assert compared.notes[-1] == "not compared, since no request of ours shows it: plate, subject"


def test_of_an_order_that_was_pushed_again_the_first_that_asks_counts() -> None:
    skipped = {**SHADOW, "outcome": "skipped", "reason": "policy", "request": None, "metadata": None}
    later = {**SHADOW, "metadata": {"minutes": 5}}

    compared = beside(FORM, skipped, SHADOW, later)

    assert compared.different == 0
    assert compared.notes[0] == "pushed more than once: 2; the first that asks counts"


def test_what_a_terminal_would_obey_is_not_printed() -> None:
    compared = beside({"order_id": "A\x1b[2J"})

    assert "A\\x1b[2J" in "".join(comparison.in_text(compared, rows=None, reveal=True))


def test_a_plate_that_a_terminal_would_obey_is_masked_all_the_same() -> None:
    compared = beside({"order_id": "A1", "plate": "粤\x1b[2JB1234X"})

    text = "".join(comparison.in_text(compared, rows=None, reveal=False))
    assert "B1234" not in text
    assert "粤\\x1b***" in text


# -- Kafka --------------------------------------------------------------------------------------------


@pytest.mark.broker
def test_the_last_events_of_all_partitions_are_compared_and_nothing_is_changed(
    folder: Path, broker: str, topic_prefix: str, create_topics: CreateTopics, told: Told
) -> None:
    topic = f"{topic_prefix}-charging"
    times = [1_772_337_600_000 + number * 1000 for number in range(12)]

    async def produce() -> None:
        await create_topics(broker, {topic: 3})
        async with AIOKafkaProducer(bootstrap_servers=broker, transactional_id=topic) as producer:
            for number, at in enumerate(times):  # a marker after each record, and every third is aborted
                value = json.dumps(charge(f"K{number}", PLATES[0], 50 + number)).encode()
                await producer.begin_transaction()
                await producer.send_and_wait(topic, value, partition=number % 2, timestamp_ms=at)
                await (producer.abort_transaction() if number % 3 == 0 else producer.commit_transaction())

    asyncio.run(produce())
    for name in ("old.yaml", "new.yaml"):
        text = (folder / name).read_text("utf-8").replace("topics: [charging]", f"topics: [{topic}]")
        (folder / name).write_text(text, "utf-8")
    (folder / "settings.yaml").write_text(
        f"kafka: {{bootstrap_servers: '{broker}', topics: {{events: {topic}}}}}\n"
    )
    kafka = ("old.yaml", "new.yaml", "-s", "settings.yaml", "--topic", topic)

    found = in_json(told(*kafka, "--last", "5", "--format", "json"))
    since = in_json(told(*kafka, "--since", "2026-03-01T12:00:07+08:00", "--format", "json"))
    everything = in_json(told(*kafka, "--last", "100", "--format", "json"))

    assert found["orders"] == 5  # K5 K7 K8 K10 K11; K6 and K9 were aborted
    assert found["metadata"] == {"minutes": {"old": 55 + 57 + 58 + 60 + 61, "new": 55 + 57 + 58 + 60 + 60}}
    assert since["orders"] == 4
    assert everything["orders"] == 8
    assert told(*kafka[:-1], "nothing-of-this-name", "--last", "1") == (
        "error: --topic: there is no topic nothing-of-this-name; name one that Kafka has\nexit 2\n"
    )
