"""Policy optimisation inside a model: by its gradients, and from what it imagines.

Axes: E members, K rollouts or rows side by side, T rows of data, H horizon, O observation, A
encoded action.
"""

import copy
import math
from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from mbrl_helpers.actions import ContinuousActions
from mbrl_helpers.checks import check_counts, check_range, check_sizes, check_states
from mbrl_helpers.data import Batch, Transitions, join
from mbrl_helpers.futures import Imagination, branch, imagined_returns
from mbrl_helpers.interfaces import Model, Objective, TerminalValue
from mbrl_helpers.networks import EnsembleNetwork
from mbrl_helpers.policies import Policy


@dataclass(frozen=True, kw_only=True)
class BackpropConfig:
    """Settings of policy optimisation by backpropagation through a model.

    Attributes:
        num_updates: gradient steps.
        horizon: H, steps imagined.
        num_starts: K, states of the experience from which the imagined futures of a step begin.
        discount: weight of a reward a step later, in (0, 1].
        learning_rate: of Adam.
        noise: standard deviation of what is added to imagined continuous actions, as a share of
            half their range: it smooths the cliffs between two good plans. Choices are drawn.
        max_norm: the gradient is scaled down to this norm.
        spread_weight: how much of the standard deviation of the members' returns is added to their
            mean: below 0 the policy shuns what they disagree about.
    """

    num_updates: int = 120
    horizon: int = 40
    num_starts: int = 64
    discount: float = 0.98
    learning_rate: float = 3e-3
    noise: float = 0.3
    max_norm: float = 1.0
    spread_weight: float = 0.0

    def __post_init__(self) -> None:
        where = type(self).__name__
        names = ("num_updates", "horizon", "num_starts")
        check_counts(where, **{name: getattr(self, name) for name in names})
        check_range(self, "discount", 0, 1, ends="(]")
        check_range(self, "learning_rate", 0, math.inf, ends="()")
        check_range(self, "noise", 0, math.inf)
        check_range(self, "max_norm", 0, math.inf, ends="()")
        check_range(self, "spread_weight", -math.inf, math.inf)


def improve(
    policy: Policy,
    model: Model,
    obs: Tensor,
    generator: torch.Generator,
    config: BackpropConfig | None = None,
    *,
    objective: Objective | None = None,
    terminal_value: TerminalValue | None = None,
    progress: bool = False,
) -> dict[str, list[float]]:
    """Climb the gradient of the imagined return, backwards through model and policy.

    Each member imagines futures of its own to the end, without the model's noise.

    Args:
        policy: trained in place.
        model: true dynamics or a learned model; it stays as it is.
        obs: [T, O] states to start from.
        generator: picks the starts, and draws noise and discrete actions.
        config: settings.
        objective: see `rollout_returns`; the model's reward unless given.
        terminal_value: see `rollout_returns`.
        progress: whether to show a progress bar.

    Returns:
        "return" and "gradient_norm" (before it is scaled) of each step.

    Raises:
        RuntimeError: if the gradient is not finite; the policy is then as it was before that step.

    Source: Nguyen and Widrow 1990; Heess et al. 2015 (SVG). Taught in notebook 07.
    """
    config = config or BackpropConfig()
    obs = check_states("improve", obs, policy.num_obs)
    parameters = list(policy.network.parameters())
    optimizer = torch.optim.Adam(parameters, config.learning_rate, fused=True)
    imagination = Imagination(discount=config.discount)

    def act(states: Tensor) -> Tensor:
        return policy.disturbed(states, config.noise, generator)

    history: dict[str, list[float]] = {"return": [], "gradient_norm": []}
    for _ in tqdm(range(config.num_updates), desc="improve", disable=not progress):
        starts = obs[torch.randint(len(obs), (config.num_starts,), generator=generator)]
        returns = imagined_returns(
            model, starts, [act] * config.horizon, imagination, objective=objective,
            terminal_value=terminal_value,
        )  # [E, K]  # fmt: skip
        value = returns.mean()
        if config.spread_weight:
            value = value + config.spread_weight * returns.std(0, correction=0).mean()
        optimizer.zero_grad()
        (-value).backward()
        norm = nn.utils.clip_grad_norm_(parameters, config.max_norm)
        if not norm.isfinite():
            raise RuntimeError(
                f"improve: expected a finite gradient, got {float(norm)}. It explodes along the "
                "horizon: shorten it, or fit the model again."
            )
        optimizer.step()
        history["return"].append(float(returns.detach().mean()))
        history["gradient_norm"].append(float(norm))
    return history


@dataclass(frozen=True, kw_only=True)
class SACConfig:
    """Settings of the soft actor-critic.

    Attributes:
        hidden_sizes: width of each hidden layer of the critics.
        discount: weight of a reward a step later, in (0, 1).
        learning_rate: of Adam, for critics, policy and entropy weight.
        target_rate: share of the critics that goes into their slow copies at each update.
        reward_scale: by which rewards are multiplied, so that values are of the order of ten.
        batch_size: rows of an update.
    """

    hidden_sizes: tuple[int, ...] = (64, 64)
    discount: float = 0.98
    learning_rate: float = 1e-3
    target_rate: float = 0.01
    reward_scale: float = 0.1
    batch_size: int = 256

    def __post_init__(self) -> None:
        check_counts(type(self).__name__, batch_size=self.batch_size)
        check_sizes(self, "hidden_sizes")
        check_range(self, "discount", 0, 1, ends="()")
        check_range(self, "learning_rate", 0, math.inf, ends="()")
        check_range(self, "target_rate", 0, 1, ends="(]")
        check_range(self, "reward_scale", 0, math.inf, ends="()")


class SAC:
    """Soft actor-critic: a policy that climbs two learned values of its actions, and its entropy.

    Source: Haarnoja et al. 2018, with the entropy's weight learned. Taught in notebook 07.
    """

    def __init__(
        self, policy: Policy, generator: torch.Generator, config: SACConfig | None = None
    ) -> None:
        """Make the critics of a policy for continuous actions."""
        actions = policy.task.actions
        if not isinstance(actions, ContinuousActions):
            raise TypeError(
                f"SAC: expected continuous actions, got {policy.task.action_space}. Train a policy "
                "for discrete ones with improve."
            )
        self.policy, self.actions = policy, actions
        self.generator, self.config = generator, config or SACConfig()
        sizes = (policy.num_obs + actions.size, *self.config.hidden_sizes, 1)
        self.critic = EnsembleNetwork(2, sizes, generator)
        self.slow_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.log_entropy_weight = nn.Parameter(torch.zeros(1))
        groups = self.critic.parameters(), policy.network.parameters(), [self.log_entropy_weight]
        self.critic_optimizer, self.actor_optimizer, self.entropy_optimizer = (
            torch.optim.Adam(group, self.config.learning_rate, fused=True) for group in groups
        )

    def values(self, critic: EnsembleNetwork, obs: Tensor, action: Tensor) -> Tensor:
        """What both critics think of actions [K, A] at obs [K, O]: [2, K], scaled."""
        unit = self.actions.unit(action)
        return critic(torch.cat([self.policy.inputs.normalize(obs), unit], -1))[..., 0]

    @torch.no_grad()
    def targets(self, batch: Batch) -> Tensor:
        """What the critics are to say [K]: reward, and what follows where anything does."""
        action, log_prob = self.policy.sample(batch.next_obs, self.generator)
        value = self.values(self.slow_critic, batch.next_obs, action).amin(0)
        soft = value - self.log_entropy_weight.exp() * log_prob
        scaled = self.config.reward_scale * batch.reward
        return scaled + self.config.discount * (1 - batch.terminated) * soft

    def update(self, batch: Batch) -> None:
        """One gradient step of the critics, the policy and the entropy's weight."""
        self.critic.requires_grad_(True)  # an interrupt of the last one may have left it off
        error = self.values(self.critic, batch.obs, batch.action) - self.targets(batch)
        _descend(self.critic_optimizer, error.square().mean(1).sum())
        action, log_prob = self.policy.sample(batch.obs, self.generator)
        self.critic.requires_grad_(False)
        value = self.values(self.critic, batch.obs, action).amin(0)
        self.critic.requires_grad_(True)
        weight = self.log_entropy_weight.exp().detach()
        _descend(self.actor_optimizer, (weight * log_prob - value).mean())
        # As much entropy as the standard heuristic wants: minus the number of actions.
        gap = (log_prob.detach() - self.actions.size).mean()
        _descend(self.entropy_optimizer, -(self.log_entropy_weight * gap).sum())
        self._follow()

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the critics' slow copies."""
        for slow, fast in zip(self.slow_critic.parameters(), self.critic.parameters(), strict=True):
            slow.lerp_(fast, self.config.target_rate)


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    whole_step(optimizer)


def whole_step(optimizer: torch.optim.Optimizer) -> None:
    """A step of Adam that can be broken off, and followed by another.

    What it remembers of a parameter is made in its first step, one thing after another: of half of
    it no later step could go on.
    """
    try:
        optimizer.step()
    except BaseException:
        for parameter, kept in list(optimizer.state.items()):
            if "exp_avg_sq" not in kept:
                del optimizer.state[parameter]
        raise


@dataclass(frozen=True, kw_only=True)
class DynaConfig:
    """Settings of learning from imagined experience.

    Attributes:
        num_updates: of the actor-critic.
        rollout_length: steps that a rollout goes beyond a real state.
        num_starts: K, real states from which rollouts branch off at a time.
        branch_every: updates between two times.
        num_branches: so many of the latest times make up the imagined experience.
        real_share: share of real transitions in a mini-batch; 1 is learning without a model.
        max_spread: see `futures.branch`.
        spread_weight: see `futures.branch`.
    """

    num_updates: int = 4_000
    rollout_length: int = 5
    num_starts: int = 400
    branch_every: int = 50
    num_branches: int = 10
    real_share: float = 0.1
    max_spread: float | None = None
    spread_weight: float = 0.0

    def __post_init__(self) -> None:
        where = type(self).__name__
        names = ("num_updates", "rollout_length", "num_starts", "branch_every", "num_branches")
        check_counts(where, **{name: getattr(self, name) for name in names})
        check_range(self, "real_share", 0, 1)
        check_range(self, "spread_weight", -math.inf, math.inf)
        if self.max_spread is not None:
            check_range(self, "max_spread", 0, math.inf)


def dyna(
    sac: SAC,
    model: Model | None,
    transitions: Transitions,
    config: DynaConfig | None = None,
    *,
    objective: Objective | None = None,
    progress: bool = False,
) -> None:
    """Train an actor-critic on what a model imagines near real states, mixed with real rows.

    Args:
        sac: trained in place.
        model: fitted; None if all is real.
        transitions: real experience.
        config: settings.
        objective: see `rollout_returns`; the model's reward unless given.
        progress: whether to show a progress bar.

    Source: Sutton 1990 (Dyna); Janner et al. 2019 (MBPO). Taught in notebook 07.
    """
    config = config or DynaConfig()
    real = transitions.tensors(sac.actions)
    sac.policy.head.check("dyna", real.action)
    num_real = round(config.real_share * sac.config.batch_size)
    num_imagined = sac.config.batch_size - num_real
    if num_imagined and model is None:
        raise ValueError(
            f"dyna: expected a model to imagine {num_imagined} rows of each mini-batch, got None. "
            "Pass one, or DynaConfig(real_share=1)."
        )
    branches: deque[Batch] = deque(maxlen=config.num_branches)
    for update in tqdm(range(config.num_updates), desc="dyna", disable=not progress):
        if model is not None and num_imagined and update % config.branch_every == 0:
            starts = real.draw(config.num_starts, sac.generator).obs
            branches.append(branch(
                model, sac.policy, starts, config.rollout_length, sac.generator,
                objective=objective, max_spread=config.max_spread,
                spread_weight=config.spread_weight,
            ))  # fmt: skip
            imagined = join(list(branches))
        parts = [real.draw(num_real, sac.generator)] if num_real else []
        if num_imagined:
            parts.append(imagined.draw(num_imagined, sac.generator))
        sac.update(join(parts))
