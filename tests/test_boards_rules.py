"""Rules of board games: against brute force, published counts, and bad input."""

import itertools

import pytest
import torch

from mbrl_helpers.boards.learned import LearnedRulesConfig, fit_rules, random_games, right
from mbrl_helpers.boards.rules import CONNECT_FOUR, TIC_TAC_TOE, Rules
from mbrl_helpers.boards.solver import PerfectPlayer, move_values

LINES = [(0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6)]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def played(rules, moves):
    """The board [1, 2, C] after these moves, and how the last one went."""
    boards, turn = rules.start(), None
    for move in moves:
        turn = rules.play(boards, torch.tensor([move]))
        boards = turn.boards
    return boards, turn


def layers(rules, depth):
    """Distinct boards after 0, 1, 2 … moves, those of games that are over among them."""
    boards = rules.start()
    for _ in range(depth):
        yield boards
        which, actions = rules.legal(boards).nonzero().unbind(1)
        turn = rules.step(boards[which], actions)
        yield turn.boards[turn.ended].unique(dim=0)
        boards = turn.boards[~turn.ended].unique(dim=0)
    yield boards


def plain_tic_tac_toe():
    """{(stones of X, stones of O): (winner, over)} of all positions, in plain Python."""
    found, todo = {}, [(frozenset(), frozenset())]
    while todo:
        x, o = todo.pop()
        if (x, o) in found:
            continue
        winner = next((n for n, s in (("X", x), ("O", o)) if any(s >= {*w} for w in LINES)), None)
        over = winner is not None or len(x | o) == 9
        found[x, o] = winner, over
        for cell in set(range(9)) - x - o if not over else ():
            todo.append((x | {cell}, o) if len(x) == len(o) else (x, o | {cell}))
    return found


def test_every_reachable_position_of_tic_tac_toe():
    expected, found = plain_tic_tac_toe(), {}
    assert len(expected) == 5478
    for boards in layers(TIC_TAC_TOE, 9):
        for board in boards:
            mine, theirs = (frozenset(s.nonzero()[:, 0].tolist()) for s in board)
            key = (mine, theirs) if len(mine) == len(theirs) else (theirs, mine)
            won = bool((board[1] @ TIC_TAC_TOE.lines > 2.5).any())
            found[key] = won, won or bool(board.sum() == 9)
    assert found == {k: (winner is not None, over) for k, (winner, over) in expected.items()}


def test_legal_moves_and_results_of_every_position():
    for (x, o), (_, over) in plain_tic_tac_toe().items():
        if over:
            continue
        mine, theirs = (x, o) if len(x) == len(o) else (o, x)
        board = torch.zeros(1, 2, 9)
        board[0, 0, list(mine)] = board[0, 1, list(theirs)] = 1
        legal = TIC_TAC_TOE.legal(board)[0]
        assert set(legal.nonzero()[:, 0].tolist()) == set(range(9)) - x - o
        moves = legal.nonzero()[:, 0]
        turn = TIC_TAC_TOE.play(board.expand(len(moves), -1, -1), moves)
        wins = [any(mine | {int(m)} >= {*line} for line in LINES) for m in moves]
        assert turn.won.tolist() == wins
        threats = TIC_TAC_TOE.threats(board)[0, 0]
        assert threats[moves].tolist() == wins
        assert turn.ended.tolist() == [w or len(x | o) == 8 for w in wins]


def test_perft_of_connect_four():
    """Numbers of move sequences: 7, 49, …, and 4 to 7 moves deep some of them end."""
    boards, counts = CONNECT_FOUR.start(), []
    weights = torch.ones(1, dtype=torch.long)
    for _ in range(8):
        which, actions = CONNECT_FOUR.legal(boards).nonzero().unbind(1)
        turn = CONNECT_FOUR.step(boards[which], actions)
        counts.append(int(weights[which].sum()))
        boards, where = turn.boards[~turn.ended].unique(dim=0, return_inverse=True)
        ways = torch.zeros(len(boards), dtype=torch.long)
        weights = ways.index_add(0, where, weights[which][~turn.ended])
    assert counts == [7, 49, 343, 2_401, 16_807, 117_649, 823_536, 5_673_234]


def test_stones_fall_and_fill():
    boards, turn = played(CONNECT_FOUR, [3, 3, 3, 3, 3, 3])
    text = CONNECT_FOUR.show(boards[0]).splitlines()
    assert [row.split()[3] for row in text] == ["O", "X", "O", "X", "O", "X"]
    assert CONNECT_FOUR.legal(boards)[0].tolist() == [True] * 3 + [False] + [True] * 3
    assert not turn.ended


@pytest.mark.parametrize(
    "moves",
    [
        [0, 1, 0, 1, 0, 1, 0],
        [0, 0, 1, 1, 2, 2, 3],
        [0, 1, 1, 2, 2, 3, 2, 3, 3, 0, 3],
        [3, 2, 2, 1, 1, 0, 1, 0, 0, 6, 0],
    ],
)
def test_four_in_a_row_wins_in_every_direction(moves):
    assert not played(CONNECT_FOUR, moves[:-1])[1].won
    turn = played(CONNECT_FOUR, moves)[1]
    assert turn.won and turn.ended


def test_a_full_board_is_drawn():
    _, turn = played(TIC_TAC_TOE, [0, 1, 2, 4, 3, 5, 7, 6, 8])
    assert turn.ended and not turn.won


@pytest.mark.parametrize("rules", [TIC_TAC_TOE, CONNECT_FOUR])
def test_a_game_seen_in_a_mirror_is_the_same_game(rules):
    moves = random_games(rules, 20, seeded())
    assert len(rules.symmetries) == (8 if rules is TIC_TAC_TOE else 2)
    for cells, actions in rules.symmetries:
        seen = moves.boards[:, :, cells]
        assert torch.equal(rules.legal(seen), moves.legal[:, actions])
        image = actions.argsort()[moves.actions]  # where the action stands now
        turn = rules.step(seen, image)
        assert torch.equal(turn.boards, moves.turn.boards[:, :, cells])
        assert torch.equal(turn.won, moves.turn.won)


# --- the solver -----------------------------------------------------------------------------------


def plain_value(rules, board):
    """Value of one board, by trying everything."""
    best = -1.0
    for action in rules.legal(board[None])[0].nonzero()[:, 0]:
        turn = rules.step(board[None], action[None])
        value = 1.0 if turn.won else 0.0 if turn.ended else -plain_value(rules, turn.boards[0])
        best = max(best, value)
    return best


def late_boards(num_moves, num_games, seed):
    moves = random_games(CONNECT_FOUR, num_games, seeded(seed))
    return moves.boards[moves.number == num_moves]


def test_solver_agrees_with_trying_everything():
    boards = late_boards(36, 2000, 1)[:30]
    assert len(boards) == 30
    values = move_values(CONNECT_FOUR, boards).nan_to_num(nan=-2.0).amax(dim=1)
    assert values.tolist() == [plain_value(CONNECT_FOUR, board) for board in boards]
    assert {-1.0, 0.0} <= set(values.tolist())


def test_solver_takes_a_win_and_stops_one():
    filled = [0, 1, 0, 1, 0, 1, 6, 6, 6, 6, 5, 5, 5, 5, 4, 4, 2, 2]
    boards, _ = played(CONNECT_FOUR, filled)
    values = move_values(CONNECT_FOUR, boards)[0]
    assert values[[0, 3]].tolist() == [1, 1]  # a column, and a row
    boards, _ = played(CONNECT_FOUR, [*filled, 6])
    values = move_values(CONNECT_FOUR, boards)[0]
    assert values[1] == 1  # its own column comes first
    assert (values[[2, 4, 5, 6]] <= values[1]).all()


def test_perfect_tic_tac_toe():
    values = move_values(TIC_TAC_TOE, TIC_TAC_TOE.start())
    assert (values == 0).all()
    corner, _ = played(TIC_TAC_TOE, [0])
    values = move_values(TIC_TAC_TOE, corner)[0]
    assert values.isnan().tolist() == [True] + [False] * 8
    assert values[4] == 0 and (values[[1, 2, 3, 5, 6, 7, 8]] == -1).all()
    assert PerfectPlayer(TIC_TAC_TOE, seeded()).act(corner).tolist() == [4]


def test_solver_refuses_what_it_cannot_solve():
    with pytest.raises(ValueError, match="expected boards of 12 stones or more, got one of 0"):
        move_values(CONNECT_FOUR, CONNECT_FOUR.start())
    other = Rules("four by four", 4, 4, 3, gravity=True)
    with pytest.raises(ValueError, match="expected tic-tac-toe or Connect Four, got four by four"):
        move_values(other, other.start())


# --- learned rules --------------------------------------------------------------------------------


def test_rules_are_learned_from_random_games():
    moves = random_games(TIC_TAC_TOE, 600, seeded(1))
    model = fit_rules(TIC_TAC_TOE, moves, seeded(2), LearnedRulesConfig(num_updates=400))
    unseen = random_games(TIC_TAC_TOE, 300, seeded(3))
    for name, held in right(model, unseen).items():
        assert held.float().mean() >= 0.99, name
    assert model.num_steps == len(unseen.actions)


def test_learned_rules_are_as_good_as_their_data():
    """Of games that all end after three moves nobody learns what comes after."""
    moves = random_games(TIC_TAC_TOE, 300, seeded(1))
    early = moves.number < 3
    cut = type(moves)(
        moves.boards[early], moves.actions[early],
        type(moves.turn)(*(x[early] for x in moves.turn)), moves.legal[early], moves.number[early],
    )  # fmt: skip
    model = fit_rules(TIC_TAC_TOE, cut, seeded(2), LearnedRulesConfig(num_updates=200))
    assert right(model, moves)["winner"][moves.turn.won].float().mean() < 0.1


# --- bad input ------------------------------------------------------------------------------------


def board_of(mine, theirs, rules=CONNECT_FOUR):
    board = rules.start()
    board[0, 0, mine], board[0, 1, theirs] = 1, 1
    return board


WON = played(CONNECT_FOUR, [0, 1, 0, 1, 0, 1, 0])[0]
FULL = played(CONNECT_FOUR, [0] * 6)[0]
DRAWN = played(TIC_TAC_TOE, [0, 1, 2, 4, 3, 5, 7, 6, 8])[0]


@pytest.mark.parametrize(
    ("rules", "boards", "action", "message"),
    [
        (CONNECT_FOUR, CONNECT_FOUR.start(), 7, "a column from 0 to 6, got 7"),
        (CONNECT_FOUR, CONNECT_FOUR.start(), -1, "a column from 0 to 6, got -1"),
        (TIC_TAC_TOE, TIC_TAC_TOE.start(), 9, "a cell from 0 to 8, got 9"),
        (CONNECT_FOUR, FULL, 0, "got 0 on board 0: that column is full"),
        (TIC_TAC_TOE, played(TIC_TAC_TOE, [4])[0], 4, "got 4 on board 0: that cell is taken"),
        (CONNECT_FOUR, WON, 2, "a finished one, board 0: the other player has won"),
        (TIC_TAC_TOE, DRAWN, 2, "a finished one, board 0: the board is full"),
        (CONNECT_FOUR, board_of([], [0]), 2, "a stone that hangs in the air"),
        (CONNECT_FOUR, board_of([41], []), 2, r"in turn \(1 against 0\)"),
        (CONNECT_FOUR, board_of([41], [41]), 2, "two stones on one cell"),
        (CONNECT_FOUR, 2 * CONNECT_FOUR.start() + 0.5, 2, "other numbers than 0 and 1"),
        (TIC_TAC_TOE, board_of([0, 1, 2], [3, 4, 6], TIC_TAC_TOE), 8, "of who is to move"),
        (TIC_TAC_TOE, board_of([3, 4], [0, 1, 2, 5], TIC_TAC_TOE), 8, r"in turn \(2 against 4\)"),
        (CONNECT_FOUR, TIC_TAC_TOE.start(), 0, r"expected boards \[B, 2, 42\] of Connect Four"),
        (CONNECT_FOUR, CONNECT_FOUR.start()[0], 0, r"For one board pass board\[None\]"),
    ],
)
def test_impossible_moves_and_boards(rules, boards, action, message):
    with pytest.raises(ValueError, match=message):
        rules.play(boards, torch.tensor([action]))


def test_two_rows_at_once_are_reachable_only_by_one_stone():
    crossing = board_of([1, 2, 4, 5], [0, 3, 6, 7, 8], TIC_TAC_TOE)
    with pytest.raises(ValueError, match="a finished one"):  # stone 6 was the last one
        TIC_TAC_TOE.play(crossing, torch.tensor([0]))
    wide = Rules("wide", 2, 7, 3, gravity=False)
    both = board_of([3, 4, 6, 10, 11], [0, 1, 2, 7, 8, 9], wide)
    with pytest.raises(ValueError, match="no single stone has completed"):
        wide.play(both, torch.tensor([5]))


def test_actions_of_another_kind():
    with pytest.raises(TypeError, match=r"expected actions as whole numbers"):
        CONNECT_FOUR.play(CONNECT_FOUR.start(), torch.tensor([0.0]))
    with pytest.raises(TypeError, match="expected actions as a torch tensor, got list"):
        CONNECT_FOUR.play(CONNECT_FOUR.start(), [0])
    with pytest.raises(ValueError, match=r"expected actions \[1\], one a board"):
        CONNECT_FOUR.play(CONNECT_FOUR.start(), torch.tensor([0, 1]))


def test_rules_that_nobody_can_win():
    with pytest.raises(ValueError, match="Nobody could ever win"):
        Rules("small", 3, 3, 4, gravity=True)
    for sizes in itertools.permutations((0, 3, 3)):
        with pytest.raises(ValueError, match=r"expected .* >= 1, got 0"):
            Rules("none", *sizes, gravity=True)
