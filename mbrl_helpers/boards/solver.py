"""What is never wrong: all of tic-tac-toe, and the end of Connect Four.

A board is two whole numbers, a bit for each cell: stones of who is to move, and all stones. Those
of Connect Four stand column by column from the bottom up, with an empty row above, so that lines
don't run from one column into the next. Values are 1, 0 and -1: won, drawn and lost for who is to
move.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from mbrl_helpers.boards.rules import CONNECT_FOUR, TIC_TAC_TOE, Rules, check_boards

ROWS, COLUMNS = CONNECT_FOUR.num_rows, CONNECT_FOUR.num_columns
HEIGHT = ROWS + 1  # with the empty row
BOTTOM = sum(1 << HEIGHT * column for column in range(COLUMNS))
BOARD = BOTTOM * ((1 << ROWS) - 1)
COLUMN = [((1 << ROWS) - 1) << HEIGHT * column for column in range(COLUMNS)]
ORDER = sorted(range(COLUMNS), key=lambda column: abs(column - COLUMNS // 2))
FEWEST_STONES = 12  # on boards with fewer, plain Python would take minutes


def move_values(rules: Rules, boards: Tensor) -> Tensor:
    """What each move is worth when both play on perfectly.

    Args:
        rules: of tic-tac-toe or Connect Four.
        boards: [B, 2, C], of Connect Four with 12 stones or more.

    Returns:
        [B, A] 1, 0 or -1 for who is to move; NaN where the move is illegal.

    Raises:
        ValueError: for other rules, boards that no game can reach, or those too early to be solved.
    """
    check_boards("move_values", rules, boards)
    if rules.name == TIC_TAC_TOE.name:
        return torch.tensor([_tic_tac_toe_moves(*_bits(board)) for board in boards])
    if rules.name != CONNECT_FOUR.name:
        raise ValueError(
            f"move_values: expected tic-tac-toe or Connect Four, got {rules.name}. There is no "
            "solver for it."
        )
    stones = int(boards.sum(dim=(1, 2)).min())
    if stones < FEWEST_STONES:
        raise ValueError(
            f"move_values: expected boards of {FEWEST_STONES} stones or more, got one of {stones}. "
            "Play on for a few moves: earlier ones take too long in plain Python."
        )
    return torch.tensor([_connect_four_moves(board) for board in boards])


class PerfectPlayer:
    """One of the best moves, each as likely."""

    def __init__(self, rules: Rules, generator: torch.Generator):
        self.rules, self.generator = rules, generator

    def act(self, boards: Tensor) -> Tensor:
        """Moves [B] on boards [B, 2, C]."""
        values = move_values(self.rules, boards).nan_to_num(nan=-9.0)
        best = (values == values.amax(dim=1, keepdim=True)).float()
        return torch.multinomial(best, 1, generator=self.generator)[:, 0]


# --- tic-tac-toe ----------------------------------------------------------------------------------


_LINES = [sum(1 << int(cell) for cell in line.nonzero()[:, 0]) for line in TIC_TAC_TOE.lines.T]


def _bits(board: Tensor) -> tuple[int, int]:
    mine, theirs = (sum(1 << i for i, s in enumerate(side) if s) for side in board.tolist())
    return mine, mine | theirs


def _tic_tac_toe_moves(mine: int, filled: int) -> list[float]:
    values = []
    for cell in range(9):
        after = mine | 1 << cell
        if filled >> cell & 1:
            values.append(float("nan"))
        elif any(after & line == line for line in _LINES):
            values.append(1.0)
        else:
            values.append(-_tic_tac_toe(filled & ~mine, filled | 1 << cell))
    return values


@cache
def _tic_tac_toe(mine: int, filled: int) -> float:
    if filled == 0b111111111:
        return 0.0
    return max(value for value in _tic_tac_toe_moves(mine, filled) if value == value)


# --- Connect Four ---------------------------------------------------------------------------------


def _connect_four_moves(board: Tensor) -> list[float]:
    sides = [side.view(ROWS, COLUMNS).flip(0).T.tolist() for side in board]  # [column][height]
    mine, theirs = (
        sum(1 << HEIGHT * c + h for c, column in enumerate(side) for h, s in enumerate(column) if s)
        for side in sides
    )
    filled, known = mine | theirs, dict[tuple[int, int], int]()
    values = []
    for column in range(COLUMNS):
        move = (filled + (1 << HEIGHT * column)) & COLUMN[column]
        if not move:
            values.append(float("nan"))
        elif _wins(mine) & move:
            values.append(1.0)
        else:
            values.append(-float(solve(theirs, filled | move, -1, 1, known)))
    return values


def solve(mine: int, filled: int, low: int, high: int, known: dict[tuple[int, int], int]) -> int:
    """Value of a board for who is to move, who can't lose more than `low` or win more than `high`.

    Alpha-beta with a table of what is known: of each board, the lowest and highest possible value.

    Args:
        mine: stones of who is to move.
        filled: all stones.
        low: at least so much is sure from elsewhere.
        high: the other player allows no more.
        known: the table, which is filled.
    """
    possible = (filled + BOTTOM) & BOARD
    if not possible:
        return 0
    if _wins(mine) & possible:
        return 1
    theirs = mine ^ filled
    possible = _not_losing(possible, _wins(theirs))
    if not possible:
        return -1
    key = (mine, filled)
    floor, ceiling = divmod(known.get(key, 2), 3)  # each 0, 1, 2 for -1, 0, 1
    low, high = max(low, floor - 1), min(high, ceiling - 1)
    if low >= high:
        return low
    begun, best = low, -1
    moves = [move for c in ORDER if (move := possible & COLUMN[c])]
    moves.sort(key=lambda move: -_wins(mine | move).bit_count())
    for move in moves:
        best = max(best, -solve(theirs, filled | move, -high, -max(low, best), known))
        if best >= high:
            break
    if best >= high:
        floor = best + 1
    elif best <= begun:
        ceiling = best + 1
    else:
        floor = ceiling = best + 1
    known[key] = 3 * max(floor, 0) + ceiling
    return best


def _not_losing(possible: int, danger: int) -> int:
    """Of the possible moves those after which the other player can't win at once."""
    forced = danger & possible
    if forced & (forced - 1):
        return 0  # two threats at once
    return (forced or possible) & ~(danger >> 1)  # not below where the other one would then win


def _wins(stones: int) -> int:
    """Cells, filled or not, where one more of these stones completes four in a row."""
    found = (stones << 1) & (stones << 2) & (stones << 3)
    for step in (HEIGHT - 1, HEIGHT, HEIGHT + 1):
        pair = (stones << step) & (stones << 2 * step)
        found |= pair & (stones << 3 * step) | pair & (stones >> step)
        pair = (stones >> step) & (stones >> 2 * step)
        found |= pair & (stones << step) | pair & (stones >> 3 * step)
    return found & BOARD


# --- fixed positions ------------------------------------------------------------------------------


def fixed_positions(rows: list[dict[str, Any]]) -> tuple[Tensor, Tensor]:
    """Boards [N, 2, C] and what each move is worth [N, A], NaN if illegal, of a recording."""
    stones = torch.tensor([[".XO".index(sign) for sign in row["cells"]] for row in rows])
    worth = [[float(w) if w != "-" else float("nan") for w in row["worth"].split()] for row in rows]
    return torch.stack([stones == 1, stones == 2], dim=1).float(), torch.tensor(worth)


def share_optimal(actions: Tensor, worth: Tensor) -> float:
    """Share of the moves [N] that keep what perfect play makes of a board, given worths [N, A]."""
    best = worth.nan_to_num(nan=-9.0).amax(dim=1)
    return float((worth.gather(1, actions[:, None])[:, 0] == best).float().mean())
