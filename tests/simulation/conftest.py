"""Where this session's seeds begin. Performs no I/O."""

import os
import secrets

import pytest


@pytest.fixture
def first_seed() -> int:
    """Another one each time; SIMULATION_SEED repeats one."""
    return int(os.environ.get("SIMULATION_SEED") or secrets.randbelow(10**9))
