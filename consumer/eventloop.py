"""What a process with many small objects under way runs best on: which event loop, and how seldom garbage is looked for."""

import asyncio
import gc
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

GARBAGE = 20_000
"""Objects more than before, at which Python looks for cycles among the newest: its own 700 took a twelfth of the CPU."""


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
