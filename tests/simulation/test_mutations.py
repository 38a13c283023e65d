"""Each rule that the guarantees rest on, broken: the simulation notices, with whatever seeds."""

import pytest

from tests.simulation.many import simulate_many
from tests.simulation.mutations import MUTATIONS
from tests.simulation.test_simulation import LONG

pytestmark = pytest.mark.long


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_broken_rule_is_noticed(name: str, first_seed: int) -> None:
    runs = simulate_many(first_seed, LONG, name)
    for report in runs:
        if report.broken:
            runs.close()
            return
    pytest.fail(f"{LONG} runs from SIMULATION_SEED={first_seed} do not notice {name}")
