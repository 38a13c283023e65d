"""An event loop in virtual time, and processes in it that can stand still or be killed at any await. No I/O.

When nothing is ready, time jumps to the next timer. Every callback belongs to the process in whose
context it was made; what belongs to none (brokers, the platform, the test) always runs.
"""

import asyncio
import contextvars
import heapq
import itertools
import warnings
from asyncio import events
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Args = TypeVarTuple("Args")

BEGIN = datetime(2026, 11, 25, 12, tzinfo=UTC)
"""The wall clock's time when a loop begins."""

PROCESS: "contextvars.ContextVar[Process]" = contextvars.ContextVar("PROCESS")
"""The process that the running code belongs to; not set for what belongs to none."""


class StalledError(RuntimeError):
    """Something is awaited that nothing will ever bring."""


class EndlessRunError(RuntimeError):
    """More callbacks than any run should need."""


class Process:
    """One simulated process: all that was spawned within it goes on, stands still or is gone together.

    Attributes:
        alive: false once killed.
        paused: true while it stands still; timers and replies that fall due meanwhile are met on `resume`.
        context: in which its callbacks run.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.paused = False
        self.context = contextvars.Context()
        self.context.run(PROCESS.set, self)
        self._stopped: list[asyncio.Handle] = []

    def __repr__(self) -> str:
        return f"Process({self.name!r})"

    def run(self, coro: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Start a coroutine of this process."""
        return asyncio.get_running_loop().create_task(coro, context=self.context.copy())

    def pause(self) -> None:
        """As SIGSTOP: after the callback that is running, none runs."""
        self.paused = True

    def resume(self) -> None:
        """As SIGCONT."""
        self.paused = False
        stopped, self._stopped = self._stopped, []
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.go_on(stopped)

    def kill(self) -> None:
        """As SIGKILL: after the callback that is running none ever runs again, and nothing is cleared up."""
        self.alive = False

    def stop_at(self, handle: asyncio.Handle) -> None:
        """Keep a callback until `resume`."""
        self._stopped.append(handle)


class _Task(asyncio.Task[T]):
    """A set of tasks has the same order in every run: by their numbers, not by where they lie in memory."""

    number: int

    def __new__(cls, coro: Any, *, loop: "VirtualLoop", **options: Any) -> "_Task[T]":
        self = super().__new__(cls)
        self.number = next(loop.numbers)
        return self

    def __hash__(self) -> int:
        return self.number


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs what is ready in its order, then lets time jump.

    Attributes:
        on_step: called before each callback of a live process, outside of it; may pause or kill.
        steps: callbacks that have run.
        numbers: of tasks.
    """

    _ready: Any  # asyncio's own: what runs next

    def __init__(self, seed: int = 0, *, most_steps: int = 2_000_000) -> None:
        """`seed` is only named in errors."""
        super().__init__()
        self.on_step: Callable[[Process], None] | None = None
        self.steps = 0
        self.numbers: Iterator[int] = itertools.count()
        self._seed = seed
        self._most_steps = most_steps
        self._now = 0.0
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._timers_made = itertools.count()
        self._tasks: list[tuple[_Task[Any], Process | None]] = []
        self._tasks_to_prune = 1000
        self._failure: BaseException | None = None

    def time(self) -> float:
        """Seconds since this loop began."""
        return self._now

    def spend(self, seconds: float) -> None:
        """The callback that is running takes so long, or waits so long for a core: nothing else runs meanwhile."""
        self._now += seconds

    def call_at(
        self,
        when: float,
        callback: Callable[[*Args], object],
        *args: *Args,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """As asyncio does; of two at the same time, the one that was asked for first."""
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._timers_made), handle))
        return handle

    def go_on(self, handles: list[asyncio.Handle]) -> None:
        """Run these, in their order, after what is ready."""
        self._ready.extend(handles)

    def create_task(self, coro: Any, **options: Any) -> "asyncio.Task[Any]":
        """As asyncio does. It is kept until it is done: else Python would clear up what a killed process left."""
        task: _Task[Any] = _Task(coro, loop=self, **options)
        context = options.get("context") or contextvars.copy_context()
        self._tasks.append((task, context.get(PROCESS)))
        if len(self._tasks) > self._tasks_to_prune:
            self._tasks = [entry for entry in self._tasks if not entry[0].done()]
            self._tasks_to_prune = 1000 + 2 * len(self._tasks)
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """An exception out of a callback ends the run: nobody else would see it."""
        if "handle" in context and self._failure is None:
            self._failure = context.get("exception")
        else:
            super().call_exception_handler(context)

    def kill_all(self) -> None:
        """As a power cut: every process that has anything left to do."""
        for _, process in self._tasks:
            if process is not None:
                process.kill()

    def close(self) -> None:
        """What killed processes left is put away in silence; what live ones left is complained of, as ever."""
        if not self.is_closed():
            self._put_away()
        super().close()

    def _run_once(self) -> None:
        """asyncio's turn of the loop, in virtual time."""
        ready, timers = self._ready, self._timers
        while timers and timers[0][2].cancelled():
            heapq.heappop(timers)
        if not ready:
            if not timers:
                raise StalledError(f"seed {self._seed}, {self._now:.3f} s: nothing will ever happen again")
            self._now = max(self._now, timers[0][0])
        while timers and timers[0][0] <= self._now:
            ready.append(heapq.heappop(timers)[2])
        for _ in range(len(ready)):
            self._step(ready.popleft())

    def _step(self, handle: Any) -> None:
        if handle.cancelled():
            return
        process = handle._context.get(PROCESS)
        if process is not None and not self._may_run(process, handle):
            return
        self.steps += 1
        if self.steps > self._most_steps:
            raise EndlessRunError(f"seed {self._seed}, {self._now:.3f} s: {self.steps} callbacks, and no end")
        handle._run()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def _may_run(self, process: Process, handle: Any) -> bool:
        if process.alive and not process.paused and self.on_step is not None:
            self.on_step(process)
        if process.alive and process.paused:
            process.stop_at(handle)
        return process.alive and not process.paused

    def _timer_handle_cancelled(self, handle: Any) -> None:
        """It is passed over when its time comes."""

    def _put_away(self) -> None:
        """Coroutines of killed processes would run their `finally` when Python collects them: here it does no harm."""
        events._set_running_loop(self)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for task, process in self._tasks:  # grows, if clearing up starts more
                    if process is not None and not process.alive:
                        _put_away(task)
        finally:
            events._set_running_loop(None)
        self._tasks.clear()


def _put_away(task: Any) -> None:
    task._log_traceback = False
    if task.done():
        return
    task._log_destroy_pending = False
    for _ in range(100):  # each await in a `finally` wants to be told once more
        with suppress(BaseException):
            task.get_coro().close()
            return


def virtual_now() -> datetime:
    """The wall clock of the simulation."""
    return BEGIN + timedelta(seconds=asyncio.get_running_loop().time())
