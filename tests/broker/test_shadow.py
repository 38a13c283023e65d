"""A service on trial (state `shadow`) beside the integration that it is to replace: it sends nothing, and what differs is told."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import pytest

from consumer.sandbox.gateway import SandboxGateway
from consumer.sandbox.verify import expected_sign
from tests.broker.kafka import produce
from tests.broker.world import APP_ID, SECRET, World, just_now

pytestmark = [pytest.mark.broker, pytest.mark.long]

OLD_APP, OLD_SECRET = "op0000000000000009", "the old script's secret"
CHARGES = 60


@pytest.fixture
async def gateway() -> AsyncIterator[SandboxGateway]:
    """Knows both: by its app it is told who asked."""
    async with SandboxGateway(apps={APP_ID: SECRET, OLD_APP: OLD_SECRET}) as gateway:
        yield gateway


class OldScript:
    """What integrations look like that are to be replaced: a loop with habits of its own."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.sent: list[dict[str, Any]] = []

    async def run(self, values: list[bytes]) -> None:
        async with aiohttp.ClientSession() as http:
            for number, value in enumerate(values):
                charge = json.loads(value)
                minutes = 60
                if number % 10 == 3:
                    continue  # it loses some
                if float(charge["energy_kwh"]) < 1 and number % 20 != 5:
                    continue  # and has another idea of what is too little
                if number % 10 == 7:
                    minutes = 61  # it rounds up
                await self._post(http, charge, minutes)

    async def _post(self, http: aiohttp.ClientSession, charge: Mapping[str, Any], minutes: int) -> None:
        form = {
            "app_id": OLD_APP,
            "api_store_code": "62626601",
            "api_type": "charging",
            "event_id": charge["order_id"],
            "plate": charge["plate"],
            "subject": f"【{charge['plate']}】充电 60 分钟",
            "metadata": json.dumps(
                {"minutes": {"name": "充电时长", "value": minutes}}, ensure_ascii=False, separators=(",", ":")
            ),
        }
        async with http.post(self.url, data={**form, "sign": expected_sign(form, OLD_SECRET)}) as reply:
            assert (await reply.json())["code"] == "1001"
        self.sent.append({name: text for name, text in form.items() if name not in {"app_id", "event_id"}})
        self.sent[-1]["order_id"] = charge["order_id"]


async def diff(world: World, *arguments: str) -> tuple[int, str]:
    """The command in a process of its own: its exit code, what it says."""
    command = [sys.executable, "-m", "consumer", "diff", *arguments, "-s", str(world.settings)]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=world.folder
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


async def test_a_shadow_sends_nothing_and_every_order_that_the_old_integration_treats_differently_is_listed(
    world: World, gateway: SandboxGateway
) -> None:
    rules = world.rules.read_text("utf-8").replace("secret: main", "secret: main, state: shadow")
    world.rules.write_text(rules, "utf-8")
    values = [just_now(number, energy_kwh="0.5" if number % 5 == 0 else "12.5") for number in range(CHARGES)]
    old = OldScript(gateway.url)
    world.start()

    await asyncio.gather(produce(world.broker, world.topics.events, values), old.run(values))
    await world.until_done(60)
    (world.folder / "sent.jsonl").write_text(
        "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in old.sent), "utf-8"
    )
    code, text = await diff(world, "--against", "sent.jsonl", "--since", "10m", "--format", "json")

    asked = [entry.parameters["app_id"] for entry in gateway.journal.entries]
    assert (asked.count(APP_ID), asked.count(OLD_APP)) == (0, len(old.sent))
    assert gateway.journal.calls == len(old.sent)
    found = json.loads(text)
    listed = {
        (group["old"], group["new"], tuple(group["changes"])): {each["order_id"] for each in group["members"]}
        for group in found["groups"]
    }
    orders = {number: f"ORDER{number:08}" for number in range(CHARGES)}
    assert listed == {
        ("not sent", "request by an-hour", ("metadata.minutes",)): {
            order for number, order in orders.items() if number % 10 == 3
        },
        ("request", "request by an-hour", ("metadata.minutes",)): {
            order for number, order in orders.items() if number % 10 == 7
        },
        ("request", "unmatched (no_rule)", ("metadata.minutes",)): {
            order for number, order in orders.items() if number % 20 == 5
        },
    }
    assert code == 1
    assert found["orders"] == CHARGES
    assert found["alike"] == CHARGES - sum(map(len, listed.values()))
    assert not [each for each in values if json.loads(each)["plate"] in text]
    assert found["notes"] == ["compared: metadata, api_store_code, api_type, plate, subject"]
