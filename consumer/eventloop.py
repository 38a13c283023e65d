"""What a process with many small objects under way runs best on: which event loop, which memory. Does no I/O."""

import asyncio
import contextlib
import ctypes
import gc
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

GARBAGE = 20_000
"""How many new objects there must be before Python looks among them for cycles: with its own 700, that took a twelfth of
the CPU."""

LARGE = 128 << 10
"""Bytes from which on a buffer that is freed goes back to the system. Left alone, glibc raises this bound to the size of what
was freed, and buffers of fetches and batches stay in its heap from then on: 8 MB of a member's 128 under load."""

_MMAP_THRESHOLD = -3
"""M_MMAP_THRESHOLD of <malloc.h>."""


def run(main: Coroutine[Any, Any, T]) -> T:
    """As asyncio.run, on the fastest event loop there is."""
    try:
        import uvloop  # noqa: PLC0415  # not on Windows
    except ImportError:
        new_event_loop = None
    else:
        new_event_loop = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main)


def prepare_memory() -> None:
    """Once all is loaded that stays."""
    gc.collect()
    gc.freeze()  # what is here stays: looking through ten thousand rules would hold everything up
    # A thousand events on their way are some 30,000 objects, and none of them is garbage that counting does not find.
    gc.set_threshold(GARBAGE)
    with contextlib.suppress(AttributeError, OSError, TypeError):  # not with musl, nor on macOS or Windows
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, LARGE)
