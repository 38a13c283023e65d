"""Secrets and certificates that follow their files: what is noticed, what is kept, what is told."""

import asyncio
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest
import structlog
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from consumer import credentials, following, logs
from consumer.credentials import Credentials
from consumer.metrics import Metrics
from consumer.settings import Settings
from tests.conftest import beside
from tests.mounts import mount

SETTINGS = {"kafka": {"bootstrap_servers": ["k:1"], "topics": {"events": ["e"]}}, "rules": "rules.yaml"}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(following, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(following, "SETTLE_SECONDS", 0.01)
    # A logger keeps the configuration of its first use, which may be another test's.
    monkeypatch.setattr(credentials, "log", structlog.get_logger())
    before = list(logs._in_use)
    yield
    logs._in_use[:] = before


class World:
    """Secrets as Kubernetes mounts them, and who is told of changes."""

    def __init__(self, folder: Path, *names: str, certificates: Collection[Path] = ()) -> None:
        self.folder = folder
        self.names = list(names)
        self.told: list[set[str]] = []
        self.metrics = Metrics(CollectorRegistry())
        self.mount(**{name: f"first {name}" for name in names})
        settings = Settings.model_validate({**SETTINGS, "secrets_dir": folder})
        self.credentials = Credentials(
            settings.secret,
            self.metrics,
            needed=lambda: self.names,
            certificates=certificates,
            on_change=lambda what: self.told.append(set(what)),
        )
        self.credentials.use({name: settings.secret(name) for name in names})

    def mount(self, **texts: str) -> None:
        mount(self.folder, texts)

    def reloads(self, result: str) -> float | None:
        return self.metrics.registry.get_sample_value("coupon_secrets_reloads_total", {"result": result})


async def test_an_exchanged_secret_is_in_force_within_a_look_and_no_log_line_holds_it(tmp_path: Path) -> None:
    world = World(tmp_path, "main", "other")
    with capture_logs() as lines:
        async with beside(world.credentials.watch()) as until:
            world.mount(main="second main\n", other="first other")
            await until(lambda: bool(world.told))
            await asyncio.sleep(0.1)

    assert world.told == [{"main"}]
    assert world.credentials.secrets == {"main": "second main", "other": "first other"}
    assert lines == [{"event": "secrets.reloaded", "log_level": "info", "names": ["main"]}]
    assert (world.reloads("loaded"), world.reloads("kept")) == (1, 0)
    assert {"first main", "second main"} <= set(logs._in_use), "calls under way still use the first"


async def test_a_secret_that_is_written_over_in_its_place_is_noticed(tmp_path: Path) -> None:
    world = World(tmp_path, "main")
    async with beside(world.credentials.watch()) as until:
        (tmp_path / "main").write_text("third main")  # as long, and perhaps within the same tick of the clock
        await until(lambda: world.credentials.secrets == {"main": "third main"})


@pytest.mark.parametrize("how", ["missing", "empty"])
async def test_while_a_secret_is_not_there_the_one_before_is_kept_and_it_is_told_once(
    tmp_path: Path, how: str
) -> None:
    world = World(tmp_path, "main")
    with capture_logs() as lines:
        async with beside(world.credentials.watch()) as until:
            if how == "missing":
                world.mount()
            else:
                world.mount(main="")
            await until(lambda: world.reloads("kept") == 1)
            await world.credentials.read_again("main")
            await asyncio.sleep(0.1)
            assert world.credentials.secrets == {"main": "first main"}
            world.mount(main="second main")
            await until(lambda: world.credentials.secrets == {"main": "second main"})

    assert [line["event"] for line in lines] == [
        "credentials.kept",
        "credentials.kept_no_longer",
        "secrets.reloaded",
    ]
    assert lines[0]["problem"].startswith(f"{tmp_path / 'main'}: ")
    assert world.told == [{"main"}]


async def test_a_secret_that_is_refused_is_read_again_at_once(tmp_path: Path) -> None:
    world = World(tmp_path, "main")
    await world.credentials.read_again("main")
    assert world.told == []

    world.mount(main="second main")
    await world.credentials.read_again("main")

    assert world.credentials.secrets == {"main": "second main"}
    assert world.told == [{"main"}]


async def test_what_is_kept_is_told_until_it_is_not_or_nobody_needs_it_any_more(tmp_path: Path) -> None:
    world = World(tmp_path, "main", "gone")

    def kept() -> float | None:
        return world.metrics.registry.get_sample_value("coupon_credentials_kept")

    async with beside(world.credentials.watch()) as until:
        world.mount(main="first main")
        world.credentials.keep("the way to Kafka", "it does not accept our certificate")
        await until(lambda: kept() == 2)
        assert world.credentials.kept[0] == "the way to Kafka: it does not accept our certificate"
        assert world.credentials.kept[1].startswith(f"gone: {tmp_path / 'gone'}: ")
        world.names.remove("gone")
        await until(lambda: kept() == 1)
        world.credentials.keep("the way to Kafka", None)

    assert (kept(), world.credentials.kept) == (0, [])


async def test_secrets_that_nobody_needs_any_more_may_go(tmp_path: Path) -> None:
    world = World(tmp_path, "main", "gone")
    world.names.remove("gone")
    with capture_logs() as lines:
        async with beside(world.credentials.watch()) as until:
            world.mount(main="second main")
            await until(lambda: bool(world.told))

    assert [line["event"] for line in lines] == ["secrets.reloaded"]


async def test_changed_certificates_are_told(tmp_path: Path) -> None:
    ca, key = tmp_path / "ca.pem", tmp_path / "key.pem"
    ca.write_text("one")
    (folder := tmp_path / "secrets").mkdir()
    world = World(folder, "main", certificates=[ca, key])
    async with beside(world.credentials.watch()) as until:
        ca.write_text("two")
        await until(lambda: len(world.told) == 1)
        key.write_text("one")
        await until(lambda: len(world.told) == 2)
        await asyncio.sleep(0.1)

    assert world.told == [{str(ca)}, {str(key)}]
