"""The pages that probes, scrapers and people ask for."""

from typing import Any

import aiohttp
import orjson
import pytest
from prometheus_client import CollectorRegistry, Counter

from consumer.core.errors import ConfigurationError
from consumer.core.status import Status
from consumer.flow import HeldBy
from consumer.page import POLICY
from consumer.web import WebServer
from tests.statuses import held_up


class SetHealth:
    """Says what the test wants it to say."""

    def __init__(self, *, healthy: bool = True, ready: bool = True) -> None:
        self._healthy, self._ready = healthy, ready

    def healthy(self) -> tuple[bool, dict[str, Any]]:
        return self._healthy, {"seconds_since_poll": 0.5}

    def ready(self) -> tuple[bool, dict[str, Any]]:
        return self._ready, {"guarantee": "exactly_once", "paused": {HeldBy.BREAKER: 3}}

    def status(self) -> Status:
        return held_up()


def a_server(health: SetHealth | None = None) -> WebServer:
    registry = CollectorRegistry()
    Counter("coupon_records", "Records.", ["topic"], registry=registry).labels("charging").inc()
    return WebServer("127.0.0.1", 0, registry=registry, health=health or SetHealth())


async def fetched(server: WebServer, path: str, **headers: str) -> tuple[int, str, str]:
    url = f"http://127.0.0.1:{server.port}{path}"
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as reply:
        return reply.status, reply.headers["Content-Type"], await reply.text()


async def test_metrics_are_those_of_the_registry() -> None:
    async with a_server() as server:
        status, content_type, text = await fetched(server, "/metrics")

    assert status == 200
    assert content_type.startswith("text/plain")
    assert 'coupon_records_total{topic="charging"} 1.0' in text


async def test_a_scraper_that_asks_for_openmetrics_gets_it() -> None:
    async with a_server() as server:
        _, content_type, text = await fetched(
            server, "/metrics", Accept="application/openmetrics-text; version=1.0.0"
        )

    assert content_type.startswith("application/openmetrics-text")
    assert text.endswith("# EOF\n")


@pytest.mark.parametrize(
    ("health", "path", "status"),
    [
        (SetHealth(), "/healthz", 200),
        (SetHealth(healthy=False), "/healthz", 503),
        (SetHealth(ready=False), "/healthz", 200),
        (SetHealth(), "/readyz", 200),
        (SetHealth(ready=False), "/readyz", 503),
        (SetHealth(healthy=False), "/readyz", 200),
    ],
)
async def test_a_probe_is_answered_by_its_own_verdict_alone(
    health: SetHealth, path: str, status: int
) -> None:
    async with a_server(health) as server:
        assert (await fetched(server, path))[0] == status


async def test_readiness_tells_details() -> None:
    async with a_server() as server:
        _, content_type, text = await fetched(server, "/readyz")

    assert content_type.startswith("application/json")
    assert orjson.loads(text) == {"ok": True, "guarantee": "exactly_once", "paused": {"breaker": 3}}


BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


async def test_a_browser_gets_the_status_as_a_page() -> None:
    async with a_server() as server:
        status, content_type, text = await fetched(server, "/", Accept=BROWSER)

    assert status == 200
    assert content_type == "text/html; charset=utf-8"
    assert text.startswith("<!doctype html>")
    assert 'http-equiv="refresh"' in text
    assert "Held up: the platform" in text


async def test_the_page_stays_as_it_is_when_told_to() -> None:
    async with a_server() as server:
        _, _, text = await fetched(server, "/?refresh=off", Accept=BROWSER)

    assert 'http-equiv="refresh"' not in text


@pytest.mark.parametrize(
    ("path", "accept"), [("/", "*/*"), ("/", "application/json"), ("/status.json", BROWSER)]
)
async def test_everybody_else_gets_it_as_json(path: str, accept: str) -> None:
    async with a_server(SetHealth(ready=False)) as server:
        status, content_type, text = await fetched(server, path, Accept=accept)

    assert status == 200
    assert content_type.startswith("application/json")
    found = orjson.loads(text)
    assert (found["state"], found["at"]) == ("held_up", "2026-03-01T04:07:12Z")
    assert found["accounts"][0]["breaker"] == "open"


async def test_the_page_may_load_nothing_and_is_kept_by_nobody() -> None:
    async with a_server() as server, aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{server.port}/"
        async with session.get(url, headers={"Accept": BROWSER}) as reply:
            headers = reply.headers

    assert headers["Content-Security-Policy"] == POLICY
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Vary"] == "Accept"


@pytest.mark.parametrize("path", ["/", "/status.json", "/metrics", "/healthz", "/readyz"])
async def test_pages_can_only_be_read(path: str) -> None:
    async with a_server() as server, aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{server.port}{path}"
        async with session.head(url) as reply:
            assert reply.status == 200
        for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
            async with session.request(method, url) as reply:
                assert reply.status == 405


async def test_what_there_is_not_is_not_found() -> None:
    async with a_server() as server:
        assert (await fetched(server, "/favicon.ico"))[0] == 404


async def test_a_page_that_fails_takes_no_other_with_it() -> None:
    class Failing(SetHealth):
        def status(self) -> Status:
            raise RuntimeError("a bug")

    async with a_server(Failing()) as server:
        assert (await fetched(server, "/status.json"))[0] == 500
        assert (await fetched(server, "/healthz"))[0] == 200


async def test_a_port_in_use_is_a_configuration_error() -> None:
    async with a_server() as first:
        second = WebServer("127.0.0.1", first.port, registry=CollectorRegistry(), health=SetHealth())
        with pytest.raises(
            ConfigurationError, match=r"web\.port: cannot listen on 127\.0\.0\.1:\d+: .*; free it"
        ):
            await second.__aenter__()


async def test_nothing_listens_after_the_block() -> None:
    async with a_server() as server:
        port = server.port

    async with WebServer("127.0.0.1", port, registry=CollectorRegistry(), health=SetHealth()) as again:
        assert again.port == port
