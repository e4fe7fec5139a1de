"""Policies: networks that map what is observed to an action, in one call.

Axes: ... any leading axes, B environments, T rows of data, O observation, A encoded action.
"""

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import log_softmax, one_hot, softplus

from mbrl_helpers import saving
from mbrl_helpers.actions import Actions, ContinuousActions
from mbrl_helpers.checks import check_obs, check_sizes, check_states, check_tensor
from mbrl_helpers.envs import Task
from mbrl_helpers.networks import (
    EnsembleNetwork,
    Normalizer,
    TrainingConfig,
    load_network,
    network_arrays,
    squared_error,
    train_network,
)
from mbrl_helpers.probabilistic import soft_clamp


class Head(ABC):
    """What makes actions of a network's outputs: a distribution over them."""

    num_outputs: int

    @staticmethod
    def of(actions: Actions) -> "Head":
        """The one for these actions."""
        if isinstance(actions, ContinuousActions):
            return SquashedGaussian(actions)
        return Categorical(actions)

    @abstractmethod
    def mode(self, out: Tensor) -> Tensor:
        """Encoded actions [..., A] without chance."""

    @abstractmethod
    def sample(self, out: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw encoded actions [..., A]; and the logarithm of their probability [...]."""

    @abstractmethod
    def disturbed(self, out: Tensor, noise: float, generator: torch.Generator) -> Tensor:
        """Encoded actions [..., A] that try what is near; choices are drawn."""

    @abstractmethod
    def loss(self, out: Tensor, target: Tensor) -> Tensor:
        """How far the network is from encoded actions [..., K, A], column by column [1, C]."""

    @abstractmethod
    def check(self, where: str, actions: Tensor) -> None:
        """Refuse encoded actions [..., A] that it can't give."""


class Categorical(Head):
    """Choices by their probabilities; it acts by the most probable one.

    Gradients flow through choices as if they were their probabilities.

    Source: Bengio et al. 2013 (straight through). Taught in notebook 07.
    """

    def __init__(self, actions: Actions) -> None:
        self.num_outputs = actions.size

    def mode(self, out: Tensor) -> Tensor:
        """The most probable choice, one-hot."""
        return self._chosen(out, None)[0]

    def sample(self, out: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw a choice, one-hot."""
        return self._chosen(out, generator)

    def _chosen(self, logits: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        log_probs = log_softmax(logits, dim=-1)
        scores = log_probs
        if generator is not None:  # adding Gumbel noise and taking the largest is drawing
            uniform = torch.rand(logits.shape, generator=generator).clamp(min=1e-20)
            scores = log_probs - (-uniform.log()).log()
        chosen = one_hot(scores.argmax(-1), self.num_outputs).float()
        probs = log_probs.exp()
        return chosen + probs - probs.detach(), (chosen * log_probs).sum(-1)

    def disturbed(self, out: Tensor, noise: float, generator: torch.Generator) -> Tensor:
        """A choice that is drawn, whatever the noise."""
        return self.sample(out, generator)[0]

    def loss(self, out: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy of the probabilities."""
        return -(target * log_softmax(out, dim=-1)).sum(-1).mean(-1, keepdim=True)

    def check(self, where: str, actions: Tensor) -> None:
        """Any choice can be given."""


class SquashedGaussian(Head):
    """A Gaussian number squashed into the bounds by a hyperbolic tangent; it acts by the median.

    Source: Haarnoja et al. 2018. Taught in notebook 07.
    """

    def __init__(self, actions: ContinuousActions) -> None:
        self.actions, self.num_outputs = actions, 2 * actions.size

    def mode(self, out: Tensor) -> Tensor:
        """The median."""
        return self._within(out[..., : self.actions.size].tanh())

    def _within(self, unit: Tensor) -> Tensor:
        return self.actions.middle + self.actions.half_range * unit

    def sample(self, out: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw actions; the probability is a density of the action in units of half its range."""
        mean, log_std = out.chunk(2, dim=-1)
        log_std = soft_clamp(log_std, torch.tensor(-5.0), torch.tensor(2.0))
        noise = torch.randn(mean.shape, generator=generator)
        raw = mean + log_std.exp() * noise
        # log(1 - tanh(x)²) without a difference of nearly equal numbers.
        squash = 2 * (math.log(2) - raw - softplus(-2 * raw))
        log_prob = -0.5 * (noise.square() + math.log(2 * math.pi)) - log_std - squash
        return self._within(raw.tanh()), log_prob.sum(-1)

    def disturbed(self, out: Tensor, noise: float, generator: torch.Generator) -> Tensor:
        """The median with Gaussian noise of so many half ranges, within the bounds."""
        action = self.mode(out)
        white = torch.randn(action.shape, generator=generator)
        action = action + noise * self.actions.half_range * white
        return self._within(self.actions.unit(action).clamp(-1, 1))

    def loss(self, out: Tensor, target: Tensor) -> Tensor:
        """Squared error of the median, in units of half the range."""
        return squared_error(out.chunk(2, dim=-1)[0].tanh(), self.actions.unit(target))

    def check(self, where: str, actions: Tensor) -> None:
        """Refuse actions outside the bounds."""
        if not (self.actions.unit(actions).abs() <= 1 + 1e-4).all():
            raise ValueError(
                f"{where}: expected actions within the bounds of {self.actions.space}, got "
                f"values from {float(actions.min()):.4g} to {float(actions.max()):.4g}. Clip them."
            )


class Policy(saving.Saved):
    """A network that gives for each observation a distribution over actions (see `Head`).

    Gradients flow through its actions. Taught in notebook 07.

    Attributes:
        task: what it acts in.
        inputs: normalises observations.
        network: from normalised observations to what the head makes actions of.
        head: makes actions of it.
    """

    kind = "policy"

    def __init__(
        self,
        task: Task,
        obs: np.ndarray,
        generator: torch.Generator,
        *,
        hidden_sizes: tuple[int, ...] = (64, 64),
    ) -> None:
        """Make a policy that, before it has learned, acts in the middle of the bounds.

        Args:
            task: what to act in.
            obs: [T, O] NumPy, experience, by whose mean and spread observations are normalised.
            generator: source of the weights.
            hidden_sizes: width of each hidden layer.
        """
        seen = check_obs("Policy", obs, task.num_obs)
        if not len(seen):
            raise ValueError(
                f"Policy: expected experience [T, {task.num_obs}] to normalise by, got no row. "
                "Collect some first."
            )
        task.actions.check_bounded("Policy")
        self.task, self.head = task, Head.of(task.actions)
        self.hidden_sizes = hidden_sizes
        check_sizes(self, "hidden_sizes")
        self.inputs = Normalizer(seen)
        sizes = (task.num_obs, *hidden_sizes, self.head.num_outputs)
        self.network = EnsembleNetwork(1, sizes, generator)

    @property
    def num_obs(self) -> int:
        """O."""
        return self.task.num_obs

    def action(self, obs: Tensor) -> Tensor:
        """Encoded actions [..., A] for obs [..., O], without chance: median, or most probable."""
        return self.head.mode(self._outputs(obs))

    def sample(self, obs: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw actions.

        Args:
            obs: [..., O].
            generator: source of the randomness.

        Returns:
            Encoded actions [..., A], and the logarithm of their probability [...] (of continuous
            ones: the density of the action in units of half its range).
        """
        return self.head.sample(self._outputs(obs), generator)

    def disturbed(self, obs: Tensor, noise: float, generator: torch.Generator) -> Tensor:
        """Encoded actions [..., A] that try what is near.

        Args:
            obs: [..., O].
            noise: standard deviation of what is added to continuous actions, as a share of half
                their range. Choices are drawn.
            generator: source of the randomness.
        """
        return self.head.disturbed(self._outputs(obs), noise, generator)

    def _outputs(self, obs: Tensor) -> Tensor:
        rows = self.inputs.normalize(obs).reshape(-1, self.task.num_obs)
        return self.network(rows)[0].view(*obs.shape[:-1], -1)

    @torch.inference_mode()
    def act(self, obs: np.ndarray) -> np.ndarray:
        """Actions for obs [B, O]."""
        encoded = self.action(check_obs("Policy.act", obs, self.task.num_obs))
        return self.task.actions.decode(encoded)

    def reset(self, ended: np.ndarray | None = None) -> None:
        """Forget nothing: a policy has no memory."""

    def contents(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Settings and arrays that a file keeps of it."""
        arrays = {f"network/{k}": v for k, v in network_arrays(self.network).items()}
        arrays |= {f"inputs/{k}": v for k, v in self.inputs.arrays().items()}
        return {"task": self.task.settings(), "hidden_sizes": self.hidden_sizes}, arrays

    @classmethod
    def of_contents(cls, settings: dict[str, Any], arrays: dict[str, np.ndarray]) -> "Policy":
        """Make it of what a file has kept."""
        task = Task.of_settings(settings["task"])
        nothing = np.zeros((1, task.num_obs), np.float32)
        sizes = tuple(settings["hidden_sizes"])
        policy = cls(task, nothing, torch.Generator(), hidden_sizes=sizes)
        load_network(policy.network, saving.under("network/", arrays))
        policy.inputs = Normalizer.of_arrays(saving.under("inputs/", arrays))
        return policy


def distill(
    policy: Policy,
    obs: Tensor,
    actions: Tensor,
    generator: torch.Generator,
    config: TrainingConfig | None = None,
    *,
    fraction: float = 0.1,
    progress: bool = False,
) -> dict[str, list[float]]:
    """Teach a policy, by supervised learning, to do what a planner did.

    Args:
        policy: trained in place.
        obs: [T, O] where the planner was.
        actions: [T, A] encoded, what it did there.
        generator: splits the data and draws the mini-batches.
        config: settings of the training.
        fraction: share of the rows that is held out for early stopping.
        progress: whether to show a progress bar.

    Returns:
        The losses, see `train_network`.

    Source: Levine and Koltun 2013 (guided policy search); Ross et al. 2011 (why the states should
    be the policy's own). Taught in notebook 07.
    """
    check_tensor("distill", "actions", actions)
    obs = check_states("distill", obs, policy.task.num_obs)
    size = policy.task.actions.size
    if len(obs) < 2 or actions.shape != (len(obs), size):
        raise ValueError(
            f"distill: expected at least 2 observations and actions [T, {size}], got "
            f"{tuple(obs.shape)} and {tuple(actions.shape)}. Encode actions with "
            "task.actions.encode."
        )
    policy.head.check("distill", actions)
    x = policy.inputs.normalize(obs)
    num_valid = min(max(1, round(fraction * len(x))), len(x) - 1)
    rows = torch.randperm(len(x), generator=generator)
    valid, train = rows[:num_valid], rows[num_valid:]
    return train_network(
        policy.network, policy.head.loss, (x[train], actions[train]), (x[valid], actions[valid]),
        generator, config or TrainingConfig(), label="distill" if progress else None,
    )  # fmt: skip
