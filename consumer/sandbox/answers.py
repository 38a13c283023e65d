"""What the sandbox gateway answers to whom: by plate, by a script, by chance. Performs no I/O but reading a script.

A plate that ends in four digits of `PLATE_ENDINGS` asks for a reply: 粤BX1002 has not
entered, 粤BX0503 meets a platform in trouble, 粤BX8503 meets it once and is then granted.
"""

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

import yaml
from msgspec import Struct

from consumer.core.errors import ConfigurationError, Problem

T = TypeVar("T")


class Delivery(StrEnum):
    """What happens on the wire."""

    REPLY = "reply"
    CHUNKED = "chunked"
    """In chunks, with a trailer."""

    INTERIM = "interim"
    """After 100 Continue and 103 Early Hints."""

    STALE = "stale"
    """The connection is kept, and closed when the next request comes."""

    HALF_OPEN = "half_open"
    """The connection is kept, and from then on nobody is at its other end."""

    RESET = "reset"
    """Instead of the reply."""

    RESET_DURING = "reset_during"
    RESET_AFTER = "reset_after"
    TRUNCATE = "truncate"
    SHORT_LENGTH = "short_length"
    """Content-Length says less than comes."""

    LONG_LENGTH = "long_length"
    """Content-Length says more than comes."""

    OVERSIZED = "oversized"
    TRICKLE = "trickle"
    """Byte by byte, for longer than anybody waits."""

    HANG = "hang"

    @property
    def heard(self) -> bool:
        """The reply reaches a client that keeps to HTTP."""
        return self in _HEARD


_HEARD = frozenset({Delivery.REPLY, Delivery.CHUNKED, Delivery.INTERIM, Delivery.STALE, Delivery.HALF_OPEN})


@dataclass(frozen=True, slots=True)
class Answer:
    """One reply of the platform.

    Attributes:
        name: how scripts, plates and the journal call it.
        code: the envelope's code; None where the body is no envelope.
        body: the whole body where it is no envelope.
        grants: the coupon is granted, whatever the caller gets to see of it.
        retry_after: the header, seconds.
        latency: seconds instead of the gateway's own; None for the gateway's own.

    """

    name: str
    code: str | None
    status: int = 200
    message: str = ""
    hint: str = ""
    body: bytes | None = None
    delivery: Delivery = Delivery.REPLY
    grants: bool = False
    retry_after: str | None = None
    latency: float | None = None


_HTML = b"<html><body><h1>502 Bad Gateway</h1></body></html>"

ANSWERS: Mapping[str, Answer] = {
    answer.name: answer
    for answer in (
        # Codes of the endpoint's document (1.6).
        Answer("1001", "1001", message="操作成功", grants=True),
        Answer("1002", "1002", message="车辆未入场"),
        Answer("1003", "1003", message="优惠限制"),
        Answer("1401", "1401", message="第三方优惠配置不存在"),
        Answer("1402", "1402", message="平台处理中"),
        Answer("1403", "1403", message="重复派发"),
        Answer("1405", "1405", message="车场下发失败"),
        Answer("1500", "1500", message="内部错误"),
        Answer("no_record", "1500", message="没有匹配到停车记录"),
        # The gateway in front of it.
        Answer("400", "400", 400, "请求参数错误", "`merchant` Required!"),
        Answer("401", "401", 401, "未授权", "app blocked"),
        Answer("403", "403", 403, "禁止访问", "app blocked"),
        Answer("200_sign", "200", 200, "签名验证不通过", "签名验证不通过[plate=粤B12345&...]"),
        Answer("429", "429", 429, "请求过于频繁", retry_after="1"),
        Answer("500", "500", 500, "服务器内部错误"),
        Answer("503", "503", 503, "服务不可用"),
        Answer("1999", "1999", message="未知"),
        Answer("302", None, 302, body=b""),
        # What is no envelope at all.
        Answer("html", None, 502, body=_HTML),
        Answer("html_200", None, 200, body=_HTML),
        Answer("empty", None, 200, body=b""),
        Answer("truncated", "1001", message="操作成功", delivery=Delivery.TRUNCATE, grants=True),
        Answer("reset", None, delivery=Delivery.RESET),
        Answer(
            "lost", "1001", delivery=Delivery.RESET, grants=True
        ),  # granted, and the caller never hears of it
        Answer("hang", None, delivery=Delivery.HANG),
    )
}
"""Every answer by name."""

PLATE_ENDINGS: Mapping[str, tuple[str, ...]] = {
    # The answers to the first, second ... call for one event_id; the last one repeats.
    **{code: (code,) for code in ("1002", "1003", "1401", "1402", "1403", "1405", "1500", "1999")},
    "1501": ("no_record",),
    "0200": ("200_sign",),
    "0302": ("302",),
    "0400": ("400",),
    "0401": ("401",),
    "0403": ("403",),
    "0429": ("429",),
    "0500": ("500",),
    "0503": ("503",),
    "9001": ("html",),
    "9002": ("empty",),
    "9003": ("truncated",),
    "9004": ("reset",),
    "9005": ("hang",),
    "9006": ("html_200",),
    # Trouble once, then granted.
    "8002": ("1002", "1001"),
    "8401": ("401", "1001"),
    "8405": ("1405", "1001"),
    "8429": ("429", "1001"),
    "8500": ("1500", "1001"),
    "8503": ("503", "1001"),
    "8004": ("reset", "1001"),
    # Granted, but the reply is lost: the next call finds a duplicate.
    "8403": ("lost", "1403"),
}
"""The last four characters of a plate -> what it is answered."""


class Call(Struct, frozen=True):
    """A request that was found in order and was not granted before.

    Attributes:
        nth: how many calls for this event_id there have been, this one included.
        parameters: every field but `sign`.

    """

    event_id: str
    plate: str
    nth: int
    parameters: Mapping[str, str]


Script = Callable[[Call], Answer | None]
"""Decides before the plate does; None leaves it to the plate, then to chance."""


def by_plate(call: Call) -> Answer | None:
    """The answer that the plate asks for, if it asks."""
    names = PLATE_ENDINGS.get(call.plate[-4:])
    return ANSWERS[names[min(call.nth, len(names)) - 1]] if names else None


def by_chance(call: Call, rates: Mapping[str, float], seed: str) -> Answer | None:
    """An answer drawn by its rate; the same for the same seed, whatever the order of the calls."""
    name = drawn(rates, f"{seed}/{call.event_id}/{call.nth}") if rates else None
    return None if name is None else ANSWERS[name]


def drawn(rates: Mapping[T, float], seed: str) -> T | None:
    """One of them by its rate, or none."""
    left = random.Random(seed).random()  # noqa: S311  # not for security
    for each, rate in rates.items():
        left -= rate
        if left < 0:
            return each
    return None


def check_rates(rates: Mapping[str, float]) -> None:
    """Raises ConfigurationError for an unknown answer or rates that are no probabilities."""
    problems = [
        Problem(f"failure {name}={rate}", "is not usable", f"use a rate from 0 to 1 of: {', '.join(ANSWERS)}")
        for name, rate in rates.items()
        if name not in ANSWERS or not 0 <= rate <= 1
    ]
    if not problems and sum(rates.values()) > 1:
        problems.append(Problem("failure rates", "add up to more than 1", "lower them"))
    if problems:
        raise ConfigurationError(problems)


# -- Scripts in a file ------------------------------------------------------------------------------

_LINE_FIELDS = {"plate", "event_id", "nth", "answer", "latency", "retry_after"}


@dataclass(frozen=True, slots=True)
class _Line:
    plate: re.Pattern[str] | None
    event_id: re.Pattern[str] | None
    nth: int | None
    answer: Answer

    def fits(self, call: Call) -> bool:
        return (
            (self.plate is None or self.plate.search(call.plate) is not None)
            and (self.event_id is None or self.event_id.search(call.event_id) is not None)
            and (self.nth is None or self.nth == call.nth)
        )


def load_script(path: Path) -> Script:
    """A script from a YAML or JSON file: a list, of which the first line that fits decides.

        - {plate: "^粤B", nth: 1, answer: "503", latency: 2.5}
        - {event_id: "-7$", answer: "1003"}

    `plate` and `event_id` are regular expressions; what is left out fits all.

    Raises:
        ConfigurationError: with every line that cannot be used.

    """
    try:
        lines = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        match error:
            case OSError():
                what = f"cannot be read: {error.strerror}"
            case UnicodeDecodeError():
                what = "cannot be read: not UTF-8"
            case _:
                what = f"is no YAML: {' '.join(str(error).split())}"
        raise ConfigurationError([Problem(str(path), what, "give a readable YAML or JSON file")]) from error
    if not isinstance(lines, list):
        raise ConfigurationError([Problem(str(path), "holds no list", "begin each line with `- `")])
    script: list[_Line] = []
    problems: list[Problem] = []
    for number, line in enumerate(lines, 1):
        try:
            script.append(_line(line))
        except (ValueError, re.error) as error:
            remedy = f"use the fields {', '.join(sorted(_LINE_FIELDS))}"
            problems.append(Problem(f"{path}, line {number} of the script", str(error), remedy))
    if problems:
        raise ConfigurationError(problems)
    return scripted(script)


def scripted(lines: Sequence[_Line]) -> Script:
    """The lines as a script: the first that fits decides."""
    return lambda call: next((line.answer for line in lines if line.fits(call)), None)


def _line(line: object) -> _Line:
    if not isinstance(line, dict):
        raise ValueError("is no mapping")  # noqa: TRY004  # reported like every other mistake in the file
    unknown = set(line) - _LINE_FIELDS
    if unknown:
        raise ValueError(f"has unknown fields: {', '.join(map(str, sorted(unknown, key=str)))}")
    answer = ANSWERS.get(str(line.get("answer")))
    if answer is None:
        raise ValueError(f"answer {line.get('answer')!r} is none of {', '.join(ANSWERS)}")
    latency = line.get("latency")
    retry_after = line.get("retry_after")
    return _Line(
        plate=re.compile(str(line["plate"])) if "plate" in line else None,
        event_id=re.compile(str(line["event_id"])) if "event_id" in line else None,
        nth=int(line["nth"]) if "nth" in line else None,
        answer=replace(
            answer,
            latency=answer.latency if latency is None else float(latency),
            retry_after=answer.retry_after if retry_after is None else str(retry_after),
        ),
    )
