"""Pendulum-v1 from one random episode: real steps and seconds until it is solved, and the regret.

Each seed runs in a process of its own; its seconds are of the processor, imports included and
evaluation excluded. After each episode the agent is evaluated, without exploration
noise, on the ten fixed starts; the regret is what it loses against the best returns there are
(see pendulum_optimum.py). Given to the agent: that the first two numbers it observes are cosine and
sine of an angle. Learned: dynamics and reward.
"""

import statistics
import time

import numpy as np
from _common import finish, first, parser, record, run_all

from mbrl_helpers import (
    ICEM,
    DynamicsConfig,
    EnsembleModel,
    ICEMConfig,
    MPCAgent,
    NoisyAgent,
    RandomAgent,
    ReplayBuffer,
    Transitions,
    closed_loop,
    evaluate,
    get_task,
)
from mbrl_helpers.notebook import generator, read_recorded

TASK = get_task("Pendulum-v1")
BEST = np.array([row["best_return"] for row in read_recorded("pendulum_optimum")])
REGRET = 25.0
SUSTAINED = 3  # evaluations in a row
NUM_EPISODES = 10  # of 200 steps
PLANNER = ICEMConfig(horizon=25, population_size=44, num_elites=8)
MODEL = DynamicsConfig(gaussian=True, bootstrap=True, warm_start=True, patience=8)
CORRELATION, EXPLORATION = 0.9, 0.3  # of the noise from step to step; its size, of half the range


def run(seed: int) -> dict:
    """One run of ten episodes."""
    rng = generator(seed)
    model, planner = EnsembleModel(TASK, rng, MODEL), ICEM(TASK.action_space, rng, PLANNER)

    def learn(experience: Transitions) -> NoisyAgent:
        agent = MPCAgent(TASK, model.fit(experience), planner)
        return NoisyAgent(TASK, agent, rng, std=EXPLORATION, correlation=CORRELATION)

    loop = closed_loop(
        TASK, RandomAgent(TASK.action_space, rng, correlation=CORRELATION), learn, ReplayBuffer(),
        num_episodes=NUM_EPISODES, num_random_episodes=1, seed=1_000_000 + 1000 * seed,
    )  # fmt: skip
    evaluations, evaluating = [], 0.0
    for episode in loop:
        agent = episode.agent.agent  # who plays next, without the noise
        begin = time.process_time()
        returns = evaluate(TASK, agent)
        evaluations.append({
            "seed": seed, "steps": episode.num_steps,
            "seconds": round(begin - evaluating, 2),
            "mean_return": round(float(returns.mean()), 1),
            "min_return": round(float(returns.min()), 1),
            "regret": round(float((BEST[:10] - returns).mean()), 2),
        })  # fmt: skip
        evaluating += time.process_time() - begin
    # On twenty starts, and beside the same planner with the true dynamics.
    learned = evaluate(TASK, agent, num_episodes=len(BEST))
    planner = ICEM(TASK.action_space, generator(seed), PLANNER)
    true = evaluate(TASK, MPCAgent(TASK, TASK.true_dynamics, planner), num_episodes=len(BEST))
    return {"evaluations": evaluations, "learned": learned.tolist(), "true": true.tolist()}


def summary(result: dict) -> dict:
    """The measures of one seed."""
    evaluations = result["evaluations"]
    gains = [-e["regret"] for e in evaluations]
    crossing, sustained = (first(gains, -REGRET, in_a_row) for in_a_row in (1, SUSTAINED))
    learned, true = np.array(result["learned"]), np.array(result["true"])
    return {
        "steps_to_threshold": None if crossing is None else evaluations[crossing]["steps"],
        "steps_sustained": None if sustained is None else evaluations[sustained]["steps"],
        "regret_at_2000": round(float((true - learned).mean()), 2),
        "regret_to_best_at_2000": round(float((BEST - learned).mean()), 2),
        "seconds": evaluations[-1]["seconds"],
    }


def main() -> None:
    options = parser(__doc__, range(10)).parse_args()
    results = run_all(run, options, fresh=True)
    print("seed  steps  sustained  regret at 2,000 (to the best)  seconds  evaluations")
    summaries = [summary(result) for result in results]
    for s, result in zip(summaries, results, strict=True):
        track = " ".join(f"{e['steps']}:{e['regret']:.0f}" for e in result["evaluations"])
        print(
            f"{result['seed']:4}  {s['steps_to_threshold']!s:>5}  {s['steps_sustained']!s:>9}  "
            f"{s['regret_at_2000']:6} ({s['regret_to_best_at_2000']})  {s['seconds']:7}  {track}"
        )
    print("median seconds", statistics.median(s["seconds"] for s in summaries))
    if options.record:
        record("pendulum", [row for result in results for row in result["evaluations"]])
    finish("pendulum", seeds=options.seeds, **{k: [s[k] for s in summaries] for k in summaries[0]})


if __name__ == "__main__":
    main()
