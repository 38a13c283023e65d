"""Serves /metrics, /healthz, /readyz and the status page over HTTP. Decides nothing: health is passed in.

Read only: GET and HEAD, and nothing else.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, tzinfo
from http import HTTPStatus
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self
from urllib.parse import parse_qs

import orjson
import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from consumer.core.errors import ConfigurationError, Problem
from consumer.core.status import Status, as_json
from consumer.page import POLICY, page
from consumer.serving import Request, Server, written

log = structlog.get_logger(__name__)

_CUT_OFF_SECONDS = 1.0
"""For replies to be read, once the server ends."""


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


class Page(NamedTuple):
    """What is answered."""

    content_type: str
    body: bytes
    headers: Mapping[str, str] = {}
    status: HTTPStatus = HTTPStatus.OK


class WebServer:
    """The HTTP server, listening within its `async with` block."""

    def __init__(self, host: str, port: int, *, registry: CollectorRegistry, health: Health) -> None:
        self._host, self._port = host, port
        self._registry, self._health = registry, health
        self._pages: Mapping[str, Callable[[Request], Page]] = {
            "/": self._page,
            "/status.json": self._status,
            "/metrics": self._metrics,
            "/healthz": self._healthz,
            "/readyz": self._readyz,
        }
        self._server = Server(self._take, most_body=0)

    async def __aenter__(self) -> Self:
        try:
            self._port = await self._server.start(self._host, self._port, tls=None)
        except OSError as error:
            why = f"cannot listen on {written(self._host, self._port)}: {error.strerror}"
            raise ConfigurationError(
                [Problem("web.port", why, "free it, or set web.host and web.port")]
            ) from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._server.stop(_CUT_OFF_SECONDS)

    @property
    def port(self) -> int:
        """The port that it listens on, also where the setting was 0."""
        return self._port

    def _take(self, request: Request) -> None:
        find = self._pages.get(request.path)
        if find is None:
            page_ = _refusal(HTTPStatus.NOT_FOUND)
        elif request.method not in _READING:
            page_ = _refusal(HTTPStatus.METHOD_NOT_ALLOWED, {"Allow": ", ".join(_READING)})
        else:
            try:
                page_ = find(request)
            except Exception:  # a bug of ours in one page, and the others go on
                log.exception("web.page_failed", path=request.path)
                page_ = _refusal(HTTPStatus.INTERNAL_SERVER_ERROR)
        request.connection.reply(page_.status, page_.body, page_.content_type, page_.headers)

    def _page(self, request: Request) -> Page:
        """For a browser the page, for everybody else the same as JSON."""
        if "text/html" not in request.accept:
            return self._status(request)
        refresh = parse_qs(request.query).get("refresh") != ["off"]
        text = page(self._health.status(), _zone(), refresh=refresh)
        return Page(_HTML, text.encode(), {**_ONLY_HERE, "Content-Security-Policy": POLICY})

    def _status(self, _request: Request) -> Page:
        return _json_page(as_json(self._health.status(), _zone()), _ONLY_HERE)

    def _metrics(self, request: Request) -> Page:
        encode, content_type = choose_encoder(request.accept)
        return Page(content_type, encode(self._registry))

    def _healthz(self, _request: Request) -> Page:
        return _verdict(*self._health.healthy())

    def _readyz(self, _request: Request) -> Page:
        return _verdict(*self._health.ready())


_READING = ("GET", "HEAD")
_HTML, _PLAIN, _JSON_TYPE = "text/html; charset=utf-8", "text/plain; charset=utf-8", "application/json"

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


def _refusal(status: HTTPStatus, headers: Mapping[str, str] | None = None) -> Page:
    return Page(_PLAIN, f"{status}: {status.phrase}\n".encode(), headers or {}, status)


def _verdict(ok: bool, details: dict[str, Any]) -> Page:
    return _json_page({"ok": ok, **details}, status=HTTPStatus.OK if ok else HTTPStatus.SERVICE_UNAVAILABLE)


_JSON = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS | orjson.OPT_UTC_Z
"""For people, and whatever the details have for keys."""


def _json_page(
    body: dict[str, Any], headers: Mapping[str, str] | None = None, status: HTTPStatus = HTTPStatus.OK
) -> Page:
    return Page(_JSON_TYPE, orjson.dumps(body, default=str, option=_JSON), headers or {}, status)
