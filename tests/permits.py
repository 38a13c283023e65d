"""A permit, waited for where it is not given at once."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from consumer.flow import Flow, Permit


@asynccontextmanager
async def permit_of(flow: Flow, account: str) -> AsyncIterator[Permit]:
    with flow.permit(account) as permit:
        if not permit.given:
            await permit.wait()
        yield permit
