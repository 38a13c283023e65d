"""A signed form -> how the call ended: by connections of our own (`pool`, `http1`), or by aiohttp (`with_aiohttp`). Does I/O."""

import ssl
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from consumer import certificates
from consumer.core.replies import AttemptEnd
from consumer.gateway.common import Call, Caller, Options
from consumer.gateway.pool import HttpGateway
from consumer.settings.model import Gateway as GatewaySettings

__all__ = ["Call", "Caller", "Gateway", "GatewayClient", "HttpGateway", "Options", "gateway_of"]


class Gateway(Protocol):
    """Where coupons are asked for."""

    def start(self, url: str, body: bytes, caller: Caller) -> Call:
        """Post one signed form, and tell the caller how that ended: nothing that network or platform do is raised."""
        ...


class GatewayClient(Gateway, Protocol):
    """What opens connections there, and closes them."""

    async def post(self, url: str, body: bytes) -> AttemptEnd:
        """Post one signed form, and wait for its end. Raises nothing for what the network or the platform does."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def renew(self) -> None:
        """Certificates or credentials are others now: the next call gets a connection of its own."""
        ...


def gateway_of(
    settings: GatewaySettings,
    secret: Callable[[str], str],
    on_date: Callable[[str], None] = lambda _date: None,
    on_tls: Callable[[str | None], None] = lambda _problem: None,
) -> GatewayClient:
    """As the settings say; `secret` gives a secret by its name, as it is now."""

    def named(name: str | None) -> str | None:
        return None if name is None else secret(name)

    def tls() -> ssl.SSLContext | None:
        if settings.ca_file is None and settings.certificate_file is None:
            return None
        password = named(settings.key_password)
        return certificates.context(settings.ca_file, settings.certificate_file, settings.key_file, password)

    options = Options(
        connect_seconds=settings.connect_timeout,
        read_seconds=settings.read_timeout,
        total_seconds=settings.total_timeout,
        max_reply_bytes=settings.max_response_size,
        lifetime_seconds=settings.connection_lifetime,
        tls=tls,
        on_date=on_date,
        on_tls=on_tls,
    )
    if settings.client != "aiohttp" and settings.proxy is None:
        return HttpGateway(options)
    from consumer.gateway.with_aiohttp import AiohttpGateway  # noqa: PLC0415  # a tenth of a member's memory

    return AiohttpGateway(
        options, proxy=settings.proxy, proxy_credentials=lambda: named(settings.proxy_credentials)
    )
