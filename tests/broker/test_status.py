"""The status page of real members on a real Kafka: while all goes well, and while the platform is away."""

import asyncio
import re
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import orjson
import pytest

from consumer.core.outcomes import PlateMode
from consumer.sandbox.answers import ANSWERS
from consumer.sandbox.gateway import SandboxGateway
from tests.broker.kafka import produce
from tests.broker.world import SECRET, Member, World, event
from tests.test_schemas import STATUS

pytestmark = pytest.mark.broker


async def status_of(member: Member) -> dict[str, Any]:
    code, text = await member.get("/status.json")
    assert code == 200
    found: dict[str, Any] = orjson.loads(text)
    STATUS.validate(found)
    return found


async def page_of(member: Member) -> str:
    url = f"http://127.0.0.1:{await member.port()}/"
    async with aiohttp.ClientSession() as http, http.get(url, headers={"Accept": "text/html"}) as reply:
        assert reply.status == 200
        return await reply.text()


async def until(member: Member, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    give_up = time.monotonic() + 60
    while not holds(status := await status_of(member)):
        assert time.monotonic() < give_up, f"{status}\n{member.log_tail()}"
        await asyncio.sleep(0.1)
    return status


def counted(lines: list[dict[str, Any]]) -> dict[str, tuple[int, int]]:
    return {line["name"]: (line["last_minute"], line["total"]) for line in lines}


async def test_members_of_every_privacy_tell_what_they_do_and_show_no_whole_plate(
    world: World, gateway: SandboxGateway
) -> None:
    members = {mode: world.start(CHARGING_COUPON__PRIVACY__PLATES=mode) for mode in PlateMode}
    await world.until_shared()
    await produce(world.broker, world.topics.events, [event(number) for number in range(80)])
    await world.until_done(60)

    granted = 0
    for mode, member in members.items():
        status = await until(member, lambda status: all(each["lag"] == 0 for each in status["partitions"]))
        page = await page_of(member)
        (partition,) = status["partitions"]
        mine = partition["frontier"]
        granted += mine
        assert re.fullmatch(
            rf"Granting: {mine} coupons in (\d+ s|the last minute), nothing is held up", status["summary"]
        )
        assert counted(status["counts"]["outcomes"]) == {"granted": (mine, mine)}
        assert counted(status["counts"]["replies"]) == {"1001": (mine, mine)}
        assert (partition["topic"], partition["under_way"], partition["paused"]) == (
            world.topics.events,
            0,
            None,
        )
        assert status["ledger"] | {"committed_at": None} == {
            "open": True, "trouble": None, "stuck": False, "pending": 0, "committed_at": None,
        }  # fmt: skip  # two rows read better than five
        assert status["limits"]["share"] == 0.25
        assert status["rules"]["hash"] in (await member.get("/readyz"))[1]
        assert len(status["recent"]) >= min(mine, 10)
        assert {each["outcome"] for each in status["recent"]} == {"granted"}
        shown = {each["plate"] for each in status["recent"]}
        assert shown == ({"粤B****Z"} if mode.clear else {None})
        for text in (page, orjson.dumps(status).decode()):
            assert re.findall(r"粤B\d{4}Z|B\d{4}Z", text) == []
            assert SECRET not in text
            assert "a key for plates" not in text
        assert re.search(r"<h1>Granting: \d+ coupons in ", page)
        assert f"{world.topics.events}-{partition['partition']}" in page
    assert granted == 80 == len(gateway.journal.grants)


async def test_an_outage_of_the_platform_is_told_with_its_beginning_and_its_end(
    world: World, gateway: SandboxGateway
) -> None:
    gateway.script = lambda _call: ANSWERS["503"]
    member = world.start()
    await produce(world.broker, world.topics.events, [event(number) for number in range(300)])

    status = await until(member, lambda status: status["state"] == "held_up")
    page = await page_of(member)
    assert re.match(r"Held up: the platform's breaker is open since \d\d:\d\d \(503\)", status["summary"])
    assert "Held up: the platform&#x27;s breaker is open since" in page
    (account,) = status["accounts"]
    assert (account["breaker_why"], account["code"]) == ("failures", "503")
    assert account["endpoint"] == gateway.url
    assert account["since"] > status["started_at"]
    paused = await until(
        member, lambda status: {each["paused"] for each in status["partitions"]} == {"breaker"}
    )
    assert sum(each["lag"] for each in paused["partitions"]) == 300
    assert paused["ready"]
    assert (await member.get("/readyz"))[0] == 200

    gateway.script = lambda _call: ANSWERS["1001"]
    status = await until(
        member, lambda status: counted(status["counts"]["outcomes"]).get("granted") == (300, 300)
    )
    assert status["state"] == "granting"


async def test_what_kafka_lacks_and_what_is_wrong_with_new_rules_is_told(world: World) -> None:
    settings = world.settings.read_text("utf-8")
    world.settings.write_text(settings.replace(world.topics.outcomes, f"{world.topics.outcomes}-x"), "utf-8")
    member = world.start()

    status = await until(member, lambda status: "missing" in status["summary"] or "-x" in status["summary"])
    assert status["state"] == "starting"
    assert not status["ready"]

    world.rules.write_text(
        world.rules.read_text("utf-8").replace("account: main", "account: '<b>main</b>'"), "utf-8"
    )
    status = await until(member, lambda status: status["rules"]["refused_at"] is not None)
    assert any("<b>main</b>" in problem for problem in status["rules"]["problems"])
    page = await page_of(member)
    assert "&lt;b&gt;main&lt;/b&gt;" in page
    assert "<b>main</b>" not in page
