"""Atari's Pong, played from pixels after learning in dreams of 20,000 steps of the game.

Each seed runs in a process of its own; its seconds are of the processor, from the first real step
to the end of learning, evaluation excluded. The agent is evaluated in three full games of
ALE/Pong-v5 as shipped (four frames a step, sticky actions), the same for every seed. While it
learns, the points that it makes in each round are recorded: they cost nothing.
"""

import sys
import time

import gymnasium as gym
from _common import RECORDED, finish, parser, record, run_all

from mbrl_helpers.agents import RandomAgent
from mbrl_helpers.data import ReplayBuffer
from mbrl_helpers.games.dqn import play
from mbrl_helpers.games.dreams import learn_in_dreams
from mbrl_helpers.games.pong import KEYS, PONG_DREAMS, make_player, make_pong, save_player
from mbrl_helpers.notebook import generator

NUM_GAMES, EVALUATION = 3, 9_000_000  # fixed starts, used for nothing else
RANDOM, DREAM = "random", "dream"


def evaluated(agent) -> dict:
    """Returns of full games."""
    games = make_pong(NUM_GAMES)
    returns = play(agent, games, seed=EVALUATION)
    games.close()
    return {"mean_return": round(float(returns.mean()), 2), "min_return": float(returns.min()),
            "max_return": float(returns.max())}  # fmt: skip


def at_random(seed: int) -> list[dict]:
    """What pressing keys at random scores."""
    agent = RandomAgent(gym.spaces.Discrete(len(KEYS)), generator(seed))
    row = {"agent": RANDOM, "seed": seed, "frames": 0, "won": "", "lost": ""}
    return [row | evaluated(agent) | {"seconds": 0.0}]


def dreams(seed: int, keep: str) -> list[dict]:
    """Points of each round, and returns in the end; keep is a command that made the weights."""
    model, agent = make_player(generator(seed))
    games = make_pong(1)
    games.reset(seed=1_000_000 + 1000 * seed)
    buffer, rows, before = ReplayBuffer(20_000), [], 0
    begin = time.process_time()
    for done in learn_in_dreams(games, model, agent, buffer, PONG_DREAMS):
        reward = buffer.columns["reward"][before : len(buffer)]
        before = len(buffer)
        rows.append({
            "agent": DREAM, "seed": seed, "frames": done.num_frames,
            "won": int((reward > 0).sum()), "lost": int((reward < 0).sum()),
            "mean_return": "", "min_return": "", "max_return": "",
            "seconds": round(time.process_time() - begin, 1),
        })  # fmt: skip
        print(rows[-1], done.losses, round(done.dream_reward, 5), file=sys.stderr, flush=True)
    if keep:
        save_player(RECORDED / "pong.npz", done.model, agent, command=keep, num_bits=16)
    rows[-1] |= evaluated(agent)
    print(rows[-1], file=sys.stderr, flush=True)
    return rows


def run(seed: int, agent: str, keep: str) -> dict:
    """One agent of one seed."""
    return {"rows": dreams(seed, keep) if agent == DREAM else at_random(seed)}


def main() -> None:
    arguments = parser(__doc__, range(3))
    options = arguments.parse_args()
    command = " ".join(["python tests/benchmarks/pong.py", *sys.argv[1:]])
    # The weights of the first seed are shipped, whichever it is: not those of the best one.
    first, *others = options.seeds
    keep = f"{command} (seed {first})" if options.record else ""
    both = [{"agent": agent, "keep": keep} for agent in (RANDOM, DREAM)]
    done = run_all(run, options, both, seeds=[first], fresh=True)
    if others:
        both = [{"agent": agent, "keep": ""} for agent in (RANDOM, DREAM)]
        done += run_all(run, options, both, seeds=others, fresh=True)
    rows = [row for one in sorted(done, key=lambda one: one["seed"]) for row in one["rows"]]
    for row in rows:
        print("  ".join(f"{value!s:>12}" for value in row.values()))
    if options.record:
        import ale_py

        record("pong", rows, versions=f"ale-py {ale_py.__version__}, ")
    last = [row for row in rows if row["agent"] == DREAM and row["mean_return"] != ""]
    finish("pong", seeds=options.seeds, pong_return=[row["mean_return"] for row in last],
           seconds=[row["seconds"] for row in last])  # fmt: skip


if __name__ == "__main__":
    main()
