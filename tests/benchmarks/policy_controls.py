"""Rival explanations for what notebook 07 shows, on Pendulum-v1, five seeds.

Each seed has what the notebook has: two random episodes and three of its own, a model of them, and
a policy trained through it. Regrets are means over the twenty fixed starts, against the best
returns there are (see pendulum_optimum.py). From there:

- starts: the policy goes on learning for 30 updates, with each of four models (the true dynamics,
  all five episodes, one episode at the bottom with and without the linear part), from each of two
  sets of starts (that episode's states, those of all five); its regret, and the reward that the
  model promises for standing upright, which is 0;
- horizon: novices learn in the true dynamics with 80 updates each, at 10 to 160 imagined steps,
  from 64 starts and from as many as make the work equal; and with 20 updates from 64 starts, at 40
  and 160 steps;
- gradient: its norm for a novice in the true dynamics over the same horizons, as it is and with
  one thing changed (`WORLDS`); the median of five;
- updates: an actor-critic in two rounds of 1,500 updates: on branches in the model or on real
  rows only, with or without a real episode of its own and a fit between them;
- search: a small planner of 15 steps, alone and with what a policy can lend it: its plan as a
  proposal, and what it goes on to earn in 25 more steps as the value of the last state; and with
  the same model calls spent on a longer horizon or on more candidates.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import gymnasium as gym
import numpy as np
import torch
from _common import finish, parser, record, recorded, run_all
from pendulum import BEST, CORRELATION, EXPLORATION, MODEL
from torch import Tensor

from mbrl_helpers import (
    ICEM,
    EnsembleModel,
    ICEMConfig,
    MPCAgent,
    NoisyAgent,
    Policy,
    RandomAgent,
    ReplayBuffer,
    Transitions,
    closed_loop,
    collect_episodes,
    evaluate,
    get_task,
)
from mbrl_helpers.imagination import SAC, BackpropConfig, DynaConfig, dyna, improve
from mbrl_helpers.interfaces import Model, Step
from mbrl_helpers.notebook import generator

PENDULUM = get_task("Pendulum-v1")
HORIZONS, WORK = (10, 20, 40, 80, 160), 40 * 64  # imagined steps of an update, at equal work
GO_ON, LOOKS = 15, 2  # updates between two looks, and how many
ROUNDS, UPDATES = 2, 1_500
SMALL = ICEMConfig(horizon=15, population_size=12, num_elites=4, num_iterations=2)
FINISH = 25  # imagined steps of the policy at the end of a plan
AFTERWARDS = 3_000_000  # seeds of episodes from here on


@dataclass
class Base:
    """What a seed begins with."""

    data: Transitions
    bottom: Transitions  # one random episode that never gets far up
    learner: EnsembleModel
    policy: Policy

    @property
    def starts(self) -> Tensor:
        return torch.tensor(self.data.obs)


def base(seed: int) -> Base:
    """Two random episodes and three of its own, and a policy trained through the model."""
    rng, buffer = generator(seed), ReplayBuffer()
    learner = EnsembleModel(PENDULUM, rng, MODEL)
    policy = None

    def learn(data: Transitions) -> NoisyAgent:
        nonlocal policy
        policy = policy or Policy(PENDULUM, data.obs, rng)
        improve(policy, learner.fit(data), torch.tensor(data.obs), rng)
        return NoisyAgent(PENDULUM, policy, rng, std=EXPLORATION, correlation=CORRELATION)

    first = AFTERWARDS + 1000 * seed
    list(closed_loop(PENDULUM, random_agent(rng), learn, buffer, num_episodes=5,
                     num_random_episodes=2, seed=first))  # fmt: skip
    idler = random_agent(generator(seed + 500))
    bottom = collect_episodes(PENDULUM, idler, num_episodes=1, seed=hanging_start(first + 500))
    return Base(buffer.all(), bottom, learner, policy)


def random_agent(rng: torch.Generator) -> RandomAgent:
    return RandomAgent(PENDULUM.action_space, rng, correlation=CORRELATION)


def hanging_start(first: int) -> int:
    """The first seed from there on with which the pendulum hangs down at the start."""
    with gym.make(PENDULUM.env_id) as env:
        return next(s for s in range(first, first + 999) if env.reset(seed=s)[0][0] < -0.95)


def regret(agent, num: int = len(BEST)) -> float:
    return float((BEST[:num] - evaluate(PENDULUM, agent, num_episodes=num)).mean())


# --- the parts: rows of variant, amount, value, and what else was seen ---------------------------

Row = tuple[str, float, float, float]
NONE = float("nan")


def starts(seed: int, begun: Base) -> Iterator[Row]:
    """Model by start states: regret after so many updates, and what the model promises."""
    alone = replace(MODEL, linear_part=False)
    models: dict[str, Model] = {
        "true": PENDULUM.true_dynamics,
        "all episodes": begun.learner.fitted,
        "narrow, with line": EnsembleModel(PENDULUM, generator(seed), MODEL).fit(begun.bottom),
        "narrow, no line": EnsembleModel(PENDULUM, generator(seed), alone).fit(begun.bottom),
    }
    places = {"bottom": torch.tensor(begun.bottom.obs), "all": begun.starts}
    for name, model in models.items():
        promise = float(upright(model))
        for place, obs in places.items():
            student, rng = copy.deepcopy(begun.policy), generator(seed)
            for look in range(LOOKS + 1):
                if look:
                    improve(student, model, obs, rng, BackpropConfig(num_updates=GO_ON))
                yield f"{name} / {place}", GO_ON * look, regret(student), promise


@torch.inference_mode()
def upright(model: Model) -> Tensor:
    """Reward that the members promise for a step at rest, upright."""
    members = getattr(model, "num_members", 1)
    obs = torch.tensor([1.0, 0.0, 0.0]).expand(members, 1, 3)
    return model.step(obs, torch.zeros(members, 1, 1)).reward.mean()


def horizon(seed: int, begun: Base) -> Iterator[Row]:
    """Regret of novices by horizon; of equal work the number of starts varies."""
    plans = [
        *(("equal updates", steps, 64, 80) for steps in HORIZONS),
        *(("equal updates and work", steps, WORK // steps, 80) for steps in HORIZONS),
        *(("20 updates", steps, 64, 20) for steps in (40, 160)),
    ]
    for name, steps, num_starts, num_updates in plans:
        rng = generator(seed + 8)
        novice = Policy(PENDULUM, begun.data.obs, rng)
        config = BackpropConfig(num_updates=num_updates, horizon=steps, num_starts=num_starts)
        improve(novice, PENDULUM.true_dynamics, begun.starts, rng, config)
        yield name, steps, regret(novice), num_starts


def pendulum_step(gravity: float, inertia: bool) -> Callable[[Tensor, Tensor], Step]:
    """The equations of Pendulum-v1 with another gravity; without inertia no speed is kept."""

    def step(obs: Tensor, action: Tensor) -> Step:
        angle, speed = torch.atan2(obs[..., 1], obs[..., 0]), obs[..., 2]
        torque = action[..., 0].clamp(-2, 2)
        reward = -(angle**2 + 0.1 * speed**2 + 0.001 * torque**2)
        push = (1.5 * gravity * angle.sin() + 3 * torque) * 0.05
        # Without inertia the speed is what the last ten pushes would have made: as strong, no more.
        speed = (speed + push if inertia else 10 * push).clamp(-8, 8)
        angle = angle + 0.05 * speed
        return Step(torch.stack([angle.cos(), angle.sin(), speed], -1), reward, 0 * reward)

    return step


@dataclass
class World:
    """A model of equations."""

    equations: Callable[[Tensor, Tensor], Step]

    def step(self, obs: Tensor, action: Tensor, generator: torch.Generator | None = None) -> Step:
        return self.equations(obs, action)


WORLDS = {  # gravity, inertia, discount
    "as it is": (10.0, True, 0.98),
    "no gravity": (0.0, True, 0.98),
    "no gravity, no inertia": (0.0, False, 0.98),
    "discount 1": (10.0, True, 1.0),
    "no gravity, discount 1": (0.0, True, 1.0),
    "no gravity, no inertia, discount 1": (0.0, False, 1.0),
}


def gradient(seed: int, begun: Base) -> Iterator[Row]:
    """Norm of a novice's gradient by horizon."""
    novice = Policy(PENDULUM, begun.data.obs, generator(seed + 1))
    for name, (gravity, inertia, discount) in WORLDS.items():
        for steps in (5, *HORIZONS):
            config = BackpropConfig(num_updates=5, horizon=steps, learning_rate=1e-9,
                                    discount=discount)  # fmt: skip
            found = improve(copy.deepcopy(novice), World(pendulum_step(gravity, inertia)),
                            begun.starts, generator(seed + 2), config)  # fmt: skip
            yield name, steps, float(np.median(found["gradient_norm"])), NONE


def updates(seed: int, begun: Base) -> Iterator[Row]:
    """Imagination by new episodes: regret after so many updates, and the number of real steps."""
    for imagined, real_share in (("branches", 0.1), ("real rows only", 1.0)):
        for episodes in ("own episodes", "no new data"):
            rng, own = generator(seed + 4), ReplayBuffer()
            own.add(begun.data)
            policy, learner = Policy(PENDULUM, begun.data.obs, rng), copy.deepcopy(begun.learner)
            sac, model = SAC(policy, rng), begun.learner.fitted
            explorer = NoisyAgent(PENDULUM, policy, rng, std=EXPLORATION, correlation=CORRELATION)
            config = DynaConfig(num_updates=UPDATES, real_share=real_share)
            for number in range(ROUNDS):
                if number and episodes == "own episodes":
                    start = AFTERWARDS + 1000 * seed + 700 + number
                    collect_episodes(PENDULUM, explorer, num_episodes=1, seed=start, buffer=own)
                    model = learner.fit(own.all()) if imagined == "branches" else None
                dyna(sac, model, own.all(), config)
                yield f"{imagined}, {episodes}", UPDATES * (number + 1), regret(policy), len(own)


def search(seed: int, begun: Base) -> Iterator[Row]:
    """Regret of small searches, and model steps along a plan times candidates of an iteration."""
    model, policy = begun.learner.fitted, begun.policy

    def finish_with_policy(obs: Tensor) -> Tensor:
        total: Tensor | float = 0.0
        for _ in range(FINISH):
            step = model.step(obs, policy.action(obs))
            total, obs = total + step.reward, step.next_obs
        return total

    long = replace(SMALL, horizon=SMALL.horizon + FINISH)
    more = replace(SMALL, population_size=32, num_elites=8)
    ends = {"terminal_value": finish_with_policy}
    for name, config, how in (
        ("alone", SMALL, {}),
        ("longer horizon", long, {}),
        ("more candidates", more, {}),
        ("proposal", SMALL, {"policy": policy}),
        ("value at the end", SMALL, ends),
        ("proposal and value", SMALL, {"policy": policy, **ends}),
    ):
        planner = ICEM(PENDULUM.action_space, generator(seed + 5), config)
        agent = MPCAgent(PENDULUM, model, planner, **how)
        length = config.horizon + FINISH * ("terminal_value" in how)
        yield name, length * config.population_size, regret(agent, 10), NONE
    yield "policy alone", 0, regret(policy, 10), NONE


PARTS = {"starts": starts, "horizon": horizon, "gradient": gradient, "updates": updates,
         "search": search}  # fmt: skip


def run(seed: int, parts: list[str]) -> list[dict]:
    """All rows of a seed."""
    begun = base(seed)
    return [
        {"part": part, "variant": variant, "seed": seed, "amount": amount,
         "value": round(value, 3), "beside": "" if np.isnan(beside) else round(beside, 2)}
        for part in parts
        for variant, amount, value, beside in PARTS[part](seed, begun)
    ]  # fmt: skip


def main() -> None:
    arguments = parser(__doc__, range(5))
    arguments.add_argument(
        "--parts", nargs="+", choices=PARTS, default=list(PARTS),
        help="only these; a recording keeps its rows of the others",
    )  # fmt: skip
    options = arguments.parse_args()
    rows = run_all(partial(run, parts=options.parts), options)
    table: dict[tuple, list] = {}
    for row in rows:
        table.setdefault((row["part"], row["variant"], row["amount"]), []).append(row["value"])
    for (part, variant, amount), values in table.items():
        print(f"{part:9} {variant:36} {amount:6}  {np.median(values):9.1f}  {values}")
    if options.record:
        header, old = recorded("policy_controls")
        kept = [row for row in old if row["part"] not in options.parts]
        record("policy_controls", kept + rows, earlier=header if kept else [])
    medians = {" / ".join(map(str, key)): float(np.median(v)) for key, v in table.items()}
    finish("policy_controls", seeds=options.seeds, medians=medians)


if __name__ == "__main__":
    main()
