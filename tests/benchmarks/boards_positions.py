"""Connect Four: 200 fixed positions, and what each move is worth when both play on perfectly.

They come from games between two weak tree searches, from distinct random openings: one a game, with
20 to 30 stones, where no row can be completed at once and some move throws away what another one
keeps.
"""

import dataclasses
from collections.abc import Iterator

import torch
from _common import finish, parser, record

from mbrl_helpers.boards.matches import openings
from mbrl_helpers.boards.players import UCTPlayer
from mbrl_helpers.boards.rules import CONNECT_FOUR as RULES
from mbrl_helpers.boards.search import UCT
from mbrl_helpers.boards.solver import move_values
from mbrl_helpers.notebook import generator

NUM_POSITIONS, FEWEST, MOST = 200, 20, 30


def candidates(seed: int) -> Iterator[list[torch.Tensor]]:
    """Of each of some games its boards [2, C] with so many stones, in random order."""
    rng = generator(seed)
    boards = openings(RULES, 1400, 6, rng)
    player = UCTPlayer(RULES, rng, dataclasses.replace(UCT, num_simulations=30))
    games: list[list[torch.Tensor]] = [[] for _ in boards]
    playing = torch.arange(len(boards))
    while len(boards):
        if FEWEST <= boards[0].sum() <= MOST:  # as many stones on all of them
            for game, board in zip(playing.tolist(), boards, strict=True):
                games[game].append(board)
        turn = RULES.step(boards, player.act(boards))
        boards, playing = turn.boards[~turn.ended], playing[~turn.ended]
    for game in games:
        yield [game[i] for i in torch.randperm(len(game), generator=rng)]


def example(board: torch.Tensor) -> dict | None:
    """Its row, or None where the moves are not worth telling apart."""
    now = RULES.threats(board[None])[0, 0].gather(0, RULES.landing(board[None])[0])
    if (now & RULES.legal(board[None])[0]).any():
        return None
    values = move_values(RULES, board[None])[0]
    legal = values[~values.isnan()]
    if legal.min() == legal.max():
        return None
    cells = "".join(".XO"[int(m + 2 * o)] for m, o in zip(*board.tolist(), strict=True))
    worth = " ".join("-" if v != v else f"{v:.0f}" for v in values.tolist())
    return {"cells": cells, "stones": int(board.sum()), "worth": worth}


def main() -> None:
    options = parser(__doc__, range(1)).parse_args()
    rows: list[dict] = []
    for game in candidates(4_000_000 + options.seeds[0]):
        row = next(filter(None, map(example, game)), None)
        if row and row["cells"] not in [other["cells"] for other in rows]:
            rows.append(row)
            print(len(rows), *row.values(), flush=True)
        if len(rows) == NUM_POSITIONS:
            break
    if options.record:
        record("boards_positions", rows)
    finish("boards_positions", positions=len(rows))


if __name__ == "__main__":
    main()
