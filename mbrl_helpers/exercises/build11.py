"""The build of notebook 11: a tree search on a blank page."""

import math
import random

import numpy as np

from mbrl_helpers.exercises.builds import Build, Stage, Unfit, attempt
from mbrl_helpers.exercises.frame import Wrong

LINES = ((0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6))
BUDGET = 10_000  # calls of step for one move


def choose(board, step, seed):
    rng = np.random.default_rng(seed)

    class Node:
        def __init__(self, board, result=None):
            self.board, self.result = board, result  # for who is to move, once it is over
            self.children, self.visits, self.total = {}, 0, 0.0
            self.untried = [] if result is not None else [i for i in range(9) if board[i] == 0]

    def child_of(board, action):
        following, won, ended = step(board, action)
        return Node(following, (-1.0 if won else 0.0) if ended else None)

    def rollout(node):
        sign = 1
        while node.result is None:
            node = child_of(node.board, node.untried[rng.integers(len(node.untried))])
            sign = -sign
        return sign * node.result

    def score(parent, child):  # for who is to move at the parent
        return -child.total / child.visits + 1.4 * (np.log(parent.visits) / child.visits) ** 0.5

    root = Node(board)
    for _ in range(1500):
        node, path = root, [root]
        while not node.untried and node.result is None:
            node = max(node.children.values(), key=lambda child, node=node: score(node, child))
            path.append(node)
        if node.untried:
            action = node.untried.pop(rng.integers(len(node.untried)))
            node.children[action] = child_of(node.board, action)
            node = node.children[action]
            path.append(node)
        value = rollout(Node(node.board, node.result))
        for visited in reversed(path):
            visited.visits, visited.total = visited.visits + 1, visited.total + value
            value = -value
    return max(root.children, key=lambda action: root.children[action].visits)


def starter(board, step, seed):
    rng = np.random.default_rng(seed)
    root = ...  # a node: its board, its children, how often it was visited, and with what results
    for _ in range(...):
        path = [root]
        ...  # 1. select: go down, as long as every move of a node has been tried
        ...  # 2. expand: try a new move
        value = ...  # 3. roll out: play on at random to the end
        ...  # 4. back up: tell all nodes of the path, with turned signs
    return ...  # the move that was visited most often


def after(board, action):
    """The board seen by the next player, whether who moved has won, and whether it is over."""
    mine = [*board]
    mine[action] = 1
    won = any(all(mine[i] == 1 for i in line) for line in LINES)
    return tuple(-stone for stone in mine), won, won or 0 not in mine


def value(board, known={}):  # noqa: B006 (it remembers)
    """What a board is worth to who is to move, if both play on perfectly."""
    if board not in known:
        known[board] = max(worth(board, action) for action in range(9) if board[action] == 0)
    return known[board]


def worth(board, action):
    """What a move is worth to who makes it."""
    following, won, ended = after(board, action)
    return 1 if won else 0 if ended else -value(following)


class Watched:
    """A step that keeps to the contract, and counts."""

    def __init__(self):
        self.calls, self.deepest, self.stones = 0, 0, 0

    def begin(self, board):
        """A decision on this board begins."""
        self.calls, self.deepest, self.stones = 0, 0, 9 - board.count(0)

    def __call__(self, board, action):
        """Next board, won, ended."""
        board = tuple(board)
        self.calls += 1
        if self.calls > BUDGET:
            raise Unfit(
                f"More than {BUDGET:,} calls of step for one move. 1,500 simulations of about five "
                "calls are 7,500."
            )
        if len(board) != 9 or any(stone not in (-1, 0, 1) for stone in board):
            raise Unfit(f"step expects a board of nine numbers, 1, -1 or 0; it was given {board}.")
        if any(all(board[i] == -1 for i in line) for line in LINES) or 0 not in board:
            raise Unfit("It plays on after the end of a game: stop where step says `ended`.")
        if action not in range(9) or board[action] != 0:
            raise Unfit(f"step expects the number of an empty cell; it was given {action!r}.")
        self.deepest = max(self.deepest, 10 - board.count(0) - self.stones)
        return after(board, int(action))


def decide(answer, board, step, seed):
    """The answer's move."""
    step.begin(board)
    move = attempt(answer, board, step, seed)
    whole = isinstance(move, int | np.integer) and not isinstance(move, bool)
    if not whole or move not in range(9) or board[move] != 0:
        raise Unfit(f"It should return the number of an empty cell, not {move!r}.")
    return int(move)


def walk(answer, board, step, seed):
    """Lost games below boards on which the answer is to move; the perfect replies are all walked.

    Returns:
        How many were lost, and the first board on which a move threw the game away, with it.
    """
    todo, seen, lost, mistake = [board], set(), 0, None
    while todo:
        board = todo.pop()
        if board in seen:
            continue
        seen.add(board)
        move = decide(answer, board, step, seed)
        if worth(board, move) < value(board) == 0:
            mistake = mistake or (board, move)
        following, _, ended = after(board, move)
        best = 0 if ended else value(following)
        for reply in [] if ended else [a for a in range(9) if following[a] == 0]:
            if worth(following, reply) == best:
                then, won, over = after(following, reply)
                lost += won
                todo += [] if over else [then]
    return lost, mistake


TACTICS = (  # board, the one right move, and what it is
    ((1, 1, 0, -1, -1, 0, 0, 0, 0), 2, "win at once"),
    ((1, 0, 0, -1, -1, 0, 0, 0, 1), 5, "stop a row"),
    ((0, -1, 1, 0, 1, 0, -1, -1, 0), 8, "stop a row"),
    ((-1, 0, 0, 0, 0, 0, 0, 0, 0), 4, "answer a corner by the centre"),
)


def judge(answer):
    """Single moves that anybody sees; then all games against a perfect player, both sides."""
    step = Watched()
    for number, name in enumerate(("win at once", "stop a row", "answer a corner by the centre")):
        boards = [(board, right) for board, right, what in TACTICS if what == name]
        missed = [b for b, right in boards if decide(answer, b, step, 900 + number) != right]
        yield Stage(
            name=name, measured=len(boards) - len(missed), unit=f"of {len(boards)} moves",
            at_least=len(boards), fault=diagnose(step, name) if missed else "",
        )  # fmt: skip
    lost, mistake = walk(answer, (0,) * 9, step, 911)
    yield Stage(name="moves first, perfect replies", measured=lost, unit="games lost", at_most=0,
                fault=thrown_away(mistake))  # fmt: skip
    lost, mistake = 0, None
    for reply in (0, 1, 4):  # all others are these, turned
        one, wrong = walk(answer, after((0,) * 9, reply)[0], step, 912)
        lost, mistake = lost + one, mistake or wrong
    yield Stage(name="moves second, perfect replies", measured=lost, unit="games lost", at_most=0,
                fault=thrown_away(mistake))  # fmt: skip


def diagnose(step, name):
    """Which known fault makes such moves."""
    if step.calls == 0:
        return "It never asks `step`: nothing is searched. A rule is not a search."
    if step.deepest <= 1:
        return "It looks one move ahead: the opponent's reply is not in its tree."
    if name == "win at once":
        return (
            "It does not take a row that it could complete. Is `won` counted for who *made* the "
            "move, and are signs turned at each step on the way back? Does the move with most "
            "visits win, rather than fewest?"
        )
    if name == "stop a row":
        return (
            "It does not see what the opponent is about to do: on the way back from a leaf, the "
            "result must turn its sign at every step, and each player takes what is best for "
            "*that* player."
        )
    return (
        "It averages over random replies, as random games do: here a careless opponent lets it "
        "live, a good one does not. The tree must go deeper where the replies are good: use the "
        "visits of every node, not of the root alone."
    )


def thrown_away(mistake):
    """The move that lost a game that could be drawn."""
    if mistake is None:
        return ""
    board, move = mistake
    signs = "".join("OX"[stone == 1] if stone else "." for stone in board)
    return (
        f"On {signs[:3]}/{signs[3:6]}/{signs[6:]} (X is yours) it plays cell {move}, and loses to "
        "good replies. More simulations? A smaller or larger bonus? A result with the wrong sign?"
    )


def variant(simulations=1500, sign=-1, tree=True, pick=max, won_for_next=False, stop=True):
    """The reference with a fault."""

    def faulty(board, step, seed):
        rng = random.Random(seed)
        stats = {}  # board -> action -> [visits, total]
        for _ in range(simulations):
            at, path, result = board, [], None
            while result is None:
                empty = [i for i in range(9) if at[i] == 0]
                known = stats.get(at)
                if known is not None and (tree or at == board):
                    n = sum(v for v, _ in known.values())

                    def bound(a, known=known, n=n):
                        v, total = known[a]
                        if not v:
                            return math.inf
                        return total / v + 1.4 * math.sqrt(math.log(n) / v)

                    action = max(empty, key=bound)
                else:
                    action = rng.choice(empty)
                path.append((at, action))
                at, won, ended = step(at, action)
                if ended or (won and stop):
                    result = (1.0 if won_for_next else -1.0) if won else 0.0
            fresh = next((i for i, (b, _) in enumerate(path) if b not in stats), len(path))
            for i, (b, a) in reversed([*enumerate(path)]):
                result = sign * result
                if i <= fresh:
                    mine = stats.setdefault(b, {e: [0, 0.0] for e in range(9) if b[e] == 0})
                    mine[a][0] += 1
                    mine[a][1] += result
        return pick(stats[board], key=lambda a: stats[board][a][0])

    return faulty


def first_empty(board, step, seed):
    return board.index(0)


def one_ahead(board, step, seed):
    empty = [i for i in range(9) if board[i] == 0]
    return max(empty, key=lambda action: step(board, action)[1])


def too_many(board, step, seed):
    for _ in range(BUDGET + 1):
        step(board, board.index(0))


def plays_on(board, step, seed):
    at = board
    for action in [i for i in range(9) if board[i] == 0]:
        at = step(at, action)[0]
    return board.index(0)


BUILD = Build(
    reference=choose,
    starter=starter,
    judge=judge,
    hints=(
        "You have 10,000 looks at what a move leads to. On which moves would you spend them, after "
        "the first hundred?",
        "Four steps, 1,500 times: go down the tree where mean plus bonus is highest; add one node; "
        "play a random game from there; tell every node on the way back, with the sign turned at "
        "each step. In the end play the move that was visited most.",
        "A leaf that is won for who moved there is -1 for who is to move. The node above it counts "
        "+1, the one above that -1. A child with 10 visits and -4 for its own mover is worth +0.4 "
        "to the parent.",
        "`-child.total / child.visits + 1.4 * (np.log(parent.visits) / child.visits) ** 0.5` "
        "says where to go; `visited.total += value; value = -value` tells the way back.",
    ),
    faulty=(
        Wrong(first_empty, "It never asks `step`"),
        Wrong(one_ahead, "It looks one move ahead"),
        Wrong(too_many, "More than 10,000 calls of step"),
        Wrong(plays_on, "plays on after the end of a game"),
        Wrong(variant(sign=1), "are signs turned at each step"),
        Wrong(variant(pick=min), "rather than fewest"),
        Wrong(variant(won_for_next=True), "does not take a row that it could complete"),
        Wrong(variant(simulations=1000, tree=False), "loses to good replies"),
        Wrong(lambda board, step, seed: 9, "the number of an empty cell"),
    ),
)
