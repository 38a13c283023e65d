"""One record to its resolutions, over real HTTP: every reply, order by key, bounds, cancellation."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from msgspec.structs import replace
from prometheus_client import CollectorRegistry

from consumer.core.coupons import CouponRequest
from consumer.core.errors import ConfigurationError
from consumer.core.events import Attempts, Coordinates, GatewayWords, Order, Record, RetryContext, Wait
from consumer.core.outcomes import Finding, Later, Outcome, Reason, Resolution
from consumer.core.replies import Answered, AttemptEnd, NoAnswer, NotSent, ReplyTable
from consumer.core.retries import RetryPolicy
from consumer.core.signing import encode_form, sign
from consumer.delivery import Delivery, KeyedOrder, Place, Rules, Tracer
from consumer.flow import Flow
from consumer.gateway import Call, Caller, HttpGateway, Options
from consumer.metrics import Metrics
from tests.deliveries import Posts, Started, deliver

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
SECRETS = {"main-secret": "e9ae5402dbabc68c1c4xxxx"}
GRANTED = Answered(200, b'{"code":"1001","payload":{"grant_serial":"G1"}}')
FAILED = Answered(200, b'{"code":"1500"}')
DUPLICATE = Answered(200, b'{"code":"1403"}')
REFUSED = Answered(401, b'{"code":"401"}')

LATER = RetryPolicy(delays=(60, 300, 1800))


@dataclass(frozen=True)
class Account:
    secret: str


@dataclass
class FakeRules:
    """Reads a record's value as JSON: a list of orders, each an object with plate and event_id."""

    hash: str = "hash-1"
    accounts: Mapping[str, Account] = field(default_factory=lambda: {"main": Account("main-secret")})
    replies: ReplyTable = field(default_factory=ReplyTable.defaults)
    lasts: timedelta | None = None

    def deadline(self, order: Order, record: Record, label: str) -> datetime | None:
        return None if self.lasts is None else NOW + self.lasts

    def terms(self, account: str, rule: str) -> object:
        return self.accounts.get(account)

    def read(self, record: Record, now: datetime) -> tuple[Order | Finding, ...]:
        assert now == NOW
        return tuple(self._item(index, raw) for index, raw in enumerate(json.loads(record.value or b"[]")))

    def read_all(self, records: Sequence[Record], now: datetime) -> list[tuple[Order | Finding, ...]]:
        return [self.read(record, now) for record in records]

    def _item(self, index: int, raw: dict[str, Any]) -> Order | Finding:
        if "finding" in raw:
            return Finding(
                index, Outcome.SKIPPED, Reason(raw["finding"]), "said why", reverses="O-1", source="s"
            )
        values = {"order_id": raw["event_id"], **raw}
        return Order(index, "s", raw["event_id"], raw["event_id"], raw["plate"], values, ("plate_doubtful",))

    def plan(self, order: Order) -> CouponRequest | Finding:
        if order.values.get("unmatched"):
            return Finding(order.index, Outcome.UNMATCHED, Reason.NO_RULE)
        if order.values.get("bug"):
            raise ZeroDivisionError("a bug in the rules' code")
        parameters = {"event_id": order.event_id, "plate": order.plate, "subject": "充电 减免+1% &=~*"}
        return CouponRequest(
            account="main",
            rule="r1",
            url=None,
            form=parameters,
            metadata={"minutes": 29},
            shadow=bool(order.values.get("shadow")),
        )


class ScriptedGateway:
    """Gives the ends in order; the last one again and again."""

    def __init__(self, *ends: AttemptEnd) -> None:
        self.ends = list(ends)
        self.calls: list[tuple[str, bytes]] = []

    async def post(self, url: str, body: bytes) -> AttemptEnd:
        self.calls.append((url, body))
        await asyncio.sleep(0)
        return self.ends.pop(0) if len(self.ends) > 1 else self.ends[0]


@dataclass
class Setup:
    delivery: Delivery
    flow: Flow
    metrics: Metrics
    slept: list[float]

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


def setup(
    gateway: Posts,
    *,
    rules: Callable[[], Rules] | None = None,
    url: str = "http://gateway/event",
    max_in_flight: int = 100,
    secrets: Mapping[str, str] = SECRETS,
    read_again: Callable[[str], Awaitable[None]] | None = None,
    policy: RetryPolicy = RetryPolicy(),  # noqa: B008  # frozen
    accounts: Sequence[str] = ("main",),
    probe_seconds: float = 0.01,
    tracer: Tracer | None = None,
) -> Setup:
    metrics = Metrics(CollectorRegistry())
    flow = Flow(
        max_in_flight=max_in_flight,
        accounts=accounts,
        metrics=metrics,
        sets_aside=bool(policy.delays),
        probe_seconds=probe_seconds,
        adaptive=False,
    )
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await asyncio.sleep(0)

    book = FakeRules()
    delivery = Delivery(
        rules=rules or (lambda: book),
        flow=flow,
        gateway=gateway if isinstance(gateway, HttpGateway) else Started(gateway),
        secrets=secrets,
        read_again=read_again,
        policy=policy,
        url=url,
        metrics=metrics,
        clock=lambda: NOW,
        sleep=sleep,
        random=lambda: 0.5,
        tracer=tracer,
    )
    return Setup(delivery, flow, metrics, slept)


def record(*orders: dict[str, Any], offset: int = 0, maybe_sent: bool = False) -> Record:
    value = json.dumps(orders, ensure_ascii=False).encode()
    return Record(Coordinates("events", 0, offset), 0, None, value, maybe_sent=maybe_sent)


def order(event_id: str = "E1", plate: str = "粤BA1471", **more: Any) -> dict[str, Any]:
    return {"event_id": event_id, "plate": plate, **more}


async def deliver_one(gateway: Posts, one: Record | None = None) -> tuple[Resolution, Setup]:
    parts = setup(gateway)
    (resolution,) = await deliver(parts.delivery, one or record(order()))
    return resolution, parts


# The words that are given on, and what is remembered of an order.


async def test_a_granted_order_carries_everything_that_an_outcome_tells() -> None:
    gateway = ScriptedGateway(GRANTED)
    source = record(order())

    resolution, parts = await deliver_one(gateway, source)

    assert resolution.attempts.seconds is not None
    assert resolution == Resolution(
        record=source,
        index=0,
        outcome=Outcome.GRANTED,
        decided_at=NOW,
        source="s",
        rule="r1",
        account="main",
        rules_hash="hash-1",
        values={"order_id": "E1", "event_id": "E1", "plate": "粤BA1471"},
        suspicions=("plate_doubtful",),
        request=CouponRequest(
            "main",
            "r1",
            None,
            {"event_id": "E1", "plate": "粤BA1471", "subject": "充电 减免+1% &=~*"},
            {"minutes": 29},
        ),
        attempts=Attempts(1, NOW, NOW, resolution.attempts.seconds),
        words=GatewayWords(code="1001", http_status=200, grant_serial="G1"),
        label="1001",
    )
    assert parts.value("coupon_requests_total", account="main", code="1001") == 1
    assert parts.value("coupon_request_duration_seconds_count", account="main") == 1


async def test_findings_end_without_a_request() -> None:
    gateway = ScriptedGateway(GRANTED)
    parts = setup(gateway)

    found, unmatched, shadow = await deliver(
        parts.delivery, record({"finding": "reversal"}, order("E2", unmatched=True), order("E3", shadow=True))
    )

    assert gateway.calls == []
    assert (found.outcome, found.reason, found.detail) == (Outcome.SKIPPED, Reason.REVERSAL, "said why")
    assert (found.reverses, found.source, found.rules_hash) == ("O-1", "s", "hash-1")
    assert (unmatched.outcome, unmatched.reason, unmatched.index) == (Outcome.UNMATCHED, Reason.NO_RULE, 1)
    assert unmatched.values is not None
    assert unmatched.values["event_id"] == "E2"
    assert (shadow.outcome, shadow.reason, shadow.attempts.count) == (Outcome.SHADOW, None, 0)
    assert shadow.request is not None
    assert shadow.request.parameters["event_id"] == "E3"


async def test_a_record_keeps_the_rules_that_it_began_with() -> None:
    book = FakeRules()
    gateway = ScriptedGateway(FAILED, GRANTED)
    current = [book]
    parts = setup(gateway, rules=lambda: current[0])

    delivering = asyncio.create_task(deliver(parts.delivery, record(order())))
    await asyncio.sleep(0)
    current[0] = FakeRules(hash="hash-2")

    (resolution,) = await delivering
    assert resolution.rules_hash == "hash-1"


async def test_a_missing_secret_is_named_without_a_call() -> None:
    gateway = ScriptedGateway(GRANTED)
    parts = setup(gateway, secrets={})

    with pytest.raises(ConfigurationError, match=r"accounts\.main\.secret: there is no secret 'main-secret'"):
        await deliver(parts.delivery, record(order()))

    assert gateway.calls == []


async def test_what_the_platform_echoes_of_plate_and_secret_is_hidden() -> None:
    body = json.dumps({"code": "400", "message": "车牌 测试甲乙 错误", "hint": "x[e9ae5402dbabc68c1c4xxxx]"})
    gateway = ScriptedGateway(Answered(400, body.encode()))

    resolution, _ = await deliver_one(gateway, record(order(plate="测试甲乙")))

    assert (resolution.words.message, resolution.words.hint) == ("车牌 *** 错误", "x[***xxxx]")


# Attempts.


async def test_a_failure_is_retried_with_backoff_outside_the_permit() -> None:
    gateway = ScriptedGateway(FAILED, Answered(503, b"", "7"), GRANTED)

    resolution, parts = await deliver_one(gateway)

    assert (resolution.outcome, resolution.attempts.count) == (Outcome.GRANTED, 3)
    assert parts.slept == [0.25, 7.0]
    assert parts.value("coupon_retries_total", code="1500") == 1
    assert parts.value("coupon_retries_total", code="503") == 1
    assert len(set(gateway.calls)) == 1, "every attempt sends the same form"


async def test_a_sleeping_order_holds_no_permit() -> None:
    asleep = asyncio.Event()
    parts = setup(ScriptedGateway(FAILED, GRANTED), max_in_flight=1)

    async def sleep(seconds: float) -> None:
        asleep.set()
        await asyncio.sleep(60)

    parts.delivery._sleep = sleep
    sleeper = asyncio.create_task(deliver(parts.delivery, record(order("E1", "粤B00001"))))
    await asyncio.wait_for(asleep.wait(), 30)

    (resolution,) = await asyncio.wait_for(deliver(parts.delivery, record(order("E2", "粤B00002"))), 30)

    assert resolution.outcome is Outcome.GRANTED
    sleeper.cancel()


@pytest.mark.parametrize(
    ("ends", "outcome", "ambiguous"),
    [
        ([DUPLICATE], Outcome.ALREADY_GRANTED, False),
        ([NoAnswer("timeout"), DUPLICATE], Outcome.ALREADY_GRANTED, True),
        ([NoAnswer("reset"), FAILED, DUPLICATE], Outcome.ALREADY_GRANTED, True),
        ([NotSent("refused"), DUPLICATE], Outcome.ALREADY_GRANTED, False),
        ([FAILED, DUPLICATE], Outcome.ALREADY_GRANTED, False),
        ([replace(DUPLICATE, resent=True)], Outcome.ALREADY_GRANTED, True),
        ([NoAnswer("timeout"), GRANTED], Outcome.GRANTED, False),
        ([NoAnswer("timeout")], Outcome.PLATFORM_FAILED, True),
        ([NotSent("refused")], Outcome.PLATFORM_FAILED, False),
    ],
)
async def test_a_grant_that_may_be_ours_is_marked(
    ends: list[AttemptEnd], outcome: Outcome, ambiguous: bool
) -> None:
    resolution, _ = await deliver_one(ScriptedGateway(*ends))

    assert (resolution.outcome, resolution.attempts.ambiguous) == (outcome, ambiguous)


async def test_a_duplicate_after_an_owner_that_did_not_close_cleanly_may_be_its_grant() -> None:
    resolution, _ = await deliver_one(ScriptedGateway(DUPLICATE), record(order(), maybe_sent=True))

    assert resolution.attempts.ambiguous


@pytest.mark.parametrize(
    ("end", "label", "detail"),
    [
        (NoAnswer("timeout"), "timeout", "no answer: timeout"),
        (NoAnswer("reset: by peer"), "reset", "no answer: reset: by peer"),
        (NotSent("refused"), "connect", "not sent: refused"),
    ],
)
async def test_a_call_without_an_answer_fails_in_the_end_and_says_how(
    end: AttemptEnd, label: str, detail: str
) -> None:
    resolution, parts = await deliver_one(ScriptedGateway(end))

    assert (resolution.outcome, resolution.attempts.count) == (Outcome.PLATFORM_FAILED, 3)
    assert (resolution.detail, resolution.dead_letter) == (detail, True)
    assert parts.value("coupon_requests_total", account="main", code=label) == 3


async def test_a_stop_is_no_attempt_and_the_order_waits_for_a_probe_to_pass() -> None:
    gateway = ScriptedGateway(REFUSED, REFUSED, GRANTED)

    resolution, parts = await deliver_one(gateway)

    assert (resolution.outcome, resolution.attempts.count) == (Outcome.GRANTED, 1)
    assert parts.value("coupon_requests_total", account="main", code="401") == 2
    assert parts.slept == []


async def test_an_order_at_the_stop_line_meets_a_corrected_secret() -> None:
    secrets = {"main-secret": "wrong"}
    parameters = {"event_id": "E1", "plate": "粤BA1471", "subject": "充电 减免+1% &=~*"}

    class Strict:
        async def post(self, url: str, body: bytes) -> AttemptEnd:
            await asyncio.sleep(0)
            accepted = sign(parameters, "right").encode() in body
            secrets["main-secret"] = "right"
            return GRANTED if accepted else REFUSED

    parts = setup(Strict(), secrets=secrets)

    (resolution,) = await asyncio.wait_for(deliver(parts.delivery, record(order())), 30)

    assert resolution.outcome is Outcome.GRANTED


class Exchanged:
    """Secrets in files, and a platform that knows one of them. Each time they are read again `on_file` is taken over."""

    def __init__(self, valid: str, on_file: str) -> None:
        self.secrets = {"main-secret": "old"}
        self.valid, self.on_file = valid, on_file
        self.read = 0
        self.answers: list[str] = []

    async def read_again(self, name: str) -> None:
        self.read += 1
        await asyncio.sleep(0)
        self.secrets[name] = self.on_file

    async def post(self, url: str, body: bytes) -> AttemptEnd:
        form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        signature = form.pop("sign")
        await asyncio.sleep(0)
        self.answers.append("granted" if signature == sign(form, self.valid) else "refused")
        return GRANTED if self.answers[-1] == "granted" else REFUSED

    def setup(self) -> Setup:
        return setup(self, secrets=self.secrets, read_again=self.read_again)


async def test_a_secret_that_was_exchanged_is_read_again_before_the_account_counts_as_refused() -> None:
    platform = Exchanged(valid="new", on_file="new")
    parts = platform.setup()

    resolutions = [await deliver(parts.delivery, record(order(f"E{number}"))) for number in range(3)]

    assert platform.answers == ["refused", "granted", "granted", "granted"]
    assert platform.read == 1
    assert [resolution.attempts.count for (resolution,) in resolutions] == [1, 1, 1]
    assert parts.value("coupon_breaker_opened_total", account="main", why="stop") == 0
    assert parts.value("coupon_config_alarm", account="main") == 0


async def test_calls_that_were_under_way_while_the_secret_was_exchanged_are_made_again() -> None:
    platform = Exchanged(valid="new", on_file="new")
    parts = platform.setup()

    ends = await asyncio.gather(
        *(deliver(parts.delivery, record(order(f"E{number}", f"P{number}"))) for number in range(20))
    )

    assert {resolution.outcome for (resolution,) in ends} == {Outcome.GRANTED}
    assert Counter(platform.answers) == {"refused": 20, "granted": 20}
    assert parts.value("coupon_breaker_opened_total", account="main", why="stop") == 0


async def test_a_secret_that_is_as_it_was_stops_the_line_and_the_probe_finds_the_new_one_by_itself() -> None:
    platform = Exchanged(valid="new", on_file="old")
    parts = platform.setup()
    delivering = asyncio.create_task(deliver(parts.delivery, record(order())))
    async with asyncio.timeout(30):
        while parts.value("coupon_config_alarm", account="main") != 1:  # noqa: ASYNC110  # a metric sets no event
            await asyncio.sleep(0.001)

    platform.on_file = "new"
    (resolution,) = await asyncio.wait_for(delivering, 30)

    assert (resolution.outcome, resolution.attempts.count) == (Outcome.GRANTED, 1)
    assert parts.value("coupon_breaker_opened_total", account="main", why="stop") == 1
    assert parts.value("coupon_config_alarm", account="main") == 0


async def test_a_redirect_says_nothing_of_the_secret() -> None:
    platform = Exchanged(valid="new", on_file="new")
    gateway = ScriptedGateway(Answered(302, b""), GRANTED)
    parts = setup(gateway, secrets=platform.secrets, read_again=platform.read_again)

    await deliver(parts.delivery, record(order()))

    assert platform.read == 0
    assert parts.value("coupon_breaker_opened_total", account="main", why="stop") == 1


# Keys.


def test_a_place_waits_for_all_its_keys_and_frees_them() -> None:
    moved_up: list[Place] = []
    keys = KeyedOrder[Place](moved_up.append)
    first, second, third = (Place(named, 0) for named in (("a", "x"), ("b", "y"), ("a", "y")))
    assert keys.enter([first]) == [first]
    assert keys.enter([second, third]) == [second]

    keys.leave(first)
    assert moved_up == []
    keys.leave(second)
    assert moved_up == [third]

    keys.leave(third)
    keys.leave(third)
    assert len(keys) == 0


def test_a_place_left_in_the_middle_of_a_queue_lets_nobody_overtake() -> None:
    moved_up: list[Place] = []
    keys = KeyedOrder[Place](moved_up.append)
    first, second, third = (Place(("a",), 0) for _ in range(3))
    assert keys.enter([first, second, third]) == [first]

    keys.leave(second)
    assert moved_up == []
    keys.leave(first)
    assert moved_up == [third]


class CountingGateway:
    """Notes which forms are under way together."""

    def __init__(self) -> None:
        self.under_way: Counter[str] = Counter()
        self.order: list[str] = []
        self.together = 0

    async def post(self, url: str, body: bytes) -> AttemptEnd:
        form = dict(pair.split("=") for pair in body.decode().split("&"))
        keys = [form["plate"], form["event_id"]]
        self.order.append(form["event_id"])
        self.under_way.update(keys)
        assert max(self.under_way.values()) == 1, "two requests of one key at once"
        self.together = max(self.together, self.under_way.total() // 2)
        await asyncio.sleep(0.001 * (len(self.order) % 3))
        self.under_way.subtract(keys)
        return FAILED if len(self.order) % 5 == 0 else GRANTED


async def test_orders_of_a_plate_go_in_order_and_no_key_is_under_way_twice() -> None:
    gateway = CountingGateway()
    parts = setup(gateway)
    records = [
        record(order(f"E{number}", f"P{number % 7}"), order(f"E{number + 1000}", f"P{number % 5}"))
        for number in range(100)
    ]

    ends = await asyncio.gather(*(deliver(parts.delivery, one) for one in records))

    first_calls = list(dict.fromkeys(gateway.order))
    for plate in range(7):
        of_plate = [
            end.values["event_id"]
            for pair in ends
            for end in pair
            if end.values and end.values["plate"] == f"P{plate}"
        ]
        assert [event for event in first_calls if event in of_plate] == of_plate
    assert gateway.together > 1
    assert len(parts.delivery._keys) == 0


async def test_one_event_pushed_twice_with_two_plates_is_not_under_way_twice() -> None:
    gateway = CountingGateway()
    parts = setup(gateway)

    await asyncio.gather(*(deliver(parts.delivery, record(order("E1", f"P{n}"))) for n in range(20)))

    assert gateway.together == 1


async def test_orders_of_one_record_run_together_and_come_back_by_index() -> None:
    gateway = CountingGateway()
    parts = setup(gateway)

    ends = await deliver(
        parts.delivery,
        record(order("E0", "P0"), {"finding": "delete"}, *(order(f"E{n}", f"P{n}") for n in range(2, 9))),
    )

    assert [end.index for end in ends] == list(range(9))
    assert gateway.together > 1


class BrokenError(Exception):
    pass


@pytest.mark.parametrize("where", ["secrets", "gateway", "reading a secret again"])
async def test_a_bug_ends_its_record_and_lets_the_next_of_the_plate_go_on(where: str) -> None:
    bugs = [BrokenError(where)]

    def break_once() -> None:
        if bugs:
            raise bugs.pop()

    class Secrets(dict[str, str]):
        def get(self, name: str, default: Any = None) -> Any:
            if where == "secrets":
                break_once()
            return super().get(name, default)

    class Gateway(Started):
        def start(self, url: str, body: bytes, caller: Caller) -> Call:
            if where == "gateway":
                break_once()
            return super().start(url, body, caller)

    async def read_again(_name: str) -> None:
        break_once()

    ends = (REFUSED, GRANTED) if where == "reading a secret again" else (GRANTED,)
    parts = setup(ScriptedGateway(*ends), secrets=Secrets(SECRETS), read_again=read_again)
    parts.delivery._gateway = Gateway(ScriptedGateway(*ends))

    async with asyncio.timeout(30):
        first, second = await asyncio.gather(
            *(deliver(parts.delivery, record(order(f"E{n}"), offset=n)) for n in range(2)),
            return_exceptions=True,
        )

    assert isinstance(first, BrokenError)
    assert not isinstance(second, BaseException)
    assert [resolution.outcome for resolution in second] == [Outcome.GRANTED]
    assert parts.value("coupon_requests_in_flight") == 0
    assert len(parts.delivery._keys) == 0


async def test_cancelling_gives_back_places_and_permits() -> None:
    class Hanging:
        async def post(self, url: str, body: bytes) -> AttemptEnd:
            await asyncio.sleep(60)
            return GRANTED

    parts = setup(Hanging(), max_in_flight=2)
    tasks = [
        asyncio.create_task(
            deliver(parts.delivery, record(order(f"E{n}", f"P{n % 3}"), order(f"F{n}", "P0")))
        )
        for n in range(10)
    ]
    for _ in range(3):
        await asyncio.sleep(0)
    for task in tasks[::2] + tasks[1::2]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

    assert len(parts.delivery._keys) == 0
    assert parts.value("coupon_requests_in_flight") == 0
    parts.delivery._gateway = Started(ScriptedGateway(GRANTED))
    (resolution,) = await asyncio.wait_for(deliver(parts.delivery, record(order("E1", "P0"))), 30)
    assert resolution.outcome is Outcome.GRANTED


async def test_a_bug_in_planning_gives_back_the_places_taken_before() -> None:
    parts = setup(ScriptedGateway(GRANTED))

    with pytest.raises(ZeroDivisionError):
        await deliver(parts.delivery, record(order("E1"), order("E2", bug=True)))

    assert len(parts.delivery._keys) == 0


async def test_a_bug_in_one_order_comes_out_after_its_siblings_have_ended() -> None:
    class Buggy(ScriptedGateway):
        async def post(self, url: str, body: bytes) -> AttemptEnd:
            end = await super().post(url, body)
            if b"E1" in body:
                raise ZeroDivisionError("a bug")
            await asyncio.sleep(0.005)
            ended.append(body)
            return end

    ended: list[bytes] = []
    parts = setup(Buggy(GRANTED))

    with pytest.raises(ZeroDivisionError):
        await deliver(parts.delivery, record(order("E1", "P1"), order("E2", "P2")))

    assert len(ended) == 1
    assert len(parts.delivery._keys) == 0


# Over real HTTP.


@asynccontextmanager
async def platform(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]], max_in_flight: int = 100
) -> AsyncIterator[Setup]:
    app = web.Application()
    app.router.add_post("/event", handler)
    async with TestServer(app) as server, HttpGateway(Options(total_seconds=5)) as gateway:
        yield setup(gateway, url=str(server.make_url("/event")), max_in_flight=max_in_flight)


SAMPLES = {
    path.stem: json.loads(path.read_text("utf-8"))
    for path in sorted((Path(__file__).parent / "samples" / "replies").glob("*.json"))
}


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)
async def test_every_reply_over_http_ends_as_its_sample_says(sample: dict[str, Any]) -> None:
    expected = sample["reply"]
    text = sample["text"] if "text" in sample else json.dumps(sample["json"], ensure_ascii=False)
    calls = 0

    async def handler(request: web.Request) -> web.Response:
        nonlocal calls
        calls += 1
        form = {name: str(value) for name, value in (await request.post()).items()}
        assert form["sign"] == sign(form, SECRETS["main-secret"])
        return web.Response(status=sample["status"], body=text.encode(), headers=sample.get("headers"))

    async with platform(handler) as parts:
        delivering = asyncio.create_task(deliver(parts.delivery, record(order())))
        if expected["then"] == "stop":
            await until_paused(parts)
            assert parts.flow.halted == {"main": expected["label"]}
            assert parts.value("coupon_config_alarm", account="main") == 1
            assert not delivering.done()
            delivering.cancel()
            return
        (resolution,) = await delivering

    assert (resolution.outcome, resolution.dead_letter) == (expected["outcome"], expected["dead_letter"])
    assert calls == resolution.attempts.count == (1 if expected["then"] == "final" else 3)
    assert parts.value("coupon_requests_total", account="main", code=expected["label"]) == calls


async def until_paused(parts: Setup) -> None:
    async with asyncio.timeout(30):
        while not parts.flow.pause_reason:  # noqa: ASYNC110  # intake polls it as well; it has no event
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_account_halts_and_goes_on_with_every_order_once_it_is_let_in(status: int) -> None:
    refusing = True
    granted: Counter[str] = Counter()

    async def handler(request: web.Request) -> web.Response:
        if refusing:
            return web.json_response({"code": str(status), "message": "refused"}, status=status)
        granted[str((await request.post())["event_id"])] += 1
        return web.json_response({"code": "1001"})

    async with platform(handler) as parts:
        tasks = [
            asyncio.create_task(deliver(parts.delivery, record(order(f"E{n}", f"P{n}")))) for n in range(30)
        ]
        await until_paused(parts)
        assert parts.flow.halted == {"main": str(status)}
        assert not any(task.done() for task in tasks)

        refusing = False
        ends = await asyncio.wait_for(asyncio.gather(*tasks), 30)

    assert {end.outcome for (end,) in ends} == {Outcome.GRANTED}
    assert granted == Counter(f"E{n}" for n in range(30))
    assert parts.flow.halted == {}


async def test_the_server_never_counts_more_than_max_in_flight() -> None:
    now = highest = 0

    async def handler(request: web.Request) -> web.Response:
        nonlocal now, highest
        now += 1
        highest = max(highest, now)
        await asyncio.sleep(0.002)
        now -= 1
        return web.json_response({"code": "1001"})

    async with platform(handler, max_in_flight=8) as parts:
        await asyncio.gather(*(deliver(parts.delivery, record(order(f"E{n}", f"P{n}"))) for n in range(100)))

    assert highest == 8


async def test_times_of_first_and_last_call_are_told() -> None:
    parts = setup(ScriptedGateway(FAILED, GRANTED))
    times = iter(NOW + timedelta(seconds=second) for second in range(100))
    parts.delivery._rules = AnyTime
    parts.delivery._clock = lambda: next(times)

    (resolution,) = await deliver(parts.delivery, record(order()))

    first, last = resolution.attempts.first_at, resolution.attempts.last_at
    assert first is not None
    assert last is not None
    assert first < last <= resolution.decided_at


class AnyTime(FakeRules):
    def read(self, record: Record, now: datetime) -> tuple[Order | Finding, ...]:
        return super().read(record, NOW)


# A drain: what was begun ends, the rest is left untouched.


async def test_while_held_a_begun_record_ends_and_no_other_is_begun() -> None:
    gateway = ScriptedGateway(NoAnswer("timeout"), GRANTED)
    parts = setup(gateway, max_in_flight=1)
    begun = asyncio.create_task(deliver(parts.delivery, record(order("E1"))))
    waiting = asyncio.create_task(deliver(parts.delivery, record(order("E2", "粤BA1472"), offset=1)))
    for _ in range(4):
        await asyncio.sleep(0)  # its first call is under way, the other waits for the permit
    assert len(gateway.calls) == 1

    parts.delivery.wind_down()
    async with asyncio.timeout(30):
        await parts.delivery.quiet()

    (resolution,) = await begun
    assert resolution.outcome is Outcome.GRANTED
    assert resolution.attempts.count == 2  # its second attempt was still made
    await asyncio.sleep(0.01)
    assert not waiting.done()
    assert len(gateway.calls) == 2
    parts.delivery.resume()
    (later,) = await waiting
    assert later.outcome is Outcome.GRANTED


async def test_it_is_not_quiet_while_others_call_of_whom_one_could_not_be_encoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(request: CouponRequest, _at: datetime, secret: str) -> bytes:
        if request.parameters["plate"] == "粤BA1471":
            raise ZeroDivisionError("a bug")
        return encode_form(request.parameters, secret)

    monkeypatch.setattr(CouponRequest, "encoded", fail)
    parts = setup(ScriptedGateway(GRANTED))
    failing = asyncio.create_task(deliver(parts.delivery, record(order("E1"))))
    calling = asyncio.create_task(deliver(parts.delivery, record(order("E2", "粤BA1472"), offset=1)))
    for _ in range(2):
        await asyncio.sleep(0)

    async with asyncio.timeout(30):
        await parts.delivery.quiet()
    assert not parts.delivery.under_way
    with pytest.raises(ZeroDivisionError):
        await failing
    (resolution,) = await calling
    assert resolution.outcome is Outcome.GRANTED


async def test_while_held_nobody_sleeps_between_calls_whatever_the_platform_asks_for() -> None:
    gateway = ScriptedGateway(Answered(503, b"", "7"), GRANTED)
    parts = setup(gateway)
    delivering = asyncio.create_task(deliver(parts.delivery, record(order())))
    for _ in range(2):
        await asyncio.sleep(0)  # its call is under way
    parts.delivery.wind_down()

    async with asyncio.timeout(30):
        await parts.delivery.quiet()

    (resolution,) = await delivering
    assert (resolution.outcome, resolution.attempts.count) == (Outcome.GRANTED, 2)
    assert parts.slept == []


async def test_who_sleeps_may_be_held_twice_at_once() -> None:
    gateway = ScriptedGateway(FAILED, GRANTED)
    parts = setup(gateway)
    parts.delivery._sleep = sleep_for_ever
    delivering = await begun_and_waiting(gateway, parts)

    parts.delivery.wind_down()
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_soon(parts.delivery.wind_down)
    parts.delivery.wind_down()

    (resolution,) = await asyncio.wait_for(delivering, 30)
    assert resolution.outcome is Outcome.GRANTED


async def test_a_tracer_that_fails_costs_its_spans_and_no_more() -> None:
    class Failing:
        def tell(self, *_: Any) -> tuple[Resolution, ...]:
            raise ZeroDivisionError("a bug")

    parts = setup(ScriptedGateway(GRANTED), tracer=Failing())
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, about: told.append(about))

    (resolution,) = await asyncio.wait_for(deliver(parts.delivery, record(order())), 30)

    assert resolution.outcome is Outcome.GRANTED
    assert [about["message"] for about in told] == ["a record's spans cannot be told"]


async def begun_and_waiting(gateway: ScriptedGateway, parts: Setup) -> asyncio.Task[Sequence[Resolution]]:
    """A record that was called for once, and now waits between two calls."""
    task = asyncio.create_task(deliver(parts.delivery, record(order("E1"))))
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(gateway.calls) == 1
    return task


async def sleep_for_ever(_seconds: float) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("reply", "wait", "attempts"), [(FAILED, Wait.REPLY, 1), (REFUSED, Wait.STOP, 0)], ids=["backoff", "stop"]
)
async def test_while_held_who_waits_between_calls_goes_to_its_retry_topic_at_once(
    reply: AttemptEnd, wait: Wait, attempts: int
) -> None:
    """A drain during an outage would else take all the time that it has, and let go in the end all the same."""
    gateway = ScriptedGateway(reply)
    parts = setup(gateway, policy=LATER, probe_seconds=3600)
    parts.delivery._sleep = sleep_for_ever
    waiting = await begun_and_waiting(gateway, parts)

    parts.delivery.wind_down()
    async with asyncio.timeout(30):
        await parts.delivery.quiet()

    (resolution,) = await waiting
    assert len(gateway.calls) == 1
    assert resolution.later is not None
    assert (resolution.later.wait, resolution.attempts.count) == (wait, attempts)
    assert resolution.label == ("1500" if reply is FAILED else "401")


async def test_while_held_a_call_that_fails_is_not_made_again_within_seconds() -> None:
    gateway = HangingGateway()
    parts = setup(gateway, policy=LATER)
    parts.delivery._sleep = sleep_for_ever
    calling = asyncio.create_task(deliver(parts.delivery, record(order())))
    await asyncio.sleep(0.01)

    parts.delivery.wind_down()
    gateway.end.set_result(FAILED)

    (resolution,) = await asyncio.wait_for(calling, 30)
    assert resolution.later is not None
    assert resolution.attempts.count == 1


async def test_while_held_who_waits_for_its_first_call_is_left_to_the_next_owner() -> None:
    gateway = ScriptedGateway(REFUSED, GRANTED)
    parts = setup(gateway, policy=LATER, probe_seconds=3600)
    begun = await begun_and_waiting(gateway, parts)
    untouched = asyncio.create_task(deliver(parts.delivery, record(order("E2", "粤BA1472"), offset=1)))
    await asyncio.sleep(0)

    parts.delivery.wind_down()
    await begun
    await asyncio.sleep(0.01)

    assert not untouched.done()
    parts.delivery.resume()
    parts.flow.probe_now("main")
    (resolution,) = await asyncio.wait_for(untouched, 30)
    assert resolution.outcome is Outcome.GRANTED


async def test_without_retry_topics_a_drain_still_makes_the_calls_that_are_due() -> None:
    gateway = ScriptedGateway(FAILED, GRANTED)
    parts = setup(gateway)
    parts.delivery._sleep = lambda _seconds: asyncio.sleep(0.05)
    waiting = await begun_and_waiting(gateway, parts)

    parts.delivery.wind_down()

    (resolution,) = await asyncio.wait_for(waiting, 30)
    assert (resolution.outcome, resolution.attempts.count) == (Outcome.GRANTED, 2)


async def test_a_record_that_is_cancelled_is_no_longer_waited_for() -> None:
    parts = setup(HangingGateway())
    task = asyncio.create_task(deliver(parts.delivery, record(order())))
    await asyncio.sleep(0.01)
    parts.delivery.wind_down()
    task.cancel()
    async with asyncio.timeout(30):
        await parts.delivery.quiet()


class HangingGateway:
    def __init__(self) -> None:
        self.end: asyncio.Future[AttemptEnd] = asyncio.get_running_loop().create_future()

    async def post(self, url: str, body: bytes) -> AttemptEnd:
        return await self.end


# Later: an order that cannot end now waits in a retry topic.

NOT_ENTERED = Answered(200, b'{"code":"1002"}')


def retried(*orders: dict[str, Any], index: int = 0, **context: Any) -> Record:
    """A record of a retry topic; its event stands at offset 7."""
    known: dict[str, Any] = {
        "origin": Coordinates("events", 0, 7),
        "timestamp_ms": 0,
        "index": index,
        "wait": Wait.REPLY,
        "written_at": NOW - timedelta(minutes=1),
        "due_at": NOW,
        "tier": 1,
        "attempts": Attempts(3, NOW - timedelta(hours=1), NOW - timedelta(minutes=1), 0.5),
        "label": "1500",
        "words": GatewayWords(code="1500", http_status=200, message="busy"),
    }
    value = json.dumps(orders, ensure_ascii=False).encode()
    where = Coordinates("retries.1m", 2, 40)
    return Record(where, 0, None, value, retry=RetryContext(**(known | context)))


async def test_an_order_that_failed_thrice_waits_in_a_retry_topic_and_gives_its_plate_free() -> None:
    gateway = ScriptedGateway(FAILED, FAILED, FAILED, GRANTED)
    parts = setup(gateway, policy=LATER)

    (waiting,) = await deliver(parts.delivery, record(order()))
    (other,) = await asyncio.wait_for(deliver(parts.delivery, record(order("E2"), offset=1)), 30)

    assert waiting.later == Later(Wait.REPLY, 0, NOW + timedelta(minutes=1), 1, 0, 0.0)
    assert (waiting.label, waiting.attempts.count, waiting.words.code) == ("1500", 3, "1500")
    assert (other.outcome, other.later) == (Outcome.GRANTED, None)


async def test_a_car_that_has_not_entered_is_asked_for_once_at_a_time() -> None:
    gateway = ScriptedGateway(NOT_ENTERED)
    parts = setup(gateway, policy=LATER)

    (waiting,) = await deliver(parts.delivery, record(order()))

    assert (len(gateway.calls), parts.slept) == (1, [])
    assert waiting.later is not None
    assert waiting.later.topic == 0


async def test_attempts_go_on_counting_where_the_last_one_left_off() -> None:
    parts = setup(ScriptedGateway(GRANTED), policy=LATER)

    (resolution,) = await deliver(parts.delivery, retried(order()))

    assert (resolution.outcome, resolution.later) == (Outcome.GRANTED, None)
    assert resolution.attempts.count == 4
    assert resolution.attempts.first_at == NOW - timedelta(hours=1)
    assert resolution.attempts.last_at == NOW


async def test_each_time_there_are_as_many_tries_at_once_and_then_the_next_topic() -> None:
    parts = setup(ScriptedGateway(FAILED), policy=LATER)

    (resolution,) = await deliver(parts.delivery, retried(order(), tier=1))

    assert resolution.attempts.count == 6
    assert resolution.later == Later(Wait.REPLY, 1, NOW + timedelta(minutes=5), 2, 0, 0.0)


@pytest.mark.parametrize(("before", "after"), [(True, True), (False, False)])
async def test_a_grant_that_may_be_ours_is_still_known_after_the_wait(before: bool, after: bool) -> None:
    parts = setup(ScriptedGateway(DUPLICATE), policy=LATER)

    (resolution,) = await deliver(parts.delivery, retried(order(), attempts=Attempts(1, ambiguous=before)))

    assert (resolution.outcome, resolution.attempts.ambiguous) == (Outcome.ALREADY_GRANTED, after)


async def test_a_timeout_before_the_wait_is_carried_along() -> None:
    parts = setup(ScriptedGateway(NoAnswer("timeout")), policy=LATER)

    (resolution,) = await deliver(parts.delivery, record(order()))

    assert resolution.later is not None
    assert resolution.attempts.ambiguous


async def test_where_the_next_wait_would_pass_the_deadline_the_last_reply_is_the_end() -> None:
    book = FakeRules(lasts=timedelta(seconds=59))
    parts = setup(ScriptedGateway(FAILED), policy=LATER, rules=lambda: book)

    (resolution,) = await deliver(parts.delivery, record(order()))

    assert (resolution.outcome, resolution.later) == (Outcome.PLATFORM_FAILED, None)
    assert (resolution.attempts.count, resolution.dead_letter) == (3, True)


async def test_an_order_whose_deadline_passed_while_the_service_was_away_ends_with_its_last_reply() -> None:
    book = FakeRules(lasts=timedelta(seconds=-1))
    gateway = ScriptedGateway(GRANTED)
    parts = setup(gateway, policy=LATER, rules=lambda: book)

    (resolution,) = await deliver(parts.delivery, retried(order()))

    assert gateway.calls == []
    assert (resolution.outcome, resolution.label, resolution.later) == (Outcome.PLATFORM_FAILED, "1500", None)
    assert (resolution.words.message, resolution.attempts.count) == ("busy", 3)
    assert resolution.dead_letter
    assert resolution.detail == "its deadline passed while it waited for another attempt"


async def test_time_at_the_stop_line_moves_the_deadline() -> None:
    book = FakeRules(lasts=timedelta(seconds=-1))
    parts = setup(ScriptedGateway(GRANTED), policy=LATER, rules=lambda: book)

    (resolution,) = await deliver(parts.delivery, retried(order(), wait=Wait.STOP))

    assert resolution.outcome is Outcome.GRANTED


async def test_an_order_on_hold_waits_and_is_looked_at_again() -> None:
    parts = setup(ScriptedGateway(GRANTED), policy=LATER)

    (waiting,) = await deliver(parts.delivery, record({"finding": "hold"}))
    (again,) = await deliver(
        parts.delivery,
        retried({"finding": "hold"}, wait=Wait.HOLD, waits=1, tier=0, attempts=Attempts(), label=""),
    )

    assert waiting.later == Later(Wait.HOLD, 0, NOW + timedelta(minutes=1), 0, 1, 0.0)
    assert again.later == Later(Wait.HOLD, 1, NOW + timedelta(minutes=5), 0, 2, 60.0)


async def test_without_retry_topics_a_hold_is_an_end() -> None:
    parts = setup(ScriptedGateway(GRANTED))

    (held,) = await deliver(parts.delivery, record({"finding": "hold"}))

    assert (held.outcome, held.reason, held.later) == (Outcome.SKIPPED, Reason.HOLD, None)


async def test_orders_of_a_refused_account_wait_in_a_retry_topic_while_others_go_on() -> None:
    """One of them stays to probe; no attempt is counted, and the time does not count towards the deadline."""

    class ByAccount:
        async def post(self, url: str, body: bytes) -> AttemptEnd:
            await asyncio.sleep(0)
            return REFUSED if b"refused" in body else GRANTED

    class TwoAccounts(FakeRules):
        def plan(self, order: Order) -> CouponRequest | Finding:
            request = super().plan(order)
            assert isinstance(request, CouponRequest)
            account = "refused" if order.event_id.startswith("refused") else "main"
            return replace(request, account=account)

    book = TwoAccounts(accounts={"main": Account("main-secret"), "refused": Account("main-secret")})
    parts = setup(ByAccount(), policy=LATER, rules=lambda: book, accounts=("main", "refused"))

    prober = asyncio.create_task(deliver(parts.delivery, record(order("refused-0", "P0"))))
    await asyncio.sleep(0.02)
    ends = await asyncio.wait_for(
        asyncio.gather(
            *(
                deliver(parts.delivery, record(order(f"{account}-{n}", f"P{account}{n}"), offset=n))
                for n in range(1, 4)
                for account in ("main", "refused")
            )
        ),
        30,
    )

    by_account = {
        account: [end for (end,) in ends if end.account == account] for account in ("main", "refused")
    }
    assert {end.outcome for end in by_account["main"]} == {Outcome.GRANTED}
    assert {end.later and end.later.wait for end in by_account["refused"]} == {Wait.STOP}
    assert {end.attempts.count for end in by_account["refused"]} == {0}
    assert not prober.done()
    prober.cancel()
    await asyncio.gather(prober, return_exceptions=True)
