"""A collector that takes OTLP over HTTP, as OpenTelemetry's does, and keeps what it was sent."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from aiohttp import web
from aiohttp.test_utils import TestServer
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Sent:
    """A span."""

    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    seconds: float
    failed: bool
    attributes: Mapping[str, Any]


CONSUMER, CLIENT = 5, 3
"""Kinds, as OTLP numbers them."""


class Collector:
    """Listens within its `async with` block.

    Attributes:
        status: what it answers.
        bodies: of the requests, as they came.
        headers: of the latest request.
    """

    def __init__(self, status: int = 200, tls: ssl.SSLContext | None = None) -> None:
        self.status = status
        self.spans: list[Sent] = []
        self.resources: list[dict[str, Any]] = []
        self.bodies: list[bytes] = []
        self.headers: Mapping[str, str] = {}
        app = web.Application()
        app.router.add_post("/v1/traces", self._take)
        self._tls = tls
        self._server = TestServer(app, scheme="https" if tls else "http")

    async def __aenter__(self) -> Self:
        await self._server.start_server(ssl=self._tls)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.close()

    @property
    def url(self) -> str:
        return str(self._server.make_url("/")).rstrip("/")

    async def _take(self, request: web.Request) -> web.Response:
        assert request.content_type == "application/x-protobuf"
        self.headers = request.headers
        body = await request.read()
        self.bodies.append(body)
        if self.status == 200:
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.resources.append(_attributes(resource.resource.attributes))
                self.spans += [_sent(span) for scope in resource.scope_spans for span in scope.spans]
        return web.Response(status=self.status)


def _sent(span: Any) -> Sent:
    return Sent(
        name=span.name,
        kind=span.kind,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        seconds=(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
        failed=span.status.code == span.status.STATUS_CODE_ERROR,
        attributes=_attributes(span.attributes),
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}
