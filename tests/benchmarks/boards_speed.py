"""Connect Four: simulations a second of the course's tree search and of others, in turn, one core.

- rollouts: UCT with 200 simulations, each with one random game to the end: ours, of one board and
  of 64 side by side; open_spiel's in C++ and in Python, one board after another.
- network: PUCT with 200 simulations from 64 boards, a network of 84, 256, 256 and 8 numbers (the
  stones alone): ours, and mctx's `muzero_policy` with the true rules, compiled beforehand.

Boards are those after four random moves. Seconds are of the processor, the best of some. Others are
measured where they are installed: pip install open_spiel==2.0.2 mctx==0.0.71
"""

import importlib.util
import itertools
import os
import time
from collections.abc import Callable

os.environ.setdefault(  # before JAX is imported
    "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
)

import numpy as np
from _common import finish, parser, record, run_all

from mbrl_helpers.boards.matches import openings
from mbrl_helpers.boards.network import BoardNetwork, NetworkConfig
from mbrl_helpers.boards.players import UCT, NetworkPlayer, UCTPlayer
from mbrl_helpers.boards.rules import CONNECT_FOUR
from mbrl_helpers.boards.search import SearchConfig
from mbrl_helpers.notebook import generator

NUM_BOARDS, NUM_SIMULATIONS, REPEATS = 64, 200, 3
Decide = Callable[[], object]


def ours(kind: str, num_boards: int) -> Decide:
    """The course's search from so many boards side by side."""
    rng = generator(0)
    boards = openings(CONNECT_FOUR, num_boards, 4, rng)
    if kind == "rollouts":
        player = UCTPlayer(CONNECT_FOUR, rng)
    else:
        network = BoardNetwork(CONNECT_FOUR, rng, NetworkConfig(lines=False))
        config = SearchConfig(num_simulations=NUM_SIMULATIONS)
        player = NetworkPlayer(CONNECT_FOUR, network, rng, config)
    return lambda: player.act(boards)


def open_spiel(language: str) -> Decide:
    """Its UCT from one board."""
    import pyspiel
    from open_spiel.python.algorithms import mcts

    game, rng = pyspiel.load_game("connect_four"), np.random.RandomState(0)
    state = game.new_initial_state()
    for action in (3, 2, 4, 3):
        state.apply_action(action)
    if language == "C++":
        evaluator = pyspiel.RandomRolloutEvaluator(1, 0)
        bot = pyspiel.MCTSBot(game, evaluator, 1.4, NUM_SIMULATIONS, 100, False, 0, False)
    else:
        evaluator = mcts.RandomRolloutEvaluator(1, rng)
        bot = mcts.MCTSBot(game, 1.4, NUM_SIMULATIONS, evaluator, solve=False, random_state=rng)
    return lambda: bot.step(state)


def mctx_search() -> Decide:
    """Its PUCT from many boards, on rules and a network written in JAX."""
    import jax
    import jax.numpy as jnp
    import mctx

    keys, sizes = iter(jax.random.split(jax.random.key(0), 8)), (84, 256, 256, 8)
    weights = [
        jax.random.normal(next(keys), (m, n)) * m**-0.5 for m, n in itertools.pairwise(sizes)
    ]

    def network(boards):  # [B, 2, 6, 7]
        x = boards.reshape(len(boards), -1)
        for i, weight in enumerate(weights):
            x = (jax.nn.relu(x) if i else x) @ weight
        return x[:, :-1], jnp.tanh(x[:, -1])

    def has_four(stones):  # [B, 6, 7]
        won = False
        for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
            padded = jnp.pad(stones, ((0, 0), (0, 3), (3, 3)))
            four = 1.0
            for k in range(4):
                four *= padded[:, k * down : k * down + 6, 3 + k * right : 3 + k * right + 7]
            won |= four.any(axis=(1, 2))
        return won

    def step(params, key, action, boards):
        height = boards.sum(axis=(1, 2))[jnp.arange(len(boards)), action].astype(int)
        mine = boards[:, 0].at[jnp.arange(len(boards)), 5 - height, action].set(1.0)
        won = has_four(mine)
        ended = won | (mine + boards[:, 1]).all(axis=(1, 2))
        after = jnp.stack([boards[:, 1], mine], 1)
        logits, value = network(after)
        full = after.sum(axis=(1, 2)) > 5
        return mctx.RecurrentFnOutput(
            reward=won.astype(float), discount=jnp.where(ended, 0.0, -1.0),
            prior_logits=jnp.where(full, -1e9, logits), value=value,
        ), after  # fmt: skip

    @jax.jit
    def search(key, boards):
        logits, value = network(boards)
        root = mctx.RootFnOutput(prior_logits=logits, value=value, embedding=boards)
        return mctx.muzero_policy(None, key, root, step, NUM_SIMULATIONS).action

    boards = openings(CONNECT_FOUR, NUM_BOARDS, 4, generator(0)).view(-1, 2, 6, 7).float().numpy()
    return lambda: search(jax.random.key(1), boards).block_until_ready()


PARTS = {
    "rollouts: ours, 64 boards": (lambda: ours("rollouts", NUM_BOARDS), NUM_BOARDS, ""),
    "rollouts: ours, one board": (lambda: ours("rollouts", 1), 1, ""),
    "rollouts: open_spiel, C++": (lambda: open_spiel("C++"), 1, "pyspiel"),
    "rollouts: open_spiel, Python": (lambda: open_spiel("Python"), 1, "pyspiel"),
    "network: ours, 64 boards": (lambda: ours("network", NUM_BOARDS), NUM_BOARDS, ""),
    "network: mctx, 64 boards": (mctx_search, NUM_BOARDS, "mctx"),
}


def run(seed: int, part: str) -> dict:
    """Simulations a second."""
    make, num_boards, _ = PARTS[part]
    decide, seconds = make(), []
    decide()
    for _ in range(REPEATS * (1 if num_boards > 1 else 5)):
        begin = time.process_time()
        decide()
        seconds.append(time.process_time() - begin)
    speed = num_boards * NUM_SIMULATIONS / min(seconds)
    return {"part": part, "simulations_per_second": round(speed)}


def main() -> None:
    assert UCT.num_simulations == NUM_SIMULATIONS
    options = parser(__doc__, range(1), jobs=1).parse_args()
    there = [part for part, (_, _, needs) in PARTS.items()
             if not needs or importlib.util.find_spec(needs)]  # fmt: skip
    for part in PARTS.keys() - set(there):
        print(f"{part}: left out, for it is not installed")
    rows = run_all(run, options, {"part": there}, fresh=True)
    rows = [{key: row[key] for key in ("part", "simulations_per_second")} for row in rows]
    for row in rows:
        print("{part:30} {simulations_per_second:>9,}".format(**row))
    if options.record:
        record("boards_speed", rows)
    finish("boards_speed", **{row["part"]: row["simulations_per_second"] for row in rows})


if __name__ == "__main__":
    main()
