"""The demo's service: that of `charging-coupon run`, in a process of its own. Starts that process, and is it."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from consumer.sandbox.apart import Apart, attend

if TYPE_CHECKING:
    from consumer.sandbox.figures import Reading
    from consumer.service import Service

_CANCEL_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Look:
    """At the service, at one moment.

    Attributes:
        cpu_seconds: of its process, so far.
        port: of its page and metrics; None until it listens.

    """

    reading: "Reading"
    cpu_seconds: float
    port: int | None


class Served(Apart):
    """The service, as seen from the demo. Enter it: then it gets ready to start."""

    def __init__(self) -> None:
        super().__init__("the service", __name__)

    async def start(self, settings: Mapping[str, Any]) -> None:
        """With these settings, as a settings file has them. From then on it runs until `stop`."""
        await self.ask(dict(settings))

    async def look(self) -> Look:
        """How it is doing. Raises RuntimeError if it has ended, which it says why on stderr."""
        look: Look = await self.ask("look")
        return look

    async def stop(self) -> None:
        """As SIGTERM does: returns when it has drained, flushed and left the group."""
        await self.ask("stop")


class _Actor:
    """In that process."""

    service: "Service"
    running: "asyncio.Task[None]"

    def __init__(self) -> None:
        self.started = asyncio.Event()

    async def answer(self, question: object) -> object:
        from consumer.sandbox.figures import read

        match question:
            case dict():
                self._start(question)
                return None
            case "stop":
                self.service.stop()
                await self.running
                return None
            case _:
                reading = read(self.service.metrics, time.monotonic())
                return Look(reading, time.process_time(), self.service.port)

    def _start(self, given: dict[str, Any]) -> None:
        from consumer import eventloop, rulebook
        from consumer.cli.common import keep_logs_quiet
        from consumer.service import Service
        from consumer.settings import Settings

        settings = Settings.model_validate(given)
        keep_logs_quiet(hide=given["secrets"].values())
        self.service = Service(settings, rules=rulebook.load(settings.rules))
        eventloop.prepare_memory()
        self.running = asyncio.create_task(self.service.run())
        self.started.set()


def main(number: int) -> None:
    """What that process runs. It imports first what takes long, so that it starts at once when it is told to."""
    import consumer.rulebook
    import consumer.sandbox.figures
    import consumer.service  # noqa: F401  # see above
    from consumer import eventloop

    eventloop.run(_serve(number))


async def _serve(number: int) -> None:
    """Until nobody asks any more, or the service ends, which raises why."""
    actor = _Actor()
    attending = asyncio.create_task(attend(number, actor.answer))
    starting = asyncio.create_task(actor.started.wait())
    await asyncio.wait([attending, starting], return_when=asyncio.FIRST_COMPLETED)
    starting.cancel()
    if not actor.started.is_set():
        await attending
        return
    await asyncio.wait([attending, actor.running], return_when=asyncio.FIRST_COMPLETED)
    if actor.running.done():
        actor.running.result()
        await attending
    else:
        actor.running.cancel()
        await asyncio.wait([actor.running], timeout=_CANCEL_SECONDS)
