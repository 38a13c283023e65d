"""A parking platform in virtual time: grants each event_id once, and fails as it is told to. Performs no I/O.

It notes every call with the process that made it, so that what is under way at the same time can be judged.
"""

import asyncio
import contextvars
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from urllib.parse import parse_qs

from consumer.core.replies import Answered, AttemptEnd, NoAnswer, NotSent
from tests.simulation.virtual import Process, VirtualLoop
from tests.simulation.world import Push

NOBODY = contextvars.Context()
"""The world's own: what happens in it goes on when the process that was running stands still or is gone."""

TROUBLES: Mapping[str, float] = {
    "1500": 3,
    "429": 2,
    "503": 2,
    "1402": 1,
    "not_sent": 2,
    "lost_request": 3,
    "lost_reply": 4,
    "slow": 4,
    "no_json": 1,
}
"""How a call can go wrong, and how often compared with the others."""


@dataclass(eq=False, slots=True)
class Call:
    """One HTTP call, as the process that makes it sees it.

    Attributes:
        ended: when it returned or was given up; None while it is under way, and for ever where its process was killed.
        how: what came back; `given up` where its task was cancelled.
        granted: it is the call that made the platform grant.
        by_zombie: the group had gone on without its process when it began.
    """

    push: Push
    process: Process
    began: float
    ended: float | None = None
    how: str = ""
    granted: bool = False
    by_zombie: bool = False


@dataclass
class Platform:
    """Answers calls.

    Attributes:
        moody: the share of calls that go wrong by chance.
        hangs_until: no answer comes until then.
        down_until: 503 until then.
        refuses: accounts, each with the time until which it is answered 401.
        on_call: told of each call as it begins.
    """

    loop: VirtualLoop
    rng: Random
    pushes: Mapping[int, Push]
    give_up: float
    on_call: Callable[[Call], None]
    moody: float = 0.0
    hangs_until: float = 0.0
    down_until: float = 0.0
    refuses: dict[str, float] = field(default_factory=dict)
    slowness: float = 0.03
    calls_of: Counter[int] = field(default_factory=Counter)
    under_way: dict[Process, list[Call]] = field(default_factory=dict)
    grants: dict[str, Call] = field(default_factory=dict)

    def gateway(self, process: Process) -> "Gateway":
        """As this process reaches it."""
        return Gateway(self, process)

    def calm_down(self) -> None:
        """From now on it answers, and well."""
        self.moody = self.hangs_until = self.down_until = 0.0
        self.slowness = 0.01
        self.refuses.clear()

    def begin(self, process: Process, body: bytes) -> Call:
        form = parse_qs(body.decode("ascii"))
        push = self.pushes[json.loads(form["metadata"][0])["push"]["value"]]
        assert (form["event_id"], form["plate"]) == ([push.event_id], [push.plate]), (
            "one order's words in another's"
        )
        call = Call(push, process, self.loop.time())
        self.calls_of[push.number] += 1
        self.under_way.setdefault(process, []).append(call)
        self.on_call(call)
        return call

    def answer(self, call: Call) -> "asyncio.Future[AttemptEnd]":
        """What the process will hear, once it does."""
        heard: asyncio.Future[AttemptEnd] = self.loop.create_future()
        trouble = self._trouble(call)
        latency = self.rng.uniform(0.1, 2.0) * self.slowness
        if trouble == "slow":
            latency = self.rng.uniform(0.2, 1.3) * self.give_up
        if trouble == "not_sent":
            self._tell(heard, latency, NotSent("refused"))
        elif trouble in ("lost_request", "lost_reply"):
            if trouble == "lost_reply":
                self.loop.call_later(latency / 2, self._decide, call, context=NOBODY)
            lost_after = self.rng.choice((latency, self.give_up))
            error = "timeout" if lost_after == self.give_up else "reset"
            self._tell(heard, lost_after, NoAnswer(error))
        elif trouble is not None and trouble != "slow":
            self._tell(heard, latency, _REPLIES[trouble])
        else:
            self.loop.call_later(latency / 2, self._decide_and_tell, call, heard, latency, context=NOBODY)
            self._tell(heard, self.give_up, NoAnswer("timeout"))
        return heard

    def _trouble(self, call: Call) -> str | None:
        now = self.loop.time()
        if now < self.hangs_until:
            return self.rng.choice(("lost_request", "lost_reply", "slow"))
        if now < self.down_until:
            return "503"
        if now < self.refuses.get(call.push.account, 0.0):
            return "401"
        if self.rng.random() < self.moody:
            return self.rng.choices(list(TROUBLES), list(TROUBLES.values()))[0]
        return None

    def _decide_and_tell(self, call: Call, heard: "asyncio.Future[AttemptEnd]", latency: float) -> None:
        code = self._decide(call)
        self._tell(heard, latency / 2, _REPLIES[code])

    def _decide(self, call: Call) -> str:
        push = call.push
        if self.loop.time() < push.enters_at:
            return "1002"
        if "limited" in push.ends:
            return "1003"
        if push.event_id in self.grants:
            return "1403"
        self.grants[push.event_id] = call
        call.granted = True
        return "1001"

    def _tell(self, heard: "asyncio.Future[AttemptEnd]", after: float, end: AttemptEnd) -> None:
        self.loop.call_later(after, _tell_now, heard, end, context=NOBODY)


@dataclass(frozen=True, slots=True)
class Gateway:
    """`consumer.gateway.Gateway` of one process."""

    platform: Platform
    process: Process

    async def post(self, url: str, body: bytes) -> AttemptEnd:
        platform = self.platform
        call = platform.begin(self.process, body)
        how = "given up"
        try:
            end = await platform.answer(call)
            how = _words(end)
            return end
        finally:
            if self.process.alive:  # else Python is only clearing up what a killed process left
                call.ended, call.how = platform.loop.time(), how
                platform.under_way[self.process].remove(call)


def _tell_now(heard: "asyncio.Future[AttemptEnd]", end: AttemptEnd) -> None:
    if not heard.done():
        heard.set_result(end)


def _words(end: AttemptEnd) -> str:
    return end.body.decode() if isinstance(end, Answered) else end.error


def _reply(code: str, status: int = 200, retry_after: str | None = None) -> Answered:
    return Answered(status, json.dumps({"code": code}).encode(), retry_after)


_REPLIES: Mapping[str, Answered] = {
    **{code: _reply(code) for code in ("1001", "1002", "1003", "1403", "1402", "1500")},
    "401": _reply("401", 401),
    "429": _reply("429", 429, "1"),
    "503": _reply("503", 503),
    "no_json": Answered(200, b"<html>"),
}
