"""An agent that believes: it looks, remembers what it did, and plans from its belief.

Axes: B environments, N candidates, H horizon, O look, A action, S + 2 belief.
"""

import numpy as np
import torch
from torch import Tensor

from mbrl_helpers.actions import ContinuousActions
from mbrl_helpers.agents import CorrelatedNoise
from mbrl_helpers.checks import check_obs
from mbrl_helpers.futures import PLAIN, Imagination, rollout_returns
from mbrl_helpers.hidden.model import RecurrentModel
from mbrl_helpers.planners import Planner, PlannerState


class BeliefAgent:
    """Filters with a recurrent model, and plans in its latent space.

    What it explores with is its own affair and nobody else's: it has to know which action was
    executed, or its memory is of another past.

    Attributes:
        belief: [B, S+2] after the last look; None before the first.
        action: [B, A] encoded, that it executed last.
    """

    def __init__(
        self,
        model: RecurrentModel,
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
        self.model, self.planner, self.imagination, self.std = model, planner, imagination, std
        self.actions = model.task.actions
        if planner.action_space != model.task.action_space:
            raise ValueError(
                f"BeliefAgent: expected a planner for {model.task.action_space}, got one for "
                f"{planner.action_space}. Make it with task.action_space."
            )
        if std and not isinstance(self.actions, ContinuousActions):
            raise TypeError(
                f"BeliefAgent: expected continuous actions for noise, got {self.actions.space}. "
                "Leave std out."
            )
        if not 0 <= std < float("inf"):
            raise ValueError(f"BeliefAgent: expected std >= 0, got {std}. Try 0.3.")
        self.noise = CorrelatedNoise(self.actions.size, planner.generator, correlation)
        self.belief: Tensor | None = None
        self.action: Tensor | None = None
        self.state: PlannerState | None = None

    @torch.inference_mode()
    def act(self, obs: np.ndarray) -> np.ndarray:
        """Look at obs [B, O], and return the first action of each plan."""
        looks = check_obs("BeliefAgent.act", obs, self.model.task.num_obs)
        self.belief = self._believe(looks)
        state = self.state if self.planner.remembers else None
        state = self.planner.start(len(looks)) if state is None else state

        def score(actions: Tensor) -> Tensor:
            assert self.belief is not None
            return rollout_returns(self.model, self.belief, actions, self.imagination)

        plan, self.state = self.planner.plan(score, state)
        action = plan.actions[:, 0]
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
                f"BeliefAgent.act: expected the {len(self.belief)} environments of the last call, "
                f"got {len(looks)}. Call reset() before acting in others."
            )
        return self.model.correct(self.model.predict(self.belief, self.action), looks)

    def reset(self, ended: np.ndarray | None = None) -> None:
        """Forget the past of all environments, or of those where ended [B] is True."""
        self.noise.reset(ended)
        if ended is None or self.belief is None or self.state is None:
            self.belief, self.action, self.state = None, None, None
            return
        begun = torch.as_tensor(ended)
        # Nothing is believed yet; whatever is predicted from that, the first look replaces it.
        self.belief = torch.where(begun[:, None], self.model.start(len(begun)), self.belief)
        self.state = self.planner.restart(self.state, begun)
