"""Time jumps, processes stand still or are gone, and the same seed does the same again."""

import asyncio
import time
from collections.abc import Iterator

import pytest

from tests.simulation.virtual import (
    BEGIN,
    EndlessRunError,
    Process,
    StalledError,
    VirtualLoop,
    virtual_now,
)


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    loop = VirtualLoop()
    yield loop
    loop.close()


def test_a_day_takes_no_time(loop: VirtualLoop) -> None:
    began = time.monotonic()

    async def sleep() -> float:
        await asyncio.sleep(86400)
        return (virtual_now() - BEGIN).total_seconds()

    assert loop.run_until_complete(sleep()) == loop.time() == 86400
    assert time.monotonic() - began < 1


def test_what_is_ready_comes_before_what_is_later(loop: VirtualLoop) -> None:
    seen: list[str] = []

    async def note(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        seen.append(name)

    async def together() -> None:
        await asyncio.gather(note("third", 2), note("second", 1), note("first", 0))

    loop.run_until_complete(together())
    assert seen == ["first", "second", "third"]


def test_a_paused_process_misses_its_timers_and_meets_them_all_on_resuming(loop: VirtualLoop) -> None:
    ticks: list[float] = []

    async def tick() -> None:
        for _ in range(3):
            await asyncio.sleep(1)
            ticks.append(loop.time())

    async def main() -> None:
        process = Process("one")
        task = process.run(tick())
        await asyncio.sleep(1.5)
        process.pause()
        await asyncio.sleep(10)
        process.resume()
        await task

    loop.run_until_complete(main())
    assert ticks == [1, 11.5, 12.5]


def test_a_killed_process_does_not_even_clear_up(loop: VirtualLoop) -> None:
    cleared_up: list[str] = []
    during: list[str] = []

    async def child() -> None:
        try:
            await asyncio.sleep(5)
        finally:
            cleared_up.append("child")
            await asyncio.sleep(1)

    async def parent() -> None:
        try:
            await asyncio.gather(child(), asyncio.create_task(child()))
        except asyncio.CancelledError:
            cleared_up.append("cancelled")
        finally:
            cleared_up.append("parent")

    async def main() -> None:
        process = Process("one")
        process.run(parent())
        await asyncio.sleep(1)
        process.kill()
        await asyncio.sleep(60)
        during.extend(cleared_up)

    loop.run_until_complete(main())
    assert during == []
    loop.close()  # and nothing is complained of: warnings are errors


def test_a_process_can_be_killed_before_any_of_its_steps(loop: VirtualLoop) -> None:
    steps: list[int] = []
    process = Process("one")

    def kill_at_the_third(stepping: Process) -> None:
        assert stepping is process
        if len(steps) == 2:
            process.kill()

    async def walk() -> None:
        while True:
            steps.append(len(steps))
            await asyncio.sleep(0)

    async def main() -> None:
        loop.on_step = kill_at_the_third
        process.run(walk())
        await asyncio.sleep(1)

    loop.run_until_complete(main())
    assert steps == [0, 1]


def test_a_wait_for_nothing_is_an_error(loop: VirtualLoop) -> None:
    async def wait() -> None:
        await loop.create_future()

    task = loop.create_task(wait())
    with pytest.raises(StalledError, match="nothing will ever happen"):
        loop.run_until_complete(task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)


def test_a_run_without_an_end_is_an_error() -> None:
    loop = VirtualLoop(7, most_steps=100)

    async def spin() -> None:
        while loop.steps <= 100:  # noqa: ASYNC110  # turns of the loop are what it is about
            await asyncio.sleep(0)

    task = loop.create_task(spin())
    with pytest.raises(EndlessRunError, match="seed 7"):
        loop.run_until_complete(task)
    task.get_coro().close()
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # asyncio's own
    loop.close()


def test_an_exception_in_a_callback_ends_the_run(loop: VirtualLoop) -> None:
    def fail() -> None:
        raise ValueError("a bug")

    async def main() -> None:
        loop.call_later(1, fail)
        await asyncio.sleep(2)

    task = loop.create_task(main())
    with pytest.raises(ValueError, match="a bug"):
        loop.run_until_complete(task)
    loop.run_until_complete(task)


def test_sets_of_tasks_have_the_same_order_in_every_loop() -> None:
    async def order() -> list[str]:
        tasks = {asyncio.create_task(asyncio.sleep(0), name=str(number)) for number in range(50)}
        await asyncio.gather(*tasks)
        return [task.get_name() for task in tasks]

    orders = []
    for _ in range(2):
        loop = VirtualLoop()
        orders.append(loop.run_until_complete(order()))
        loop.close()
    assert orders[0] == orders[1]
