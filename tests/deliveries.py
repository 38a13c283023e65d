"""A record's delivery, and a gateway's calls, awaited."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from consumer.core.events import Record
from consumer.core.outcomes import Resolution
from consumer.core.replies import AttemptEnd
from consumer.delivery import Delivery, UnderWay
from consumer.gateway.common import Starting


class Posts(Protocol):
    async def post(self, url: str, body: bytes) -> AttemptEnd: ...


class Started(Starting):
    """A gateway of which only `post` is written down."""

    def __init__(self, posts: Posts) -> None:
        super().__init__()
        self._posts = posts

    async def post(self, url: str, body: bytes) -> AttemptEnd:
        return await self._posts.post(url, body)


async def deliver(delivery: Delivery, record: Record) -> Sequence[Resolution]:
    """What became of each of its orders; raises its problem. Cancelled, it is abandoned."""
    ended: asyncio.Future[UnderWay] = asyncio.get_running_loop().create_future()
    before = set(delivery.under_way)
    delivery.begin([record], lambda wholes: None if ended.done() else ended.set_result(wholes[0]))
    begun = delivery.under_way - before
    try:
        whole = await ended
    except asyncio.CancelledError:
        for each in begun:
            delivery.abandon(each)
        raise
    if whole.problem is not None:
        raise whole.problem
    return whole.resolutions
