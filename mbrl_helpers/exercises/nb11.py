"""Exercises of notebook 11, tree search."""

import numpy as np
import torch

from mbrl_helpers.exercises.build11 import BUILD
from mbrl_helpers.exercises.frame import Exercise, Question, Wrong
from mbrl_helpers.exercises.inputs import count

# --- 11.2: selection ------------------------------------------------------------------------------


def select(visits, sums, exploration):
    known = (visits > 0).nonzero().flatten()
    tried = visits[known]
    scores = sums[known] / tried + exploration * (visits.sum().log() / tried).sqrt()
    return int(known[scores.argmax()])


def _greedy(visits, sums, exploration):
    return int((sums / visits.clamp(min=1)).masked_fill(visits == 0, -torch.inf).argmax())


def _most_visited(visits, sums, exploration):
    return int(visits.argmax())


def _takes_the_illegal(visits, sums, exploration):
    scores = sums / visits + exploration * (visits.sum().log() / visits).sqrt()
    return int(scores.argmax())


def _sums_instead_of_means(visits, sums, exploration):
    scores = sums + exploration * (visits.sum().log() / visits.clamp(min=1)).sqrt()
    return int(scores.masked_fill(visits == 0, -torch.inf).argmax())


def _no_logarithm(visits, sums, exploration):
    tried = visits.clamp(min=1)
    scores = sums / tried + exploration * (visits.sum() / tried).sqrt()
    return int(scores.masked_fill(visits == 0, -torch.inf).argmax())


def _no_root(visits, sums, exploration):
    tried = visits.clamp(min=1)
    scores = sums / tried + exploration * visits.sum().log() / tried
    return int(scores.masked_fill(visits == 0, -torch.inf).argmax())


def _worst_first(visits, sums, exploration):
    return select(visits, -sums, exploration)


def _bonus_for_the_popular(visits, sums, exploration):
    tried = visits.clamp(min=1)
    scores = sums / tried - exploration * (visits.sum().log() / tried).sqrt()
    return int(scores.masked_fill(visits == 0, -torch.inf).argmax())


def _statistics(rng):
    """Visits of some actions, a few of them illegal, and sums between -visits and visits."""
    num = count(rng, 1, 40)
    visits = np.floor(10 ** rng.uniform(0, 3, size=num))
    visits[rng.random(num) < 0.3] = 0
    visits[rng.integers(num)] = rng.integers(1, 30)
    means = rng.uniform(-1, 1, size=num) if rng.random() < 0.7 else rng.uniform(-1, -0.5, size=num)
    exploration = float(rng.choice([0.0, 0.3, 1.4, 5.0]))
    return (
        torch.tensor(visits, dtype=torch.float32),
        torch.tensor(visits * means, dtype=torch.float32), exploration,
    )  # fmt: skip


# --- 11.3: expansion ------------------------------------------------------------------------------


def expand(legal, visits):
    untried = (legal & (visits == 0)).nonzero().flatten()
    return int(untried[0]) if len(untried) else -1


def _also_illegal(legal, visits):
    untried = (visits == 0).nonzero().flatten()
    return int(untried[0]) if len(untried) else -1


def _again_and_again(legal, visits):
    return int(legal.nonzero()[0])


def _last_one(legal, visits):
    untried = (legal & (visits == 0)).nonzero().flatten()
    return int(untried[-1]) if len(untried) else -1


def _first_at_the_end(legal, visits):
    return max(expand(legal, visits), 0)


def _least_visited(legal, visits):
    return int(visits.masked_fill(~legal, torch.inf).argmin())


def _node(rng):
    num = count(rng, 1, 40)
    legal = rng.random(num) < rng.choice([0.3, 0.7, 1.0])
    legal[rng.integers(num)] = True
    visits = np.where(legal & (rng.random(num) < rng.choice([0.2, 0.8, 1.0])), 1.0, 0.0)
    visits = visits * rng.integers(1, 50, size=num)
    return torch.tensor(legal), torch.tensor(visits, dtype=torch.float32)


# --- 11.4: rollout --------------------------------------------------------------------------------


def rollout(board, choose, step):
    sign = 1.0
    while True:
        board, won, ended = step(board, choose(board))
        if ended:
            return sign if won else 0.0
        sign = -sign


def _the_same_player_wins(board, choose, step):
    while True:
        board, won, ended = step(board, choose(board))
        if ended:
            return 1 if won else 0


def _for_who_moved_before(board, choose, step):
    return -rollout(board, choose, step)


def _one_move_only(board, choose, step):
    board, won, ended = step(board, choose(board))
    return 1 if won else 0


def _no_draws(board, choose, step):
    sign = 1
    while True:
        board, won, ended = step(board, choose(board))
        if ended:
            return sign if won else -sign
        sign = -sign


def _heap(rng):
    """A game on a heap: who takes the last one wins, or, of some heaps, nobody does."""
    num, drawn, seed = count(rng, 1, 40), bool(rng.random() < 0.3), int(rng.integers(1000))

    def choose(board):
        return 1 + (board * 7 + seed) % min(3, board)

    def step(board, action):
        if not 0 < action <= board:
            raise ValueError(f"{action} can't be taken from a heap of {board}: is the game over?")
        return board - action, board == action and not drawn, board == action

    return num, choose, step


# --- 11.5: backup ---------------------------------------------------------------------------------


def backup(value, depth):
    return [value * (-1) ** (depth - step) for step in range(depth)]


def _all_the_same(value, depth):
    return [value] * depth


def _leaf_for_who_moved(value, depth):
    return [value * (-1) ** (depth - 1 - step) for step in range(depth)]


def _from_the_leaf_up(value, depth):
    return backup(value, depth)[::-1]


def _all_against(value, depth):
    return [-value] * depth


def _fades(value, depth):
    return [value * (-0.9) ** (depth - step) for step in range(depth)]


def _one_short(value, depth):
    return backup(value, depth)[:-1]


def _path(rng):
    value = float(rng.choice([-1.0, 1.0, rng.uniform(-1, 1), 0.5]))
    return value, count(rng, 1, 42)


# --- 11.7: PUCT -----------------------------------------------------------------------------------


def puct(visits, sums, priors, value, exploration):
    means = torch.where(visits > 0, sums / visits, value)
    return means + exploration * priors * (visits.sum() + 1).sqrt() / (1 + visits)


def _nan_for_untried(visits, sums, priors, value, exploration):
    return sums / visits + exploration * priors * (visits.sum() + 1).sqrt() / (1 + visits)


def _draw_for_untried(visits, sums, priors, value, exploration):
    means = sums / visits.clamp(min=1)
    return means + exploration * priors * (visits.sum() + 1).sqrt() / (1 + visits)


def _without_priors(visits, sums, priors, value, exploration):
    means = torch.where(visits > 0, sums / visits.clamp(min=1), value)
    return means + exploration * (visits.sum() + 1).sqrt() / (1 + visits)


def _own_visits_above(visits, sums, priors, value, exploration):
    means = torch.where(visits > 0, sums / visits.clamp(min=1), value)
    return means + exploration * priors * (visits + 1).sqrt() / (1 + visits)


def _no_root_above(visits, sums, priors, value, exploration):
    means = torch.where(visits > 0, sums / visits.clamp(min=1), value)
    return means + exploration * priors * (visits.sum() + 1) / (1 + visits)


def _with_priors(rng):
    visits, sums, exploration = _statistics(rng)
    priors = torch.tensor(rng.dirichlet(np.full(len(visits), 0.5)), dtype=torch.float32)
    return visits, sums, priors, torch.tensor(float(rng.uniform(-1, 1))), exploration + 0.1


EXERCISES = {
    "11.1": Question(
        answer="c",
        replies={
            "a": "The mean of many random games is a fair judge of a move, if the opponent plays "
            "at random. Look at the first two rows of the table: does it?",
            "b": "It is the same number of games, but not of the same games: each new one of the "
            "tree starts where the others have found something. Look at the last row.",
            "c": "Yes: an opponent does not play what suits the plan. A tree lets both sides "
            "choose, and so it finds the reply that spoils it.",
        },
        hints=("Of which opponent does a plan dream that is judged by its best outcome?",),
    ),
    "11.2": Exercise(
        reference=select,
        inputs=_statistics,
        wrong=(
            Wrong(
                _greedy,
                "There is no bonus: what looked bad once is never tried again. Add "
                "`exploration * sqrt(ln N / n)` to each mean.",
            ),
            Wrong(
                _most_visited,
                "That is how the *move* is chosen when the search is over. Within "
                "the search, take the highest mean plus bonus.",
            ),
            Wrong(
                _takes_the_illegal,
                "0 / 0 is NaN, and `argmax` takes NaN for the largest number "
                "of all. Actions with 0 visits are illegal here: give them -inf.",
            ),
            Wrong(
                _sums_instead_of_means,
                "These are sums: who is visited often looks good, or bad, "
                "for that alone. Divide by the visits.",
            ),
            Wrong(
                _no_logarithm,
                "The logarithm is missing: the bonus of an action grows so fast "
                "that the search never settles.",
            ),
            Wrong(
                _no_root,
                "The square root is missing: uncertainty shrinks with the root of the "
                "number of visits.",
            ),
            Wrong(
                _worst_first,
                "These are the actions that are worst for who is to move. `sums` "
                "are for that player already: take the highest.",
            ),
            Wrong(
                _bonus_for_the_popular,
                "The bonus is subtracted: this search avoids what it knows little of.",
            ),
        ),
        hints=(
            "An action was tried three times and won twice; another one once, and lost. Which "
            "will you try next, and when would you come back to the other?",
            "Mean result plus a bonus that is large for what was seldom tried: "
            "`exploration * sqrt(ln(N) / n)`, with N all visits of this node. What was never tried "
            "is illegal here, and must not be taken.",
            "visits 3, 1, sums 1, -1, exploration 1.4: ln N = 1.39; 0.33 + 1.4 * 0.68 = 1.29 "
            "against -1 + 1.4 * 1.18 = 0.65. The first.",
            "`known = (visits > 0).nonzero().flatten()`, `n = visits[known]`, "
            "`scores = sums[known] / n + exploration * (visits.sum().log() / n).sqrt()`, then "
            "`int(known[scores.argmax()])`",
        ),
    ),
    "11.3": Exercise(
        reference=expand,
        inputs=_node,
        wrong=(
            Wrong(_also_illegal, "Some of these are illegal: no visits does not mean allowed."),
            Wrong(_again_and_again, "That is the first legal action, whether it was tried or not."),
            Wrong(_last_one, "Right, but for the order: the *first* of those that are left."),
            Wrong(_first_at_the_end, "When all have been tried, return -1: 0 is an action."),
            Wrong(
                _least_visited,
                "When all have been tried, return -1: then it is `select` that decides.",
            ),
        ),
        hints=(
            "Which actions may be taken at all, and which of these have no child yet?",
            "`legal & (visits == 0)` is true where both hold; `.nonzero().flatten()` gives the "
            "numbers of those places, of which there may be none.",
            "legal 1, 0, 1, 1 and visits 2, 0, 0, 0: actions 2 and 3 are left, so 2.",
            "`untried = (legal & (visits == 0)).nonzero().flatten()`, then "
            "`int(untried[0]) if len(untried) else -1`",
        ),
    ),
    "11.4": Exercise(
        reference=rollout,
        inputs=_heap,
        wrong=(
            Wrong(
                _the_same_player_wins,
                "Whoever wins, this is a win for the first. After each "
                "move the *other* player is to move: turn a sign round with it.",
            ),
            Wrong(
                _for_who_moved_before,
                "The sign is turned: the result is for who is to move on "
                "`board`, who makes the first move here.",
            ),
            Wrong(_one_move_only, "It ends after one move. Go on until `ended`."),
            Wrong(_no_draws, "A game may end without a winner: then the result is 0."),
        ),
        hints=(
            "Two players move in turn. If the game ends at the fourth move, who has won?",
            "A loop: choose, step, and stop when it has ended. A `sign` says whose move it is: +1 "
            "for who began, and it turns round after each move.",
            "Won by the first move: 1. By the second: -1. By the third: 1. Ended without a winner: "
            "0.",
            "`board, won, ended = step(board, choose(board))`; `if ended: return sign if won else "
            "0`; `sign = -sign`",
        ),
    ),
    "11.5": Exercise(
        reference=backup,
        inputs=_path,
        wrong=(
            Wrong(
                _all_the_same,
                "The same for all: but what is good for one player is bad for the "
                "other, and they move in turn.",
            ),
            Wrong(
                _leaf_for_who_moved,
                "The signs are turned: `value` is for who is to move at the "
                "leaf. Who made the last step is the *other* player.",
            ),
            Wrong(
                _from_the_leaf_up,
                "The order is turned: the first step of the path, at the root, comes first.",
            ),
            Wrong(
                _all_against,
                "Only the last step gets -value; the one before it was made by the other player.",
            ),
            Wrong(_fades, "There is no discount here: a win is a win."),
            Wrong(_one_short, "One is missing: a path of `depth` steps has `depth` results."),
        ),
        hints=(
            "If the leaf is good for who is to move there, was the step that led to it a good one?",
            "The last step gets -value, the one before it +value, and so on, in turn, up to the "
            "root.",
            "value 1, depth 3: [-1, 1, -1]. value 1, depth 2: [1, -1].",
            "`[value * (-1) ** (depth - step) for step in range(depth)]`",
        ),
    ),
    "11.6": Question(
        answer="b",
        replies={
            "a": "Look at the row of the network alone: it knows a good move often, but one wrong "
            "move of twenty loses the game.",
            "b": "Yes: the search repairs what the network overlooks, and the network tells the "
            "search what lies beyond the end of its tree.",
            "c": "UCT with 200 simulations is search without the network. Does it hold its own?",
        },
        hints=("What does each of the two not see?",),
    ),
    "11.7": Exercise(
        reference=puct,
        inputs=_with_priors,
        wrong=(
            Wrong(
                _nan_for_untried,
                "0 / 0 is NaN: what was never tried counts as the `value` of the node itself.",
            ),
            Wrong(
                _draw_for_untried,
                "What was never tried counts as 0 here, a draw; it should "
                "count as the `value` of the node.",
            ),
            Wrong(_without_priors, "The prior is missing: this bonus trusts all actions alike."),
            Wrong(_own_visits_above, "Under the root stand the visits of *all* actions together."),
            Wrong(_no_root_above, "The square root above the fraction is missing."),
        ),
        hints=(
            "Two actions were never tried. Which one first, if the network has an opinion?",
            "Mean (or `value`, where there is none yet) plus "
            "`exploration * prior * sqrt(N + 1) / (1 + n)`.",
            "visits 3, 0, sums 1.5, 0, priors 0.5, 0.5, value 0.2, exploration 1: 0.5 + 0.5 * 2 / 4"
            " = 0.75 and 0.2 + 0.5 * 2 / 1 = 1.2.",
            "`means = torch.where(visits > 0, sums / visits, value)`, plus "
            "`exploration * priors * (visits.sum() + 1).sqrt() / (1 + visits)`",
        ),
    ),
    "11.8": Question(
        answer="a",
        replies={
            "a": "Yes: random games have seen hardly anything of what clever players do, but the "
            "rules are the same everywhere, and convolutions learn them once for all places.",
            "b": "That would be so if each board had to be learned by heart. Look at the last "
            "table.",
            "c": "Look at the table: what differs between the two rows?",
        },
        hints=("Is a row of three another thing in a game that was played well?",),
    ),
    "11.b": BUILD,
}
