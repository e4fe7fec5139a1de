"""What notebooks show of board games: boards, trees, an agent's thoughts, and a game by clicks."""

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import torch
from IPython.display import clear_output, display
from torch import Tensor

from mbrl_helpers import notebook, plotting
from mbrl_helpers.boards.players import SearchPlayer
from mbrl_helpers.boards.rules import Rules
from mbrl_helpers.boards.search import Tree

COLOURS = (plotting.VERMILION, plotting.BLUE)  # who moved first, and the other


def draw_board(rules: Rules, board: Tensor, ax: plt.Axes, size: float = 1.0) -> plt.Axes:
    """Draw a board [2, C]: red has begun the game, blue is the other."""
    mover = int(board[0].sum() != board[1].sum())  # 0 while as many stones lie of each
    for player, stones in enumerate(board):
        cells = stones.nonzero()[:, 0]
        ax.scatter(
            cells % rules.num_columns, cells // rules.num_columns, s=size * 180, zorder=2,
            color=COLOURS[player ^ mover], marker="os"[player ^ mover],
        )  # fmt: skip
    ax.set(xlim=(-0.5, rules.num_columns - 0.5), ylim=(rules.num_rows - 0.5, -0.5), aspect="equal")
    ax.set_xticks(range(rules.num_columns))
    ax.set_yticks([])
    ax.set_xticks([c - 0.5 for c in range(1, rules.num_columns)], minor=True)
    ax.set_yticks([r - 0.5 for r in range(1, rules.num_rows)], minor=True)
    ax.grid(visible=False, which="major")
    ax.grid(visible=True, which="minor", color="grey", alpha=0.4)
    ax.tick_params(which="minor", length=0)
    return ax


def draw_tree(children: Sequence[Sequence[int]], visits: Sequence[float], ax: plt.Axes,
              labels: Sequence[str] = (), strong: Sequence[int] = ()) -> plt.Axes:  # fmt: skip
    """Draw a tree: lines as thick as their nodes were visited.

    Args:
        children: of each node, the numbers of its children; node 0 is the root.
        visits: of each node.
        ax: to draw on.
        labels: a text for each node; none where there are fewer.
        strong: nodes on the way that is drawn in colour.
    """
    places: dict[int, tuple[float, int]] = {}

    def place(node: int, depth: int, left: float) -> float:
        """Leaves stand side by side, parents above the middle of theirs."""
        right = left
        for child in children[node]:
            right = place(child, depth + 1, right)
        inner = [places[child][0] for child in children[node]]
        places[node] = (sum(inner) / len(inner) if inner else left + 0.5, depth)
        return max(right, left + 1)

    place(0, 0, 0.0)
    for node, below in enumerate(children):
        for child in below:
            (x, y), (u, v) = places[node], places[child]
            colour = plotting.VERMILION if child in strong else plotting.BLUE
            width = 0.6 + 8 * visits[child] / max(visits[0], 1)
            ax.plot((x, u), (-y, -v), color=colour, linewidth=width, alpha=0.7, zorder=1)
    for node, (x, y) in places.items():
        ax.plot(x, -y, "o", color=plotting.BLACK, markersize=4, zorder=2)
        if node < len(labels):
            ax.annotate(labels[node], (x, -y), (3, 3), textcoords="offset points", fontsize=7)
    ax.axis("off")
    return ax


def draw_thoughts(rules: Rules, tree: Tree, ax: plt.Axes, game: int = 0) -> plt.Axes:
    """Draw how often a search took each column, what it expects, and the line that it sees."""
    visits, value = tree.visits[game], float(tree.root_values[game])
    ax.bar(range(rules.num_actions), visits, color=plotting.BLUE)
    line = " ".join(map(str, tree.line(game, 6)))
    ax.set(xlabel="column", ylabel="visits", xticks=range(rules.num_actions))
    ax.set_title(f"expects {value:+.2f} for itself; sees {line}", fontsize=10)
    return ax


class Table:
    """A game against an agent, by clicks on columns; each click is answered, none does harm.

    Attributes:
        board: [1, 2, C] of who is to move.
        moves: that were made, both players'.
        message: what is to be said now.
        widget: buttons and picture.
    """

    def __init__(self, rules: Rules, agent: SearchPlayer, *, agent_begins: bool = False):
        import ipywidgets  # only here: who only reads needs none

        self.rules, self.agent, self.agent_begins = rules, agent, agent_begins
        self._thinking = False
        self._output = ipywidgets.Output()
        names = [*map(str, range(rules.num_actions)), "new game"]
        width = ipywidgets.Layout(width="auto")
        self._buttons = [ipywidgets.Button(description=name, layout=width) for name in names]
        for column, button in enumerate(self._buttons[:-1]):
            button.on_click(self._on_click(self.click, column))
        self._buttons[-1].on_click(self._on_click(self.begin))
        self.widget = ipywidgets.VBox([ipywidgets.HBox(self._buttons), self._output])
        self.begin()

    @staticmethod
    def _on_click(function: Callable[..., None], *arguments: int) -> Callable[[Any], None]:
        return lambda _: function(*arguments)

    def begin(self) -> None:
        """Begin a new game."""
        if self._thinking:
            return
        self.board, self.over = self.rules.start(), False
        self.moves: list[int] = []
        self.message = "Your move: click on a column."
        self._tree: Tree | None = None
        if self.agent_begins:
            self._answer()
        self._draw()

    def click(self, column: int) -> None:
        """Make the learner's move, and the agent's; say so if that can't be done."""
        if self._thinking:
            return  # it is not your turn
        if self._waiting():
            self._answer()  # it was interrupted
        elif self.over:
            self.message = "This game is over. Begin a new one."
        elif not self.rules.legal(self.board)[0, column]:
            self.message = f"Column {column} is full: take another one."
        else:
            self._move(column, "You have won!")
            if not self.over:
                self._answer()
        self._draw()

    def _waiting(self) -> bool:
        """Whether it is the agent's turn."""
        return not self.over and len(self.moves) % 2 == (not self.agent_begins)

    def _answer(self) -> None:
        self._thinking = True
        try:
            move = int(self.agent.act(self.board)[0])
            self._tree = self.agent.thoughts
        finally:
            self._thinking = False  # an interrupt leaves the game as it was
        self._move(move, "The agent has won.")

    def _move(self, column: int, win: str) -> None:
        turn = self.rules.play(self.board, torch.tensor([column]))
        self.board, self.over = turn.boards, bool(turn.ended)
        self.moves.append(column)
        self.message = win if turn.won else "A draw." if turn.ended else "Your move."

    def draw(self) -> plt.Figure:
        """The board, and what the agent thought at its last move."""
        figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
        draw_board(self.rules, self.board[0], left).set_title(self.message)
        if self._tree is None:
            right.axis("off")
        else:
            draw_thoughts(self.rules, self._tree, right)
        return figure

    def _draw(self) -> None:
        with self._output:
            clear_output(wait=True)
            notebook.show(
                self.draw(),
                alt=f"The board after the moves {self.moves}: {self.message} Beside it, how often "
                "the agent's search took each column.",
            )

    def show(self) -> None:
        """Show buttons and picture."""
        display(self.widget)
