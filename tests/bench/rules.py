"""What rules cost: CPU for each event, load time, memory, and how long the event loop stands still meanwhile.

    python -m tests.bench.rules [--events N]

Ratios are of one run, in which the rule sets take turns: what else the machine does then counts for all of them.
"""

import argparse
import asyncio
import gc
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client import CollectorRegistry

from consumer import rulebook
from consumer.core.coupons import CouponRequest
from consumer.core.events import Coordinates, Order, Record
from consumer.core.rules import RuleBook
from consumer.metrics import Metrics
from consumer.rulebook.watching import Watcher

COUNTS = (10, 1_000, 10_000)
STATIONS = 100_000
ROUNDS = 9
NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


def write_stations(folder: Path, count: int = STATIONS) -> None:
    lines = ["id,api_store_code,zone,name,connectors,param.store_code"]
    lines += [f"SZ-{n:06},store-{n},Asia/Shanghai,充电站 {n},{n}01 {n}02,T{n % 100}" for n in range(count)]
    (folder / "stations.csv").write_text("\n".join(lines), "utf-8")


def write_rules(
    folder: Path, count: int, unindexed: int, stations: int = STATIONS, *, table: bool = True
) -> Path:
    """Rules that share all stations among them; those without keys come first and are for nobody here.

    The stations stand in a table of their own (`write_stations`), or among the rules.
    """
    text = [
        "version: 1",
        "accounts: {main: {app_id: a, secret: main, api_type: charging}}",
        "sources: {charges: {extends: canonical, zone: station}}",
        "stations: {file: stations.csv}" if table else "stations:",
    ]
    if not table:
        text += [
            f"  SZ-{n:06}: {{api_store_code: store-{n}, zone: Asia/Shanghai, name: 充电站 {n},"
            f" connectors: ['{n}01', '{n}02'], parameters: {{store_code: T{n % 100}}}}}"
            for n in range(stations)
        ]
    text += ["rules:"]
    text += [
        f"  - {{name: first-{n}, when: 'seconds < {60 + n} && energy_wh < {100 + n}', skip: below_threshold}}"
        for n in range(unindexed)
    ]
    indexed = count - unindexed
    for n in range(indexed):
        here = ", ".join(f"SZ-{station:06}" for station in range(n, stations, indexed))
        text += [
            f"  - name: rule-{n}",
            "    account: main",
            f"    stations: [{here}]",
            f"    when: energy_wh >= {n % 1000}",
            '    subject: "【{plate}】充电 {minutes} 分钟"',
            f'    metadata: {{minutes: {{name: 充电时长, value: "math.least(minutes, {120 + n})"}}}}',
        ]
    path = folder / f"rules-{count}-{unindexed}{'' if table else '-with-stations'}.yaml"
    path.write_text("\n".join(text) + "\n", "utf-8")
    return path


def records(count: int, stations: int = STATIONS) -> list[Record]:
    """Charges at stations all over the table."""
    chosen = random.Random(1)
    return [
        Record(
            Coordinates("charges", 0, number),
            1_795_608_000_000,
            None,
            json.dumps(
                {
                    "order_id": f"MA5DA00120260301191000{number:08}",
                    "plate": f"粤B{number % 100000:05}",
                    "station_id": f"SZ-{chosen.randrange(stations):06}",
                    "started_at": "2026-11-25 17:10:00",
                    "ended_at": "2026-11-25 18:40:00",
                    "energy_kwh": 31.25,
                },
                ensure_ascii=False,
            ).encode(),
        )
        for number in range(count)
    ]


def seconds_for(book: RuleBook, events: list[Record]) -> float:
    """CPU time in which they are read and each gets its request."""
    began = time.process_time()
    for record in events:
        (order,) = book.read(record, NOW)
        assert isinstance(order, Order), order
        request = book.plan(order)
        assert isinstance(request, CouponRequest), request
    return time.process_time() - began


def cpu_per_event(paths: dict[str, Path], events: int) -> None:
    books = {name: rulebook.load(path) for name, path in paths.items()}
    gc.collect()
    gc.freeze()
    batch = records(events)
    best = dict.fromkeys(books, float("inf"))
    ratios: dict[str, list[float]] = {name: [] for name in books}
    for _ in range(ROUNDS):
        took = {name: seconds_for(book, batch) for name, book in books.items()}
        first = next(iter(took.values()))
        for name, seconds in took.items():
            best[name] = min(best[name], seconds)
            ratios[name].append(seconds / first)
    first = next(iter(best.values()))
    print(f"\nCPU for each event, {STATIONS:,} stations, best of {ROUNDS} rounds of {events:,} events\n")
    print(f"{'rules':>24}  {'µs':>6}  {'ratio of the best':>17}  {'median of ratios':>16}")
    for name, seconds in best.items():
        median = sorted(ratios[name])[ROUNDS // 2]
        print(f"{name:>24}  {seconds / events * 1e6:6.1f}  {seconds / first:17.3f}  {median:16.3f}")


def load_in_a_process_of_its_own(path: Path) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.rules", "--load", str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def load(path: Path) -> dict[str, float]:
    gc.collect()
    memory, wall, cpu = resident_mb(), time.perf_counter(), time.process_time()
    book = rulebook.load(path)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    gc.collect()
    return {
        "rules": len(book.rules),
        "stations": len(book.stations),
        "wall": wall,
        "cpu": cpu,
        "mb": resident_mb() - memory,
        "peak_mb": peak_mb() - memory,
    }


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def peak_mb() -> float:
    (line,) = [
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    ]
    return int(line.split()[1]) / 1e3


def load_times(paths: dict[str, Path]) -> None:
    print("\nLoading, in a process of its own\n")
    print(f"{'rules':>24}  {'stations':>8}  {'s':>6}  {'CPU s':>6}  {'MB':>6}  {'MB at most':>10}")
    for name, path in paths.items():
        told = load_in_a_process_of_its_own(path)
        print(
            f"{name:>24}  {told['stations']:8.0f}  {told['wall']:6.2f}  {told['cpu']:6.2f}"
            f"  {told['mb']:6.0f}  {told['peak_mb']:10.0f}"
        )


async def standstills(path: Path) -> None:
    """The longest times in which the loop did not get round, without and with a load beside it."""
    small = rulebook.parse("version: 1\nsources: {charges: {extends: canonical}}\n")
    files = rulebook.Files(path)
    files.documents()
    in_force: list[RuleBook] = []
    watcher = Watcher(files, small, use=in_force.append, metrics=Metrics(CollectorRegistry()))
    gc.collect()
    gc.freeze()
    print(f"\nThe event loop's longest standstills, {path.stem}: ms of the clock / of this process's CPU\n")
    quiet = [late async for late in lateness(5.0)]
    watching = asyncio.create_task(watcher.run())
    for what in ("nothing else", "loaded", "loaded again, and let go of", "refused"):
        if what == "nothing else":
            print(f"{what:>28}  {longest(quiet)}")
            continue
        if what == "refused":
            with path.open("a", encoding="utf-8") as file:
                file.write("  - {name: rule-1, skip: policy}  # a second one\n")
        watcher.look_now()
        began, late = time.perf_counter(), []
        async for each in lateness(300.0):
            late.append(each)
            if in_force or watcher.problems:
                break
        took = time.perf_counter() - began
        in_force.clear()
        late += [each async for each in lateness(5.0)]
        print(f"{what:>28}  {longest(late)}  after {took:.1f} s")
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


async def lateness(seconds: float) -> AsyncIterator[tuple[float, float]]:
    """How much later than after 5 ms the loop came back, and for how much work of ours meanwhile, again and again.

    What else the machine does is in the first of them, not in the second.
    """
    until = time.perf_counter() + seconds
    while (now := time.perf_counter()) < until:
        cpu = time.process_time()
        await asyncio.sleep(0.005)
        yield time.perf_counter() - now - 0.005, time.process_time() - cpu


def longest(late: list[tuple[float, float]]) -> str:
    both = [sorted(each, reverse=True)[:4] for each in zip(*late, strict=True)]
    return " / ".join(", ".join(f"{each * 1000:.0f}" for each in some) for some in both)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=3000)
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.load is not None:
        print(json.dumps(load(chosen.load)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_stations(folder)
        paths = {f"{count:,}": write_rules(folder, count, 5) for count in COUNTS}
        many = {"10,000, 20 without keys": write_rules(folder, 10_000, 20)}
        cpu_per_event(paths | many, chosen.events)
        load_times(paths)
        asyncio.run(standstills(paths["10,000"]))
        asyncio.run(standstills(write_rules(folder, 10_000, 5, table=False)))


if __name__ == "__main__":
    main()
