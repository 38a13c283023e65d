"""A parking platform that behaves as documented, for trying out and for tests. Serves HTTP, never calls anyone.

Checks every request (`verify`), decides on an answer (`answers`), remembers it
(`journal`), and answers after the latency that it was given.
"""

import asyncio
import contextlib
import random
import ssl
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache, partial
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson
from msgspec import structs

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
from consumer.serving import Request, Server, written

ENDPOINT = "/gate/1.0/parking/mcoupon/event"
DEMO_APP_ID = "op0000000000000demo"
DEMO_APP_SECRET = "demo-secret-of-the-sandbox"  # noqa: S105  # it guards nothing
DEMO_APPS: Mapping[str, str] = {DEMO_APP_ID: DEMO_APP_SECRET}

_DATA_NODE = "SANDBOX-1"
_PAGES = ("/", "/journal")
_MAX_BODY = 256 * 1024
_CUT_OFF_SECONDS = 1.0
_MOMENT_SECONDS = 0.005
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
        self._waiting: deque[tuple[asyncio.Future[None], float]] = deque()

    def work(self, seconds: float) -> "asyncio.Future[None]":
        """Done when one of them has worked on it for so long; to be cancelled by a caller who hangs up."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._waiting or not self._free():
            self._waiting.append((done, seconds))
        else:
            self._begin(done, seconds)
        return done

    def _begin(self, done: "asyncio.Future[None]", seconds: float) -> None:
        self._busy += 1
        done.add_done_callback(self._end)
        asyncio.get_running_loop().call_later(seconds, _set, done)

    def _free(self) -> bool:
        at_once = self._at_once()
        return at_once is None or self._busy < at_once

    def _end(self, _done: "asyncio.Future[None]") -> None:
        self._busy -= 1
        while self._waiting and self._free():
            waiter, seconds = self._waiting.popleft()
            if not waiter.done():
                self._begin(waiter, seconds)


def _set(done: "asyncio.Future[None]") -> None:
    if not done.done():
        done.set_result(None)


class _Work:
    """A call that is being worked on: all that its end needs.

    Attributes:
        begun: on the loop's clock.
        overlaps: whether another call of its event_id, and of its plate, was under way at its arrival.

    """

    __slots__ = (
        "answer",
        "begun",
        "event_id",
        "form",
        "granted",
        "in_flight",
        "number",
        "overlaps",
        "plate",
        "received_at",
        "request",
        "serial",
    )
    number: int
    in_flight: int
    overlaps: tuple[bool, bool]
    answer: Answer
    granted: bool
    serial: str

    def __init__(self, request: Request, form: Form, begun: float) -> None:
        self.request = request
        self.form = form
        self.begun = begun
        self.received_at = datetime.now(UTC)
        self.event_id = form.parameters.get("event_id", "")
        self.plate = form.parameters.get("plate", "")


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
        self._looked: tuple[Scenario | None, float, Moment | None] = (None, 0.0, None)
        self._troubled: Counter[str] = Counter()
        self.latency = latency
        self._jitter = jitter
        self._failures = failures or {}
        self._seed = seed
        self._journal_file = journal_file
        self._tls = tls
        self._metadata_form = metadata_form
        self._random = random.Random(seed)  # noqa: S311  # not for security
        self._events: Counter[str] = Counter()
        self._plates: Counter[str] = Counter()
        self._in_flight = 0
        self._workers = Workers(lambda: None if (now := self.moment()) is None else now.phase.capacity)
        self._second, self._in_second = 0, 0
        self._stopped = asyncio.Event()
        self._server = Server(self._take, _MAX_BODY)
        self._tasks: set[asyncio.Task[None]] = set()
        self._address = ("", 0)
        check_rates(self._failures)

    @property
    def url(self) -> str:
        """The endpoint."""
        return self.base_url + ENDPOINT

    @property
    def base_url(self) -> str:
        """The page."""
        return f"http{'s' if self._tls else ''}://{written(*self._address)}"

    def moment(self) -> Moment | None:
        """Where the scenario is, to a few milliseconds; None without one."""
        scenario = self.scenario
        if scenario is None:
            return None
        seconds = self.scenario_seconds() or 0.0
        of, at, moment = self._looked
        if of is not scenario or not 0 <= seconds - at < _MOMENT_SECONDS:
            moment = scenario.at(seconds)
            self._looked = (scenario, seconds, moment)
        return moment

    def scenario_seconds(self) -> float | None:
        """Since the first call; None before."""
        began = self._scenario_began
        return None if began is None else time.monotonic() - began

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listens; port 0 takes any free one. Raises OSError if it cannot."""
        if self._journal_file is not None:
            self.journal.open(self._journal_file)
        try:
            taken = await self._server.start(host, port, self._tls)
        except OSError:
            self.journal.close()
            raise
        self._address = (host, taken)

    async def stop(self) -> None:
        """No longer listens; calls under way are cut off after a second."""
        self._stopped.set()
        await self._server.stop(_CUT_OFF_SECONDS)
        if self._tasks:
            await asyncio.wait(self._tasks)
        self.journal.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # -- One call -----------------------------------------------------------------------------------

    def _take(self, request: Request) -> None:
        """Whatever comes. A wrong path, method or size is answered as the platform's gateway would: in an envelope."""
        if request.refused is not None:
            status = request.refused
        elif request.path == ENDPOINT:
            if request.method == "POST":
                self._event(request)
                return
            status = HTTPStatus.METHOD_NOT_ALLOWED
        elif request.path in _PAGES:
            if request.method == "GET":
                self._show(request)
                return
            status = HTTPStatus.METHOD_NOT_ALLOWED
        else:
            status = HTTPStatus.NOT_FOUND
        envelope = self._envelope(str(int(status)), HTTPStatus(status).phrase, "")
        envelope["path"] = f"{request.method} {request.path}"
        request.connection.reply(status, orjson.dumps(envelope))

    def _event(self, request: Request) -> None:
        if self._scenario_began is None:
            self._scenario_began = time.monotonic()
        gone = request.connection.notes
        if gone is not None:  # it arrives where nobody takes it any more
            if gone is Delivery.HALF_OPEN:
                self._apart(self._hang(request))
            else:
                request.connection.transport.close()
            return
        form = read_form(request.content_type, request.body, self._apps, self._metadata_form)
        work = _Work(request, form, asyncio.get_running_loop().time())
        self._arrive(work)
        moment = self.moment()
        answer, work.granted = self._decide(form, work.event_id, work.plate, moment)
        work.answer = answer = self._delivered(answer, work.event_id, moment)
        work.serial = self.journal.grants.get(work.event_id, "") if answer.code == "1001" else ""
        self._workers.work(self._delay(answer, moment)).add_done_callback(partial(self._end, work))

    def _arrive(self, work: _Work) -> None:
        """Counts the call among those under way, and tells it whom it overlaps."""
        journal, events, plates = self.journal, self._events, self._plates
        event_id, plate = work.event_id, work.plate
        overlaps = work.overlaps = (event_id in events, plate in plates)
        if event_id:
            events[event_id] += 1
        if plate:
            plates[plate] += 1
        self._in_flight = in_flight = self._in_flight + 1
        journal.calls += 1
        work.number, work.in_flight = journal.calls, in_flight
        journal.max_in_flight = max(journal.max_in_flight, in_flight)
        journal.event_overlaps += overlaps[0]
        journal.plate_overlaps += overlaps[1]

    def _leave(self, work: _Work) -> None:
        self._in_flight -= 1
        for key, under_way in ((work.event_id, self._events), (work.plate, self._plates)):
            if key:
                under_way[key] -= 1
                if not under_way[key]:
                    del under_way[key]

    def _decide(self, form: Form, event_id: str, plate: str, moment: Moment | None) -> tuple[Answer, bool]:
        """The answer, and whether this call grants the coupon: once for each event_id."""
        if form.refused is not None:
            refused = form.refused
            answer = Answer(refused.code, refused.code, int(refused.code), refused.message, refused.hint)
            self.journal.write_call(event_id, answer.name)
            return answer, False
        journal = self.journal
        journal.calls_by_event[event_id] += 1
        call = Call(event_id, plate, journal.calls_by_event[event_id], form.parameters)
        answer = self._trouble(call, moment) or self._answer(call)
        if answer.grants:
            journal.write_grant(event_id, f"{self._random.getrandbits(128):032x}", call.nth)
        else:
            journal.write_call(event_id, answer.name)
        return answer, answer.grants

    def _trouble(self, call: Call, moment: Moment | None) -> Answer | None:
        """How the scenario lets this call fail, if it does."""
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

    def _delivered(self, answer: Answer, event_id: str, moment: Moment | None) -> Answer:
        """On the wire as the scenario has it, unless the answer itself says how."""
        if moment is None or not moment.phase.deliveries or answer.delivery is not Delivery.REPLY:
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
        troubled = self._troubled.get(call.event_id)
        # The calls that the scenario let fail do not count: else the story that the plate asks for would skip a step.
        met = structs.replace(call, nth=call.nth - troubled) if troubled else call
        return (
            (self.script(call) if self.script else None)
            or by_plate(met)
            or by_chance(call, self._failures, str(self._seed))
            or ANSWERS["1001"]
        )

    def _delay(self, answer: Answer, moment: Moment | None) -> float:
        if answer.latency is not None:
            return answer.latency
        latency, jitter = (
            (self.latency, self._jitter) if moment is None else (moment.latency, moment.phase.jitter)
        )
        return latency * (1 + jitter * self._random.uniform(-1, 1))

    # -- Its answer ---------------------------------------------------------------------------------

    def _end(self, work: _Work, _worked: "asyncio.Future[None]") -> None:
        """It has been worked on: into the journal, and the answer on its way."""
        if self._stopped.is_set() and not work.request.connection.is_open:
            return  # cut off by the end, and never answered
        answer, form = work.answer, work.form
        seconds = asyncio.get_running_loop().time() - work.begun
        self.journal.add(
            Entry(
                work.number,
                work.received_at,
                work.event_id,
                work.plate,
                form.parameters,
                form.refused is None or form.refused.code != "401",
                answer.name,
                work.granted,
                work.serial,
                seconds,
                work.in_flight,
                *work.overlaps,
                answer.delivery,
            )
        )
        self._send(work.request, answer, self._body(answer, work, seconds))
        self._leave(work)

    def _body(self, answer: Answer, work: _Work, seconds: float) -> bytes:
        if answer.body is not None:
            return answer.body
        envelope = self._envelope(answer.code or "", answer.message, answer.hint)
        if answer.status == 200:
            envelope["payload"] = {"grant_serial": work.serial}
            envelope["time_cost"] = round(seconds * 1000)
        else:
            envelope["path"] = f"POST {ENDPOINT}"
        if answer.code == "1001":
            envelope["plate"] = work.plate
            envelope["enter_time"] = _entered(int(work.received_at.timestamp()))
        return orjson.dumps(envelope)

    def _envelope(self, code: str, message: str, hint: str) -> dict[str, Any]:
        """What every reply has."""
        envelope: dict[str, Any] = {
            "code": code,
            "message": message,
            "seqno": f"{self._random.getrandbits(64):016x}",
            "data_node": _DATA_NODE,
        }
        if hint:
            envelope["hint"] = hint
        return envelope

    def _send(self, request: Request, answer: Answer, body: bytes) -> None:
        connection = request.connection
        if not connection.is_open:  # the caller has given up
            return
        match answer.delivery:
            case Delivery.REPLY:
                pass
            case Delivery.STALE | Delivery.HALF_OPEN:
                connection.notes = answer.delivery
            case Delivery.INTERIM:
                connection.transport.write(wire.INTERIM)
            case Delivery.OVERSIZED:
                body = body[:-1] + b',"padding":"%b"}' % (b"x" * _OVERSIZE)
            case _:
                self._misbehave(request, answer.delivery, body)
                return
        connection.reply(answer.status, body, _kind(answer), self._headers(answer))

    def _misbehave(self, request: Request, delivery: Delivery, body: bytes) -> None:
        """What is no lawful reply, or one after which the connection ends."""
        transport = request.connection.transport
        if delivery is Delivery.TRICKLE:
            self._apart(self._trickle(request, body))
        elif delivery is Delivery.HANG:
            self._apart(self._hang(request))
        elif delivery is Delivery.RESET:
            wire.reset(transport)
        else:
            transport.write(_raw(delivery, body))
            if delivery in (Delivery.RESET_DURING, Delivery.RESET_AFTER):
                # After what was written: some event loops send only at the end of their turn.
                asyncio.get_running_loop().call_soon(wire.reset, transport)
            else:
                transport.close()  # what was written still goes out

    def _apart(self, slow: Coroutine[Any, Any, None]) -> None:
        """For answers that take their time."""
        task = asyncio.create_task(slow)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _trickle(self, request: Request, body: bytes) -> None:
        connection = request.connection
        whole = wire.reply(body)
        head = len(whole) - len(body)
        connection.transport.write(whole[:head])
        for at in range(head, len(whole)):
            if not connection.is_open:
                return
            connection.transport.write(whole[at : at + 1])
            await self._until_stopped(_TRICKLE_SECONDS)
        connection.done()

    async def _hang(self, request: Request) -> None:
        await self._until_stopped(_HANG_SECONDS)
        request.connection.transport.close()

    async def _until_stopped(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopped.wait()

    def _headers(self, answer: Answer) -> Mapping[str, str]:
        headers: dict[str, str] = {}
        if answer.retry_after is not None:
            headers["Retry-After"] = answer.retry_after
        if 300 <= answer.status < 400:
            headers["Location"] = f"{self.base_url}/elsewhere"
        return headers

    # -- Looking at it ------------------------------------------------------------------------------

    def _show(self, request: Request) -> None:
        if request.path == "/":
            request.connection.reply(200, page(self.journal).encode(), "text/html; charset=utf-8")
        else:
            request.connection.reply(200, orjson.dumps(self.journal.as_json()))


def _raw(delivery: Delivery, body: bytes) -> bytes:
    """The whole reply where it is no ordinary one."""
    match delivery:
        case Delivery.CHUNKED:
            return wire.chunked(body, close=True)
        case Delivery.RESET_DURING | Delivery.TRUNCATE:
            return wire.reply(body[: len(body) // 2], length=len(body))
        case Delivery.SHORT_LENGTH:
            return wire.reply(body, length=len(body) - _WRONG_BY)
        case Delivery.LONG_LENGTH:
            return wire.reply(body, length=len(body) + _WRONG_BY)
        case _:
            return wire.reply(body)


def _kind(answer: Answer) -> str:
    return f"{'application/json' if answer.code is not None else 'text/html'}; charset=utf-8"


@lru_cache(maxsize=64)
def _entered(second: int) -> str:
    """When a car that is granted a coupon in this second of the epoch had entered."""
    return (datetime.fromtimestamp(second, _CHINA) - timedelta(hours=1)).strftime("%Y-%m-%d %H:%M:%S")
