"""The demo's Kafka: it starts where nothing is installed, keeps its data through a kill, and leaves nothing behind."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from consumer.core.errors import BrokerUnavailableError
from consumer.sandbox.broker import DEFAULT_VERSION, REPOSITORY_VARIABLE, EmbeddedBroker, cache_folder
from tests.conftest import CreateTopics


async def _read(bootstrap_servers: str, topic: str) -> list[bytes | None]:
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap_servers, auto_offset_reset="earliest")
    await consumer.start()
    try:
        partition = TopicPartition(topic, 0)
        consumer.assign([partition])
        end = (await consumer.end_offsets([partition]))[partition]
        values: list[bytes | None] = []
        while len(values) < end:
            values += [record.value for record in (await consumer.getmany(timeout_ms=500)).get(partition, [])]
        return values
    finally:
        await consumer.stop()


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def _write(bootstrap_servers: str, topic: str, value: bytes) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap_servers)
    await producer.start()
    try:
        await producer.send_and_wait(topic, value)
    finally:
        await producer.stop()


@pytest.mark.broker
async def test_the_broker_of_the_tests_creates_topics(
    broker: str, topic_prefix: str, create_topics: CreateTopics
) -> None:
    await create_topics(broker, {f"{topic_prefix}.events": 1})
    await _write(broker, f"{topic_prefix}.events", b"1")

    assert await _read(broker, f"{topic_prefix}.events") == [b"1"]


@pytest.mark.broker
async def test_an_embedded_broker_keeps_data_and_port_through_a_kill_and_leaves_nothing_when_stopped(
    create_topics: CreateTopics,
) -> None:
    broker = EmbeddedBroker()
    await broker.start()
    servers, process = broker.bootstrap_servers, broker.pid
    await create_topics(servers, {"kept": 1})
    await _write(servers, "kept", b"before")

    await broker.kill()
    assert broker.pid is None
    await broker.restart()

    assert broker.bootstrap_servers == servers
    assert broker.pid != process
    assert await _read(servers, "kept") == [b"before"]

    folder = broker.data_folder
    assert folder is not None
    assert folder.exists()
    process = broker.pid
    assert process is not None
    await broker.stop()

    assert not folder.exists()
    assert not _runs(process)
    with socket.socket() as free:
        assert free.connect_ex(("127.0.0.1", int(servers.split(":")[1]))) != 0


@pytest.mark.broker
def test_the_broker_ends_with_a_starter_that_is_killed_and_its_folder_goes_with_the_next_start(
    tmp_path: Path,
) -> None:
    script = (
        "import asyncio, time\n"
        "from consumer.sandbox.broker import EmbeddedBroker\n"
        "broker = EmbeddedBroker()\n"
        "asyncio.run(broker.start(lambda line: print(line, flush=True)))\n"
        "print(broker.pid, broker.data_folder, flush=True)\n"
        "time.sleep(60)\n"
    )
    environment = os.environ | {
        "TMPDIR": str(tmp_path),
        "XDG_CACHE_HOME": str(cache_folder().parent),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    starter = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment)
    assert starter.stdout is not None
    while (line := starter.stdout.readline().decode()).startswith("Starting"):
        pass
    pid, folder = line.split()
    starter.kill()
    starter.communicate()

    deadline = time.monotonic() + 5
    while _runs(int(pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(int(pid))
    assert Path(folder).exists()

    again = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment)
    assert again.stdout is not None
    assert again.stdout.readline().startswith(b"Starting Kafka")
    again.kill()
    again.communicate()

    assert not Path(folder).exists()


async def test_without_network_and_cache_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(REPOSITORY_VARIABLE, "http://127.0.0.1:9/maven2")

    with pytest.raises(BrokerUnavailableError) as caught:
        await EmbeddedBroker(cache=tmp_path).start()

    assert "cannot be fetched from http://127.0.0.1:9/maven2" in str(caught.value)
    assert f"name a mirror of Maven Central in {REPOSITORY_VARIABLE}" in str(caught.value)
    assert _names(tmp_path) == [f"kafka_2.13-{DEFAULT_VERSION}.lock"]


async def test_an_unusable_class_path_names_the_folder_to_remove(tmp_path: Path) -> None:
    (tmp_path / f"kafka_2.13-{DEFAULT_VERSION}" / "jars").mkdir(parents=True)

    with pytest.raises(BrokerUnavailableError) as caught:
        await EmbeddedBroker(cache=tmp_path).start()

    assert f"remove {tmp_path}/kafka_2.13-{DEFAULT_VERSION} and try again" in str(caught.value)


def test_addresses_are_refused_before_the_start() -> None:
    with pytest.raises(BrokerUnavailableError, match=r"await start\(\) first"):
        _ = EmbeddedBroker().bootstrap_servers
