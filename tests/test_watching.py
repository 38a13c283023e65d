"""Rules that follow their files: what is noticed, what is put in force, what is refused and told."""

import asyncio
import gc
import os
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from consumer import following, rulebook
from consumer.core.errors import ConfigurationError, Problem
from consumer.core.rules import RuleBook
from consumer.metrics import Metrics
from consumer.rulebook import Files, watching
from consumer.rulebook.watching import Watcher
from tests.conftest import beside
from tests.mounts import mount

RULES = "version: 1\nsources: {events: {extends: canonical}}\nrules: [{name: NAME, skip: policy}]\n"


@pytest.fixture(autouse=True)
def _quick_and_collected(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(following, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(following, "SETTLE_SECONDS", 0.01)
    # A logger keeps the configuration of its first use, which may be another test's.
    monkeypatch.setattr(watching, "log", structlog.get_logger())
    yield
    gc.unfreeze()  # the other tests' garbage is garbage again


def write(path: Path, name: str = "first", more: str = "") -> Path:
    path.write_text(RULES.replace("NAME", name) + more, "utf-8")
    return path


# -- Files ------------------------------------------------------------------------------------------


def loaded(path: Path) -> Files:
    files = Files(path)
    rulebook.load_files(files)
    return files


def test_files_have_changed_where_reading_them_would_give_anything_else(tmp_path: Path) -> None:
    path = write(tmp_path / "rules.yaml")
    files = loaded(path)
    assert not files.changed()

    write(path, "other")  # as long as before, and within the same tick of the clock perhaps
    assert files.changed()
    write(path)
    assert not files.changed()
    os.utime(path, (1, 1))
    assert not files.changed()
    path.unlink()
    assert files.changed()


def test_a_folder_has_changed_where_a_file_came_or_went(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml")
    files = loaded(tmp_path)
    (tmp_path / "README.md").write_text("no rules")
    (tmp_path / ".a.yaml.swp").write_text("of an editor")
    assert not files.changed()

    (tmp_path / "b.yaml").write_text("version: 1\n")
    assert files.changed()


@pytest.mark.parametrize("path", ["", "rules.yaml"])
def test_a_swapped_config_map_has_changed(tmp_path: Path, path: str) -> None:
    mount(tmp_path, {"rules.yaml": RULES.replace("NAME", "first")})
    files = loaded(tmp_path / path)
    assert not files.changed()

    mount(tmp_path, {"rules.yaml": RULES.replace("NAME", "second")})
    assert files.changed()


def test_a_file_of_stations_belongs_to_the_rules_even_before_it_is_there(tmp_path: Path) -> None:
    path = write(tmp_path / "rules.yaml", more="stations: {file: stations.csv}\n")
    files = Files(path)
    with pytest.raises(ConfigurationError, match=r"stations\.csv cannot be read"):
        rulebook.load_files(files)
    assert not files.changed()

    (tmp_path / "stations.csv").write_text("id\nS1\n")
    assert files.changed()
    files = loaded(path)
    (tmp_path / "stations.csv").write_text("id\nS2\n")
    assert files.changed()


# -- Watching ---------------------------------------------------------------------------------------


class World:
    """A watcher over files, and what it put in force."""

    def __init__(self, path: Path) -> None:
        self.refuses: list[Problem] = []
        self.in_force = [rulebook.load_files(files := Files(path))]
        self.metrics = Metrics(CollectorRegistry())
        self.watcher = Watcher(files, self.in_force[0], use=self.use, metrics=self.metrics)

    def use(self, book: RuleBook) -> None:
        if self.refuses:
            raise ConfigurationError(self.refuses)
        self.in_force.append(book)

    @property
    def names(self) -> list[str]:
        return [book.rules[0].name for book in self.in_force]

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


async def test_new_rules_are_put_in_force_once(tmp_path: Path) -> None:
    world = World(write(tmp_path / "rules.yaml"))
    with capture_logs() as lines:
        async with beside(world.watcher.run()) as until:
            write(tmp_path / "rules.yaml", "second")
            await until(lambda: len(world.in_force) == 2)
            await asyncio.sleep(0.1)

    assert world.names == ["first", "second"]
    assert world.value("coupon_rules_reloads_total", result="loaded") == 1
    (line,) = [line for line in lines if line["event"] == "rules.loaded"]
    assert (line["before"], line["hash"]) == tuple(book.hash for book in world.in_force)


async def test_bad_rules_are_refused_in_one_line_and_the_last_good_ones_stay(tmp_path: Path) -> None:
    world = World(path := write(tmp_path / "rules.yaml"))
    with capture_logs() as lines:
        async with beside(world.watcher.run()) as until:
            write(path, "second, stations: [X], sources: [Y]")
            await until(lambda: bool(world.watcher.problems))
            await asyncio.sleep(0.1)
            assert world.value("coupon_rules_refused") == 1
            assert world.value("coupon_rules_reloads_total", result="refused") == 1
            assert world.watcher.refused_at is not None
            write(path, "third")
            await until(lambda: len(world.in_force) == 2)

    assert world.names == ["first", "third"]
    assert world.watcher.problems == ()
    assert world.watcher.refused_at is None
    assert world.value("coupon_rules_refused") == 0
    (line,) = [line for line in lines if line["event"] == "rules.refused"]
    assert [problem.partition(": ")[2].partition(";")[0] for problem in line["problems"]] == [
        "there is no station `X`",
        "there is no source `Y`",
    ]


async def test_rules_whose_own_tests_fail_are_refused(tmp_path: Path) -> None:
    world = World(path := write(tmp_path / "rules.yaml"))
    async with beside(world.watcher.run()) as until:
        write(path, "second", "tests: [{name: nonsense, event: {}, expect: {outcome: shadow}}]\n")
        await until(lambda: bool(world.watcher.problems))

    assert "test `nonsense`" in str(world.watcher.problems[0])
    assert world.names == ["first"]


async def test_what_only_the_settings_lack_is_put_in_force_when_it_is_there(tmp_path: Path) -> None:
    """A secret may be mounted a minute after the rules that name it."""
    world = World(path := write(tmp_path / "rules.yaml"))
    world.refuses = [Problem("secrets", "there is no secret 'new'", "add it")]
    with capture_logs() as lines:
        async with beside(world.watcher.run()) as until:
            write(path, "second")
            await until(lambda: bool(world.watcher.problems))
            await asyncio.sleep(0.1)
            assert world.value("coupon_rules_reloads_total", result="refused") == 1
            world.refuses = []
            await until(lambda: len(world.in_force) == 2)

    assert world.names == ["first", "second"]
    assert [line["event"] for line in lines] == ["rules.refused", "rules.loaded"]


async def test_a_look_can_be_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "LOOK_SECONDS", 60)
    world = World(write(tmp_path / "rules.yaml"))
    async with beside(world.watcher.run()) as until:
        await asyncio.sleep(0.05)
        world.watcher.look_now()
        await until(lambda: len(world.in_force) == 2)

    assert world.names == ["first", "first"]


async def test_rules_that_nobody_needs_any_more_are_let_go(tmp_path: Path) -> None:
    world = World(path := write(tmp_path / "rules.yaml"))
    async with beside(world.watcher.run()) as until:
        write(path, "second")
        await until(lambda: len(world.in_force) == 2)
        rule = weakref.ref(world.in_force[0])
        world.in_force[0] = world.in_force[1]
        await until(lambda: rule() is None and not world.watcher._retired)


async def test_the_loop_goes_on_while_a_thousand_rules_are_loaded_and_ends_while_they_are(
    tmp_path: Path,
) -> None:
    world = World(path := write(tmp_path / "rules.yaml"))
    many = "".join(
        f"  - {{name: r{number}, when: 'seconds > {number} && energy_wh < {number * 7}', skip: policy}}\n"
        for number in range(1000)
    )
    latest = 0.0
    loop = asyncio.get_running_loop()

    async with beside(world.watcher.run()) as until:
        path.write_text(RULES.split("rules:", maxsplit=1)[0] + "rules:\n" + many, "utf-8")
        while len(world.in_force) == 1:
            before = loop.time()
            await asyncio.sleep(0.005)
            latest = max(latest, loop.time() - before)
        world.watcher.look_now()
        await asyncio.sleep(0.15)
        began = loop.time()
        del until

    assert latest < 0.5, "measured in tests/bench; here only that it is not the whole load"
    assert loop.time() - began < 1
    assert len(world.in_force[1].rules) == 1000
