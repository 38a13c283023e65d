"""A part of the demo in a process of its own, and what it is asked. Starts a process, speaks to it over a socket.

The platform and the service are apart in life too; in one process they would share one core, and nobody could
say what the service alone takes.
"""

import asyncio
import contextlib
import importlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

from consumer.sandbox.broker import leashed

_LENGTH = 8
_END_SECONDS = 6.0
"""For a process to end in order once nobody asks it any more."""


class Apart:
    """A process that runs a module's `main`, which calls `attend`. Enter it; it ends when it is left, and with this process."""

    def __init__(self, name: str, module: str) -> None:
        """`name`: for people."""
        self._name = name
        self._module = module
        self._asking = asyncio.Lock()

    async def __aenter__(self) -> Self:
        ours, theirs = socket.socketpair()
        with theirs:
            number = str(theirs.fileno())
            self._process = subprocess.Popen(  # noqa: ASYNC220, S603  # it may outlive the loop; our own command
                leashed(sys.executable, "-m", __name__, self._module, number),
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # a Ctrl-C in the terminal is for us; we end it
            )
        self._reader, self._writer = await asyncio.open_connection(sock=ours)
        return self

    @property
    def pid(self) -> int:
        """Of the process, once entered."""
        return self._process.pid

    async def ask(self, question: object) -> Any:
        """What it answers. Raises RuntimeError if it has ended, which it says why on stderr."""
        async with self._asking:
            try:
                await _say(self._writer, question)
                return await _heard(self._reader)
            except (OSError, EOFError) as error:
                raise RuntimeError(f"{self._name} ended before it was told to") from error

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
        try:
            deadline = time.monotonic() + _END_SECONDS
            while self._process.poll() is None and time.monotonic() < deadline:  # noqa: ASYNC110  # a process sets no event
                await asyncio.sleep(0.01)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


async def attend(number: int, answer: Callable[[Any], Awaitable[object]]) -> None:
    """In that process: answers what comes over the socket of this file number, until nobody asks any more."""
    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=number))
    try:
        while True:
            await _say(writer, await answer(await _heard(reader)))
    except (OSError, EOFError):
        pass
    finally:
        writer.close()


async def _say(writer: asyncio.StreamWriter, what: object) -> None:
    packed = pickle.dumps(what, pickle.HIGHEST_PROTOCOL)
    writer.write(len(packed).to_bytes(_LENGTH, "big") + packed)
    await writer.drain()


async def _heard(reader: asyncio.StreamReader) -> Any:
    """Raises EOFError if the other has ended."""
    length = int.from_bytes(await reader.readexactly(_LENGTH), "big")
    return pickle.loads(await reader.readexactly(length))  # noqa: S301  # written by a process of ours


if __name__ == "__main__":
    # Under its name, so that its classes can be sent.
    importlib.import_module(sys.argv[1]).main(int(sys.argv[2]))
