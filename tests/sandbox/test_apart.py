"""The demo's platform and service, each in a process of its own."""

import asyncio
import os
import signal
import time
from pathlib import Path
from urllib.parse import urlencode

import aiohttp
import pytest

from consumer.cli.served import Served
from consumer.sandbox.apart import Apart
from consumer.sandbox.gateway import DEMO_APP_ID, DEMO_APP_SECRET
from consumer.sandbox.platform import Platform
from consumer.sandbox.scenarios import BROWN_OUT, STEADY
from consumer.sandbox.verify import expected_sign


def _form(event_id: str) -> str:
    parameters = {
        "app_id": DEMO_APP_ID,
        "api_store_code": "S1",
        "api_type": "5",
        "event_id": event_id,
        "plate": "粤B12345",
        "subject": "充电",
    }
    return urlencode(parameters | {"sign": expected_sign(parameters, DEMO_APP_SECRET)})


def _is_there(process: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text("ascii")
    except FileNotFoundError:
        return False


async def test_a_platform_apart_answers_and_hands_its_whole_journal_over() -> None:
    async with Platform(STEADY, seed=3) as platform, aiohttp.ClientSession() as http:
        await platform.start()
        assert (await platform.moment()).phase.name == "well"
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        for event_id in ("E1", "E2"):
            async with http.post(platform.url, data=_form(event_id), headers=kind) as response:
                assert (await response.json())["code"] == "1001"
        journal = await platform.journal()

    assert list(journal.grants) == ["E1", "E2"]
    assert [entry.plate for entry in journal.entries] == ["粤B12345", "粤B12345"]
    assert all(entry.verified for entry in journal.entries)


async def test_a_platforms_scenario_begins_with_the_first_call() -> None:
    async with Platform(BROWN_OUT.scaled(0.05), seed=3) as platform, aiohttp.ClientSession() as http:
        await platform.start()
        await asyncio.sleep(0.4)  # longer than its first phase
        assert (await platform.moment()).phase.name == "well"
        async with http.post(platform.url, data=_form("E1")):
            pass
        await asyncio.sleep(0.4)

        assert (await platform.moment()).phase.name == "slowing"


async def test_a_part_that_is_left_is_gone() -> None:
    async with Apart("the platform", "consumer.sandbox.platform") as apart:
        await apart.ask((STEADY, 1))
        process = apart.pid
        assert _is_there(process)

    assert not _is_there(process)


async def test_a_part_that_dies_is_missed_by_who_asks_it() -> None:
    async with Apart("the platform", "consumer.sandbox.platform") as apart:
        await apart.ask((STEADY, 1))
        os.kill(apart.pid, signal.SIGKILL)

        with pytest.raises(RuntimeError, match="the platform ended before it was told to"):
            await apart.ask("journal")


async def test_a_part_whose_starter_is_gone_ends() -> None:
    """Even one that was killed; where the system does not see to that, since nobody asks any more."""
    apart = Apart("the platform", "consumer.sandbox.platform")
    await apart.__aenter__()
    await apart.ask((STEADY, 1))
    apart._writer.close()

    deadline = time.monotonic() + 10
    while _is_there(apart.pid) and time.monotonic() < deadline:  # noqa: ASYNC110  # a process sets no event
        await asyncio.sleep(0.01)
    assert not _is_there(apart.pid)
    await apart.__aexit__(None, None, None)


async def test_a_service_that_cannot_start_is_missed_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    async with Served() as service:
        with pytest.raises(RuntimeError, match="the service ended before it was told to"):
            await service.start({"kafka": {}, "secrets": {}})

    assert "bootstrap_servers" in capfd.readouterr().err
