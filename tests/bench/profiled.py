"""A command of the service under a sampling profiler of CPU time, for `pipeline --profile`.

From SIGUSR1 to SIGUSR2, each millisecond of CPU, the interpreter notes where it is, between two instructions: what C
code does counts for the line that called it. Prints, at the end, by module what is spent in it, and by function what is
spent in it, and in it and below.
"""

import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

EVERY = 0.001

alone: Counter[str] = Counter()
modules: Counter[str] = Counter()
below: Counter[str] = Counter()


def note(_number: int, frame: FrameType | None) -> None:
    stack = list(_walk(frame))
    if not stack:
        return
    alone[_name(stack[0])] += 1
    modules[_module(stack[0])] += 1
    below.update({_name(each) for each in stack})


def _walk(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _module(frame: FrameType) -> str:
    path = Path(frame.f_code.co_filename)
    parts = path.parts
    for root in ("site-packages", "consumer"):
        if root in parts:
            at = parts.index(root)
            return "/".join(parts[at if root == "consumer" else at + 1 :])
    return "/".join(parts[-2:])


def _name(frame: FrameType) -> str:
    return f"{_module(frame)}:{frame.f_code.co_qualname}"


def tell(lines: int = 50) -> None:
    total = alone.total() or 1
    everywhere = [name for name, count in below.items() if count == total]  # what ran the event loop
    for name in everywhere:
        del below[name]
    print("== profile")
    for title, counts in (("in the module", modules), ("in the function", alone), ("and below", below)):
        print(f"\n{title}, percent of CPU time")
        for name, count in counts.most_common(lines):
            print(f"  {count / total:6.1%}  {name}")


def main() -> None:
    from consumer.cli import main as command  # noqa: PLC0415  # what is imported is not measured

    signal.signal(signal.SIGPROF, note)
    signal.signal(signal.SIGUSR1, lambda *_: signal.setitimer(signal.ITIMER_PROF, EVERY, EVERY))
    signal.signal(signal.SIGUSR2, lambda *_: signal.setitimer(signal.ITIMER_PROF, 0))
    try:
        command()
    finally:
        tell()


if __name__ == "__main__":
    main()
