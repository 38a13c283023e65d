"""Runs a command that dies with the process that started it. A script of its own; replaces itself by the command.

    python -I -S leash.py <pid of the starter> <command> <arguments...>

Linux ends the command when the starter ends, however it ends. Elsewhere only the
starter's own clean-up does.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # prctl(2)


def main(starter: int, command: list[str]) -> None:
    """Does not return."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != starter:  # it ended before the line above
            raise SystemExit(1)
    os.execv(command[0], command)  # noqa: S606  # the command is the starter's, no shell is in between


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
