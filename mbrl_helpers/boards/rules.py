"""The rules of tic-tac-toe and Connect Four, for many games at once.

Axes: B games, C cells, A actions. A board is [2, C]: the stones of who is to move, and those of the
other player, 1 where there is one. After each move the two change places.
"""

from functools import cached_property
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from mbrl_helpers.checks import check_counts, check_tensor


class Turn(NamedTuple):
    """What a move leads to.

    Attributes:
        boards: [B, 2, C] seen by who is to move next.
        won: [B] whether who moved has won.
        ended: [B] whether the game is over, won or drawn.
    """

    boards: Tensor
    won: Tensor
    ended: Tensor


class Game(Protocol):
    """What a tree search needs of a game for two who move in turn: rules, or a model of them."""

    @property
    def num_actions(self) -> int:
        """A."""

    @property
    def max_moves(self) -> int:
        """After so many moves each game is over."""

    def legal(self, boards: Tensor) -> Tensor:
        """Which actions are allowed [B, A]."""

    def step(self, boards: Tensor, actions: Tensor) -> Turn:
        """Where legal actions [B] lead from boards of games that are not over."""


class Rules:
    """Who first has some stones in a row, wins; with gravity, stones fall down their column.

    Attributes:
        name: of the game.
        num_rows: of the board; row 0 is at the top.
        num_columns: of the board.
        in_a_row: so many stones win.
        gravity: whether an action is a column; else it is a cell.
        lines: [C, L] 1 where a cell belongs to a winning line.
    """

    def __init__(self, name: str, num_rows: int, num_columns: int, in_a_row: int, *, gravity: bool):
        check_counts("Rules", num_rows=num_rows, num_columns=num_columns, in_a_row=in_a_row)
        if in_a_row > max(num_rows, num_columns):
            raise ValueError(
                f"Rules: expected in_a_row <= {max(num_rows, num_columns)}, which fits on the "
                f"board, got {in_a_row}. Nobody could ever win."
            )
        self.name, self.num_rows, self.num_columns = name, num_rows, num_columns
        self.in_a_row, self.gravity = in_a_row, gravity
        self.lines = self._lines()

    def __repr__(self) -> str:
        return f"Rules({self.name!r})"

    @property
    def num_cells(self) -> int:
        """C."""
        return self.num_rows * self.num_columns

    @property
    def num_actions(self) -> int:
        """A: columns if stones fall, cells if not."""
        return self.num_columns if self.gravity else self.num_cells

    @property
    def max_moves(self) -> int:
        """After so many moves the board is full."""
        return self.num_cells

    def start(self, num_games: int = 1) -> Tensor:
        """Empty boards [B, 2, C]."""
        check_counts("Rules.start", num_games=num_games)
        return torch.zeros(num_games, 2, self.num_cells)

    def legal(self, boards: Tensor) -> Tensor:
        """Which actions are allowed [B, A]: columns with room, or empty cells."""
        filled = boards[:, 0] + boards[:, 1]  # [B, C]
        return filled[:, : self.num_actions] < 0.5  # of a column, the cell at the top decides

    def landing(self, boards: Tensor) -> Tensor:
        """The cell [B, A] that a stone comes to lie on; in a full column, its top cell."""
        if not self.gravity:
            return torch.arange(self.num_cells).expand(len(boards), -1)
        filled = boards.sum(1).view(-1, self.num_rows, self.num_columns).sum(1)  # [B, A]
        row = (self.num_rows - 1 - filled.long()).clamp(min=0)
        return row * self.num_columns + torch.arange(self.num_columns)

    def step(self, boards: Tensor, actions: Tensor) -> Turn:
        """Where actions [B] lead. They are not looked at: `play` does that."""
        cell = actions[:, None]
        if self.gravity:
            cell = self.landing(boards).gather(1, cell)
        mine = boards[:, 0].scatter(1, cell, 1.0)  # [B, C]
        won = (mine @ self.lines > self.in_a_row - 0.5).any(dim=1)
        turned = torch.stack([boards[:, 1], mine], dim=1)
        return Turn(turned, won, won | (turned.sum(dim=(1, 2)) > self.num_cells - 0.5))

    def threats(self, boards: Tensor) -> Tensor:
        """Empty cells [B, 2, C] where one more stone completes a line, of either player."""
        counts = boards @ self.lines  # [B, 2, L]
        return self._open(boards, counts, 1) > 0.5

    def line_planes(self, boards: Tensor) -> Tensor:
        """How lines stand at each empty cell [B, 6, C], for both players in turn.

        Where one more stone completes a line; the same, of cells that can be reached at once; and
        of how many lines that lack two stones the cell is one, in halves.
        """
        counts = boards @ self.lines  # [B, 2, L]
        threats = (self._open(boards, counts, 1) > 0.5).float()
        reached = torch.zeros(len(boards), 1, self.num_cells)
        reached.scatter_(2, self.landing(boards)[:, None], 1.0)
        return torch.cat([threats, threats * reached, self._open(boards, counts, 2) / 2], dim=1)

    def _open(self, boards: Tensor, counts: Tensor, lacking: int) -> Tensor:
        """Of how many lines, lacking so many stones and with none of the other's, a cell is one."""
        still = (counts == self.in_a_row - lacking) & (counts.flip(1) == 0)
        return (still.float() @ self.lines.T) * (boards.sum(1, keepdim=True) == 0)

    def play(self, boards: Tensor, actions: Tensor) -> Turn:
        """As `step`, but of boards and actions that are checked.

        Args:
            boards: [B, 2, C].
            actions: [B] whole numbers.

        Raises:
            TypeError: for other than tensors, or other than whole numbers.
            ValueError: for another shape, an unknown or illegal action, a finished game, or a
                board that no game can reach.
        """
        check_boards("Rules.play", self, boards)
        check_actions("Rules.play", self, boards, actions)
        return self.step(boards, actions)

    @cached_property
    def symmetries(self) -> list[tuple[Tensor, Tensor]]:
        """Cells [C] and actions [A] in other orders, in which each game is the same game."""
        grid = torch.arange(self.num_cells).view(self.num_rows, self.num_columns)
        turned = [grid]
        if not self.gravity and self.num_rows == self.num_columns:
            turned = [grid.rot90(k) for k in range(4)]
        cells = [c.flatten() for g in turned for c in (g, g.flip(1))]
        if not self.gravity:
            return [(c, c) for c in cells]
        return [(c, c[: self.num_columns]) for c in cells]  # the top row, as columns

    def show(self, board: Tensor) -> str:
        """A board [2, C] as text: X is who is to move."""
        signs = [".XO"[int(m + 2 * o)] for m, o in zip(*board.tolist(), strict=True)]
        rows = torch.arange(self.num_cells).view(self.num_rows, -1).tolist()
        return "\n".join(" ".join(signs[i] for i in row) for row in rows)

    def _lines(self) -> Tensor:
        found = []
        for row in range(self.num_rows):
            for column in range(self.num_columns):
                for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
                    cells = [(row + i * down, column + i * right) for i in range(self.in_a_row)]
                    if all(0 <= r < self.num_rows and 0 <= c < self.num_columns for r, c in cells):
                        found.append([r * self.num_columns + c for r, c in cells])
        lines = torch.zeros(self.num_cells, len(found))
        return lines.scatter(0, torch.tensor(found).T, 1.0)


TIC_TAC_TOE = Rules("tic-tac-toe", 3, 3, 3, gravity=False)
CONNECT_FOUR = Rules("Connect Four", 6, 7, 4, gravity=True)


GAMES = {rules.name: rules for rules in (TIC_TAC_TOE, CONNECT_FOUR)}


def check_boards(where: str, rules: Rules, boards: Tensor, *, running: bool = True) -> None:
    """Refuse what is no board of these rules, or, if not asked otherwise, a game that is over.

    Of stones that fall, the order of the moves is not looked into.

    Raises:
        TypeError: for other than a tensor.
        ValueError: for another shape, other numbers than 0 and 1, or what no game can reach.
    """
    check_tensor(where, "boards", boards)
    if boards.ndim != 3 or boards.shape[1:] != (2, rules.num_cells) or not len(boards):
        one = " For one board pass board[None]." if boards.shape == (2, rules.num_cells) else ""
        raise ValueError(
            f"{where}: expected boards [B, 2, {rules.num_cells}] of {rules.name}, got shape "
            f"{tuple(boards.shape)}.{one or ' Begin with rules.start().'}"
        )
    counts = boards.sum(dim=2)
    lines = boards @ rules.lines > rules.in_a_row - 0.5  # [B, 2, L]
    won, full = lines.any(dim=2), boards.sum(dim=(1, 2)) > rules.num_cells - 0.5
    last = torch.where(lines[:, 1, None], rules.lines, torch.ones(())).amin(dim=2)  # in all lines
    faults = {
        "other numbers than 0 and 1": (~((boards == 0) | (boards == 1)).flatten(1).all(dim=1)),
        "two stones on one cell": (boards.sum(1) > 1.5).any(dim=1),
        f"stones that nobody can have set in turn ({_counts(counts)})": (
            (counts[:, 1] - counts[:, 0] - 0.5).abs() > 0.6
        ),
        "a stone that hangs in the air": _hangs(rules, boards),
        "a line of who is to move, which had ended the game": won[:, 0],
        "two lines of the other player that no single stone has completed": (
            won[:, 1] & (last * boards[:, 1] < 0.5).all(dim=1)
        ),
    }
    for fault, bad in faults.items():
        if bad.any():
            raise ValueError(
                f"{where}: expected boards that a game of {rules.name} can reach, got {fault}, in "
                f"board {int(bad.nonzero()[0])}. Make boards by rules.start() and rules.play()."
            )
    over = won[:, 1] | full
    if running and over.any():
        which = int(over.nonzero()[0])
        how = "the other player has won" if won[which, 1] else "the board is full"
        raise ValueError(
            f"{where}: expected games that are not over, got a finished one, board {which}: {how}. "
            "Leave finished games out: boards[~ended]."
        )


def check_actions(where: str, rules: Rules, boards: Tensor, actions: Tensor) -> None:
    """Refuse actions [B] that can't be taken on boards [B, 2, C].

    Raises:
        TypeError: for other than a tensor of whole numbers.
        ValueError: for another shape, an unknown action or an illegal one.
    """
    check_tensor(where, "actions", actions)
    if actions.dtype != torch.long:
        raise TypeError(
            f"{where}: expected actions as whole numbers (torch.long), got {actions.dtype}. "
            "Pass actions.long()."
        )
    if actions.shape != (len(boards),):
        raise ValueError(
            f"{where}: expected actions [{len(boards)}], one a board, got shape "
            f"{tuple(actions.shape)}."
        )
    kind = "column" if rules.gravity else "cell"
    unknown = (actions < 0) | (actions >= rules.num_actions)
    if unknown.any():
        raise ValueError(
            f"{where}: expected a {kind} from 0 to {rules.num_actions - 1}, got "
            f"{int(actions[unknown][0])}. There is no such {kind}."
        )
    illegal = ~rules.legal(boards).gather(1, actions[:, None])[:, 0]
    if illegal.any():
        which = int(illegal.nonzero()[0])
        state = "column is full" if rules.gravity else "cell is taken"
        raise ValueError(
            f"{where}: expected a legal {kind}, got {int(actions[which])} on board {which}: that "
            f"{state}. rules.legal(boards) says which are legal."
        )


def _counts(counts: Tensor) -> str:
    odd = counts[((counts[:, 1] - counts[:, 0] - 0.5).abs() > 0.6)]
    return " against ".join(f"{int(n)}" for n in odd[0]) if len(odd) else ""


def _hangs(rules: Rules, boards: Tensor) -> Tensor:
    """Whether there is a stone above an empty cell [B]."""
    filled = boards.sum(1).view(-1, rules.num_rows, rules.num_columns)
    above = (filled[:, :-1] > 0.5) & (filled[:, 1:] < 0.5)
    return above.flatten(1).any(dim=1) & rules.gravity
