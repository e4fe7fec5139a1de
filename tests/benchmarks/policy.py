"""Policies learned in imagination: real steps, regret, seconds, and milliseconds of a decision.

Pendulum-v1, from two random episodes on, after each real episode of 200 steps, on the twenty fixed
starts, against the best returns there are (see pendulum_optimum.py):

- backprop: backpropagation through the ensemble, 120 updates an episode, to 1,200 steps;
- dyna: an actor-critic (SAC) on short imagined branches, 2,000 updates an episode, to 2,000 steps;
- distill: a policy that learns from what the planner does in the model, in four rounds of lessons
  an episode, the last three where the pupil itself leads, to 1,200 steps;
- sac: the same actor-critic with as many updates on the same kind of real episodes, no model;
- sac_one: the same with one update for each real step, to 20,000 steps, evaluated every fifth
  episode.

CartPole-v1: backprop, from three random episodes, until the mean of the ten fixed starts is 475.
Each run has a process of its own; its seconds are of the processor, imports included and
evaluation excluded. Given: that two numbers are cosine and sine of an angle, and for CartPole the
objective. Learned: dynamics, rewards, terminations.
"""

import time

import numpy as np
import torch
from _common import finish, parser, record, recorded, run_all
from pendulum import BEST, CORRELATION, EXPLORATION, MODEL, PLANNER

from mbrl_helpers import (
    ICEM,
    EnsembleModel,
    Model,
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
from mbrl_helpers.imagination import SAC, DynaConfig, dyna, improve
from mbrl_helpers.notebook import generator
from mbrl_helpers.policies import distill

CARTPOLE, PENDULUM = get_task("CartPole-v1"), get_task("Pendulum-v1")
EPISODES = {"backprop": 6, "dyna": 10, "distill": 6, "sac": 10, "sac_one": 100}
NUM_RANDOM = 2  # episodes; a policy settles on what it learns first
UPDATES = {"dyna": 2_000, "sac": 2_000, "sac_one": 200}  # after each episode
FEW_SEEDS = 5  # of all methods but backprop on Pendulum, which takes all that are asked for
THRESHOLD, MAX_STEPS = 475, 1_500
DECISIONS = 200
ROUNDS, LESSON_STARTS, LESSON_STEPS = 4, 20, 20


def run(seed: int, method: str) -> dict:
    """One run: evaluations, and milliseconds of a decision."""
    evaluations, times = cartpole(seed) if method == "cartpole" else pendulum(seed, method)
    return {"evaluations": evaluations, "times": times}


def pendulum(seed: int, method: str) -> tuple[list[dict], dict]:
    """One run; gives evaluations, and milliseconds."""
    rng, policy, actor_critic = generator(seed), None, None
    model = EnsembleModel(PENDULUM, rng, MODEL)

    def learn(data: Transitions) -> NoisyAgent:
        nonlocal policy, actor_critic
        if policy is None:
            policy = Policy(PENDULUM, data.obs, rng)
            actor_critic = SAC(policy, rng)
        fitted = None if method.startswith("sac") else model.fit(data)
        if method == "backprop":
            improve(policy, fitted, torch.tensor(data.obs), rng)
        elif method == "distill":
            be_taught(policy, fitted, torch.tensor(data.obs), rng)
        else:
            share = 1.0 if method.startswith("sac") else DynaConfig.real_share
            config = DynaConfig(num_updates=UPDATES[method], real_share=share)
            dyna(actor_critic, fitted, data, config)
        return NoisyAgent(PENDULUM, policy, rng, std=EXPLORATION, correlation=CORRELATION)

    evaluations, evaluating = [], 0.0
    for done in closed_loop(
        PENDULUM, RandomAgent(PENDULUM.action_space, rng, correlation=CORRELATION), learn,
        ReplayBuffer(), num_episodes=EPISODES[method], num_random_episodes=NUM_RANDOM,
        seed=2_000_000 + 1000 * seed,
    ):  # fmt: skip
        if policy is None:
            continue
        begin = time.process_time()
        if method != "sac_one" or done.episode % 5 == 4:
            returns = evaluate(PENDULUM, policy, num_episodes=len(BEST))
            spent = begin - evaluating
            evaluations.append(row(method, seed, done.num_steps, spent, BEST, returns))
        evaluating += time.process_time() - begin
    agents = {"policy_ms": policy}
    if model.fitted is not None:
        planner = ICEM(PENDULUM.action_space, rng, PLANNER)
        agents["planner_ms"] = MPCAgent(PENDULUM, model.fitted, planner)
    return evaluations, {name: milliseconds(agent) for name, agent in agents.items()}


def be_taught(pupil: Policy, model: Model, starts: torch.Tensor, rng) -> None:
    """Lessons of the planner, in the model: where it leads, then where the pupil does."""
    teacher = MPCAgent(PENDULUM, model, ICEM(PENDULUM.action_space, rng, PLANNER))
    lessons = []
    for number in range(ROUNDS):
        teacher.reset()
        obs = starts[torch.randint(len(starts), (LESSON_STARTS,), generator=rng)]
        for _ in range(LESSON_STEPS):
            action = teacher.plan(obs.numpy()).actions[:, 0].clone()
            lessons.append((obs, action))
            with torch.no_grad():
                obs = model.step(obs, pupil.action(obs) if number else action).next_obs[0]
        distill(pupil, *map(torch.cat, zip(*lessons, strict=True)), rng)


def cartpole(seed: int) -> tuple[list[dict], dict]:
    """One run until the threshold."""
    rng, buffer, first_start = generator(seed), ReplayBuffer(), 2_000_000 + 1000 * seed
    best, evaluations, evaluating = np.full(10, 500.0), [], 0.0
    agent = RandomAgent(CARTPOLE.action_space, rng)
    collect_episodes(CARTPOLE, agent, num_episodes=3, seed=first_start, buffer=buffer)
    model, policy = EnsembleModel(CARTPOLE, rng), None
    while len(buffer) < MAX_STEPS:
        data = buffer.all()
        fitted = model.fit(data)
        policy = policy or Policy(CARTPOLE, data.obs, rng)
        improve(policy, fitted, torch.tensor(data.obs), rng, objective=CARTPOLE.objective)
        begin = time.process_time()
        returns = evaluate(CARTPOLE, policy)
        evaluations.append(row("cartpole", seed, len(buffer), begin - evaluating, best, returns))
        if returns.mean() >= THRESHOLD:
            break
        evaluating += time.process_time() - begin
        start = first_start + 100 + len(evaluations)
        collect_episodes(CARTPOLE, policy, num_episodes=1, seed=start, buffer=buffer)
    return evaluations, {}


def row(method: str, seed: int, steps: int, seconds: float, best: np.ndarray, returns) -> dict:
    """One evaluation."""
    return {
        "method": method, "seed": seed, "steps": steps, "seconds": round(seconds, 2),
        "mean_return": round(float(returns.mean()), 1),
        "min_return": round(float(returns.min()), 1),
        "regret": round(float((best - returns).mean()), 2),
    }  # fmt: skip


def milliseconds(agent) -> float:
    """Median time of a decision in one environment."""
    obs, times = np.array([[0.6, 0.8, 1.0]], dtype=np.float32), []
    agent.reset()
    for _ in range(DECISIONS):
        begin = time.perf_counter()
        agent.act(obs)
        times.append(time.perf_counter() - begin)
    return round(1e3 * float(np.median(times)), 4)


def main() -> None:
    arguments = parser(__doc__, range(10))
    arguments.add_argument(
        "--methods", nargs="+", default=[*EPISODES, "cartpole"],
        help="only these; a recording keeps its rows of the others",
    )  # fmt: skip
    options = arguments.parse_args()
    few = [method for method in options.methods if method != "backprop"]
    done = run_all(run, options, {"method": few}, seeds=options.seeds[:FEW_SEEDS], fresh=True)
    if "backprop" in options.methods:
        done = run_all(run, options, {"method": ["backprop"]}, fresh=True) + done
    results: dict[str, list] = {}

    def take(key: str, value: object) -> None:
        results.setdefault(key, []).append(value)

    for one in done:
        method, evaluations, times = one["method"], one["evaluations"], one["times"]
        at = {e["steps"]: e["regret"] for e in evaluations}
        last = evaluations[-1]
        if method == "backprop":
            take("backprop_regret_at_800", at[800])
            take("backprop_regret_at_1200", at[1200])
            take("seconds", last["seconds"])
            for key, value in times.items():
                take(key, value)
        elif method == "cartpole":
            solved = last["mean_return"] >= THRESHOLD
            take("cartpole_steps_to_threshold", last["steps"] if solved else None)
        else:
            steps = max(at)
            take(f"{method.split('_')[0]}_regret_at_{steps}", at[steps])
        track = " ".join(f"{e['steps']}:{e['mean_return']:.0f}" for e in evaluations)
        print(f"{method:9} {one['seed']:4} {last['seconds']:7} s  {times}  {track}")
    if options.record:
        header, old = recorded("policy")
        kept = [row for row in old if row["method"] not in options.methods]
        rows = kept + [row for one in done for row in one["evaluations"]]
        record("policy", rows, earlier=header if kept else [])
    finish("policy", seeds=options.seeds, **results)


if __name__ == "__main__":
    main()
