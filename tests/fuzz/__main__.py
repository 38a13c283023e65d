"""Fuzzes: `python -m tests.fuzz [TARGET] --seconds N`, or looks at one input again: `--replay`. Prints.

Exit codes: 0 nothing found, 1 something found, 2 the search itself failed, 3 there can be none here.
"""

import argparse
import sys
import traceback
from base64 import b64decode
from random import SystemRandom

from tests.fuzz.planted import PLANTED
from tests.fuzz.run import fuzz, missing
from tests.fuzz.targets import TARGETS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("target", nargs="?", choices=TARGETS, help="all of them, if none is named")
    parser.add_argument("--seconds", type=float, default=60, help="for all targets together")
    parser.add_argument("--seed", type=int, help="of libFuzzer; another one each time, if none is given")
    parser.add_argument("--planted", choices=PLANTED, default="", help="with this bug in the code")
    parser.add_argument("--replay", metavar="BASE64", help="checks this one input, with the traceback")
    given = parser.parse_args()
    if given.planted and given.target != PLANTED[given.planted].target:
        parser.error(f"--planted {given.planted} is for the target {PLANTED[given.planted].target}")
    if given.replay is not None:
        if given.target is None:
            parser.error("--replay needs the target")
        if given.planted:
            PLANTED[given.planted].plant()
        TARGETS[given.target].check(b64decode(given.replay))
        print("nothing is wrong with it")
        return 0
    why = missing()
    if why is not None:
        print(why, file=sys.stderr)
        return 3
    names = [given.target] if given.target else list(TARGETS)
    found = 0
    for name in names:
        seed = given.seed if given.seed is not None else SystemRandom().randrange(1, 1 << 31)
        try:
            report = fuzz(name, given.seconds / len(names), seed, given.planted)
        except Exception:  # noqa: BLE001  # whatever it is, nothing was found out
            traceback.print_exc()
            return 2
        print(report, flush=True)
        found += report.finding is not None
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
