"""Rules that change while an order waits for its call: it is looked at again where its account or rule is another."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs

import orjson
import pytest
from prometheus_client import CollectorRegistry

from consumer import rulebook
from consumer.core.events import Coordinates, Record, Wait
from consumer.core.outcomes import Outcome, Reason, Resolution
from consumer.core.replies import Answered, AttemptEnd
from consumer.core.retries import RetryPolicy
from consumer.core.rules import RuleBook
from consumer.delivery import Delivery
from consumer.flow import Flow
from consumer.metrics import Metrics
from tests.deliveries import Started, deliver

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
GRANTED = Answered(200, b'{"code":"1001"}')
FAILED = Answered(200, b'{"code":"1500"}')
REFUSED = Answered(401, b'{"code":"401"}')
RULES = """
version: 1
accounts:
  main: {app_id: app-1, secret: main, api_type: charging}
  other: {app_id: app-2, secret: main, api_type: charging}
sources: {canonical: {extends: canonical}}
stations:
  S1: {api_store_code: C1, zone: Asia/Shanghai}
  S2: {api_store_code: C2, zone: Asia/Shanghai}
rules:
  - {name: here, account: main, stations: [S1], subject: "{plate}"}
  - {name: there, account: other, stations: [S2], subject: "{plate}"}
"""
HELD = ("app_id: app-1,", "app_id: app-1, state: hold,")


def rules(*changes: tuple[str, str]) -> RuleBook:
    text = RULES
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    return rulebook.parse(text)


def record(number: int = 1, **fields: str) -> Record:
    event = {
        "order_id": f"ORDER{number}",
        "plate": f"粤B{number:05}",
        "station_id": "S1",
        "started_at": (NOW - timedelta(hours=1)).isoformat(),
        "ended_at": (NOW - timedelta(seconds=5)).isoformat(),
        "energy_kwh": "12.5",
        **fields,
    }
    stamp = int(NOW.timestamp() * 1000)
    return Record(Coordinates("charges", 0, number), stamp, None, orjson.dumps(event))


class World:
    """A delivery under rules that can be changed, and a platform that answers what it is told."""

    def __init__(self, *, delays: tuple[float, ...] = (60.0, 300.0), max_in_flight: int = 10) -> None:
        self.rules = rules()
        self.metrics = Metrics(CollectorRegistry())
        self.flow = Flow(
            max_in_flight=max_in_flight,
            accounts=list(self.rules.accounts),
            metrics=self.metrics,
            sets_aside=bool(delays),
            adaptive=False,
        )
        self.answer: Callable[[dict[str, str]], AttemptEnd] = lambda _: GRANTED
        self.calls: list[dict[str, str]] = []
        self.reply_now = asyncio.Event()
        self.reply_now.set()
        self.on_sleep: Callable[[], None] = lambda: None
        self.delivery = Delivery(
            rules=lambda: self.rules,
            flow=self.flow,
            gateway=Started(self),
            secrets={"main": "a secret"},
            policy=RetryPolicy(delays=delays),
            url="http://platform/event",
            metrics=self.metrics,
            clock=lambda: NOW,
            sleep=self._sleep,
        )

    async def post(self, url: str, body: bytes) -> AttemptEnd:
        call = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        self.calls.append(call)
        await self.reply_now.wait()
        return self.answer(call)

    async def _sleep(self, seconds: float) -> None:
        self.on_sleep()
        await asyncio.sleep(0)

    def use(self, *changes: tuple[str, str]) -> None:
        """As the service does."""
        before, self.rules = self.rules, rules(*changes)
        changed = [
            name
            for name, account in self.rules.accounts.items()
            if before.accounts.get(name) not in (None, account)
        ]
        self.flow.use_accounts(list(self.rules.accounts), changed)

    def begin(self, one: Record) -> "asyncio.Task[Sequence[Resolution]]":
        return asyncio.create_task(deliver(self.delivery, one))


async def end(task: "asyncio.Task[Sequence[Resolution]]") -> Resolution:
    (resolution,) = await asyncio.wait_for(task, 5)
    return resolution


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("delays", [(60.0, 300.0), ()])
async def test_an_order_at_the_stop_line_goes_with_the_corrected_account(delays: tuple[float, ...]) -> None:
    """With one account, it waits there in memory."""
    world = World(delays=delays)
    only_one = ("  other: {app_id: app-2, secret: main, api_type: charging}\n", "")
    no_other_rule = ('  - {name: there, account: other, stations: [S2], subject: "{plate}"}\n', "")
    world.use(only_one, no_other_rule)
    world.answer = lambda call: REFUSED if call["app_id"] == "app-1" else GRANTED
    tasks = [world.begin(record(number)) for number in range(3)]
    await turns()
    assert not any(task.done() for task in tasks)
    assert world.flow.halted == {"main": "401"}

    world.use(only_one, no_other_rule, ("app-1", "app-3"))
    ends = [await end(task) for task in tasks]

    assert {resolution.outcome for resolution in ends} == {Outcome.GRANTED}
    assert {resolution.rules_hash for resolution in ends} == {world.rules.hash}
    assert {resolution.attempts.count for resolution in ends} == {1}
    assert world.flow.halted == {}


async def test_who_waits_for_a_permit_makes_no_call_once_its_account_is_on_hold() -> None:
    world = World(max_in_flight=1)
    world.reply_now.clear()
    calling, waiting = world.begin(record(1)), world.begin(record(2))
    await turns()
    assert len(world.calls) == 1

    world.use(HELD)
    world.reply_now.set()
    held = await end(waiting)

    assert held.later is not None
    assert (held.later.wait, held.reason, held.attempts.count) == (Wait.HOLD, Reason.HOLD, 0)
    assert held.rules_hash == world.rules.hash
    assert (await end(calling)).outcome is Outcome.GRANTED  # a call under way is not cut off
    assert len(world.calls) == 1


async def test_who_waits_between_two_calls_makes_no_second_one_on_hold_and_keeps_what_is_known() -> None:
    world = World()
    world.answer = lambda _: FAILED
    world.on_sleep = lambda: world.use(
        ('subject: "{plate}"}\n  - {name: there', 'subject: "{plate}", state: hold}\n  - {name: there')
    )

    held = await end(world.begin(record()))

    assert held.later is not None
    assert (held.later.wait, held.label, held.attempts.count) == (Wait.HOLD, "1500", 1)
    assert held.detail == "rule here is on hold"
    assert len(world.calls) == 1


async def test_who_waits_for_its_cars_turn_ends_as_shadow_under_new_rules() -> None:
    world = World()
    world.reply_now.clear()
    first, second = world.begin(record(1)), world.begin(record(2, plate="粤B00001"))
    await turns()

    world.use(("app_id: app-1,", "app_id: app-1, state: shadow,"))
    world.reply_now.set()

    assert (await end(first)).outcome is Outcome.GRANTED
    shadow = await end(second)
    assert (shadow.outcome, shadow.rules_hash) == (Outcome.SHADOW, world.rules.hash)
    assert len(world.calls) == 1


async def test_other_accounts_go_on_while_one_is_on_hold() -> None:
    world = World()
    world.use(HELD)

    held, granted = world.begin(record(1)), world.begin(record(2, station_id="S2"))

    assert (await end(granted)).outcome is Outcome.GRANTED
    assert (await end(held)).later is not None
    assert [call["app_id"] for call in world.calls] == ["app-2"]


async def test_an_order_of_an_account_that_is_no_more_takes_the_rule_that_is_for_it_now() -> None:
    world = World(max_in_flight=1)
    world.reply_now.clear()
    calling, waiting = world.begin(record(1, station_id="S2")), world.begin(record(2))
    await turns()

    world.use(
        ("  main: {app_id: app-1, secret: main, api_type: charging}\n", ""),
        ("account: main", "account: other"),
    )
    world.reply_now.set()

    await end(calling)
    assert (await end(waiting)).account == "other"
    assert [call["app_id"] for call in world.calls] == ["app-2", "app-2"]


async def test_a_change_of_something_else_is_for_the_records_to_come() -> None:
    world = World(max_in_flight=1)
    before = world.rules.hash
    world.reply_now.clear()
    calling, waiting = world.begin(record(1)), world.begin(record(2))
    await turns()

    world.use(('"{plate}"', '"another {plate}"'))
    world.reply_now.set()

    for task in (calling, waiting):
        assert (await end(task)).rules_hash == before
    assert not any("another" in call["subject"] for call in world.calls)


async def test_an_order_never_goes_under_a_second_event_id() -> None:
    world = World(max_in_flight=1)
    world.answer = lambda call: FAILED if len(world.calls) == 1 else GRANTED
    world.on_sleep = lambda: world.use(
        ("app-1", "app-3"), ("extends: canonical", "extends: canonical, event_id: 'new-{order_id}'")
    )

    resolution = await end(world.begin(record()))

    assert resolution.outcome is Outcome.GRANTED
    assert {call["event_id"] for call in world.calls} == {"ORDER1"}


async def test_the_gauges_of_an_account_go_with_it() -> None:
    world = World()
    labels = {"account": "other"}
    assert world.metrics.registry.get_sample_value("coupon_config_alarm", labels) == 0

    world.use(
        ("  other: {app_id: app-2, secret: main, api_type: charging}\n", ""),
        ("account: other", "account: main"),
    )

    assert world.metrics.registry.get_sample_value("coupon_config_alarm", labels) is None
    assert world.flow.halted == {}
