"""A platform that works on so many calls at once, and answers so many a second."""

import asyncio
from collections import Counter

import aiohttp

from consumer.sandbox.gateway import DEMO_APP_ID, DEMO_APP_SECRET, SandboxGateway, Workers
from consumer.sandbox.scenarios import Phase, Scenario
from consumer.sandbox.verify import expected_sign


async def test_calls_wait_for_a_worker_in_the_order_in_which_they_came() -> None:
    at_once: list[int | None] = [2]
    workers = Workers(lambda: at_once[0])
    order: list[int] = []

    async def call(number: int) -> None:
        await workers.work(0.01)
        order.append(number)

    tasks = [asyncio.create_task(call(number)) for number in range(6)]
    await asyncio.sleep(0)
    tasks[3].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

    assert order == [0, 1, 2, 4, 5]
    at_once[0] = None
    await asyncio.wait_for(asyncio.gather(*(workers.work(0.05) for _ in range(50))), 1)


async def test_more_calls_at_once_than_it_works_on_take_longer() -> None:
    loop = asyncio.get_running_loop()
    workers = Workers(lambda: 2)
    began = loop.time()
    await asyncio.gather(*(workers.work(0.05) for _ in range(8)))

    assert loop.time() - began >= 0.2


async def test_calls_above_the_rate_are_answered_429_and_told_when_to_come_back() -> None:
    limited = Phase("limited", "answers five a second", 60.0, (0.0, 0.0), rate=5)
    answers: Counter[tuple[int, str | None]] = Counter()
    async with (
        SandboxGateway(scenario=Scenario("limited", "limited", (limited,), 1)) as gateway,
        aiohttp.ClientSession() as http,
    ):
        for number in range(40):
            parameters = {
                "app_id": DEMO_APP_ID,
                "api_store_code": "S1",
                "api_type": "5",
                "event_id": f"E{number}",
                "plate": "粤B12345",
                "subject": "充电",
            }
            form = parameters | {"sign": expected_sign(parameters, DEMO_APP_SECRET)}
            async with http.post(gateway.url, data=form) as response:
                answers[response.status, response.headers.get("Retry-After")] += 1

    assert answers[200, None] <= 5 * 3
    assert answers[200, None] + answers[429, "1"] == 40
    assert answers[429, "1"] > 0
