"""What the sandbox gateway received and answered: in memory, as JSON and as a page. Appends to a file if asked."""

import html
import json
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from msgspec import Struct

from consumer.sandbox.answers import Delivery

KEPT = 200_000
"""Calls kept in memory; the counters go on."""

SHOWN = 200
"""Calls on the page."""


class Entry(Struct, frozen=True):
    """One call.

    Attributes:
        number: from 1, in the order of arrival.
        event_id, plate: as sent; empty where they were not.
        parameters: every field but `sign`.
        verified: the signature fits.
        answer: the name of the answer (`consumer.sandbox.answers.ANSWERS`).
        granted: this call granted the coupon.
        seconds: until the answer went out.
        in_flight: calls under way at its arrival, this one included.
        event_overlap, plate_overlap: another call of the same event_id, or plate, was under way.
        delivery: what happened to the answer on the wire.

    """

    number: int
    received_at: datetime
    event_id: str
    plate: str
    parameters: Mapping[str, str]
    verified: bool
    answer: str
    granted: bool
    grant_serial: str
    seconds: float
    in_flight: int
    event_overlap: bool
    plate_overlap: bool
    delivery: Delivery = Delivery.REPLY

    def masked(self) -> dict[str, Any]:
        """As JSON, without the plate wherever it occurs."""
        hidden = mask(self.plate)
        parameters = {
            name: value.replace(self.plate, hidden) if self.plate else value
            for name, value in self.parameters.items()
        }
        return {
            "number": self.number,
            "received_at": self.received_at.astimezone(UTC).isoformat(timespec="milliseconds"),
            "event_id": self.event_id,
            "plate": hidden,
            "answer": self.answer,
            "delivery": self.delivery,
            "granted": self.granted,
            "grant_serial": self.grant_serial,
            "verified": self.verified,
            "seconds": round(self.seconds, 3),
            "in_flight": self.in_flight,
            "event_overlap": self.event_overlap,
            "plate_overlap": self.plate_overlap,
            "parameters": parameters,
        }


def mask(plate: str) -> str:
    """Enough of a plate to recognise a sample by."""
    return f"{plate[:2]}***" if plate else ""


@dataclass
class Journal:
    """Every call, and what was granted.

    Attributes:
        grants: the serial granted, by event_id. Each is granted once.
        calls_by_event: calls that were found in order, by event_id.

    """

    entries: deque[Entry] = field(default_factory=lambda: deque(maxlen=KEPT))
    grants: dict[str, str] = field(default_factory=dict)
    calls_by_event: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    calls: int = 0
    unverified: int = 0
    max_in_flight: int = 0
    event_overlaps: int = 0
    plate_overlaps: int = 0
    _file: TextIO | None = None

    def open(self, path: Path) -> None:
        """Goes on with the file: what it says was granted stays granted; each further call is appended."""
        text = path.read_text("utf-8", "replace") if path.exists() else ""
        for line in text.splitlines():
            if line.endswith("}"):  # else the process was killed while it wrote
                self._remember(json.loads(line))
        self._file = path.open("a", encoding="utf-8")
        if text and not text.endswith("\n"):
            self._file.write("\n")

    def close(self) -> None:
        """No call is added after this."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def add(self, entry: Entry) -> None:
        """Keeps a call that has been answered."""
        self.entries.append(entry)
        self.answers[entry.answer] += 1
        self.unverified += not entry.verified

    def write_grant(self, event_id: str, serial: str, nth: int) -> None:
        """Before the answer goes out, so that a grant survives this process."""
        self.grants[event_id] = serial
        self._append({"granted": event_id, "grant_serial": serial, "nth": nth})

    def write_call(self, event_id: str, answer: str) -> None:
        """A call that granted nothing."""
        self._append({"called": event_id, "answer": answer})

    def as_json(self, *, last: int | None = None) -> dict[str, Any]:
        """Everything, plates masked; the calls in the order of their answers."""
        entries = list(self.entries)
        return {
            "calls": self.calls,
            "grants": len(self.grants),
            "answers": dict(self.answers.most_common()),
            "unverified": self.unverified,
            "max_in_flight": self.max_in_flight,
            "event_overlaps": self.event_overlaps,
            "plate_overlaps": self.plate_overlaps,
            "entries": [entry.masked() for entry in (entries if last is None else entries[-last:])],
        }

    def _append(self, line: Mapping[str, object]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
            self._file.flush()

    def _remember(self, line: Mapping[str, str]) -> None:
        self.calls += 1
        event_id = line.get("granted") or line["called"]
        self.calls_by_event[event_id] += 1
        self.answers[line.get("answer", "1001")] += 1
        if "granted" in line:
            self.grants[event_id] = line["grant_serial"]


_STYLE = """
body{font:14px/1.5 system-ui,sans-serif;margin:2rem;color:#1c2733;background:#fff}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.25rem .6rem;border-bottom:1px solid #e3e8ee}
th{color:#5b6b7b;font-weight:600}td.no{color:#b3261e;font-weight:600}code{font-size:12px;word-break:break-all}
dl{display:flex;flex-wrap:wrap;gap:1.5rem}dt{color:#5b6b7b}dd{margin:0;font-size:1.4rem}
@media(prefers-color-scheme:dark){body{color:#dfe6ee;background:#12171d}th,td{border-color:#2a333d}}
"""
_COLUMNS = ("number", "received_at", "event_id", "plate", "answer", "grant_serial", "seconds", "in_flight")


def page(journal: Journal) -> str:
    """The journal for a browser: no script, nothing loaded from elsewhere; reloads itself."""
    state = journal.as_json(last=SHOWN)
    totals = "".join(
        f"<div><dt>{name.replace('_', ' ')}</dt><dd>{state[name]}</dd></div>"
        for name in ("calls", "grants", "max_in_flight", "unverified", "event_overlaps", "plate_overlaps")
    )
    answers = (
        ", ".join(f"{html.escape(name)}: {count}" for name, count in state["answers"].items()) or "none yet"
    )
    head = "".join(f"<th>{name.replace('_', ' ')}</th>" for name in _COLUMNS)
    rows = "".join(_row(entry) for entry in reversed(state["entries"]))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="refresh" content="3"><meta name="viewport" content="width=device-width">'
        f"<title>Sandbox gateway</title><style>{_STYLE}</style></head><body><h1>Sandbox gateway</h1>"
        f"<dl>{totals}</dl><p>Answers: {answers}. The last {SHOWN} calls, newest first; "
        f'all of them as <a href="/journal">JSON</a>.</p>'
        f"<table><thead><tr>{head}<th>signature</th><th>parameters</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></body></html>"
    )


def _row(entry: Mapping[str, Any]) -> str:
    cells = "".join(f"<td>{html.escape(str(entry[name]))}</td>" for name in _COLUMNS)
    signature = "<td>fits</td>" if entry["verified"] else '<td class="no">refused</td>'
    parameters = json.dumps(entry["parameters"], ensure_ascii=False)
    return f"<tr>{cells}{signature}<td><code>{html.escape(parameters)}</code></td></tr>"
