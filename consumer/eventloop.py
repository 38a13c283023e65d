"""The event loop that the service and its platform for trials run on."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


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
