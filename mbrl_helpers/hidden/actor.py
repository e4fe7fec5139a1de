"""An actor and a critic, trained in what a recurrent model imagines.

Axes: H horizon, K rollouts side by side, B environments, T rows of data, F features of a belief,
S + 2 belief.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from mbrl_helpers.checks import check_counts, check_range, check_sizes
from mbrl_helpers.data import Transitions
from mbrl_helpers.envs import Task
from mbrl_helpers.hidden.model import RecurrentModel
from mbrl_helpers.hidden.pictures import PictureModel
from mbrl_helpers.networks import EnsembleNetwork
from mbrl_helpers.policies import Policy


@dataclass(frozen=True, kw_only=True)
class ActorCriticConfig:
    """Settings of an actor and a critic that learn in imagination.

    Attributes:
        num_updates: gradient steps of the first call of `improve`.
        num_more_updates: of each later one, which goes on from the last.
        horizon: H, steps imagined.
        num_starts: K, beliefs of the experience from which an update's futures begin.
        discount: weight of a reward a step later, in (0, 1].
        decay: lambda; at 0 a return is one reward and then the critic, at 1 it is all rewards, and
            the critic at their end.
        learning_rate: of Adam, for both.
        noise: standard deviation of what is added to imagined continuous actions, as a share of
            half their range. Choices are drawn.
        hidden_sizes: width of each hidden layer of both.
        max_norm: gradients are scaled down to this norm.
    """

    num_updates: int = 600
    num_more_updates: int = 400
    horizon: int = 15
    num_starts: int = 64
    discount: float = 0.97
    decay: float = 0.95
    learning_rate: float = 1e-3
    noise: float = 0.3
    hidden_sizes: tuple[int, ...] = (64, 64)
    max_norm: float = 1.0

    def __post_init__(self) -> None:
        names = ("num_updates", "num_more_updates", "horizon", "num_starts")
        check_counts("ActorCriticConfig", **{name: getattr(self, name) for name in names})
        check_sizes(self, "hidden_sizes")
        check_range(self, "discount", 0, 1, ends="(]")
        check_range(self, "decay", 0, 1)
        for name in ("learning_rate", "max_norm"):
            check_range(self, name, 0, math.inf, ends="()")
        check_range(self, "noise", 0, math.inf)


def lambda_returns(reward: Tensor, value: Tensor, discount: float, decay: float) -> Tensor:
    """What each step of a rollout is worth [H, ...], real rewards mixed with what a critic says.

    The return of a step is its reward, and, discounted, a mixture of the next state's value (weight
    1 - decay) and the next step's return (weight decay); after the last step it is the value.

    Args:
        reward: [H, ...] of each step.
        value: [H + 1, ...] of the states before, between and after the steps.
        discount: weight of what comes a step later.
        decay: lambda.

    Raises:
        ValueError: unless there is one value more than there are rewards.

    Source: Sutton 1988; Hafner et al. 2020 (Dreamer), equation 6. Taught in notebook 10.
    """
    if len(value) != len(reward) + 1:
        raise ValueError(
            f"lambda_returns: expected a value more than the {len(reward)} rewards, got "
            f"{len(value)}. Give the values of all states, the last one's too."
        )
    result, returns = value[-1], []
    for paid, after in zip(reward.flip(0), value[1:].flip(0), strict=True):
        result = paid + discount * ((1 - decay) * after + decay * result)
        returns.append(result)
    return torch.stack(returns[::-1])


class ActorCritic:
    """A policy of beliefs, that climbs imagined returns, and a critic that says what follows.

    Ends of episodes are not imagined: it is for tasks without terminal states.

    Attributes:
        policy: over features of beliefs.
        critic: their value, in units of a reward's standard deviation.

    Source: Hafner et al. 2020 (Dreamer), section 3; the gradient goes through model and actions.
    Taught in notebook 10.
    """

    def __init__(
        self,
        model: RecurrentModel | PictureModel,
        generator: torch.Generator,
        config: ActorCriticConfig | None = None,
    ) -> None:
        """Make an actor that, before it has learned, acts in the middle of the bounds.

        Args:
            model: filters and imagines.
            generator: for weights, starts and noise.
            config: settings.
        """
        self.model, self.generator = model, generator
        self.config = c = config or ActorCriticConfig()
        num = model.features(model.start(1)).shape[-1]
        task = Task(
            env_id=model.task.env_id, obs_names=tuple(f"feature {i}" for i in range(num)),
            space=model.task.action_space,
        )  # fmt: skip
        self.policy = Policy(
            task, np.zeros((1, num), np.float32), generator, hidden_sizes=c.hidden_sizes
        )
        self.critic = EnsembleNetwork(1, (num, *c.hidden_sizes, 1), generator)
        self.optimizers = [
            torch.optim.Adam(network.parameters(), c.learning_rate)
            for network in (self.policy.network, self.critic)
        ]
        self.fitted = False

    def value(self, belief: Tensor) -> Tensor:
        """What the critic says [...] of beliefs [..., S+2]."""
        features = self.model.features(belief)
        return self.critic(features.flatten(0, -2)).view(features.shape[:-1])

    def improve(self, transitions: Transitions, *, progress: bool = False) -> list[float]:
        """Learn in futures imagined from the beliefs of all experience.

        Args:
            transitions: whole episodes, that the model has been fitted to.
            progress: whether to show a progress bar.

        Returns:
            The mean imagined return of each update, in units of a reward's standard deviation.

        Raises:
            ValueError: if an episode ended in a terminal state.
            RuntimeError: if a gradient is not finite; nothing is changed by that update.
        """
        beliefs = self.beliefs(transitions)
        count = self.config.num_more_updates if self.fitted else self.config.num_updates
        returns = [
            self._update(beliefs)
            for _ in tqdm(range(count), desc="improve", disable=not progress)
        ]  # fmt: skip
        self.fitted = True
        return returns

    def beliefs(self, transitions: Transitions) -> Tensor:
        """What was believed [T, S+2] before each step of all episodes.

        Raises:
            ValueError: if an episode ended in a terminal state.
        """
        if transitions.terminated.any():
            raise ValueError(
                "ActorCritic.beliefs: expected episodes that a clock ends, got "
                f"{int(transitions.terminated.sum())} terminal states, which are not imagined "
                "here. Plan with BeliefAgent, which counts them."
            )
        beliefs = []
        for number in transitions.episodes:
            rows = transitions[transitions.episode == number]
            actions = self.model.task.actions.encode(rows.action)
            beliefs.append(self.model.filter(torch.tensor(rows.obs)[None], actions[None, :-1])[0])
        return torch.cat(beliefs).clone()  # no longer of inference mode

    def _update(self, beliefs: Tensor) -> float:
        """One gradient step of both."""
        c = self.config
        rows = torch.randint(len(beliefs), (c.num_starts,), generator=self.generator)
        states, rewards = [beliefs[rows]], []
        for _ in range(c.horizon):
            features = self.model.features(states[-1])
            step = self.model.step(
                states[-1], self.policy.disturbed(features, c.noise, self.generator)
            )
            states.append(step.next_obs)
            rewards.append(step.reward)
        reward, belief = self.model.in_units(torch.stack(rewards)), torch.stack(states)
        returns = lambda_returns(reward, self.value(belief), c.discount, c.decay)
        error = self.value(belief[:-1].detach()) - returns.detach()
        self.descend(actor_loss=-returns.mean(), critic_loss=error.square().mean())
        return float(returns.detach().mean())

    def descend(self, *, actor_loss: Tensor, critic_loss: Tensor) -> None:
        """A step down both losses, each for its own weights alone.

        Raises:
            RuntimeError: if a gradient is not finite; nothing is changed then.
        """
        parts = [list(network.parameters()) for network in (self.policy.network, self.critic)]
        # The actor's loss runs through critic and model, too, which are to stay as they are.
        for weights, loss in zip(parts, (actor_loss, critic_loss), strict=True):
            for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
                weight.grad = gradient
            norm = nn.utils.clip_grad_norm_(weights, self.config.max_norm)
            if not norm.isfinite():
                raise RuntimeError(
                    f"ActorCritic.improve: expected a finite gradient, got {float(norm)}. It "
                    "explodes along the horizon: shorten it, or fit the model again."
                )
        for optimizer in self.optimizers:
            optimizer.step()
