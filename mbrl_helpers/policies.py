"""Policies: networks that map what is observed to an action, in one call.

Axes: ... any leading axes, B environments, T rows of data, O observation, A encoded action.
"""

import math

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import log_softmax, one_hot, softplus

from mbrl_helpers.dynamics import squared_error
from mbrl_helpers.envs import Task, action_size, check_obs, decode_actions
from mbrl_helpers.networks import EnsembleNetwork, Normalizer, TrainingConfig, train_network
from mbrl_helpers.planners import sample_actions
from mbrl_helpers.probabilistic import soft_clamp


class Policy:
    """A network that gives for each observation a distribution over actions.

    Continuous actions are a Gaussian number squashed into the bounds by a hyperbolic tangent;
    discrete ones are drawn from probabilities. It acts by the median of the former, and by the most
    probable of the latter. Gradients flow through its actions: through discrete ones as if they
    were their probabilities (the straight-through estimator).

    Source: Haarnoja et al. 2018 (squashed Gaussian); Bengio et al. 2013 (straight through).
    Taught in notebook 07.
    """

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
            obs: [T, O] experience, by whose mean and spread observations are normalised.
            generator: source of the weights.
            hidden_sizes: width of each hidden layer.
        """
        seen = check_obs("Policy", task, obs)
        if not len(seen):
            raise ValueError(
                f"Policy: expected experience [T, {seen.shape[1]}] to normalise by, got no row. "
                "Collect some first."
            )
        space = task.action_space
        sample_actions(space, (0,), generator)  # refuses a space without bounds
        self.task, self.num_actions = task, action_size(space)
        self.is_discrete = isinstance(space, gym.spaces.Discrete)
        if not self.is_discrete:
            low, high = torch.as_tensor(space.low).float(), torch.as_tensor(space.high).float()
            self.middle, self.half_range = (low + high) / 2, (high - low) / 2
        self.inputs = Normalizer(seen)
        outputs = self.num_actions if self.is_discrete else 2 * self.num_actions
        self.network = EnsembleNetwork(1, (seen.shape[1], *hidden_sizes, outputs), generator)

    def action(self, obs: Tensor) -> Tensor:
        """Encoded actions [..., A] for obs [..., O], without chance: median, or most probable."""
        out = self._outputs(obs)
        if self.is_discrete:
            return self._discrete(out, None)[0]
        return self.middle + self.half_range * out[..., : self.num_actions].tanh()

    def _outputs(self, obs: Tensor) -> Tensor:
        flat = self.inputs.normalize(obs).flatten(0, -2)
        return self.network(flat)[0].view(*obs.shape[:-1], -1)

    def sample(self, obs: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw actions.

        Args:
            obs: [..., O].
            generator: source of the randomness.

        Returns:
            Encoded actions [..., A], and the logarithm of their probability [...] (of continuous
            ones: the density of the action in units of half its range).
        """
        out = self._outputs(obs)
        if self.is_discrete:
            return self._discrete(out, generator)
        mean, log_std = out.chunk(2, dim=-1)
        log_std = soft_clamp(log_std, torch.tensor(-5.0), torch.tensor(2.0))
        noise = torch.randn(mean.shape, generator=generator)
        raw = mean + log_std.exp() * noise
        # log(1 - tanh(x)²) without a difference of nearly equal numbers.
        squash = 2 * (math.log(2) - raw - softplus(-2 * raw))
        log_prob = -0.5 * (noise.square() + math.log(2 * math.pi)) - log_std - squash
        return self.middle + self.half_range * raw.tanh(), log_prob.sum(-1)

    def _discrete(self, logits: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        log_probs = log_softmax(logits, dim=-1)
        scores = log_probs
        if generator is not None:  # adding Gumbel noise and taking the largest is drawing
            uniform = torch.rand(logits.shape, generator=generator).clamp(min=1e-20)
            scores = log_probs - (-uniform.log()).log()
        chosen = one_hot(scores.argmax(-1), self.num_actions).float()
        probs = log_probs.exp()
        return chosen + probs - probs.detach(), (chosen * log_probs).sum(-1)

    def clip(self, action: Tensor) -> Tensor:
        """Continuous actions [..., A] brought within their bounds."""
        return self.middle + self.half_range * self.unit(action).clamp(-1, 1)

    def unit(self, action: Tensor) -> Tensor:
        """Continuous actions [..., A] in units of half their range, unless that is 0."""
        return (action - self.middle) / self.half_range.masked_fill(self.half_range == 0, 1.0)

    def to_unit(self, action: Tensor) -> Tensor:
        """Continuous actions [..., A] in units of half their range, from -1 to 1.

        Raises:
            ValueError: for actions outside the bounds.
        """
        unit = self.unit(action)
        if not (unit.abs() <= 1 + 1e-4).all():
            raise ValueError(
                f"Policy: expected actions within the bounds of {self.task.action_space}, got "
                f"values from {float(action.min()):.4g} to {float(action.max()):.4g}. Clip them."
            )
        return unit

    @torch.inference_mode()
    def act(self, obs: np.ndarray) -> np.ndarray:
        """Actions for obs [B, O]."""
        encoded = self.action(check_obs("Policy.act", self.task, obs))
        return decode_actions(self.task.action_space, encoded)

    def reset(self, ended: np.ndarray | None = None) -> None:
        """Forget nothing: a policy has no memory."""


def distill(
    policy: Policy,
    obs: Tensor,
    actions: Tensor,
    generator: torch.Generator,
    config: TrainingConfig | None = None,
    *,
    fraction: float = 0.1,
) -> dict[str, list[float]]:
    """Teach a policy, by supervised learning, to do what a planner did.

    Args:
        policy: trained in place.
        obs: [T, O] where the planner was.
        actions: [T, A] encoded, what it did there.
        generator: splits the data and draws the mini-batches.
        config: settings of the training.
        fraction: share of the rows that is held out for early stopping.

    Returns:
        The losses, see `train_network`.

    Source: Levine and Koltun 2013 (guided policy search); Ross et al. 2011 (why the states should
    be the policy's own). Taught in notebook 07.
    """
    if len(obs) < 2 or actions.shape != (len(obs), policy.num_actions):
        raise ValueError(
            f"distill: expected at least 2 observations and actions [T, {policy.num_actions}], got "
            f"{tuple(obs.shape)} and {tuple(actions.shape)}. Encode actions with encode_actions."
        )
    obs = check_obs("distill", policy.task, obs)
    x, y, loss = policy.inputs.normalize(obs), actions, _choice_loss
    if not policy.is_discrete:
        y, loss = policy.to_unit(actions), _action_loss
    num_valid = min(max(1, round(fraction * len(x))), len(x) - 1)
    rows = torch.randperm(len(x), generator=generator)
    valid, train = rows[:num_valid], rows[num_valid:]
    return train_network(
        policy.network, loss, (x[train], y[train]), (x[valid], y[valid]), generator,
        config or TrainingConfig(),
    )  # fmt: skip


def _action_loss(out: Tensor, target: Tensor) -> Tensor:
    """Squared error [1] of the most probable action, in units of half its range."""
    return squared_error(out.chunk(2, dim=-1)[0].tanh(), target)


def _choice_loss(out: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy [1] of the probabilities."""
    return -(target * log_softmax(out, dim=-1)).sum(-1).mean(-1)
