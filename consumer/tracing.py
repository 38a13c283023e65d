"""Tells OpenTelemetry what became of each order: a span for it, and one within for each call. Sends them by HTTP.

An extra, imported only where `tracing.endpoint` is set. Spans are made when their order has ended, of what is known
by then: on its way nothing is done for them but to note its calls. A collector that is away costs the spans and no
more: what does not fit into memory, or is not taken, is dropped and counted.

OTLP/HTTP: https://opentelemetry.io/docs/specs/otlp/#otlphttp. It is spoken by aiohttp, on the event loop: the SDK's
own exporter is a thread that tries again for as long as a minute, also when the process is to end.
"""

import asyncio
import platform
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp
import structlog
from msgspec.structs import replace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from consumer import __version__, certificates
from consumer.core.events import Record
from consumer.core.outcomes import Resolution
from consumer.core.traces import TracedCall, error_of, error_of_call, of_call, of_order, parent_of
from consumer.metrics import Metrics

log = structlog.get_logger(__name__)

MOST_WAITING = 4096
"""Spans that wait to be sent; further ones are dropped."""

BATCH = 64
"""Spans in one request: encoding them takes five milliseconds of the event loop."""

SEND_SECONDS, LONGEST_PAUSE = 1.0, 30.0
"""How often they are sent; between two tries while the collector takes none."""

TIMEOUT_SECONDS = 5.0
"""Longest wait for its answer."""

FLUSH_SECONDS = 2.0
"""Longest time to send what is left when the process ends, after the drain."""

LONGEST_TEXT = 300
"""Characters of an attribute."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ERROR = Status(StatusCode.ERROR)


class Tracing:
    """Makes the spans, and sends them within its `async with` block."""

    def __init__(
        self,
        *,
        endpoint: str,
        sample: float,
        group: str,
        metrics: Metrics,
        ca_file: Path | None = None,
        headers: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        """`endpoint` is the collector's base address; `sample` the share of orders without a parent that are traced.

        `headers` gives those that the collector wants, as they are now; it raises ValueError where they are of no use.
        """
        self._group = group
        self._sender = _Sender(f"{endpoint.rstrip('/')}/v1/traces", metrics, ca_file, headers)
        provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(sample)),
            resource=Resource.create(
                {
                    "service.name": "charging-coupon",
                    "service.version": __version__,
                    "service.instance.id": platform.node(),
                }
            ),
            shutdown_on_exit=False,
            span_limits=SpanLimits(max_span_attribute_length=LONGEST_TEXT),
        )
        provider.add_span_processor(self._sender)
        self._tracer = provider.get_tracer("charging-coupon", __version__)
        self._propagator = TraceContextTextMapPropagator()

    async def __aenter__(self) -> Self:
        await self._sender.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._sender.stop()

    def tell(
        self,
        record: Record,
        began_at: datetime,
        resolutions: Sequence[Resolution],
        calls: Sequence[TracedCall],
    ) -> tuple[Resolution, ...]:
        """The same resolutions, each with the span that tells of it."""
        parent = self._propagator.extract(parent_of(record), Context())
        return tuple(
            self._order(record, began_at, each, [call for call in calls if call.index == each.index], parent)
            for each in resolutions
        )

    def _order(
        self,
        record: Record,
        began_at: datetime,
        resolution: Resolution,
        calls: Iterable[TracedCall],
        parent: Context,
    ) -> Resolution:
        span = self._tracer.start_span(
            f"process {record.coordinates.topic}",
            parent,
            SpanKind.CONSUMER,
            start_time=_nanoseconds(began_at),
        )
        if span.is_recording():
            span.set_attributes(of_order(record, resolution, self._group))
            if error_of(resolution) is not None:
                span.set_status(_ERROR)
            within = set_span_in_context(span, Context())
            for number, call in enumerate(calls):
                self._call(call, number, within)
        span.end(_nanoseconds(resolution.decided_at))
        context = span.get_span_context()
        # OTEL_SDK_DISABLED: there are no spans, and an event's own context is all that there is.
        if not context.is_valid:
            return resolution
        written = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
        return replace(resolution, traceparent=written)

    def _call(self, call: TracedCall, number: int, within: Context) -> None:
        span = self._tracer.start_span(
            "POST",
            within,
            SpanKind.CLIENT,
            attributes=of_call(call, number),
            start_time=_nanoseconds(call.began_at),
        )
        if error_of_call(call) is not None:
            span.set_status(_ERROR)
        span.end(_nanoseconds(call.ended_at))


class _Sender(SpanProcessor):
    """Keeps ended spans, and posts them."""

    def __init__(
        self,
        url: str,
        metrics: Metrics,
        ca_file: Path | None,
        headers: Callable[[], Mapping[str, str]],
    ) -> None:
        self._url = url
        self._ca_file = ca_file
        self._headers = headers
        self._waiting: deque[ReadableSpan] = deque()
        self._sent, self._dropped = metrics.spans.labels("sent"), metrics.spans.labels("dropped")
        self._http: aiohttp.ClientSession | None = None
        self._sending: asyncio.Task[None] | None = None
        self._pause = SEND_SECONDS

    def on_end(self, span: ReadableSpan) -> None:
        """Called for each sampled span."""
        if len(self._waiting) < MOST_WAITING:
            self._waiting.append(span)
        else:
            self._dropped.inc()

    async def start(self) -> None:
        trusted = True if self._ca_file is None else certificates.context(self._ca_file)
        self._http = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS),
            connector=aiohttp.TCPConnector(ssl=trusted),
        )
        self._sending = asyncio.create_task(self._send_on())

    async def stop(self) -> None:
        """What is left is sent within the bound, if the collector takes it."""
        assert self._sending is not None
        assert self._http is not None
        self._sending.cancel()
        await asyncio.gather(self._sending, return_exceptions=True)
        try:
            async with asyncio.timeout(FLUSH_SECONDS):
                await self._send_all(self._http)
        except TimeoutError:
            pass
        self._dropped.inc(len(self._waiting))
        self._waiting.clear()
        await self._http.close()

    async def _send_on(self) -> None:
        assert self._http is not None
        while True:
            await asyncio.sleep(self._pause)
            await self._send_all(self._http)

    async def _send_all(self, http: aiohttp.ClientSession) -> None:
        """Batch after batch, until one is not taken."""
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            try:
                problem = await self._post(http, batch)
            except asyncio.CancelledError:
                self._waiting.extendleft(reversed(batch))
                raise
            if problem:
                self._dropped.inc(len(batch))
                self._note_problem(problem)
                return
            self._sent.inc(len(batch))
            if self._pause > SEND_SECONDS:
                log.info("tracing.collector_is_back", endpoint=self._url)
            self._pause = SEND_SECONDS

    async def _post(self, http: aiohttp.ClientSession, batch: Sequence[ReadableSpan]) -> str:
        """What went wrong, in words; empty where nothing did."""
        body = encode_spans(batch).SerializeToString()
        try:
            async with http.post(
                self._url,
                data=body,
                headers={**self._headers(), "Content-Type": "application/x-protobuf"},
                allow_redirects=False,
            ) as reply:
                await reply.read()
                return "" if reply.status < 300 else f"HTTP status {reply.status}"
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return f"{type(error).__name__}: {error}".removesuffix(": ")

    def _note_problem(self, problem: str) -> None:
        """Said once, until it is over."""
        if self._pause == SEND_SECONDS:
            log.warning(
                "tracing.collector_is_away",
                endpoint=self._url,
                problem=problem,
                remedy="spans are dropped until it takes them: see coupon_spans_total, and tracing.endpoint",
            )
        self._pause = min(self._pause * 2, LONGEST_PAUSE)


def _nanoseconds(at: datetime) -> int:
    """Exactly: as a float, an instant of these years has no nanoseconds."""
    elapsed = at - _EPOCH
    return ((elapsed.days * 86_400 + elapsed.seconds) * 1_000_000 + elapsed.microseconds) * 1000
