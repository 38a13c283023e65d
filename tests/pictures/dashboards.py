"""Pictures of the dashboards, of a service at work: `python -m tests.pictures.dashboards` draws them anew.

A real Kafka, the service, a sandbox platform that has a bad day, and a Prometheus that watches; each panel's own
queries are asked of it, and drawn by matplotlib in about Grafana's layout. Wants prometheus on the PATH, and
`pip install matplotlib`, which nothing else needs. Starts processes, writes files.
"""

import asyncio
import io
import json
import re
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from consumer.sandbox.broker import EmbeddedBroker
from consumer.sandbox.gateway import SandboxGateway
from consumer.sandbox.scenarios import Phase, Scenario
from tests.broker.kafka import Topics, traffic
from tests.broker.prometheus import Prometheus, as_grafana
from tests.broker.world import APP_ID, SECRET, World, just_now
from tests.conftest import _create_topics
from tests.dashboards import built

FOLDER = Path(__file__).parent
MOST_BYTES = 150_000
SECONDS, A_SECOND = 300, 40
INTERVAL = "10s"

BAD_DAY = Scenario(
    "bad day",
    "slows down, fails most calls, is away, and comes back",
    (
        Phase("well", "answers at once", 70, (0.08, 0.08)),
        Phase("slowing", "takes longer and longer", 40, (0.1, 1.5), failures={"503": 0.08}),
        Phase(
            "brown-out",
            "fails most calls",
            40,
            (1.2, 2.0),
            failures={"503": 0.35, "500": 0.1, "html": 0.05, "lost": 0.08},
        ),
        Phase("away", "is away", 25, (0.08, 0.08), failures={"reset": 0.6, "503": 0.4}),
        Phase("well again", "answers at once", 600, (0.1, 0.08)),
    ),
    events=SECONDS * A_SECOND,
)

LOTS = {"SZ-0017": "store-17", "SZ-0021": "store-21", "SZ-0023": "store-23", "GZ-0004": "store-4"}

RULES = f"""
version: 1
accounts:
  main: {{app_id: {APP_ID}, secret: main, api_type: charging}}
sources:
  canonical: {{extends: canonical}}
stations: {{{", ".join(f"{station}: {{api_store_code: {lot}, zone: Asia/Shanghai}}" for station, lot in LOTS.items())}}}
rules:
  - {{name: hardly-charged, when: energy_wh < 1000, skip: below_threshold}}
  - name: two-hours-free
    account: main
    stations: [SZ-0017, SZ-0021]
    subject: "【{{plate}}】充电 {{energy_kwh}} kWh"
    metadata: {{minutes: {{name: 充电时长, value: "math.least(minutes, 120)"}}}}
  - name: as-long-as-it-charged
    account: main
    subject: "【{{plate}}】充电 {{minutes}} 分钟"
    metadata: {{minutes: {{name: 充电时长, value: minutes}}}}
"""


def charge(number: int) -> bytes:
    """Mostly such as are granted. What the sandbox makes of a plate is told by its end."""
    ending = {3: "1002", 11: "1003", 35: "1003", 61: "1002", 95: "1401", 172: "1405"}.get(number % 240)
    if number % 400 == 7:
        return b"no event"
    return just_now(
        number,
        plate=f"粤{'ABCDEFGHJK'[number // 60 % 10]}X{ending}" if ending else f"粤B{number % 10_000:04}Z",
        station_id=list(LOTS)[number * 7 % 10 // 3],
        energy_kwh="0.4" if number % 25 == 9 else "12.5",
    )


# -- What is drawn ----------------------------------------------------------------------------------


async def watched(folder: Path) -> dict[str, list[tuple[dict[str, Any], list[Any]]]]:
    """By dashboard, each panel with what Prometheus answered to its queries."""
    broker = EmbeddedBroker()
    await broker.start()
    world = prometheus = None
    try:
        topics = Topics("charging-completed", "coupon-outcomes", "coupon-dead-letters", "coupon", 4)
        topics = replace(topics, delays="[5s, 15s, 45s]")
        tiers = [f"{topics.retries}.{delay}" for delay in ("5s", "15s", "45s")]
        await _create_topics(
            broker.bootstrap_servers,
            {topics.events: 4, topics.outcomes: 3, topics.dead_letters: 1, **dict.fromkeys(tiers, 2)},
        )
        async with SandboxGateway(apps={APP_ID: SECRET}, scenario=BAD_DAY) as gateway:
            world = World(broker.bootstrap_servers, topics, folder, gateway.url)
            world.rules.write_text(RULES, "utf-8")
            text = world.settings.read_text("utf-8").replace("adaptive_limit: false", "adaptive_limit: true")
            world.settings.write_text(text, "utf-8")
            prometheus = Prometheus(folder, await world.start().port())
            async with traffic(world.broker, topics.events, charge, A_SECOND):
                await asyncio.sleep(SECONDS)
                return {
                    file.stem: [
                        (panel, await _answers(prometheus, panel)) for panel in json.loads(text)["panels"]
                    ]
                    for file, text in built()
                }
    finally:
        if prometheus is not None:
            prometheus.process.kill()
            prometheus.process.wait()
        if world is not None:
            world.end()
        await broker.stop()


async def _answers(prometheus: Prometheus, panel: Mapping[str, Any]) -> list[Any]:
    span = f"{int(time.time() - prometheus.began_at)}s"
    answers = []
    for target in panel.get("targets", ()):
        query = as_grafana(target["expr"], interval=INTERVAL, range=span)
        ask = prometheus.now if target.get("instant") else prometheus.asked
        answers.append((target.get("legendFormat", ""), await ask(query)))
    return answers


def legend(form: str, labels: Mapping[str, str]) -> str:
    """As Grafana fills it in."""
    return re.sub(r"{{(\w+)}}", lambda found: labels.get(found[1], ""), form).strip()


# -- Drawing ----------------------------------------------------------------------------------------

COLUMN, ROW = 0.5, 0.19
"""Inches of a unit of Grafana's grid."""

BACKGROUND, PANEL, TEXT, FAINT = "#f4f5f5", "#ffffff", "#24292e", "#6e7781"
COLOURS = (
    "#73bf69",
    "#f2cc0c",
    "#5794f2",
    "#ff9830",
    "#f2495c",
    "#b877d9",
    "#37872d",
    "#8ab8ff",
    "#fa6400",
    "#806eb7",
)


def drawn(panels: Sequence[tuple[dict[str, Any], list[Any]]]) -> bytes:
    """One dashboard as a PNG."""
    from matplotlib.figure import Figure  # noqa: PLC0415  # only whoever draws has it
    from PIL import Image  # noqa: PLC0415  # comes with it

    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel, _ in panels)
    figure = Figure(figsize=(24 * COLUMN, height * ROW), dpi=100, facecolor=BACKGROUND)
    for panel, answers in panels:
        at = panel["gridPos"]
        place = (at["x"] / 24, 1 - (at["y"] + at["h"]) / height, at["w"] / 24, at["h"] / height)
        _panel(figure, place, height * ROW, panel, answers)
    file = io.BytesIO()
    figure.savefig(file)
    small = io.BytesIO()
    Image.open(file).convert("RGB").quantize(64).save(small, "PNG", optimize=True)
    return small.getvalue()


def _panel(
    figure: Any,
    place: tuple[float, float, float, float],
    inches: float,
    panel: dict[str, Any],
    answers: list[Any],
) -> None:
    left, bottom, width, height = place
    title = panel.get("title", "")
    if panel["type"] == "row":
        figure.text(
            left + 0.006, bottom + height / 2, title, size=8.5, weight="bold", color=TEXT, va="center"
        )
        return
    frame = figure.add_axes((left + 0.003, bottom + 0.05 / inches, width - 0.006, height - 0.1 / inches))
    frame.set(xticks=[], yticks=[], facecolor=PANEL)
    for spine in frame.spines.values():
        spine.set(color="#dfe1e3", linewidth=0.6)
    top = bottom + height - 0.17 / inches
    figure.text(left + 0.008, top, title, size=7, weight="bold", color=TEXT, va="center")
    inner = (left + 0.045, bottom + 0.42 / inches, width - 0.06, height - 0.72 / inches)
    DRAWINGS[panel["type"]](figure, inner, panel, answers)


def _lines(figure: Any, place: Any, panel: dict[str, Any], answers: list[Any]) -> None:
    axes = _axes(figure, place, panel)
    series = sorted(
        (legend(form, each["metric"]), each["values"]) for form, found in answers for each in found
    )
    series = [(name, values) for name, values in series if any(float(value) for _, value in values)] or series
    began = min((values[0][0] for _, values in series), default=0)
    times = [[(at - began) / 60 for at, _ in values] for _, values in series]
    numbers = [[float(value) for _, value in values] for _, values in series]
    custom = panel["fieldConfig"]["defaults"].get("custom", {})
    if custom.get("stacking", {}).get("mode") == "normal":
        every = sorted({at for each in times for at in each})
        filled = [
            [dict(zip(x, y, strict=True)).get(at, 0.0) for at in every]
            for x, y in zip(times, numbers, strict=True)
        ]
        axes.stackplot(every, filled, colors=COLOURS, alpha=0.75, linewidth=0)
    else:
        for colour, x, y in zip(_colours(len(series)), times, numbers, strict=True):
            axes.plot(x, y, color=colour, linewidth=0.9)
    most = max((max(each) for each in numbers), default=0)
    axes.set_ylim(0, None if most > 0 else 1)
    _legend(figure, place, [name for name, _ in series])


def _heat(figure: Any, place: Any, panel: dict[str, Any], answers: list[Any]) -> None:
    axes = _axes(figure, place, {"fieldConfig": {"defaults": {"unit": "s"}}})
    bounds = sorted((float(each["metric"]["le"]), each["values"]) for _, found in answers for each in found)
    began = min(values[0][0] for _, values in bounds)
    below: dict[float, float] = {}
    cells: dict[tuple[float, int], float] = {}
    for place_of, (_, values) in enumerate(bounds):
        for at, value in values:
            cells[at, place_of] = float(value) - below.get(at, 0.0)
            below[at] = float(value)
    every = sorted({at for at, _ in cells})
    rows = [[max(cells.get((at, row), 0.0), 0.0) for at in every] for row in range(len(bounds))]
    used = [row for row, values in enumerate(rows) if sum(values) > 0]
    low, high = min(used), max(used) + 1
    x = [(at - began) / 60 for at in every]
    axes.pcolormesh(x, range(high - low), rows[low:high], cmap="YlOrRd", shading="nearest", rasterized=True)
    marks = range(0, high - low, max(1, (high - low) // 5))
    axes.set_yticks(list(marks), [_short(bounds[low + mark][0], "s") for mark in marks])


def _bars(figure: Any, place: Any, panel: dict[str, Any], answers: list[Any]) -> None:
    left, bottom, width, height = place
    axes = _axes(figure, (left + 0.09, bottom - 0.004, width - 0.13, height + 0.004), panel)
    found = [
        (legend(form, each["metric"]), float(each["value"][1])) for form, all_ in answers for each in all_
    ]
    found = sorted((each for each in found if each[1] >= 0.5), key=lambda each: each[1])[-6:]
    axes.barh(range(len(found)), [value for _, value in found], color=COLOURS[0], height=0.6)
    axes.set_yticks(range(len(found)), [name for name, _ in found])
    axes.set_ylim(len(found) - 6.5, len(found) - 0.5)
    for row, (_, value) in enumerate(found):
        axes.annotate(f" {value:,.0f}", (value, row), size=6, color=TEXT, va="center")
    axes.set(xticks=[])
    axes.grid(visible=False)


def _number(figure: Any, place: Any, panel: dict[str, Any], answers: list[Any]) -> None:
    ((_, (series,)),) = answers
    value = float(series["value"][1])
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    marked = panel["options"].get("colorMode") != "none"
    colour = [step["color"] for step in steps if step.get("value") is None or value >= step["value"]][-1]
    left, bottom, width, height = place
    figure.text(
        left + width / 2 - 0.02,
        bottom + height / 2,
        f"{value:.1%}",
        size=24,
        ha="center",
        va="center",
        color={"green": "#37872d", "orange": "#fa6400", "red": "#c4162a"}[colour] if marked else TEXT,
    )


def _table(figure: Any, place: Any, panel: dict[str, Any], answers: list[Any]) -> None:
    left, bottom, _, height = place
    lines = [
        f"{name}  {value}"
        for _, found in answers
        for each in found
        for name, value in sorted(each["metric"].items())
    ]
    for number, line in enumerate(lines):
        figure.text(
            left - 0.03, bottom + height * (0.85 - 0.22 * number), line, size=7, color=TEXT, va="center"
        )


DRAWINGS = {"timeseries": _lines, "heatmap": _heat, "bargauge": _bars, "stat": _number, "table": _table}


def _axes(figure: Any, place: Any, panel: dict[str, Any]) -> Any:
    unit = panel["fieldConfig"]["defaults"]["unit"]
    axes = figure.add_axes(place)
    axes.set_facecolor(PANEL)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.grid(visible=True, color="#e8eaec", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=6, length=0, colors=FAINT)
    axes.yaxis.set_major_formatter(lambda value, _: _short(value, unit))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} min")
    axes.locator_params(axis="y", nbins=4)
    return axes


def _short(value: float, unit: str) -> str:
    if unit == "s":
        return (
            "more" if value == float("inf") else f"{value * 1000:g} ms" if 0 < value < 1 else f"{value:g} s"
        )
    if unit == "percentunit":
        return f"{value:.0%}"
    if unit == "bytes":
        return f"{value / 1024:,.0f} KiB" if value >= 1024 else f"{value:g} B"
    return f"{value:,.6g}"


def _colours(count: int) -> list[str]:
    return [COLOURS[number % len(COLOURS)] for number in range(count)]


def _legend(figure: Any, place: Any, names: Sequence[str]) -> None:
    """Below the panel, as much as there is room for."""
    left, bottom, width, height = place
    at, below = left - 0.03, bottom - height * 0.29
    for name, colour in zip(names, _colours(len(names)), strict=True):
        needed = 0.014 + 0.0043 * len(name)
        if at + needed > left + width:
            figure.text(at, below, "...", size=6, color=FAINT, va="center")
            break
        figure.text(at, below, "▬", size=6, color=colour, va="center")
        figure.text(at + 0.009, below, name, size=6, color=TEXT, va="center")
        at += needed


def main() -> None:
    """Write them anew, which takes six minutes; with a file's name, keep there what was drawn, or draw it again."""
    kept = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    if kept is not None and kept.exists():
        seen = json.loads(kept.read_text("utf-8"))
    else:
        with tempfile.TemporaryDirectory() as folder:
            seen = asyncio.run(watched(Path(folder)))
        if kept is not None:
            kept.write_text(json.dumps(seen), "utf-8")
    FOLDER.mkdir(exist_ok=True)
    for name, panels in seen.items():
        picture = drawn(panels)
        assert len(picture) < MOST_BYTES, (name, len(picture))
        (FOLDER / f"{name}.png").write_bytes(picture)
        print(f"{FOLDER / name}.png  {len(picture) // 1024} KiB")


if __name__ == "__main__":
    main()
