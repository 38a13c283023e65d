"""The chart's pod, for real: as helm renders it, restricted as it says, against a real Kafka, deleted under load."""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest
import yaml

from consumer.sandbox.broker import EmbeddedBroker
from consumer.sandbox.gateway import ENDPOINT, SandboxGateway
from consumer.sandbox.journal import Entry
from tests.broker.audit import audit
from tests.broker.conftest import topics  # noqa: F401  # a fixture
from tests.broker.kafka import Topics, traffic
from tests.broker.world import APP_ID, RULES, World, just_now
from tests.kubernetes.podman import IMAGE, Pod, needs_image
from tests.test_chart import CHART, needs_helm, rendered

pytestmark = [pytest.mark.podman, pytest.mark.long, needs_image, needs_helm]

HOST = "host.containers.internal"
"""This machine, as a container knows it."""

SECRETS = {"main": "YSBzZWNyZXQ=", "plate_hash": "YSBrZXkgZm9yIHBsYXRlcw=="}


@pytest.fixture
async def broker(free_port: int) -> AsyncIterator[str]:
    """Bootstrap servers for the test. A second listener sends its clients, the pod's, to this machine's name in a container."""
    properties = {
        "listeners": f"PODS://0.0.0.0:{free_port}",
        "advertised.listeners": f"PODS://{HOST}:{free_port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PODS:PLAINTEXT",
    }
    async with EmbeddedBroker(properties=properties) as broker:
        yield broker.bootstrap_servers


@pytest.fixture
def free_port() -> int:
    with socket.socket() as free:
        free.bind(("", 0))
        port: int = free.getsockname()[1]
    return port


@pytest.fixture
async def gateway() -> AsyncIterator[SandboxGateway]:
    """A platform that the pod reaches. Podman before 4.4 puts a Secret's values into files as they stand, in base64."""
    gateway = SandboxGateway(apps={APP_ID: SECRETS["main"]}, latency=0.3)
    await gateway.start("0.0.0.0")
    try:
        yield gateway
    finally:
        await gateway.stop()


@pytest.fixture
def world(
    broker: str,
    topics: Topics,  # noqa: F811  # pytest's way of asking for it
    tmp_path: Path,
    gateway: SandboxGateway,
) -> World:
    port = gateway.base_url.rpartition(":")[2]
    return World(broker, topics, tmp_path, f"http://{HOST}:{port}{ENDPOINT}")


@contextmanager
def pod_of(world: World, kafka_port: int) -> Iterator[Pod]:
    """Installed with the four values, and the settings of every trial."""
    settings = yaml.safe_load(world.settings.read_text("utf-8"))
    for name in ("rules", "secrets", "web", "log"):
        del settings[name]
    settings["kafka"]["bootstrap_servers"] = [f"{HOST}:{kafka_port}"]
    repository, _, tag = IMAGE.rpartition(":")
    values = {
        "image": {"repository": repository, "tag": tag, "pullPolicy": "Never"},
        "settings": settings,
        "existingSecret": "charging-coupon",
        "rules": world.rules.read_text("utf-8"),
        "replicas": 1,
        "topics": {"mode": "none"},
    }
    file = world.folder / "values.json"
    file.write_text(json.dumps(values), "utf-8")
    pod = Pod(rendered(file, chart=CHART), "charging-coupon", SECRETS)
    try:
        pod.play()
        yield pod
    finally:
        pod.remove()


async def test_a_pod_takes_new_rules_and_ends_in_time_when_deleted_under_load_and_nothing_is_lost_or_doubled(
    world: World, gateway: SandboxGateway, free_port: int
) -> None:
    async with traffic(world.broker, world.topics.events, just_now, 60) as sent:
        with pod_of(world, free_port) as pod:
            await pod.until_ready()
            assert_that_it_is_confined(pod)
            await assert_that_new_rules_reach_it(pod)
            await world.until_outcomes(200)
            told = datetime.now(UTC)
            state = await pod.delete()

            assert (state["ExitCode"], state["OOMKilled"]) == (0, False), pod.log()[-5:]
            assert pod.log()[-1]["event"] == "service.stopped"
            assert [each for each in gateway.journal.entries if is_under_way(each, told)]
            first = await audit(world, gateway, None)
        with pod_of(world, free_port) as pod:
            await pod.until_ready()
            await world.until_outcomes(len(first.outcomes) + 100)
            sent.enough.set()
            await world.until_done(60)
            books = await audit(world, gateway, range(sent.sent))

    assert len(books.calls) == len(gateway.journal.grants) == sent.sent
    assert set(books.calls.values()) == {1}
    print(f"{sent.sent} events, {len(first.outcomes)} of them by the pod that was deleted")


def assert_that_it_is_confined(pod: Pod) -> None:
    """As its securityContext and its limits say."""
    host = pod.inspect()["HostConfig"]
    assert host["Memory"] == 512 * 2**20
    assert (host["ReadonlyRootfs"], host["Privileged"], host["NetworkMode"] == "host") == (True, False, False)
    assert pod.execute("import os; print([os.getuid(), os.getgid()])") == [10001, 10001]
    status = pod.execute("import json; print(json.dumps(open('/proc/1/status').read()))")
    assert re.findall(r"(?:NoNewPrivs|CapEff):\s+(\w+)", status) == ["0" * 16, "1"]


async def assert_that_new_rules_reach_it(pod: Pod) -> None:
    """While it runs."""
    before = orjson.loads((await pod.page("/readyz"))[1])["rules"]
    pod.write("coupons-charging-coupon-consumer-rules", "rules.yaml", RULES.replace("an-hour", "one-hour"))
    async with asyncio.timeout(30):
        while orjson.loads((await pod.page("/readyz"))[1])["rules"] == before:  # noqa: ASYNC110  # a page sets no event
            await asyncio.sleep(0.2)


def is_under_way(call: Entry, at: datetime) -> bool:
    return call.received_at <= at < call.received_at + timedelta(seconds=call.seconds)
