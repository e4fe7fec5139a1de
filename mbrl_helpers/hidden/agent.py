"""Agents that believe: they look, remember what they did, and plan, or act, from their belief.

Axes: B environments, N candidates, H horizon, O look, A action, S + 2 belief.
"""

from abc import ABC, abstractmethod
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from mbrl_helpers.actions import ContinuousActions
from mbrl_helpers.agents import CorrelatedNoise
from mbrl_helpers.checks import check_obs
from mbrl_helpers.futures import PLAIN, Imagination, rollout_returns
from mbrl_helpers.hidden.actor import ActorCritic
from mbrl_helpers.hidden.model import RecurrentModel
from mbrl_helpers.hidden.pictures import PictureModel
from mbrl_helpers.planners import Planner, PlannerState

Believer: TypeAlias = RecurrentModel | PictureModel


class _Filtering(ABC):
    """What both agents share: the belief goes on with what was seen and done."""

    def __init__(
        self, model: Believer, generator: torch.Generator, std: float, correlation: float
    ) -> None:
        self.model, self.std, self.actions = model, std, model.task.actions
        self._name = type(self).__name__
        if std and not isinstance(self.actions, ContinuousActions):
            raise TypeError(
                f"{self._name}: expected continuous actions for noise, got {self.actions.space}. "
                "Leave std out."
            )
        if not 0 <= std < float("inf"):
            raise ValueError(f"{self._name}: expected std >= 0, got {std}. Try 0.3.")
        self.noise = CorrelatedNoise(self.actions.size, generator, correlation)
        self.belief: Tensor | None = None
        self.action: Tensor | None = None

    @abstractmethod
    def _choose(self, belief: Tensor) -> Tensor:
        """Encoded actions [B, A], before any noise."""

    @torch.inference_mode()
    def act(self, obs: np.ndarray) -> np.ndarray:
        """Look at obs [B, O], and act."""
        looks = check_obs(f"{self._name}.act", obs, self.model.task.num_obs)
        self.belief = self._believe(looks)
        action = self._choose(self.belief)
        if self.std and isinstance(self.actions, ContinuousActions):
            noise = self.std * self.noise.sample(len(looks)) * self.actions.half_range
            action = self.actions.clip(action + noise)
        self.action = action
        return self.actions.decode(action)

    def _believe(self, looks: Tensor) -> Tensor:
        """Beliefs [B, S+2] after these looks."""
        if self.belief is None or self.action is None:
            return self.model.correct(self.model.start(len(looks)), looks)
        if len(self.belief) != len(looks):
            raise ValueError(
                f"{self._name}.act: expected the {len(self.belief)} environments of the last "
                f"call, got {len(looks)}. Call reset() before acting in others."
            )
        return self.model.correct(self.model.predict(self.belief, self.action), looks)

    def reset(self, ended: np.ndarray | None = None) -> None:
        """Forget the past of all environments, or of those where ended [B] is True."""
        self.noise.reset(ended)
        if ended is None or self.belief is None:
            self.belief, self.action = None, None
            return
        begun = torch.as_tensor(ended)
        # Nothing is believed yet; whatever is predicted from that, the first look replaces it.
        self.belief = torch.where(begun[:, None], self.model.start(len(begun)), self.belief)


class BeliefAgent(_Filtering):
    """Filters with a recurrent model, and plans in its latent space.

    What it explores with is its own affair and nobody else's: it has to know which action was
    executed, or its memory is of another past.

    Attributes:
        belief: [B, S+2] after the last look; None before the first.
        action: [B, A] encoded, that it executed last.
    """

    def __init__(
        self,
        model: Believer,
        planner: Planner,
        imagination: Imagination = PLAIN,
        *,
        std: float = 0.0,
        correlation: float = 0.9,
    ) -> None:
        """Put a model and a planner together.

        Args:
            model: filters and imagines.
            planner: searches over action sequences.
            imagination: how the model imagines their futures.
            std: of the noise on its actions, as a share of half their range; 0 for none.
            correlation: of the noise from step to step.

        Raises:
            TypeError: for noise on discrete actions.
            ValueError: for a planner of another action space, or a negative std.
        """
        if planner.action_space != model.task.action_space:
            raise ValueError(
                f"BeliefAgent: expected a planner for {model.task.action_space}, got one for "
                f"{planner.action_space}. Make it with task.action_space."
            )
        super().__init__(model, planner.generator, std, correlation)
        self.planner, self.imagination = planner, imagination
        self.state: PlannerState | None = None

    def _choose(self, belief: Tensor) -> Tensor:
        state = self.state if self.planner.remembers else None
        state = self.planner.start(len(belief)) if state is None else state

        def score(actions: Tensor) -> Tensor:
            return rollout_returns(self.model, belief, actions, self.imagination)

        plan, self.state = self.planner.plan(score, state)
        return plan.actions[:, 0]

    def reset(self, ended: np.ndarray | None = None) -> None:
        """Forget the past of all environments, or of those where ended [B] is True."""
        super().reset(ended)
        if ended is None or self.state is None:
            self.state = None
        else:
            self.state = self.planner.restart(self.state, torch.as_tensor(ended))


class BeliefActor(_Filtering):
    """Filters with a recurrent model, and does what an actor does that learned in its dreams.

    Attributes:
        belief: [B, S+2] after the last look; None before the first.
        action: [B, A] encoded, that it executed last.
    """

    def __init__(
        self, actor_critic: ActorCritic, *, std: float = 0.0, correlation: float = 0.9
    ) -> None:
        """Act with a policy of beliefs.

        Args:
            actor_critic: whose policy and model to use.
            std: of the noise on its actions, as a share of half their range; 0 for none.
            correlation: of the noise from step to step.

        Raises:
            TypeError: for noise on discrete actions.
            ValueError: for a negative std.
        """
        super().__init__(actor_critic.model, actor_critic.generator, std, correlation)
        self.actor_critic = actor_critic

    def _choose(self, belief: Tensor) -> Tensor:
        return self.actor_critic.policy.action(self.model.features(belief))
