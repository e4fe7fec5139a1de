"""CartPole-v1 from three random episodes: real steps, seconds and milliseconds until it is solved.

Each seed runs in a process of its own, so that its seconds count from a fresh start, imports
included and evaluation excluded. Given to the agent: the limits of cart and pole, as the margin in
its objective. Learned: the dynamics, the reward and the termination.
"""

import json
import statistics
import time

BEGIN = time.perf_counter()

from _common import finish, first, in_own_process, parser, record  # noqa: E402

from mbrl_helpers import (  # noqa: E402
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
from mbrl_helpers.notebook import generator  # noqa: E402

THRESHOLD = 475.0
SUSTAINED = 3  # evaluations in a row
MAX_EPISODES = 20


def run(seed: int) -> dict:
    """One run: evaluate after every real episode until the crossing is sustained."""
    task, rng = get_task("CartPole-v1"), generator(seed)
    model, planner = EnsembleModel(task, rng), RandomShooting(task.action_space, rng)

    def learn(experience: Transitions) -> MPCAgent:
        return MPCAgent(task, model.fit(experience), planner)

    start = time.perf_counter() - BEGIN
    evaluations = []
    for episode in closed_loop(
        task, RandomAgent(task.action_space, rng), learn, ReplayBuffer(),
        num_episodes=MAX_EPISODES, seed=1_000_000 + 1000 * seed,
    ):  # fmt: skip
        if model.fitted is None:
            continue
        agent = episode.agent
        begin = time.perf_counter()
        returns = evaluate(task, agent)
        evaluations.append(
            {
                "seed": seed,
                "steps": episode.num_steps,
                "seconds": round(start + episode.seconds, 2),
                "mean_return": round(float(returns.mean()), 1),
                "min_return": float(returns.min()),
                "evaluation_seconds": round(time.perf_counter() - begin, 1),
            }
        )
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
    arguments = parser(__doc__, range(10))
    arguments.add_argument("--one", type=int, help="run this seed here and print its JSON")
    options = arguments.parse_args()
    if options.one is not None:
        print(json.dumps(run(options.one)))
        return
    rows, summaries = [], []
    print("seed  steps  sustained  seconds  final  decision[ms]  10 episodes[s]  evaluations")
    for seed in options.seeds:
        result = in_own_process(seed)
        s = summary(result)
        rows += [e | {"decision_ms": result["decision_ms"]} for e in result["evaluations"]]
        summaries.append(s)
        track = " ".join(f"{e['steps']}:{e['mean_return']:.0f}" for e in result["evaluations"])
        print(
            f"{seed:4}  {s['steps_to_threshold']!s:>5}  {s['steps_sustained']!s:>9}  "
            f"{s['seconds']!s:>7}  {s['final_return']:5.0f}  {s['decision_ms']:12}  "
            f"{s['evaluation_seconds']:14}  {track}",
            flush=True,
        )
    if options.record:
        record("cartpole", rows)
    finish("cartpole", seeds=options.seeds, **{k: [s[k] for s in summaries] for k in summaries[0]})


if __name__ == "__main__":
    main()
