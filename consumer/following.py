"""Follows files that may be written at any time: what they hold is taken once nobody writes any more. Waits; reads nothing itself."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")

LOOK_SECONDS = 2.0
"""How often it is looked whether a file has changed."""

SETTLE_SECONDS = 0.2
"""Whoever is writing when a change is noticed has done so by then."""


class Follower(Generic[T]):
    """Looks at files now and then, and reads them again when they have changed."""

    def __init__(self, changed: Callable[[], bool], read: Callable[[], Awaitable[T]]) -> None:
        """`changed` says whether `read` would give anything else than the last time; it is called off the event loop."""
        self._changed = changed
        self._read = read
        self._asked = asyncio.Event()

    async def look(self) -> T | None:
        """After a while: what the files hold, all of one moment; None where that is what they held before."""
        asked = await self._until_next_look()
        if not asked and not await asyncio.to_thread(self._changed):
            return None
        while True:
            await asyncio.sleep(SETTLE_SECONDS)
            found = await self._read()
            if not await asyncio.to_thread(self._changed):
                return found

    def look_now(self) -> None:
        """Read the files at once, changed or not."""
        self._asked.set()

    async def _until_next_look(self) -> bool:
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                await self._asked.wait()
        except TimeoutError:
            return False
        self._asked.clear()
        return True
