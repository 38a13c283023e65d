"""Traces: what a collector is told of orders and calls, how they hang together, what a collector that is away costs."""

import asyncio
import ssl
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from consumer import tracing
from consumer.core.coupons import CouponRequest
from consumer.core.events import Attempts, Coordinates, GatewayWords, Record, Wait
from consumer.core.headers import Header
from consumer.core.outcomes import (
    Later,
    Outcome,
    OutcomeContext,
    Privacy,
    Reason,
    Resolution,
    encode_dead_letter,
    encode_outcome,
    encode_retry,
)
from consumer.core.replies import Answered, AttemptEnd, NoAnswer, ReplyTable
from consumer.core.traces import TracedCall
from consumer.metrics import Metrics
from consumer.tracing import Tracing
from tests.collector import CLIENT, CONSUMER, Collector, Sent
from tests.deliveries import deliver
from tests.pki import Authority
from tests.test_delivery import FAILED, GRANTED, ScriptedGateway, record, setup

AT = datetime(2026, 3, 1, 12, 0, 0, 123_456, tzinfo=UTC)
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = (("traceparent", f"00-{TRACE}-{SPAN}-01".encode()), ("tracestate", b"vendor=1"))
URL = "https://api.example.com:8443/coupon?key=secret"
PLATE = "粤BD12345"
CONTEXT = OutcomeContext("cluster", Privacy())


@pytest.fixture(autouse=True)
def _fresh_logger_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "log", structlog.get_logger())
    monkeypatch.setattr(tracing, "SEND_SECONDS", 0.02)


def event(*headers: Header, topic: str = "charges") -> Record:
    return Record(Coordinates(topic, 3, 417), 0, PLATE.encode(), b"{}", tuple(headers))


def resolution(of: Record, outcome: Outcome = Outcome.GRANTED, **changes: Any) -> Resolution:
    whole: dict[str, Any] = {
        "index": 0,
        "decided_at": AT + timedelta(seconds=2),
        "account": "main",
        "rule": "free",
        "label": "1001",
        "attempts": Attempts(1),
        "values": {"plate": PLATE, "order_id": f"A1-{PLATE}"},
        "request": CouponRequest("main", "r", None, {"plate": PLATE, "subject": PLATE}, {}),
    }
    return Resolution(of, outcome=outcome, **(whole | changes))


def call(end: AttemptEnd, index: int = 0, begins: float = 0.5) -> TracedCall:
    reply = ReplyTable.defaults().classify(end, AT)
    began_at = AT + timedelta(seconds=begins)
    return TracedCall(index, URL, began_at, began_at + timedelta(seconds=0.25), reply)


class World:
    """Traces that go to a collector, with the metrics that count them."""

    def __init__(self, url: str, sample: float = 1.0, **way: Any) -> None:
        self.metrics = Metrics(CollectorRegistry())
        self.tracing = Tracing(endpoint=url, sample=sample, group="group", metrics=self.metrics, **way)

    def tell(self, of: Record, *ends: AttemptEnd, **changes: Any) -> Resolution:
        (told,) = self.tracing.tell(of, AT, [resolution(of, **changes)], [call(end) for end in ends])
        return told

    def counted(self) -> Mapping[str, float]:
        names = ("sent", "dropped")
        get = self.metrics.registry.get_sample_value
        return {name: get("coupon_spans_total", {"result": name}) or 0.0 for name in names}

    async def until_counted(self, name: str, number: int) -> None:
        async with asyncio.timeout(10):
            while self.counted()[name] < number:  # noqa: ASYNC110  # a counter sets no event
                await asyncio.sleep(0.01)


async def sent_of(of: Record, *ends: AttemptEnd, **changes: Any) -> tuple[Resolution, list[Sent]]:
    async with Collector() as collector:
        world = World(collector.url)
        async with world.tracing:
            told = world.tell(of, *ends, **changes)
        assert world.counted() == {"sent": len(collector.spans), "dropped": 0}
    return told, collector.spans


# -- What is told -----------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [PARENT, ()], ids=["traced", "untraced"])
def test_where_opentelemetry_is_switched_off_an_events_own_trace_goes_on(
    monkeypatch: pytest.MonkeyPatch, headers: tuple[Header, ...]
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    told = World("http://127.0.0.1:9").tell(event(*headers))

    written = dict(encode_outcome(told, CONTEXT).headers)
    assert written.get("traceparent") == dict(headers).get("traceparent")


async def test_an_order_is_a_span_of_its_events_trace_and_its_calls_are_within_it() -> None:
    told, spans = await sent_of(event(*PARENT), FAILED, GRANTED)

    (order,) = [span for span in spans if span.kind == CONSUMER]
    calls = [span for span in spans if span.kind == CLIENT]
    assert (order.trace_id, order.parent_id, order.seconds) == (TRACE, SPAN, 2.0)
    assert [(span.trace_id, span.parent_id, span.seconds) for span in calls] == [
        (TRACE, order.span_id, 0.25)
    ] * 2
    assert told.traceparent == f"00-{TRACE}-{order.span_id}-01"
    assert (order.name, order.failed) == ("process charges", False)
    assert order.attributes == {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "charges",
        "messaging.destination.partition.id": "3",
        "messaging.kafka.offset": 417,
        "messaging.consumer.group.name": "group",
        "charging_coupon.order_index": 0,
        "charging_coupon.order_id": "A1-***",
        "charging_coupon.account": "main",
        "charging_coupon.rule": "free",
        "charging_coupon.attempts": 1,
        "charging_coupon.code": "1001",
        "charging_coupon.outcome": "granted",
    }
    assert calls[1].attributes == {
        "http.request.method": "POST",
        "url.full": "https://api.example.com:8443/coupon",
        "server.address": "api.example.com",
        "server.port": 8443,
        "http.response.status_code": 200,
        "http.request.resend_count": 1,
        "charging_coupon.code": "1001",
    }


@pytest.mark.parametrize(
    ("end", "error"),
    [(Answered(503, b""), "503"), (NoAnswer("timeout: no reply"), "timeout"), (GRANTED, None)],
)
async def test_a_call_that_failed_says_by_what(end: AttemptEnd, error: str | None) -> None:
    _, spans = await sent_of(event(), end)

    (span,) = [span for span in spans if span.kind == CLIENT]
    assert (span.attributes.get("error.type"), span.failed) == (error, error is not None)


async def test_an_order_that_somebody_has_to_see_to_is_marked_and_one_that_only_got_no_coupon_is_not() -> (
    None
):
    _, (failed,) = await sent_of(event(), outcome=Outcome.REJECTED)
    _, (limited,) = await sent_of(event(), outcome=Outcome.LIMITED)
    _, (skipped,) = await sent_of(event(), outcome=Outcome.SKIPPED, reason=Reason.POLICY, label="", rule=None)

    assert (failed.failed, failed.attributes["error.type"]) == (True, "rejected")
    assert not limited.failed
    assert not skipped.failed
    assert skipped.attributes["charging_coupon.reason"] == "policy"
    assert "charging_coupon.rule" not in skipped.attributes


async def test_each_order_of_a_record_has_a_span_of_its_own_with_its_own_calls() -> None:
    record = event(*PARENT)
    orders = [resolution(record, index=index) for index in range(3)]
    async with Collector() as collector:
        world = World(collector.url)
        async with world.tracing:
            world.tracing.tell(record, AT, orders, [call(GRANTED, 2), call(FAILED, 0), call(GRANTED, 2)])

    consumers = [span for span in collector.spans if span.kind == CONSUMER]
    parents = [span.parent_id for span in collector.spans if span.kind == CLIENT]
    assert {span.parent_id for span in consumers} == {SPAN}
    assert [parents.count(span.span_id) for span in consumers] == [1, 0, 2]


async def test_who_sends_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Collector() as collector:
        world = World(collector.url)
        async with world.tracing:
            world.tell(event())

    (resource,) = collector.resources
    assert resource["service.name"] == "charging-coupon"
    assert resource["service.version"]


async def test_no_plate_and_no_query_is_in_what_is_sent() -> None:
    async with Collector() as collector:
        world = World(collector.url)
        async with world.tracing:
            echo = Answered(400, f'{{"code":"400","message":"{PLATE}"}}'.encode())
            world.tell(event(), echo, words=GatewayWords(message=PLATE), detail=PLATE)

    assert b"".join(collector.bodies)
    for hidden in (PLATE, PLATE[1:], "secret"):
        assert hidden.encode() not in b"".join(collector.bodies)


# -- How traces go on -------------------------------------------------------------------------------


async def test_an_order_that_waits_takes_its_trace_along_and_leaves_the_events_own_header_alone() -> None:
    first = event(*PARENT)
    later = Later(Wait.REPLY, 0, AT + timedelta(minutes=1), 1, 0, 0.0)
    told, (waits,) = await sent_of(first, later=later)
    written = encode_retry(told, later, CONTEXT)
    assert [header for header in written.headers if header in PARENT] == list(PARENT)
    assert waits.attributes["charging_coupon.waits_for"] == "reply"
    assert "charging_coupon.outcome" not in waits.attributes

    again, (order,) = await sent_of(event(*written.headers, topic="retries.1m"))

    assert (order.trace_id, order.parent_id) == (TRACE, waits.span_id)
    assert (
        dict(encode_outcome(again, CONTEXT).headers)["traceparent"]
        == f"00-{TRACE}-{order.span_id}-01".encode()
    )


async def test_an_order_without_a_trace_begins_one_that_goes_on_when_it_is_retried() -> None:
    later = Later(Wait.REPLY, 0, AT, 1, 0, 0.0)
    told, (first,) = await sent_of(event(), later=later)

    _, (second,) = await sent_of(event(*encode_retry(told, later, CONTEXT).headers))

    assert first.parent_id == ""
    assert (second.trace_id, second.parent_id) == (first.trace_id, first.span_id)


async def test_an_outcome_belongs_to_its_orders_span_and_keeps_the_tracestate() -> None:
    told, (order,) = await sent_of(event(*PARENT))

    headers = encode_outcome(told, CONTEXT).headers
    assert [value for name, value in headers if name == "traceparent"] == [
        f"00-{TRACE}-{order.span_id}-01".encode()
    ]
    assert dict(headers)["tracestate"] == b"vendor=1"


async def test_a_dead_letter_names_the_span_beside_the_events_own_headers() -> None:
    told, (order,) = await sent_of(event(*PARENT), outcome=Outcome.REJECTED, dead_letter=True)

    headers = encode_dead_letter(told, CONTEXT, 1_000_000).headers
    assert tuple(headers[:2]) == PARENT
    assert dict(headers)["coupon_traceparent"] == f"00-{TRACE}-{order.span_id}-01".encode()


@pytest.mark.parametrize(
    "broken", [b"", b"00-zz", b"\xff\xfe", f"00-{'0' * 32}-{SPAN}-01".encode(), f"00-{TRACE}-{SPAN}".encode()]
)
async def test_a_header_that_is_none_begins_a_trace(broken: bytes) -> None:
    told, (order,) = await sent_of(event(("traceparent", broken), ("tracestate", b"\xff")))

    assert order.parent_id == ""
    assert told.traceparent is not None
    assert order.trace_id in told.traceparent


async def test_what_the_event_says_of_sampling_is_heeded_and_its_trace_goes_on_either_way() -> None:
    unsampled = ("traceparent", f"00-{TRACE}-{SPAN}-00".encode())
    async with Collector() as collector:
        world = World(collector.url, sample=0.0)
        async with world.tracing:
            world.tell(event(), GRANTED)
            told = world.tell(event(unsampled), GRANTED)
            world.tell(event(*PARENT))

    assert told.traceparent is not None
    assert told.traceparent.startswith(f"00-{TRACE}-")
    assert told.traceparent.endswith("-00")
    assert SPAN not in told.traceparent
    assert [span.trace_id for span in collector.spans] == [TRACE]


# -- Delivery ---------------------------------------------------------------------------------------


async def test_delivery_tells_each_call_that_it_made() -> None:
    async with Collector() as collector:
        world = World(collector.url)
        parts = setup(ScriptedGateway(FAILED, GRANTED), tracer=world.tracing)
        async with world.tracing:
            (told,) = await deliver(parts.delivery, record({"plate": "粤B12345", "event_id": "E1"}))

    calls = [span for span in collector.spans if span.kind == CLIENT]
    assert [span.attributes["charging_coupon.code"] for span in calls] == ["1500", "1001"]
    assert {span.attributes["url.full"] for span in calls} == {"http://gateway/event"}
    assert told.outcome is Outcome.GRANTED
    assert told.traceparent is not None


async def test_without_a_tracer_nothing_is_noted() -> None:
    parts = setup(ScriptedGateway(GRANTED))

    (told,) = await deliver(parts.delivery, record({"plate": "粤B12345", "event_id": "E1"}))

    assert told.traceparent is None


def test_a_service_that_traces_nothing_loads_nothing_for_it() -> None:
    code = "import sys, consumer.service; print([name for name in sys.modules if 'opentelemetry' in name])"

    assert subprocess.check_output([sys.executable, "-c", code], cwd=Path(__file__).parents[1]) == b"[]\n"


# -- A collector that is away -----------------------------------------------------------------------


async def test_a_collector_that_refuses_is_told_once_and_costs_its_spans_until_it_is_back() -> None:
    async with Collector(status=503) as collector:
        world = World(collector.url)
        with capture_logs() as lines:
            async with world.tracing:
                for number in range(1, 4):
                    world.tell(event())
                    await world.until_counted("dropped", number)
                collector.status = 200
                world.tell(event())
                await world.until_counted("sent", 1)

    assert [(line["log_level"], line["event"]) for line in lines] == [
        ("warning", "tracing.collector_is_away"),
        ("info", "tracing.collector_is_back"),
    ]
    assert lines[0]["problem"] == "HTTP status 503"
    assert world.counted() == {"sent": 1, "dropped": 3}


async def test_a_collector_is_told_the_headers_that_it_wants_as_they_are_now() -> None:
    headers = {"authorization": "Bearer one"}
    async with Collector() as collector:
        world = World(collector.url, headers=lambda: headers)
        async with world.tracing:
            for number, token in enumerate(["Bearer one", "Bearer two"], 1):
                headers["authorization"] = token
                world.tell(event())
                await world.until_counted("sent", number)
                assert collector.headers["Authorization"] == token


async def test_a_collector_under_a_ca_of_its_own_is_told_where_that_is_trusted(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ca")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(*authority.issue("collector", "127.0.0.1"))
    async with Collector(tls=tls) as collector:
        for ca, counted in ((authority.ca, "sent"), (None, "dropped")):
            world = World(collector.url, ca_file=ca)
            async with world.tracing:
                world.tell(event())
                await world.until_counted(counted, 1)


async def test_nobody_there_is_no_error() -> None:
    world = World("http://127.0.0.1:9")
    with capture_logs() as lines:
        async with world.tracing:
            world.tell(event(), GRANTED)
            await world.until_counted("dropped", 2)

    assert [line["event"] for line in lines] == ["tracing.collector_is_away"]


async def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "MOST_WAITING", 50)
    async with Collector() as collector:
        world = World(collector.url)
        async with world.tracing:
            for _ in range(80):
                world.tell(event())
            assert world.counted()["dropped"] == 30
        assert len(collector.spans) == 50


async def test_the_end_waits_no_longer_than_its_bound_for_a_collector_that_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tracing, "FLUSH_SECONDS", 0.1)
    hangs, ended = asyncio.Event(), asyncio.Event()

    async def hang(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await hangs.wait()
        finally:
            writer.close()
            ended.set()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    async with server:
        world = World(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        async with asyncio.timeout(3):
            async with world.tracing:
                world.tell(event(), GRANTED)
                await asyncio.sleep(0.1)  # it is being sent
        hangs.set()
        await ended.wait()

    assert world.counted() == {"sent": 0, "dropped": 2}
