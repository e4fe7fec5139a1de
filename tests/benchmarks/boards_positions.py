"""Connect Four: 200 fixed positions, and what each move is worth when both play on perfectly.

They come from games between two weak tree searches, from distinct random openings: one a game, with
20 to 30 stones, where no row can be completed at once and some move throws away what another one
keeps.
"""

import dataclasses

import torch
from _common import finish, parser, record

from mbrl_helpers.boards.matches import openings
from mbrl_helpers.boards.players import UCTPlayer
from mbrl_helpers.boards.rules import CONNECT_FOUR as RULES
from mbrl_helpers.boards.search import UCT
from mbrl_helpers.boards.solver import move_values
from mbrl_helpers.notebook import generator

NUM_POSITIONS, FEWEST, MOST = 200, 20, 30


def candidates(seed: int) -> list[torch.Tensor]:
    """A board [2, C] of each of some games, at a random time of it."""
    rng = generator(seed)
    boards = openings(RULES, 400, 6, rng)
    player = UCTPlayer(RULES, rng, dataclasses.replace(UCT, num_simulations=30))
    wanted = torch.randint(FEWEST, MOST + 1, (len(boards),), generator=rng)
    found = []
    while len(boards):
        turn = RULES.step(boards, player.act(boards))
        boards, wanted = turn.boards[~turn.ended], wanted[~turn.ended]
        here = boards.sum(dim=(1, 2)) == wanted
        found += list(boards[here])
        boards, wanted = boards[~here], wanted[~here]
    return found


def main() -> None:
    options = parser(__doc__, range(1)).parse_args()
    rows, seen = [], set()
    for board in candidates(4_000_000 + options.seeds[0]):
        now = RULES.threats(board[None])[0, 0].gather(0, RULES.landing(board[None])[0])
        if (now & RULES.legal(board[None])[0]).any() or board.numpy().tobytes() in seen:
            continue
        seen.add(board.numpy().tobytes())
        values = move_values(RULES, board[None])[0]
        legal = values[~values.isnan()]
        if legal.min() == legal.max():
            continue
        cells = "".join(".XO"[int(m + 2 * o)] for m, o in zip(*board.tolist(), strict=True))
        worth = " ".join("-" if v != v else f"{v:.0f}" for v in values.tolist())
        rows.append({"cells": cells, "stones": int(board.sum()), "worth": worth})
        print(len(rows), *rows[-1].values(), flush=True)
        if len(rows) == NUM_POSITIONS:
            break
    if options.record:
        record("boards_positions", rows)
    finish("boards_positions", positions=len(rows))


if __name__ == "__main__":
    main()
