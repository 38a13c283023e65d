"""A parking platform that behaves as documented, for trying out and for tests. Serves HTTP, never calls anyone.

Checks every request (`verify`), decides on an answer (`answers`), remembers it
(`journal`), and answers after the latency that it was given.
"""

import asyncio
import contextlib
import random
import ssl
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from weakref import WeakKeyDictionary

import orjson
from aiohttp import web

from consumer.sandbox import wire
from consumer.sandbox.answers import (
    ANSWERS,
    Answer,
    Call,
    Delivery,
    Script,
    by_chance,
    by_plate,
    check_rates,
    drawn,
)
from consumer.sandbox.journal import Entry, Journal, page
from consumer.sandbox.scenarios import Moment, Scenario
from consumer.sandbox.verify import Form, read_form

ENDPOINT = "/gate/1.0/parking/mcoupon/event"
DEMO_APP_ID = "op0000000000000demo"
DEMO_APP_SECRET = "demo-secret-of-the-sandbox"  # noqa: S105  # it guards nothing
DEMO_APPS: Mapping[str, str] = {DEMO_APP_ID: DEMO_APP_SECRET}

_DATA_NODE = "SANDBOX-1"
_MAX_BODY = 256 * 1024
_HANG_SECONDS = 600.0
_TRICKLE_SECONDS = 0.1
"""Between two bytes."""

_OVERSIZE = 1_000_000
_WRONG_BY = 7
"""Bytes of a Content-Length."""

_CHINA = timezone(timedelta(hours=8))
_TOO_MANY = replace(ANSWERS["429"], latency=0.005)
"""A refusal costs a platform next to nothing."""


class Workers:
    """Those who work on calls: so many at once, first come first served.

    `at_once` tells how many there are now; None: as many as there are calls.
    """

    def __init__(self, at_once: Callable[[], int | None]) -> None:
        self._at_once = at_once
        self._busy = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def work(self, seconds: float) -> None:
        """Returns when one of them has worked on it for so long."""
        if self._waiting or not self._free():
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:  # its caller has hung up
                if waiter.done() and not waiter.cancelled():
                    self._end()
                raise
        else:
            self._busy += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            self._end()

    def _free(self) -> bool:
        at_once = self._at_once()
        return at_once is None or self._busy < at_once

    def _end(self) -> None:
        self._busy -= 1
        while self._waiting and self._free():
            waiter = self._waiting.popleft()
            if not waiter.done():
                self._busy += 1
                waiter.set_result(None)


class SandboxGateway:
    """One platform. Enter it, or `start` and `stop` it.

    Attributes:
        journal: what it received; grants are made before the answer is on its way.
        latency, script: as given; they may be changed while it serves.
        scenario: if there is one, it has its say before the plate, and the latency is its.

    """

    def __init__(
        self,
        *,
        apps: Mapping[str, str] = DEMO_APPS,
        script: Script | None = None,
        scenario: Scenario | None = None,
        latency: float = 0.0,
        jitter: float = 0.0,
        failures: Mapping[str, float] | None = None,
        seed: int = 1,
        journal_file: Path | None = None,
        tls: ssl.SSLContext | None = None,
        metadata_form: str | None = None,
    ) -> None:
        """Raises ConfigurationError for failures that it does not know.

        A scenario begins with the first call. `apps` are the secrets by app id, `latency` is the mean in seconds, `jitter` the share of it by
        which it varies (0.5: from half to one and a half), `failures` the rates of answers drawn by chance,
        `metadata_form` the only one that is understood (`verify.read_form`); None: all of them.
        """
        self.journal = Journal()
        self._apps = apps
        self.script = script
        self.scenario = scenario
        self._scenario_began: float | None = None
        self._troubled: Counter[str] = Counter()
        self.latency = latency
        self._jitter = jitter
        self._failures = failures or {}
        self._seed = seed
        self._journal_file = journal_file
        self._tls = tls
        self._metadata_form = metadata_form
        self._random = random.Random(seed)  # noqa: S311  # not for security
        self._under_way: Counter[tuple[str, str]] = Counter()
        self._in_flight = 0
        self._workers = Workers(lambda: None if (now := self.moment()) is None else now.phase.capacity)
        self._second, self._in_second = 0, 0
        self._gone: WeakKeyDictionary[asyncio.Transport, Delivery] = WeakKeyDictionary()
        self._stopped = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self._address = ("", 0)
        check_rates(self._failures)

    @property
    def url(self) -> str:
        """The endpoint."""
        return self.base_url + ENDPOINT

    @property
    def base_url(self) -> str:
        """The page."""
        host, port = self._address
        return f"http{'s' if self._tls else ''}://{host}:{port}"

    def moment(self) -> Moment | None:
        """Where the scenario is; None without one."""
        if self.scenario is None:
            return None
        began = self._scenario_began
        return self.scenario.at(0.0 if began is None else time.monotonic() - began)

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listens; port 0 takes any free one. Raises OSError if it cannot."""
        if self._journal_file is not None:
            self.journal.open(self._journal_file)
        app = web.Application(client_max_size=_MAX_BODY, middlewares=[_in_envelopes])
        app.router.add_post(ENDPOINT, self._event)
        app.router.add_get("/", self._page)
        app.router.add_get("/journal", self._json)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0, handle_signals=False)
        await self._runner.setup()
        try:
            site = web.TCPSite(self._runner, host, port, backlog=1024, ssl_context=self._tls)
            await site.start()
        except OSError:
            await self.stop()
            raise
        self._address = (host, self._runner.addresses[0][1])

    async def stop(self) -> None:
        """No longer listens; calls under way are cut off after a second."""
        self._stopped.set()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        self.journal.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # -- One call -----------------------------------------------------------------------------------

    async def _event(self, request: web.Request) -> web.StreamResponse:
        received_at, begun = datetime.now(UTC), asyncio.get_running_loop().time()
        if self._scenario_began is None:
            self._scenario_began = time.monotonic()
        gone = None if request.transport is None else self._gone.get(request.transport)
        if gone is not None:
            return await self._be_gone(request, gone)
        kind, body = request.headers.get("Content-Type", ""), await request.read()
        form = read_form(kind, body, self._apps, self._metadata_form)
        event_id = form.parameters.get("event_id", "")
        plate = form.parameters.get("plate", "")
        with self._arrival(event_id, plate) as (number, overlaps):
            in_flight = self._in_flight
            answer, granted = self._decide(form, event_id, plate)
            answer = self._delivered(answer, event_id)
            serial = self.journal.grants.get(event_id, "") if answer.code == "1001" else ""
            await self._workers.work(self._delay(answer))
            seconds = asyncio.get_running_loop().time() - begun
            self.journal.add(
                Entry(
                    number=number,
                    received_at=received_at,
                    event_id=event_id,
                    plate=plate,
                    parameters=form.parameters,
                    verified=form.refused is None or form.refused.code != "401",
                    answer=answer.name,
                    granted=granted,
                    grant_serial=serial,
                    seconds=seconds,
                    in_flight=in_flight,
                    event_overlap=overlaps[0],
                    plate_overlap=overlaps[1],
                    delivery=answer.delivery,
                )
            )
            reply = self._body(answer, plate, serial, seconds, received_at)
            return await self._send(request, answer, reply)

    @contextlib.contextmanager
    def _arrival(self, event_id: str, plate: str) -> Iterator[tuple[int, tuple[bool, bool]]]:
        """Counts the call among those under way -> its number, and whom it overlaps."""
        keys = [key for key in (("event", event_id), ("plate", plate)) if key[1]]
        overlaps = (self._under_way["event", event_id] > 0, self._under_way["plate", plate] > 0)
        journal = self.journal
        self._under_way.update(keys)
        self._in_flight += 1
        journal.calls += 1
        journal.max_in_flight = max(journal.max_in_flight, self._in_flight)
        journal.event_overlaps += overlaps[0]
        journal.plate_overlaps += overlaps[1]
        try:
            yield journal.calls, overlaps
        finally:
            self._in_flight -= 1
            self._under_way.subtract(keys)
            for key in keys:
                if not self._under_way[key]:
                    del self._under_way[key]

    def _decide(self, form: Form, event_id: str, plate: str) -> tuple[Answer, bool]:
        """The answer, and whether this call grants the coupon: once for each event_id."""
        if form.refused is not None:
            refused = form.refused
            answer = Answer(refused.code, refused.code, int(refused.code), refused.message, refused.hint)
            self.journal.write_call(event_id, answer.name)
            return answer, False
        journal = self.journal
        journal.calls_by_event[event_id] += 1
        call = Call(event_id, plate, journal.calls_by_event[event_id], form.parameters)
        answer = self._trouble(call) or self._answer(call)
        if answer.grants:
            journal.write_grant(event_id, uuid.UUID(int=self._random.getrandbits(128)).hex, call.nth)
        else:
            journal.write_call(event_id, answer.name)
        return answer, answer.grants

    def _trouble(self, call: Call) -> Answer | None:
        """How the scenario lets this call fail, if it does."""
        moment = self.moment()
        if moment is None:
            return None
        if moment.phase.rate is not None and not self._within(moment.phase.rate):
            self._troubled[call.event_id] += 1
            return _TOO_MANY
        answer = by_chance(call, moment.phase.failures, f"{self._seed}/{moment.phase.name}")
        if answer is None:
            return None
        if answer.grants and not self._answer(call).grants:
            answer = ANSWERS["reset"]  # a failure grants nothing that would not have been granted
        self._troubled[call.event_id] += 1
        return answer

    def _delivered(self, answer: Answer, event_id: str) -> Answer:
        """On the wire as the scenario has it, unless the answer itself says how."""
        moment = self.moment()
        if moment is None or answer.delivery is not Delivery.REPLY:
            return answer
        nth = self.journal.calls_by_event[event_id]
        way = drawn(moment.phase.deliveries, f"{self._seed}/{moment.phase.name}/wire/{event_id}/{nth}")
        return answer if way is None else replace(answer, delivery=way)

    def _within(self, rate: float) -> bool:
        """Whether this call is one of so many in this second."""
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._in_second = second, 0
        self._in_second += 1
        return self._in_second <= rate

    def _answer(self, call: Call) -> Answer:
        if call.event_id in self.journal.grants:
            return ANSWERS["1403"]
        met = replace(call, nth=call.nth - self._troubled[call.event_id])  # else its story would skip a step
        return (
            (self.script(call) if self.script else None)
            or by_plate(met)
            or by_chance(call, self._failures, str(self._seed))
            or ANSWERS["1001"]
        )

    def _delay(self, answer: Answer) -> float:
        if answer.latency is not None:
            return answer.latency
        moment = self.moment()
        latency, jitter = (
            (self.latency, self._jitter) if moment is None else (moment.latency, moment.phase.jitter)
        )
        return latency * (1 + jitter * self._random.uniform(-1, 1))

    def _body(self, answer: Answer, plate: str, serial: str, seconds: float, received_at: datetime) -> bytes:
        if answer.body is not None:
            return answer.body
        envelope = _envelope(answer.code or "", answer.message, answer.hint)
        if answer.status == 200:
            envelope |= {"payload": {"grant_serial": serial}, "time_cost": round(seconds * 1000)}
        else:
            envelope["path"] = f"POST {ENDPOINT}"
        if answer.code == "1001":
            entered = received_at.astimezone(_CHINA) - timedelta(hours=1)
            envelope |= {"plate": plate, "enter_time": entered.strftime("%Y-%m-%d %H:%M:%S")}
        return orjson.dumps(envelope)

    async def _send(self, request: web.Request, answer: Answer, body: bytes) -> web.StreamResponse:
        transport, delivery = request.transport, answer.delivery
        if transport is None:  # the caller has given up
            return web.StreamResponse()
        raw = _raw(delivery, body)
        if raw is not None:
            transport.write(raw)
        elif delivery is Delivery.TRICKLE:
            return await self._trickle(request, answer, body)
        elif delivery is Delivery.HANG:
            await self._until_stopped(_HANG_SECONDS)
        elif delivery is not Delivery.RESET:
            if delivery in (Delivery.STALE, Delivery.HALF_OPEN):
                self._gone[transport] = delivery
            elif delivery is Delivery.INTERIM:
                transport.write(wire.INTERIM)
            elif delivery is Delivery.OVERSIZED:
                body = body[:-1] + b',"padding":"%b"}' % (b"x" * _OVERSIZE)
            return web.Response(status=answer.status, body=body, headers=self._headers(answer))
        if raw is None or delivery in (Delivery.RESET_DURING, Delivery.RESET_AFTER):
            wire.reset(transport)
        else:
            transport.close()  # what was written still goes out
        return web.StreamResponse()

    async def _trickle(self, request: web.Request, answer: Answer, body: bytes) -> web.StreamResponse:
        response = web.StreamResponse(status=answer.status, headers=self._headers(answer))
        response.content_length = len(body)
        await response.prepare(request)
        for byte in body:
            await response.write(bytes([byte]))  # raises where the caller has hung up
            await self._until_stopped(_TRICKLE_SECONDS)
        return response

    async def _be_gone(self, request: web.Request, how: Delivery) -> web.StreamResponse:
        """The request arrives where nobody takes it any more."""
        if how is Delivery.HALF_OPEN:
            await self._until_stopped(_HANG_SECONDS)
        if request.transport is not None:
            request.transport.close()
        return web.StreamResponse()

    async def _until_stopped(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopped.wait()

    def _headers(self, answer: Answer) -> dict[str, str]:
        kind = "application/json" if answer.code is not None else "text/html"
        headers = {"Content-Type": f"{kind}; charset=utf-8"}
        if answer.retry_after is not None:
            headers["Retry-After"] = answer.retry_after
        if 300 <= answer.status < 400:
            headers["Location"] = f"{self.base_url}/elsewhere"
        return headers

    # -- Looking at it ------------------------------------------------------------------------------

    async def _page(self, _request: web.Request) -> web.Response:
        return web.Response(text=page(self.journal), content_type="text/html")

    async def _json(self, _request: web.Request) -> web.Response:
        return web.Response(body=orjson.dumps(self.journal.as_json()), content_type="application/json")


def _raw(delivery: Delivery, body: bytes) -> bytes | None:
    """The whole reply where it is no ordinary one, after which the connection ends."""
    match delivery:
        case Delivery.CHUNKED:
            return wire.chunked(body, close=True)
        case Delivery.RESET_DURING | Delivery.TRUNCATE:
            return wire.reply(body[: len(body) // 2], length=len(body))
        case Delivery.RESET_AFTER:
            return wire.reply(body)
        case Delivery.SHORT_LENGTH:
            return wire.reply(body, length=len(body) - _WRONG_BY)
        case Delivery.LONG_LENGTH:
            return wire.reply(body, length=len(body) + _WRONG_BY)
    return None


def _envelope(code: str, message: str, hint: str) -> dict[str, Any]:
    """What every reply has (domain: replies)."""
    envelope = {
        "code": code,
        "message": message,
        "seqno": uuid.uuid4().hex[:16],
        "data_node": _DATA_NODE,
    }
    return envelope | {"hint": hint} if hint else envelope


@web.middleware
async def _in_envelopes(request: web.Request, handler: Any) -> web.StreamResponse:
    """A wrong path, method or size is answered as the platform's gateway would: in an envelope."""
    try:
        response: web.StreamResponse = await handler(request)
        return response
    except web.HTTPException as error:
        if error.status < 400:
            raise
        envelope = _envelope(str(error.status), error.reason, "")
        envelope["path"] = f"{request.method} {request.path}"
        return web.Response(status=error.status, body=orjson.dumps(envelope), content_type="application/json")
