"""Wrong configurations, a folder each: every mistake told at once, in exactly these words, with this exit code.

A case is what stands in its folder, laid over `wrong/right`. Its `expected.txt` is what a person sees
on a terminal: the command, what it says, how it ends.
"""

import asyncio
import os
import shlex
import shutil
from pathlib import Path

import pytest
import yaml
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from consumer import cli, sandbox
from consumer.cli import run
from tests.conftest import until_known
from tests.pki import Authority

CASES = Path(__file__).parent / "wrong"
RIGHT = CASES / "right"
WRONG = sorted(path for path in CASES.iterdir() if path != RIGHT)
AREAS = {"settings", "rules", "secrets", "certificates", "topics"}
SECRETS = ("the secret of the app", "the key of the hashes", "p4ssw0rd")
PLATE = "粤BD12345"
DEMO_RULES = Path(sandbox.__file__).with_name("demo-rules.yaml")

pytestmark = pytest.mark.usefixtures("logging_as_before")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the command is given, in an environment without settings; a service that starts is a failure."""
    for name in [name for name in os.environ if name.upper().startswith("CHARGING_COUPON")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "serve", _started)
    shutil.copytree(RIGHT, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA, and certificates of it with their keys; one key is encrypted."""
    made = tmp_path_factory.mktemp("certificates")
    authority = Authority(made, "ca")
    authority.issue("client")
    authority.issue("other")
    authority.issue("encrypted", password="p4ssw0rd")
    return made


def _started(_: object) -> None:
    print("started")


def told(line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What a terminal shows of `$ NAME=value charging-coupon ...`, and how it ends."""
    words = shlex.split(line.removeprefix("$ "))
    while "=" in words[0]:
        monkeypatch.setenv(*words.pop(0).split("=", 1))
    assert words.pop(0) == "charging-coupon"
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    printed = capsys.readouterr()
    said = f"{printed.out}{printed.err}".replace(str(DEMO_RULES), "DEMO_RULES")
    return f"{line}\n{said}exit {ended.value.code}\n"


def test_without_a_mistake_the_service_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = "$ charging-coupon run -s settings.yaml"

    assert told(line, monkeypatch, capsys) == f"{line}\nstarted\nexit 0\n"


@pytest.mark.parametrize(
    "case", [path for path in WRONG if not path.name.startswith("topics-")], ids=lambda path: path.name
)
def test_a_wrong_configuration_is_refused_in_exactly_these_words(
    case: Path,
    folder: Path,
    certificates: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(certificates, folder / "certificates")
    shutil.copytree(case, folder, dirs_exist_ok=True)
    expected = (case / "expected.txt").read_text("utf-8")

    assert told(expected.splitlines()[0], monkeypatch, capsys) == expected


@pytest.fixture
def topic_case(request: pytest.FixtureRequest, folder: Path, broker: str, topic_prefix: str) -> Path:
    """The case's topics (topics.yaml) on a real Kafka, under names of this test alone."""
    case: Path = request.param
    shutil.copytree(case, folder, dirs_exist_ok=True)
    for file in (folder / "settings.yaml", folder / "topics.yaml"):
        text = file.read_text("utf-8").replace("kafka-1:9092", broker).replace("PREFIX", topic_prefix)
        file.write_text(text, "utf-8")
    wanted = yaml.safe_load((folder / "topics.yaml").read_text("utf-8"))
    asyncio.run(_create(broker, wanted))
    return case


async def _create(broker: str, wanted: dict[str, dict[str, str]]) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=broker)
    await admin.start()
    try:
        topics = [
            NewTopic(name, config.pop("partitions"), 1, topic_configs={key: str(value) for key, value in config.items()})
            for name, config in wanted.items()
        ]  # fmt: skip  # a line a topic
        reply = await admin.create_topics(topics)
        assert [topic[1] for topic in reply.topic_errors] == [0] * len(topics)
        await until_known(admin, list(wanted))
    finally:
        await admin.close()


@pytest.mark.broker
@pytest.mark.parametrize(
    "topic_case",
    [path for path in WRONG if path.name.startswith("topics-")],
    ids=lambda path: path.name,
    indirect=True,
)
def test_topics_that_differ_are_told_in_exactly_these_words(
    topic_case: Path,
    broker: str,
    topic_prefix: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected = (topic_case / "expected.txt").read_text("utf-8")

    line = expected.splitlines()[0]
    said = told(line, monkeypatch, capsys).replace(topic_prefix, "PREFIX").replace(broker, "kafka-1:9092")
    # The table above the blank line has the columns' widths of the real names.
    assert f"{line}\n\n{said.split(chr(10) + chr(10), 1)[-1]}" == expected


def test_there_are_forty_of_them_in_every_area() -> None:
    assert len(WRONG) >= 40
    assert {path.name.split("-")[0] for path in WRONG} == AREAS


def test_none_shows_a_secret_or_a_whole_plate_or_takes_us_by_surprise() -> None:
    for case in WRONG:
        expected = (case / "expected.txt").read_text("utf-8")
        assert [text for text in (*SECRETS, PLATE, "error: unexpected") if text in expected] == []
