"""What one pass through the gate costs, in CPU microseconds: `python -m tests.bench.gate`."""

import asyncio
import time

from prometheus_client import CollectorRegistry

from consumer.core.events import GatewayWords
from consumer.core.outcomes import Outcome
from consumer.core.replies import Reply, Then
from consumer.flow import Flow
from consumer.metrics import Metrics
from tests.permits import permit_of

FINE = Reply("1001", Outcome.GRANTED, Then.FINAL, False, GatewayWords(code="1001", http_status=200))
CALLS, TASKS = 20_000, 1000


async def _alone(flow: Flow) -> None:
    for _ in range(CALLS):
        async with permit_of(flow, "a") as permit:
            permit.report(FINE)


async def _crowded(flow: Flow) -> None:
    async def work() -> None:
        for _ in range(CALLS // TASKS):
            async with permit_of(flow, "a") as permit:
                await asyncio.sleep(0)
                permit.report(FINE)

    await asyncio.gather(*(work() for _ in range(TASKS)))


def main() -> None:
    """The best of seven, since others use this machine, too."""
    for words, measured in (("nobody waits", _alone), (f"{TASKS} orders at once", _crowded)):
        best = float("inf")
        for _ in range(7):
            flow = Flow(max_in_flight=256, accounts=["a"], metrics=Metrics(CollectorRegistry()))
            began = time.process_time()
            asyncio.run(measured(flow))
            best = min(best, (time.process_time() - began) / CALLS)
        print(f"{words}: {best * 1e6:.1f} us")


if __name__ == "__main__":
    main()
