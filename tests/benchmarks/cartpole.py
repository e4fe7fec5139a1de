"""CartPole-v1 from three random episodes: real steps, seconds and milliseconds until it is solved.

Each seed runs in a process of its own, so that its seconds, of the processor, count from a fresh
start, imports included and evaluation excluded. Given to the agent: the limits of cart and pole,
as the margin in its objective. Learned: the dynamics, the reward and the termination.
"""

import statistics
import time

from _common import finish, first, parser, record, run_all

from mbrl_helpers import (
    EnsembleModel,
    MPCAgent,
    RandomAgent,
    RandomShooting,
    ReplayBuffer,
    Transitions,
    closed_loop,
    collect_episodes,
    evaluate,
    get_task,
)
from mbrl_helpers.notebook import generator

THRESHOLD = 475.0
SUSTAINED = 3  # evaluations in a row
MAX_EPISODES = 20


def run(seed: int) -> dict:
    """One run: evaluate after every real episode until the crossing is sustained."""
    task, rng = get_task("CartPole-v1"), generator(seed)
    model, planner = EnsembleModel(task, rng), RandomShooting(task.action_space, rng)

    def learn(experience: Transitions) -> MPCAgent:
        return MPCAgent(task, model.fit(experience), planner)

    evaluations, evaluating = [], 0.0
    for episode in closed_loop(
        task, RandomAgent(task.action_space, rng), learn, ReplayBuffer(),
        num_episodes=MAX_EPISODES, seed=1_000_000 + 1000 * seed,
    ):  # fmt: skip
        if model.fitted is None:
            continue
        agent = episode.agent
        begin = time.process_time()
        returns = evaluate(task, agent)
        spent = time.process_time() - begin
        evaluations.append(
            {
                "seed": seed,
                "steps": episode.num_steps,
                "seconds": round(begin - evaluating, 2),
                "mean_return": round(float(returns.mean()), 1),
                "min_return": float(returns.min()),
                "evaluation_seconds": round(spent, 1),
            }
        )
        evaluating += spent
        if first([e["mean_return"] for e in evaluations], THRESHOLD, SUSTAINED) is not None:
            break
    return {"evaluations": evaluations, "decision_ms": decision_ms(task, agent)}


def decision_ms(task, agent, num_decisions: int = 200) -> float:
    """Median milliseconds of a decision in one environment."""
    obs = collect_episodes(task, agent, num_episodes=1, seed=9000).obs
    times = []
    for i in range(num_decisions):
        begin = time.perf_counter()
        agent.act(obs[i % len(obs)][None])
        times.append(1000 * (time.perf_counter() - begin))
    return round(statistics.median(times), 2)


def summary(result: dict) -> dict:
    """The measures of one seed."""
    evaluations = result["evaluations"]
    means = [e["mean_return"] for e in evaluations]
    crossing, sustained = first(means, THRESHOLD, 1), first(means, THRESHOLD, SUSTAINED)
    at = None if crossing is None else evaluations[crossing]
    return {
        "steps_to_threshold": at and at["steps"],
        "steps_sustained": None if sustained is None else evaluations[sustained]["steps"],
        "seconds": at and at["seconds"],
        "final_return": means[-1],
        "decision_ms": result["decision_ms"],
        "evaluation_seconds": max(e["evaluation_seconds"] for e in evaluations),
    }


def main() -> None:
    options = parser(__doc__, range(10)).parse_args()
    results = run_all(run, options, fresh=True)
    print("seed  steps  sustained  seconds  final  decision[ms]  10 episodes[s]  evaluations")
    rows, summaries = [], [summary(result) for result in results]
    for s, result in zip(summaries, results, strict=True):
        rows += [e | {"decision_ms": result["decision_ms"]} for e in result["evaluations"]]
        track = " ".join(f"{e['steps']}:{e['mean_return']:.0f}" for e in result["evaluations"])
        print(
            f"{result['seed']:4}  {s['steps_to_threshold']!s:>5}  {s['steps_sustained']!s:>9}  "
            f"{s['seconds']!s:>7}  {s['final_return']:5.0f}  {s['decision_ms']:12}  "
            f"{s['evaluation_seconds']:14}  {track}"
        )
    if options.record:
        record("cartpole", rows)
    finish("cartpole", seeds=options.seeds, **{k: [s[k] for s in summaries] for k in summaries[0]})


if __name__ == "__main__":
    main()
