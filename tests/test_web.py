"""The pages that probes, scrapers and people ask for."""

from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, Counter

from consumer import __version__
from consumer.core.errors import ConfigurationError
from consumer.web import WebServer


class SetHealth:
    """Says what the test wants it to say."""

    def __init__(self, *, healthy: bool = True, ready: bool = True) -> None:
        self._healthy, self._ready = healthy, ready

    def healthy(self) -> tuple[bool, dict[str, Any]]:
        return self._healthy, {"seconds_since_poll": 0.5}

    def ready(self) -> tuple[bool, dict[str, Any]]:
        return self._ready, {"guarantee": "exactly_once", "breaker": "open"}


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
    assert '"breaker": "open"' in text


async def test_the_status_page_says_what_runs() -> None:
    async with a_server(SetHealth(ready=False)) as server:
        status, _, text = await fetched(server, "/")

    assert status == 200
    assert f'"version": "{__version__}"' in text
    assert '"exactly_once"' in text


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
