"""Serves /metrics, /healthz, /readyz and a status page over HTTP. Decides nothing: health is passed in."""

from types import TracebackType
from typing import Any, Protocol, Self

import orjson
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from consumer import __version__
from consumer.core.errors import ConfigurationError, Problem


class Health(Protocol):
    """What the service says of itself: a verdict, and details that JSON can hold."""

    def healthy(self) -> tuple[bool, dict[str, Any]]:
        """False only when the process should be killed: it no longer moves."""
        ...

    def ready(self) -> tuple[bool, dict[str, Any]]:
        """True once it does its work: joined to the group, rules loaded."""
        ...


class WebServer:
    """The HTTP server, listening within its `async with` block."""

    def __init__(self, host: str, port: int, *, registry: CollectorRegistry, health: Health) -> None:
        self._host, self._port = host, port
        self._registry, self._health = registry, health
        app = web.Application()
        app.router.add_get("/", self._status)
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

    async def _status(self, _request: web.Request) -> web.Response:
        healthy, motion = self._health.healthy()
        ready, work = self._health.ready()
        return _json_response(
            {
                "service": "charging-coupon",
                "version": __version__,
                "healthy": {"ok": healthy, **motion},
                "ready": {"ok": ready, **work},
                "see": ["/metrics", "/healthz", "/readyz"],
            }
        )

    async def _metrics(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(self._registry), headers={"Content-Type": content_type})

    async def _healthz(self, _request: web.Request) -> web.Response:
        return _verdict(*self._health.healthy())

    async def _readyz(self, _request: web.Request) -> web.Response:
        return _verdict(*self._health.ready())


def _verdict(ok: bool, details: dict[str, Any]) -> web.Response:
    return _json_response({"ok": ok, **details}, status=200 if ok else 503)


def _json_response(body: dict[str, Any], status: int = 200) -> web.Response:
    text = orjson.dumps(body, default=str, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    return web.Response(status=status, body=text, content_type="application/json")
