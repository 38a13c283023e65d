"""The gate before the gateway: an account's stop line, then one of the permits to be in flight. Waits, but does no I/O.

Nothing is dropped here: orders of a refused account wait until a probe is answered.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Self

import structlog
from structlog.typing import FilteringBoundLogger

from consumer.core.limits import Pass, StopLine
from consumer.core.replies import Reply, Then
from consumer.metrics import Metrics

log: FilteringBoundLogger = structlog.get_logger()


class Flow:
    """Decides when an order may call the platform.

    Attributes:
        max_in_flight: HTTP calls at once, at most.
        sets_aside: orders of a refused account need not wait here while other accounts go on:
            there are retry topics.

    """

    def __init__(
        self,
        *,
        max_in_flight: int,
        accounts: Iterable[str],
        metrics: Metrics,
        sets_aside: bool = False,
        probe_seconds: float = 30.0,
        probe_cap_seconds: float = 300.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.max_in_flight = max_in_flight
        self.sets_aside = sets_aside
        self._slots = asyncio.Semaphore(max_in_flight)  # serves in order of asking
        self._metrics = metrics
        self._monotonic = monotonic
        self._probe_seconds = probe_seconds
        self._probe_cap_seconds = probe_cap_seconds
        self._gates: dict[str, _Gate] = {}
        self._accounts: frozenset[str] = frozenset()
        self.use_accounts(accounts)

    def use_accounts(self, accounts: Iterable[str]) -> None:
        """The accounts of the rules in force; call it again when they change."""
        self._accounts = frozenset(accounts)
        for account in self._accounts:
            self._gate(account)

    def permit(self, account: str) -> "Permit":
        """`async with flow.permit(account) as permit:` one call, then `permit.report(reply)`."""
        return Permit(self._gate(account), self._slots, self._metrics)

    @property
    def halted(self) -> Mapping[str, str]:
        """The accounts whose line is closed, each with the label of the reply that closed it."""
        return {account: gate.reason for account, gate in self._gates.items() if gate.line.closed}

    @property
    def pause_reason(self) -> str | None:
        """`config_alarm` while taking in more records would help nobody: every account is stopped.

        And there is an order at the line to probe with. After a rebalance there may be
        none; then intake has to bring one, or the line would stay closed for ever.
        """
        gates = [self._gates[account] for account in self._accounts]
        if gates and all(gate.line.closed for gate in gates) and any(gate.orders for gate in gates):
            return "config_alarm"
        return None

    def _others_go_on(self) -> bool:
        return self.sets_aside and not all(self._gates[account].line.closed for account in self._accounts)

    def _gate(self, account: str) -> "_Gate":
        gate = self._gates.get(account)
        if gate is None:
            line = StopLine(probe_seconds=self._probe_seconds, probe_cap_seconds=self._probe_cap_seconds)
            gate = self._gates[account] = _Gate(
                account, line, self._metrics, self._monotonic, self._others_go_on
            )
        return gate


class Permit:
    """Leave for one order to make one call. Entered in order of asking, left when the call is over.

    Attributes:
        set_aside: there is no leave: the account is refused, another order probes it, and other accounts go on.
        stopped_seconds: spent at the stop line.

    """

    def __init__(self, gate: "_Gate", slots: asyncio.Semaphore, metrics: Metrics) -> None:
        self._gate = gate
        self._slots = slots
        self._metrics = metrics
        self._leave: Pass | None = None
        self.set_aside = False
        self.stopped_seconds = 0.0

    async def __aenter__(self) -> Self:
        gate = self._gate
        gate.orders += 1
        try:
            while True:
                self._leave = gate.pass_now() or await self._wait_at_the_line()
                if self._leave is None:
                    self.set_aside = True
                    return self
                await self._slots.acquire()
                if gate.line.holds(self._leave):
                    break
                # The line closed while this order waited for its slot.
                self._slots.release()
        except BaseException:
            self._leave_gate()
            raise
        self._metrics.in_flight.inc()
        return self

    async def _wait_at_the_line(self) -> Pass | None:
        arrived = self._gate.monotonic()
        leave = await self._gate.admit()
        self.stopped_seconds += self._gate.monotonic() - arrived
        return leave

    def report(self, reply: Reply) -> None:
        """Tell how the call ended; without this, or without an answer, a probe has told nothing."""
        if self._leave is None:
            raise RuntimeError(
                "one permit, one report: enter the permit first, and enter a new one to call again"
            )
        if reply.then is Then.STOP:
            self._gate.stop(self._leave, reply)
        elif reply.words.http_status is not None:
            self._gate.answer()
        else:
            return
        self._leave = None

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.set_aside:
            self._slots.release()
            self._metrics.in_flight.dec()
        self._leave_gate()

    def _leave_gate(self) -> None:
        self._gate.orders -= 1
        if self._leave is not None:
            self._gate.lost(self._leave)
            self._leave = None


class _Gate:
    """One account's stop line with the orders that wait at it.

    Attributes:
        orders: orders at the line, queued for a slot, or in flight.
        monotonic: clock, seconds.
        reason: label of the reply that closed the line.

    """

    def __init__(
        self,
        account: str,
        line: StopLine,
        metrics: Metrics,
        monotonic: Callable[[], float],
        others_go_on: Callable[[], bool],
    ) -> None:
        self.account = account
        self.line = line
        self.orders = 0
        self.reason = ""
        self.monotonic = monotonic
        self._others_go_on = others_go_on
        self._waiting: deque[asyncio.Future[Pass | None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._alarm = metrics.config_alarm.labels(account)
        self._alarm.set(0)

    def pass_now(self) -> Pass | None:
        """Leave to call where nobody waits; None: wait."""
        return None if self.line.closed or self._waiting else self.line.admit(self.monotonic())

    async def admit(self) -> Pass | None:
        """Leave to call, once there is; None for an order that is set aside."""
        waiter: asyncio.Future[Pass | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        self._let_through()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                leave = waiter.result()
                if leave is not None:
                    self.lost(leave)  # given, and its task was cancelled before it could use it
            elif waiter in self._waiting:
                self._waiting.remove(waiter)
            raise

    def stop(self, leave: Pass, reply: Reply) -> None:
        if self.line.stop(leave, self.monotonic()):
            self.reason = reply.label
            self._alarm.set(1)
            log.error(
                "the platform refuses this account; its orders wait, none is dropped",
                account=self.account,
                code=reply.label,
                http_status=reply.words.http_status,
                platform_message=reply.words.message,
                remedy=_remedy(self.account, reply),
            )
        self._let_through()

    def answer(self) -> None:
        if self.line.answer():
            self.reason = ""
            self._alarm.set(0)
            log.info("the platform answers this account again", account=self.account)
            self._let_through()

    def lost(self, leave: Pass) -> None:
        self.line.lost(leave, self.monotonic())
        self._let_through()

    def _let_through(self) -> None:
        """Give leave to as many waiting orders as the line admits, and look again when the next probe is due."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting:
            if self._waiting[0].done():  # cancelled; its task has yet to notice
                self._waiting.popleft()
                continue
            now = self.monotonic()
            leave = self.line.admit(now)
            if leave is None:
                if not self.line.probing:
                    loop = asyncio.get_running_loop()
                    self._timer = loop.call_later(self.line.probe_in(now), self._let_through)
                self._set_aside()
                return
            self._waiting.popleft().set_result(leave)

    def _set_aside(self) -> None:
        """While other accounts go on, only one order waits here: the one that will probe."""
        if not self._others_go_on():
            return
        while len(self._waiting) > (0 if self.line.probing else 1):
            waiter = self._waiting.pop()
            if not waiter.done():
                waiter.set_result(None)


def _remedy(account: str, reply: Reply) -> str:
    if reply.label.startswith("3"):
        return (
            f"the gateway's URL answers with a redirect: set the URL that account {account!r} shall post to"
        )
    return (
        f"check the app_id and the secret of account {account!r}, and with the platform whether it is blocked"
    )
