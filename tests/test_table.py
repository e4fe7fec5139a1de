"""A game by clicks: none does harm, whenever it comes; and what is drawn."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.colors import to_hex

from mbrl_helpers import table
from mbrl_helpers.boards.players import UCTPlayer
from mbrl_helpers.boards.rules import CONNECT_FOUR, TIC_TAC_TOE
from mbrl_helpers.boards.search import UCT, Rollouts, SearchConfig, search
from mbrl_helpers.table import Table, draw_board, draw_tree


def seeded():
    return torch.Generator().manual_seed(0)


class Scripted:
    """An agent that plays what it is told, and calls something meanwhile."""

    thoughts = None

    def __init__(self, *moves, meanwhile=lambda: None):
        self.moves, self.meanwhile = [*moves], meanwhile

    def act(self, boards):
        self.meanwhile()
        return torch.tensor([self.moves.pop(0)])


@pytest.fixture(autouse=True)
def shown(monkeypatch):
    """Pictures are drawn, and their descriptions kept."""
    said = []
    monkeypatch.setattr(table.notebook, "show", lambda figure, alt: (said.append(alt), plt.close()))
    return said


def test_a_game_is_played_to_its_end(shown):
    game = Table(CONNECT_FOUR, Scripted(1, 1, 1))
    for _ in range(4):
        game.click(0)
    assert game.over and game.message == "You have won!"
    assert game.moves == [0, 1, 0, 1, 0, 1, 0]
    assert "You have won!" in shown[-1]
    game.click(3)
    assert game.message == "This game is over. Begin a new one."
    assert len(game.moves) == 7
    game.begin()
    assert not game.over and game.moves == []


def test_the_agent_may_win_and_begin():
    game = Table(CONNECT_FOUR, Scripted(3, 3, 3, 3), agent_begins=True)
    assert game.moves == [3]
    for column in (0, 1, 2):
        game.click(column)
    assert game.message == "The agent has won."


def test_a_full_column_is_refused_in_words():
    game = Table(CONNECT_FOUR, Scripted(0, 0, 0, 1))
    for _ in range(3):
        game.click(0)
    before = game.board.clone()
    game.click(0)
    assert game.message == "Column 0 is full: take another one."
    assert torch.equal(game.board, before) and len(game.moves) == 6


def test_a_click_during_thinking_does_no_harm():
    game = SimpleNamespace(click=lambda column: None, begin=lambda: None)

    def impatient():
        game.click(2)
        game.begin()

    agent = Scripted(1, 1, meanwhile=impatient)
    game = Table(CONNECT_FOUR, agent)
    game.click(0)
    assert game.moves == [0, 1]
    game.click(0)
    assert game.moves == [0, 1, 0, 1]


def test_an_interrupt_leaves_a_game_that_goes_on():
    def interrupted():
        raise KeyboardInterrupt

    game = Table(CONNECT_FOUR, Scripted(1))
    game.agent = Scripted(1, meanwhile=interrupted)
    with pytest.raises(KeyboardInterrupt):
        game.click(0)
    assert game.moves == [0]
    game.agent = Scripted(2)
    game.click(5)  # the agent's turn, first of all
    assert game.moves == [0, 2]


def test_thoughts_are_drawn(shown):
    uct = UCTPlayer(CONNECT_FOUR, seeded(), SearchConfig(bonus="uct", num_simulations=20))
    game = Table(CONNECT_FOUR, uct)
    game.click(3)
    figure = game.draw()
    assert sum(bar.get_height() for bar in figure.axes[1].patches) == 20
    assert "sees" in figure.axes[1].get_title()
    plt.close(figure)


def test_the_first_player_is_red_whoever_is_to_move():
    boards = CONNECT_FOUR.start()
    for moves in ([0], [1], [0]):
        boards = CONNECT_FOUR.play(boards, torch.tensor(moves)).boards
        ax = draw_board(CONNECT_FOUR, boards[0], plt.figure().gca())
        drawn = {}
        for dots in ax.collections:
            if len(dots.get_offsets()):
                drawn[to_hex(dots.get_facecolor()[0]).upper()] = dots.get_offsets().tolist()
        plt.close()
        assert [0, 5] in drawn[table.COLOURS[0]]
        assert drawn.get(table.COLOURS[1], [[1, 5]]) == [[1, 5]]


def test_a_tree_is_as_thick_as_its_visits():
    ax = draw_tree([[1, 2], [3], [], []], [8.0, 6, 2, 4], plt.figure().gca(), ["a", "b"])
    widths = [line.get_linewidth() for line in ax.lines if line.get_linestyle() == "-"]
    assert widths[:3] == pytest.approx([0.6 + 6, 0.6 + 2, 0.6 + 4])
    assert {text.get_text() for text in ax.texts} == {"a", "b"}
    plt.close()


def test_expected_line_is_legal():
    tree = search(TIC_TAC_TOE, Rollouts(TIC_TAC_TOE, seeded()), TIC_TAC_TOE.start(), seeded(), UCT)
    line, boards = tree.line(0, 6), TIC_TAC_TOE.start()
    assert len(line) >= 2
    for move in line:
        boards = TIC_TAC_TOE.play(boards, torch.tensor([move])).boards
