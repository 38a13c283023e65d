"""Serves /metrics, /healthz, /readyz and the status page over HTTP. Decides nothing: health is passed in.

Read only: GET and HEAD, and nothing else.
"""

from datetime import UTC, datetime, tzinfo
from types import TracebackType
from typing import Any, Protocol, Self

import orjson
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from consumer.core.errors import ConfigurationError, Problem
from consumer.core.status import Status, as_json
from consumer.page import POLICY, page


class Health(Protocol):
    """What the service says of itself: a verdict, and details that JSON can hold."""

    def healthy(self) -> tuple[bool, dict[str, Any]]:
        """False only when the process should be killed: it no longer moves."""
        ...

    def ready(self) -> tuple[bool, dict[str, Any]]:
        """True once it does its work: joined to the group, rules loaded."""
        ...

    def status(self) -> Status:
        """All that the status page says."""
        ...


class WebServer:
    """The HTTP server, listening within its `async with` block."""

    def __init__(self, host: str, port: int, *, registry: CollectorRegistry, health: Health) -> None:
        self._host, self._port = host, port
        self._registry, self._health = registry, health
        app = web.Application()
        app.router.add_get("/", self._page)
        app.router.add_get("/status.json", self._status)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError as error:
            await self._runner.cleanup()
            why = f"cannot listen on {self._host}:{self._port}: {error.strerror}"
            raise ConfigurationError(
                [Problem("web.port", why, "free it, or set web.host and web.port")]
            ) from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    @property
    def port(self) -> int:
        """The port that it listens on, also where the setting was 0."""
        return int(self._runner.addresses[0][1])

    async def _page(self, request: web.Request) -> web.Response:
        """For a browser the page, for everybody else the same as JSON."""
        if "text/html" not in request.headers.get("Accept", ""):
            return await self._status(request)
        refresh = request.query.get("refresh") != "off"
        text = page(self._health.status(), _zone(), refresh=refresh)
        headers = {**_ONLY_HERE, "Content-Security-Policy": POLICY}
        return web.Response(text=text, content_type="text/html", headers=headers)

    async def _status(self, _request: web.Request) -> web.Response:
        response = _json_response(as_json(self._health.status(), _zone()))
        response.headers.update(_ONLY_HERE)
        return response

    async def _metrics(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(self._registry), headers={"Content-Type": content_type})

    async def _healthz(self, _request: web.Request) -> web.Response:
        return _verdict(*self._health.healthy())

    async def _readyz(self, _request: web.Request) -> web.Response:
        return _verdict(*self._health.ready())


_ONLY_HERE = {
    "Cache-Control": "no-store",
    "Vary": "Accept",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
"""What is shown is of this moment, and for whoever asked."""


def _zone() -> tzinfo:
    """The machine's, as `TZ` sets it."""
    return datetime.now().astimezone().tzinfo or UTC


def _verdict(ok: bool, details: dict[str, Any]) -> web.Response:
    return _json_response({"ok": ok, **details}, status=200 if ok else 503)


_JSON = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS | orjson.OPT_UTC_Z
"""For people, and whatever the details have for keys."""


def _json_response(body: dict[str, Any], status: int = 200) -> web.Response:
    text = orjson.dumps(body, default=str, option=_JSON)
    return web.Response(status=status, body=text, content_type="application/json")
