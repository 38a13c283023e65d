"""Topics and rights: what is recommended, what is found, what is created."""

import asyncio
import json
import socket
from pathlib import Path

import pytest

from consumer import cli
from consumer.core.errors import BrokerUnavailableError, RefusedError
from consumer.settings import Settings
from consumer.topics import DAY_MS, Cluster, TopicSpec, TopicState, compare, ensure_topics, look, plan
from tests.conftest import CreateTopics

pytestmark = pytest.mark.usefixtures("logging_as_before")


def settings(broker: str = "kafka:9092", prefix: str = "", **topics: object) -> Settings:
    names = {
        "events": [f"{prefix}events"],
        "outcomes": f"{prefix}outcomes",
        "dead_letters": f"{prefix}dead",
        "retries": f"{prefix}retries",
    }
    return Settings.model_validate(
        {
            "kafka": {"bootstrap_servers": [broker], "topics": {**names, **topics}},
            "rules": Path("rules.yaml"),
            "secrets": {"plate_hash": "a key for plates"},
        }
    )


# -- What is recommended ----------------------------------------------------------------------------

RECOMMENDED = {
    "partitions": "3",
    "replication": "3",
    "min.insync.replicas": "2",
    "cleanup.policy": "delete",
    "max.message.bytes": "1048588",
}


def differences(properties: dict[str, str], brokers: int = 3) -> list[tuple[str, str, str]]:
    """Of an outcome topic that is as recommended but for these properties."""
    state = {**RECOMMENDED, "retention.ms": str(90 * DAY_MS)}
    state |= properties
    cluster = Cluster(brokers, {"outcomes": TopicState(state)})
    [outcomes] = [topic for topic in plan(settings()) if topic.name == "outcomes"]
    return [
        (finding.name, finding.is_, finding.should_be)
        for finding in compare([outcomes], cluster, "--bootstrap-server kafka:9092")
        if not finding.fine
    ]


def test_a_topic_as_recommended_is_fine() -> None:
    assert differences({}) == []


def test_more_of_what_there_should_be_enough_of_is_fine() -> None:
    assert (
        differences({"partitions": "12", "max.message.bytes": "10000000", "min.insync.replicas": "3"}) == []
    )


@pytest.mark.parametrize(
    ("properties", "difference"),
    [
        ({"retention.ms": "-1"}, ("retention.ms", "-1 (for ever)", "7776000000 (90d)")),
        ({"retention.ms": "604800000"}, ("retention.ms", "604800000 (7d)", "7776000000 (90d)")),
        ({"cleanup.policy": "compact,delete"}, ("cleanup.policy", "compact,delete", "delete")),
        ({"max.message.bytes": "65536"}, ("max.message.bytes", "65536", "1000000 or more")),
        ({"min.insync.replicas": "1"}, ("min.insync.replicas", "1", "2 or more")),
        ({"replication": "1"}, ("replication", "1", "3 or more")),
        ({"partitions": "1"}, ("partitions", "1", "3 or more")),
    ],
)
def test_what_differs_is_told(properties: dict[str, str], difference: tuple[str, str, str]) -> None:
    assert differences(properties) == [difference]


def test_only_a_topic_that_is_not_there_is_missing() -> None:
    [ours] = [topic for topic in plan(settings()) if topic.name == "outcomes"]
    other = TopicState({"partitions": "1"})

    differs = compare([ours], Cluster(3, {ours.name: other}), "")
    gone = compare([ours], Cluster(3, {}), "")

    assert [each.missing for each in differs] == [False] * len(differs)
    assert [each.missing for each in gone] == [True]


def test_a_lone_broker_is_not_asked_for_copies() -> None:
    assert differences({"replication": "1", "min.insync.replicas": "1"}, brokers=1) == []


# -- A real Kafka -----------------------------------------------------------------------------------


def exit_code(*arguments: str) -> object:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    return ended.value.code


@pytest.fixture
def settings_file(broker: str, topic_prefix: str, tmp_path: Path) -> Path:
    file = tmp_path / "settings.yaml"
    names: dict[str, object] = {"events": [f"{topic_prefix}-events"], "outcomes": f"{topic_prefix}-outcomes"}
    names |= {"dead_letters": f"{topic_prefix}-dead", "retries": f"{topic_prefix}-retries"}
    kafka = {"bootstrap_servers": broker, "topics": names}
    file.write_text(
        json.dumps({"kafka": kafka, "rules": "rules.yaml", "privacy": {"plates": "none"}}), "utf-8"
    )
    return file


@pytest.mark.broker
def test_what_is_missing_is_created_as_recommended_but_no_events_topic(
    settings_file: Path, broker: str, topic_prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("topics", "-s", str(settings_file)) == 1
    assert exit_code("topics", "-s", str(settings_file), "--create", "--format", "json") == 1

    before, after = capsys.readouterr().out.split("\n{", 1)
    told = json.loads("{" + after)
    theirs = "have it created, for a trial by `charging-coupon topics --create --events`"
    ours = "`charging-coupon topics --create` creates it"
    retries = [f"{topic_prefix}-retries.{delay}" for delay in ("1m", "5m", "30m")]
    assert before.splitlines()[-6:] == [
        f"{topic_prefix}-events: there is no such topic; {theirs}, or correct kafka.topics.events",
        f"{topic_prefix}-outcomes: there is no such topic; {ours}, or correct kafka.topics.outcomes",
        f"{topic_prefix}-dead: there is no such topic; {ours}, or correct kafka.topics.dead_letters",
        *(f"{name}: there is no such topic; {ours}, or correct kafka.topics.retries" for name in retries),
    ]
    assert told["created"] == [f"{topic_prefix}-outcomes", f"{topic_prefix}-dead", *retries]
    assert [(each["topic"], each["property"]) for each in told["findings"] if not each["fine"]] == [
        (f"{topic_prefix}-events", "exists")
    ]


@pytest.mark.broker
async def test_asking_creates_no_topic_and_what_was_created_stays_as_it_is(
    broker: str, topic_prefix: str, create_topics: CreateTopics
) -> None:
    names = [topic.name for topic in plan(settings(broker, topic_prefix))]
    await create_topics(broker, {names[0]: 4})

    assert set((await look(broker, names)).topics) == {names[0]}
    plans = [topic for topic in plan(settings(broker, topic_prefix)) if topic.ours]
    await ensure_topics(broker, {topic.name: topic.spec(1) for topic in plans})
    found = (await look(broker, names)).topics

    assert found[names[0]].properties["partitions"] == "4"
    retention = {name: found[name].properties["retention.ms"] for name in names[1:]}
    days = {names[1]: 90, names[2]: 30, **dict.fromkeys(names[3:], 7)}
    assert retention == {name: str(kept * DAY_MS) for name, kept in days.items()}
    assert {found[name].properties["segment.ms"] for name in names[1:]} == {str(DAY_MS)}


@pytest.mark.broker
def test_all_as_recommended_ends_with_0(
    settings_file: Path,
    broker: str,
    topic_prefix: str,
    create_topics: CreateTopics,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asyncio.run(create_topics(broker, {f"{topic_prefix}-events": 1}))

    assert exit_code("topics", "-s", str(settings_file), "--create") == 0
    assert exit_code("topics", "-s", str(settings_file)) == 0

    assert "!!" not in capsys.readouterr().out


@pytest.mark.broker
def test_for_a_trial_the_events_topics_are_created_too_and_one_that_is_there_may_be_as_it_is(
    settings_file: Path,
    broker: str,
    topic_prefix: str,
    create_topics: CreateTopics,
    capsys: pytest.CaptureFixture[str],
) -> None:
    missing, there = f"{topic_prefix}-events", f"{topic_prefix}-others"
    asyncio.run(create_topics(broker, {there: 1}))
    settings = json.loads(settings_file.read_text("utf-8"))
    settings["kafka"]["topics"]["events"].append(there)
    settings_file.write_text(json.dumps(settings), "utf-8")

    assert exit_code("topics", "-s", str(settings_file), "--create", "--events", "--format", "json") == 0

    assert json.loads(capsys.readouterr().out)["created"][0] == missing
    cluster = asyncio.run(look(broker, [missing, there]))
    assert [cluster.topics[name].properties["partitions"] for name in (missing, there)] == ["3", "1"]


@pytest.mark.broker
def test_what_merely_differs_can_be_left_out_of_the_exit_code(
    settings_file: Path,
    broker: str,
    topic_prefix: str,
    create_topics: CreateTopics,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asyncio.run(create_topics(broker, {f"{topic_prefix}-outcomes": 1}))
    look_only = ("topics", "-s", str(settings_file), "--missing-only")
    assert exit_code(*look_only, "--create") == 1  # for want of the events topic

    asyncio.run(create_topics(broker, {f"{topic_prefix}-events": 1}))
    capsys.readouterr()

    assert exit_code(*look_only) == 0
    assert f"{topic_prefix}-outcomes: partitions is 1, where 3 or more is needed" in capsys.readouterr().out
    assert exit_code("topics", "-s", str(settings_file)) == 1


async def known(broker: str, name: str) -> TopicState:
    """Once all of the broker knows it: it answers that a topic is made before."""
    async with asyncio.timeout(30):
        while name not in (found := (await look(broker, [name])).topics):  # noqa: ASYNC110  # a broker sets no event
            await asyncio.sleep(0.05)
    return found[name]


@pytest.mark.broker
async def test_missing_topics_are_created_as_wanted(broker: str, topic_prefix: str) -> None:
    name = f"{topic_prefix}.outcomes"

    report = await ensure_topics(
        broker, {name: TopicSpec(3, retention_ms=DAY_MS, config={"max.message.bytes": "2000000"})}
    )

    assert report.created == (name,)
    assert report.present == {}
    found = (await known(broker, name)).properties
    wanted = {
        "partitions": "3",
        "retention.ms": "86400000",
        "cleanup.policy": "delete",
        "max.message.bytes": "2000000",
    }
    assert {key: found[key] for key in wanted} == wanted


@pytest.mark.broker
async def test_topics_that_are_there_are_left_alone_and_reported(broker: str, topic_prefix: str) -> None:
    there, missing = f"{topic_prefix}.there", f"{topic_prefix}.missing"
    await ensure_topics(broker, {there: TopicSpec(2)})

    report = await ensure_topics(broker, {there: TopicSpec(4), missing: TopicSpec(1)})

    assert report.created == (missing,)
    assert report.present == {there: 2}
    assert report.fewer == (there,)


@pytest.mark.broker
async def test_a_topic_that_kafka_does_not_create_is_named(broker: str, topic_prefix: str) -> None:
    with pytest.raises(RefusedError, match=rf"does not create {topic_prefix}: .*compactt"):
        await ensure_topics(broker, {topic_prefix: TopicSpec(1, cleanup="compactt")})


async def test_a_kafka_that_does_not_answer_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(BrokerUnavailableError, match=rf"Kafka at {address} does not answer"):
            await ensure_topics(address, {"events": TopicSpec(1)})


def test_the_command_ends_with_3_where_no_kafka_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        file = tmp_path / "settings.yaml"
        kafka = {"bootstrap_servers": address, "topics": {"events": "events"}}
        file.write_text(json.dumps({"kafka": kafka, "rules": "r", "privacy": {"plates": "none"}}), "utf-8")

        assert exit_code("topics", "-s", str(file)) == 3

    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: Kafka at {address} is not there: ")
