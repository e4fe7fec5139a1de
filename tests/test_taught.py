"""Code that notebooks write out on purpose in another form than the package agrees with it.

Cells with the tag `taught~:mbrl_helpers.<module>.<name>` are run here, and compared.
"""

import nbformat
import pytest
import torch
from course import notebooks

from mbrl_helpers.envs import TrueDynamics, cartpole_step, get_task
from mbrl_helpers.exercises.nb03 import return_of_plan
from mbrl_helpers.futures import rollout_returns

NOTEBOOKS = notebooks()


def taught_roughly(tag):
    """Functions of all cells with a tag, by name."""
    found = {}
    for path in NOTEBOOKS:
        for cell in nbformat.read(path, as_version=4).cells:
            if tag in cell.metadata.get("tags", []):
                scope = {"torch": torch, "return_of_plan": return_of_plan}
                exec(cell.source, scope)
                found |= {k: v for k, v in scope.items() if getattr(v, "__module__", 0) is None}
    return found


def test_every_rough_copy_is_compared_here():
    tags = {
        tag
        for path in NOTEBOOKS
        for cell in nbformat.read(path, as_version=4).cells
        for tag in cell.metadata.get("tags", [])
        if tag.startswith("taught~:")
    }
    assert tags == {"taught~:mbrl_helpers.futures.rollout_returns"}


@pytest.mark.parametrize("name", ["returns_in_a_loop", "returns_batched"])
def test_returns_of_plans(name):
    generator = torch.Generator().manual_seed(0)
    actions = get_task("CartPole-v1").actions
    function = taught_roughly("taught~:mbrl_helpers.futures.rollout_returns")[name]
    ended_early = False
    for _ in range(5):
        obs = torch.tensor([1.0, 1.0, 0.1, 0.5]) * torch.randn(4, generator=generator)
        plans = actions.uniform((50, 20), generator)
        expected = rollout_returns(TrueDynamics(cartpole_step), obs[None], plans[None])[0]
        torch.testing.assert_close(function(cartpole_step, obs, plans), expected)
        ended_early |= bool((expected < 20).any() and (expected > 1).any())
    assert ended_early  # otherwise the end of episodes was not compared at all
