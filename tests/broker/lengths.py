"""How long the trials are: scaled for every run, or as in earnest where the environment says `FULL_LENGTH=1`."""

import os

FULL = os.environ.get("FULL_LENGTH", "") not in {"", "0"}


def scaled(short: int, full: int) -> int:
    """Seconds, records or repetitions."""
    return full if FULL else short
