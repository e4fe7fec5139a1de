"""One tree search for many games at once: UCT, and PUCT with priors and values.

Axes: B games, A actions, S simulations, C cells. Every game has a tree of its own, and all grow
together, a node at each simulation: the work of a simulation is done for all games in one piece,
and only the depth is a loop. Nodes of all trees stand in one list, game after game.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mbrl_helpers.boards.rules import Game
from mbrl_helpers.checks import check_counts, check_range, check_setting

# boards [B, 2, C] and legal actions [B, A] -> priors [B, A], and values [B] for who is to move
Evaluate = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """Settings of a tree search.

    Attributes:
        num_simulations: how often each tree is walked.
        bonus: "puct" trusts priors; "uct" tries every action once, then counts visits.
        exploration: weight of the bonus for actions that were rarely tried.
        first_value: what an untried action is thought to be worth, below the value of its node.
        noise: share of chance in the priors of the root; 0 to play, more to learn.
        noise_concentration: of the Dirichlet distribution of that chance, over all actions.
    """

    num_simulations: int = 200
    bonus: str = "puct"
    exploration: float = 1.5
    first_value: float = 0.2
    noise: float = 0.0
    noise_concentration: float = 10.0

    def __post_init__(self) -> None:
        """Refuse settings that can't be meant."""
        check_counts("SearchConfig", num_simulations=self.num_simulations)
        check_setting(self, "bonus", self.bonus in ("puct", "uct"), '"puct" or "uct"')
        check_range(self, "exploration", 0, float("inf"))
        check_range(self, "first_value", 0, 2)
        check_range(self, "noise", 0, 1)
        check_range(self, "noise_concentration", 0, float("inf"), ends="()")


DEFAULT = SearchConfig()
UCT = SearchConfig(bonus="uct", exploration=1.4)


class Tree:
    """The trees of some games.

    Attributes:
        boards: [B * (S + 1), 2, C] of each node; game b begins with its root, at b * (S + 1).
        stats: [B * (S + 1), 3, A] of each node's actions: how often each was taken, the sum of what
            that was worth to who took it, and its prior, -inf where it is illegal.
        children: [B * (S + 1), A] which node an action leads to; negative where the game is over
            there; 0 where it was not tried.
        values: [B * (S + 1)] of each node for who is to move there, as it was evaluated.
        num_nodes: S + 1.
    """

    def __init__(self, boards: Tensor, num_actions: int, num_nodes: int):
        size = len(boards) * num_nodes
        self.num_nodes, self.num_actions = num_nodes, num_actions
        self.boards = torch.zeros(size, *boards.shape[1:])
        self.stats = torch.zeros(size, 3, num_actions)
        self.children = torch.zeros(size, num_actions, dtype=torch.long)
        self.values = torch.zeros(size)
        self.roots = torch.arange(len(boards)) * num_nodes

    @property
    def visits(self) -> Tensor:
        """How often each action was taken at the roots [B, A]."""
        return self.stats[self.roots, 0]

    @property
    def action_values(self) -> Tensor:
        """Mean result of each action at the roots, for who is to move [B, A]; 0 if never taken."""
        return self.stats[self.roots, 1] / self.visits.clamp(min=1)

    @property
    def root_values(self) -> Tensor:
        """Mean result of all simulations, for who is to move [B]."""
        return self.stats[self.roots, 1].sum(dim=1) / self.visits.sum(dim=1)

    def line(self, game: int, length: int) -> list[int]:
        """The moves that the search of one game expects: at each node the most tried one."""
        node, moves = int(self.roots[game]), list[int]()
        while len(moves) < length and self.stats[abs(node), 0].sum() > 0:
            moves.append(int(self.stats[node, 0].argmax()))
            node = int(self.children[node, moves[-1]])
            if node <= 0:
                break
        return moves


@torch.inference_mode()
def search(
    game: Game, evaluate: Evaluate, boards: Tensor, generator: torch.Generator,
    config: SearchConfig = DEFAULT,
) -> Tree:  # fmt: skip
    """Grow a tree from each of the boards.

    Args:
        game: the rules, or a model of them.
        evaluate: gives priors [B, A] and values [B] of boards; see `Rollouts` and `Network`.
        boards: [B, 2, C] of games that are not over.
        generator: for the noise.
        config: settings.

    Returns:
        The trees.

    Raises:
        ValueError: if there is no legal move.
    """
    legal = game.legal(boards)
    stuck = ~legal.any(dim=1)
    if stuck.any():
        raise ValueError(
            f"search: expected games with a legal move, got none on board "
            f"{int(stuck.nonzero()[0])}. Is it over? Leave finished games out."
        )
    tree = Tree(boards, game.num_actions, config.num_simulations + 1)
    priors, values = evaluate(boards, legal)
    if config.noise:
        shape = torch.full(legal.shape, config.noise_concentration / game.num_actions)
        chance = torch._standard_gamma(shape, generator=generator).clamp(min=1e-9) * legal
        chance = chance / chance.sum(dim=1, keepdim=True)
        priors = (1 - config.noise) * priors + config.noise * chance
    _add(tree, tree.roots, boards, legal, priors, values)
    for simulation in range(1, config.num_simulations + 1):
        _simulate(tree, game, evaluate, simulation, config)
    return tree


def _simulate(
    tree: Tree, game: Game, evaluate: Evaluate, simulation: int, config: SearchConfig
) -> None:
    """Walk down each tree to an action that was not tried, add its node, and tell the way back."""
    whose, edges, depths, leaves = _select(tree, config)
    child = tree.children.view(-1).index_select(0, leaves)  # [B]
    values = tree.values.index_select(0, child.abs())  # of those where the game is over
    new = (child == 0).nonzero()[:, 0]
    if len(new):
        values[new] = _expand(tree, game, evaluate, new, leaves[new], simulation)
    # What is good for who is to move at a leaf is bad for who led there, and so on upwards.
    num_steps = torch.bincount(whose)
    signs = 1.0 - 2.0 * ((num_steps[whose] - depths) % 2)
    places = edges + (edges // tree.num_actions) * (2 * tree.num_actions)  # in stats
    both = torch.cat([places, places + tree.num_actions])
    results = torch.cat([torch.ones(len(edges)), signs * values[whose]])
    tree.stats.view(-1).index_add_(0, both, results)


def _select(tree: Tree, config: SearchConfig) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Games, edges (node * A + action) and depths of all steps, and the last edge of each game."""
    at, game = tree.roots, torch.arange(len(tree.roots))
    children, leaves = tree.children.view(-1), torch.zeros_like(tree.roots)
    games, edges = [], []
    while True:
        actions = scores(tree.stats.index_select(0, at), tree.values.index_select(0, at), config)
        edge = at * tree.num_actions + actions.argmax(dim=1)
        games.append(game)
        edges.append(edge)
        leaves[game] = edge
        child = children.index_select(0, edge)
        on = (child > 0).nonzero()[:, 0]  # neither new nor over
        if not len(on):
            break
        at, game = child.index_select(0, on), game.index_select(0, on)
    sizes = torch.tensor([len(g) for g in games])
    depths = torch.arange(len(games)).repeat_interleave(sizes)
    return torch.cat(games), torch.cat(edges), depths, leaves


def scores(stats: Tensor, values: Tensor, config: SearchConfig) -> Tensor:
    """How much each action of some nodes asks to be taken [B, A].

    Args:
        stats: [B, 3, A] visits, sums of results and priors of the actions.
        values: [B] of the nodes.
        config: which bonus, and how much of it.
    """
    visits, sums, priors = stats.unbind(1)
    total = visits.sum(dim=1, keepdim=True)
    if config.bonus == "uct":
        tried = visits.clamp(min=1e-9)  # an action that was never tried comes first
        bonus = config.exploration * ((total + 1).log() / tried).sqrt()
        return sums / tried + bonus + priors * 1e-9
    untried = (values - config.first_value)[:, None]
    means = torch.where(visits > 0, sums / visits.clamp(min=1), untried)
    return means + config.exploration * priors * (total + 1).sqrt() / (1 + visits)


def _expand(
    tree: Tree, game: Game, evaluate: Evaluate, which: Tensor, edges: Tensor, simulation: int
) -> Tensor:
    """Add a node to the trees of some games [K], at the end of these edges; gives its values."""
    parents, actions = edges // tree.num_actions, edges % tree.num_actions
    turn = game.step(tree.boards.index_select(0, parents), actions)
    legal, values = game.legal(turn.boards), -turn.won.float()
    priors = torch.zeros(legal.shape)
    on = (~turn.ended).nonzero()[:, 0]
    if len(on):
        priors[on], values[on] = evaluate(turn.boards[on], legal[on])
    nodes = tree.roots[which] + simulation
    _add(tree, nodes, turn.boards, legal, priors, values)
    tree.children.view(-1)[edges] = torch.where(turn.ended, -nodes, nodes)
    return values


def _add(
    tree: Tree, nodes: Tensor, boards: Tensor, legal: Tensor, priors: Tensor, values: Tensor
) -> None:
    tree.boards[nodes] = boards
    tree.stats[nodes, 2] = priors.masked_fill(~legal, -float("inf"))
    tree.values[nodes] = values


class Rollouts:
    """Values by random games to the end, as UCT has them; all priors are equal."""

    def __init__(self, game: Game, generator: torch.Generator):
        self.game, self.generator = game, generator

    def __call__(self, boards: Tensor, legal: Tensor) -> tuple[Tensor, Tensor]:
        """Priors [B, A], and results [B] of a random game from each board, for who is to move.

        Boards without a legal move count as drawn: the search knows better whether they are over.
        """
        # Equal, but for a thousandth of chance, which decides what is tried first.
        priors = legal * (1 + 1e-3 * torch.rand(legal.shape, generator=self.generator))
        priors = priors / priors.sum(dim=1, keepdim=True).clamp(min=1e-9)
        values, sign = torch.zeros(len(boards)), 1.0
        playing = torch.arange(len(boards))
        for _ in range(self.game.max_moves + 1):
            on = legal.any(dim=1)
            if not on.all():
                boards, legal, playing = boards[on], legal[on], playing[on]
            if not len(playing):
                return priors, values
            chance = torch.rand(legal.shape, generator=self.generator) * legal
            turn = self.game.step(boards, chance.argmax(dim=1))
            values[playing] = turn.won * sign
            going = (~turn.ended).nonzero()[:, 0]
            boards, playing = turn.boards[going], playing[going]
            legal, sign = self.game.legal(boards), -sign
        raise RuntimeError(
            f"Rollouts: expected every game to end within max_moves = {self.game.max_moves}, got "
            f"{len(playing)} that go on. Mend the rules, or raise their max_moves."
        )
