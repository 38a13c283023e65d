"""The demo's platform: a sandbox gateway in a process of its own. Starts that process, and is it."""

import time

from consumer import eventloop
from consumer.sandbox.apart import Apart, attend
from consumer.sandbox.gateway import SandboxGateway
from consumer.sandbox.journal import Journal
from consumer.sandbox.scenarios import Moment, Scenario


class Platform(Apart):
    """As seen from the demo. Enter it: then it gets ready to start.

    Attributes:
        url: the endpoint, once started; base_url: the page.

    """

    url: str
    base_url: str

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self._scenario = scenario
        self._seed = seed
        super().__init__("the platform", __name__)
        self._began: float | None = None

    async def start(self) -> None:
        """Returns once it listens."""
        self.url, self.base_url = await self.ask((self._scenario, self._seed))

    async def moment(self) -> Moment:
        """Where the scenario is, which begins with the first call."""
        if self._began is None and (seconds := await self.ask("seconds")) is not None:
            self._began = time.monotonic() - seconds
        return self._scenario.at(0.0 if self._began is None else time.monotonic() - self._began)

    async def journal(self) -> Journal:
        """What it received and granted, so far."""
        journal: Journal = await self.ask("journal")
        return journal


class _Actor:
    """In that process."""

    gateway: SandboxGateway | None = None

    async def answer(self, question: object) -> object:
        gateway = self.gateway
        if gateway is None:
            assert isinstance(question, tuple)
            scenario, seed = question
            self.gateway = gateway = SandboxGateway(scenario=scenario, seed=seed)
            await gateway.start()
            return gateway.url, gateway.base_url
        return gateway.journal if question == "journal" else gateway.scenario_seconds()


def main(number: int) -> None:
    """That process."""
    eventloop.prepare_memory()
    eventloop.run(_play(number))


async def _play(number: int) -> None:
    actor = _Actor()
    await attend(number, actor.answer)
    if actor.gateway is not None:
        await actor.gateway.stop()
