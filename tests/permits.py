"""A permit, waited for where it is not given at once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from consumer.flow import Flow, Permit


class _Waiter:
    def __init__(self) -> None:
        self.is_decided = asyncio.Event()

    def decided(self) -> None:
        self.is_decided.set()


@asynccontextmanager
async def permit_of(flow: Flow, account: str) -> AsyncIterator[Permit]:
    (permit,) = flow.permits(account, 1)
    try:
        if not permit.given:
            waiter = _Waiter()
            permit.wait(waiter)
            await waiter.is_decided.wait()
        yield permit
    finally:
        permit.close()
