"""New passwords, tokens and certificates for Kafka while the service runs: tried, put in force, connections renewed. Does I/O.

A password, a token or a certificate of ours that Kafka does not accept is not used: the last good one stays until it
does. Of CAs only those count that stand in the file now: what was taken out of it is trusted no more, tried or not.
"""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

import structlog

from consumer.connection import Access, Entry, reach, reach_all
from consumer.core.errors import BrokerUnavailableError, ConfigurationError, RefusedError

log = structlog.get_logger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 5.0
"""Seconds between two tries of what Kafka does not accept: it may only not have been told there yet."""


class _End(NamedTuple):
    """Of one try.

    Attributes:
        problem: why the files are not, or not everywhere, what lets us in.
        again: whether another try of the same files may succeed in a moment.

    """

    problem: str | None
    again: bool


class Rotation:
    """Has the connections to Kafka follow secrets and files, without an end of the membership."""

    def __init__(
        self, access: Access, secret: Callable[[str], str], told: Callable[[str | None], None]
    ) -> None:
        """`secret` gives a secret's text as it is now; `told` is told what is wrong, and None once nothing is."""
        self._access = access
        self._secret = secret
        self._told = told
        self._changed = asyncio.Event()

    def look_now(self) -> None:
        """Secrets or files are others now."""
        self._changed.set()

    async def run(self) -> None:
        """For ever."""
        pause = None
        while True:
            if await self._changes_within(pause):
                pause = FIRST_PAUSE
            self._changed.clear()
            problem, again = await self._try()
            if problem is not None or not again:
                self._told(problem)
            pause = min((pause or FIRST_PAUSE) * 2, LONGEST_PAUSE) if again else None

    async def _changes_within(self, seconds: float | None) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True

    async def _try(self) -> _End:
        access = self._access
        try:
            entry = await asyncio.to_thread(Entry.of, access.kafka.security, self._secret)
        except (ConfigurationError, OSError) as error:
            return _End(str(error), again=False)
        if entry.trusted != access.entry.trusted:
            access.entry = entry
        try:
            await reach(access.arguments_of(entry))
            access.entry = entry
            await reach_all(access.arguments_of(entry))
        except RefusedError as error:
            return _End(str(error), again=True)
        except BrokerUnavailableError:  # who waits for it says so
            return _End(None, again=True)
        log.info("kafka.credentials_renewed", connections=access.renew())
        return _End(None, again=False)
