"""Keeps the rules in force up to date with their files. Reads these, off the event loop.

Files that change are loaded and checked, their tests run, and only then are they put in force;
what is refused changes nothing. The work is done in a thread that steps back every
millisecond, so that the loop never stands still for it.
"""

import asyncio
import gc
import sys
import time
import weakref
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

import structlog

from consumer.core.errors import ConfigurationError, Problem
from consumer.core.rules import RuleBook
from consumer.following import Follower
from consumer.metrics import Metrics
from consumer.rulebook import Files, let_go, load_files

T = TypeVar("T")

log = structlog.get_logger(__name__)

WORK_SECONDS, REST_SECONDS = 0.001, 0.0005
"""How long the thread works before it lets the loop have the interpreter.

It rests by itself. Else the machine would take the processor from it at some time, while it holds the interpreter, and
the loop would wait for a thread that does not run.
"""

MOST_PROBLEMS = 100
"""In one log line."""


class Watcher:
    """Looks at the files of the rules in force, and puts new ones in force.

    Attributes:
        problems: why the files are not what is in force; empty where they are.
        refused_at: since when; None where they are.

    """

    def __init__(
        self,
        files: Files,
        in_force: RuleBook,
        *,
        use: Callable[[RuleBook], None],
        metrics: Metrics,
    ) -> None:
        """`files` are those that `in_force` was loaded from.

        `use` puts a book in force; it raises ConfigurationError, and changes nothing, where it cannot.
        """
        self.problems: Sequence[Problem] = ()
        self.refused_at: datetime | None = None
        self._files = files
        self._in_force = in_force
        self._use = use
        self._metrics = metrics
        self._ready: RuleBook | None = None
        self._retired: list[tuple[weakref.ref[RuleBook], list[object]]] = []
        self._follower = Follower(self._changed, self._load)
        metrics.rules_refused.set(0)

    async def run(self) -> None:
        """For ever."""
        while True:
            loaded = await self._follower.look()
            if loaded is not None:
                book, seconds = loaded
                if isinstance(book, RuleBook):
                    self._put_in_force(book, seconds)
                else:
                    self._ready = None
                    self._refuse(book)
            elif self._ready is not None:
                self._put_in_force(self._ready)  # a secret that was missing may be there by now
            for parts in self._not_needed():
                await _in_a_thread(partial(let_go, parts))

    def look_now(self) -> None:
        """Load the files at once, changed or not."""
        self._follower.look_now()

    def _changed(self) -> bool:
        return self._files.changed()

    async def _load(self) -> tuple[RuleBook | list[Problem], float]:
        """The rules, or what is wrong with them; and how many seconds it took."""
        began = time.monotonic()
        self._files = Files(self._files.path, self._files.remedy)
        return await _in_a_thread(partial(_loaded, self._files)), time.monotonic() - began

    def _put_in_force(self, book: RuleBook, seconds: float = 0.0) -> None:
        before = self._in_force
        try:
            self._use(book)
        except ConfigurationError as error:
            if self._ready is not book or list(self.problems) != error.problems:
                self._refuse(error.problems)
            self._ready = book
            return
        self._retired.append((weakref.ref(before), before.parts()))
        self._in_force, self._ready, self.problems, self.refused_at = book, None, (), None
        self._metrics.rules_refused.set(0)
        self._metrics.rules_reloads.labels("loaded").inc()
        log.info(
            "rules.loaded",
            hash=book.hash,
            before=before.hash,
            rules=len(book.rules),
            stations=len(book.stations),
            accounts={account.name: str(account.state) for account in book.accounts.values()},
            seconds=round(seconds, 2),
        )

    def _refuse(self, problems: Sequence[Problem]) -> None:
        self.problems, self.refused_at = problems, datetime.now(UTC)
        self._metrics.rules_refused.set(1)
        self._metrics.rules_reloads.labels("refused").inc()
        told = [str(problem) for problem in problems[:MOST_PROBLEMS]]
        more = len(problems) - len(told)
        log.error(
            "rules.refused",
            in_force=self._in_force.hash,
            problems=[*told, f"and {more} more"] if more else told,
        )

    def _not_needed(self) -> list[list[object]]:
        """What is left of rules under which no order waits any more."""
        over = [(book, parts) for book, parts in self._retired if book() is None]
        self._retired = [(book, parts) for book, parts in self._retired if book() is not None]
        return [parts for _, parts in over]


def _loaded(files: Files, breathe: Callable[[], None]) -> RuleBook | list[Problem]:
    try:
        return load_files(files, breathe)
    except ConfigurationError as error:
        return error.problems
    except _GivenUpError:
        return []
    except Exception:
        log.exception("rules.load_failed")
        return [Problem(str(files.path), "cannot be loaded, by a bug of ours", "see the log")]


class _GivenUpError(Exception):
    """Nobody waits for the work any more."""


class _Breath:
    def __init__(self) -> None:
        self.given_up = False
        self._since = time.perf_counter()

    def __call__(self) -> None:
        if self.given_up:
            raise _GivenUpError
        if time.perf_counter() - self._since > WORK_SECONDS:
            time.sleep(REST_SECONDS)
            self._since = time.perf_counter()


async def _in_a_thread(work: Callable[[Callable[[], None]], T]) -> T:
    """Beside the event loop, which comes first."""
    breath = _Breath()
    try:
        return await asyncio.to_thread(_politely, partial(work, breath))
    finally:
        breath.given_up = True  # where we were cancelled, the thread ends at its next breath


def _politely(work: Callable[[], T]) -> T:
    """Where the work cannot step back by itself (YAML, models), the interpreter interrupts it more often.

    A collection of garbage would hold everything up for as long as it takes to look at all rules. So there is none
    meanwhile, and none later looks at what was made (`gc.freeze`): counting references frees it.
    """
    interval, collects = sys.getswitchinterval(), gc.isenabled()
    sys.setswitchinterval(WORK_SECONDS)
    gc.disable()
    try:
        return work()
    finally:
        gc.freeze()
        sys.setswitchinterval(interval)
        if collects:
            gc.enable()
