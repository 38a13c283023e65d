"""What becomes of changed files of the way to Kafka where Kafka itself cannot be asked. Where it can: tests/broker."""

import asyncio
import socket
from pathlib import Path

import pytest

from consumer import rotation
from consumer.connection import Access
from consumer.rotation import Rotation
from consumer.settings import Settings
from tests.conftest import beside
from tests.pki import Authority


class World:
    """The way to a Kafka at whose address nobody listens."""

    def __init__(self, folder: Path) -> None:
        self.secrets = {"kafka_password": "first", "key_password": "first"}
        self.ours = Authority(folder, "ours")
        self.trusted, self.certificate, self.key = (
            folder / name for name in ("ca.pem", "own.crt", "own.key")
        )
        self.trusted.write_bytes(self.ours.ca.read_bytes())
        self.identify("first")
        with socket.socket() as held:
            held.bind(("127.0.0.1", 0))
            server = f"127.0.0.1:{held.getsockname()[1]}"
        security = {
            "protocol": "sasl_ssl",
            "mechanism": "PLAIN",
            "username": "charging",
            "ca_file": self.trusted,
            "certificate_file": self.certificate,
            "key_file": self.key,
            "key_password": "key_password",
        }
        kafka = {"bootstrap_servers": [server], "topics": {"events": ["e"]}, "security": security}
        settings = Settings.model_validate({"kafka": kafka, "rules": "rules.yaml"})
        self.access = Access(settings.kafka, self.secrets.__getitem__)
        self.told: list[str | None] = []
        self.rotation = Rotation(self.access, self.secrets.__getitem__, self.told.append)

    def identify(self, name: str) -> None:
        certificate, key = self.ours.issue(name, password=name)
        self.certificate.write_bytes(certificate.read_bytes())
        self.key.write_bytes(key.read_bytes())
        self.secrets["key_password"] = name


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(rotation, "FIRST_PAUSE", 0.02)
    return World(tmp_path)


async def test_a_password_that_cannot_be_tried_is_not_in_force(world: World) -> None:
    before = world.access.entry
    async with beside(world.rotation.run()):
        world.secrets["kafka_password"] = "second"
        world.rotation.look_now()
        await asyncio.sleep(0.3)

    assert world.access.entry is before
    assert world.told == []


async def test_a_ca_that_was_taken_out_is_trusted_no_more_tried_or_not(world: World, tmp_path: Path) -> None:
    other = Authority(tmp_path, "other")
    async with beside(world.rotation.run()) as until:
        world.trusted.write_bytes(other.ca.read_bytes())
        world.rotation.look_now()
        await until(lambda: world.access.entry.trusted == other.ca.read_bytes())

    context = world.access.entry.context
    assert context is not None
    assert [each["subject"] for each in context.get_ca_certs()] == [((("commonName", "other"),),)]


@pytest.mark.parametrize(
    "what", ["half a certificate", "another's key", "a key with another password", "no CA"]
)
async def test_files_that_are_of_no_use_are_told_and_change_nothing(world: World, what: str) -> None:
    before = world.access.entry
    match what:
        case "half a certificate":
            world.certificate.write_bytes(world.certificate.read_bytes()[:200])
        case "another's key":
            world.key.write_bytes(world.ours.issue("another", password="first")[1].read_bytes())
        case "a key with another password":
            world.secrets["key_password"] = "second"
        case _:
            world.trusted.write_text("nothing")
    async with beside(world.rotation.run()) as until:
        world.rotation.look_now()
        await until(lambda: bool(world.told))

    assert world.access.entry is before
    (said,) = world.told
    assert said is not None
    assert said.startswith("kafka.security.")
