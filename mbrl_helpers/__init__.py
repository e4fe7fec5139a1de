"""Helpers of a hands-on course on model-based reinforcement learning, and a small kit of it.

The public face: what is needed to collect experience, learn a model, plan in it, and close the
loop comes by name from here. The rooms behind it follow the flow of data:

    actions, angles, envs     what an environment takes and shows
    memory                    observations that hold the steps before
    data, interaction         transitions, and the one loop that makes them
    networks, probabilistic   what learned models are made of; ways of being uncertain
    dynamics, uncertainty     learned models, and how sure they are
    diagnosis                 what can't be learned from some experience, and why not
    futures                   imagining with any model
    planners, agents          searching for plans, and acting by them
    policies, imagination     policies, and learning them inside a model
    training                  the closed loop, evaluation
    sweeps, kept              a function over many seeds and settings; its results in a file
    tabular                   Dyna-Q, in a table

Everything runs on the CPU: no other device is supported.

Four wings import these rooms and never each other: `cars` (notebook 08), `games` (09), `hidden`
(10) and `boards` (11).
`notebook`, `plotting` and `exercises` serve the notebooks only.
"""

from mbrl_helpers.actions import Actions
from mbrl_helpers.agents import MPCAgent, NoisyAgent, RandomAgent
from mbrl_helpers.data import ReplayBuffer, Transitions, load_transitions
from mbrl_helpers.diagnosis import diagnose
from mbrl_helpers.dynamics import DynamicsConfig, EnsembleModel, FittedModel
from mbrl_helpers.envs import Task, TrueDynamics, get_task, make_envs
from mbrl_helpers.futures import Imagination, imagined_returns, rollout, rollout_returns
from mbrl_helpers.interaction import collect_episodes
from mbrl_helpers.interfaces import Agent, Model, Step
from mbrl_helpers.memory import RememberSteps
from mbrl_helpers.planners import (
    CEM,
    ICEM,
    MPPI,
    CEMConfig,
    ICEMConfig,
    MPPIConfig,
    RandomShooting,
    RandomShootingConfig,
)
from mbrl_helpers.policies import Policy
from mbrl_helpers.sweeps import over_seeds
from mbrl_helpers.training import closed_loop, evaluate

__version__ = "0.1.0"

__all__ = [
    "CEM",
    "ICEM",
    "MPPI",
    "Actions",
    "Agent",
    "CEMConfig",
    "DynamicsConfig",
    "EnsembleModel",
    "FittedModel",
    "ICEMConfig",
    "Imagination",
    "MPCAgent",
    "MPPIConfig",
    "Model",
    "NoisyAgent",
    "Policy",
    "RandomAgent",
    "RandomShooting",
    "RandomShootingConfig",
    "RememberSteps",
    "ReplayBuffer",
    "Step",
    "Task",
    "Transitions",
    "TrueDynamics",
    "__version__",
    "closed_loop",
    "collect_episodes",
    "diagnose",
    "evaluate",
    "get_task",
    "imagined_returns",
    "load_transitions",
    "make_envs",
    "over_seeds",
    "rollout",
    "rollout_returns",
]
