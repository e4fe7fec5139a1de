"""Players: who is shown boards, and says moves."""

from typing import Protocol

import torch
from torch import Tensor

from mbrl_helpers.boards.network import BoardNetwork, check_network
from mbrl_helpers.boards.rules import Game, Rules
from mbrl_helpers.boards.search import (
    DEFAULT,
    UCT,
    Evaluate,
    Rollouts,
    SearchConfig,
    Tree,
    search,
)


class Player(Protocol):
    """Whoever plays."""

    def act(self, boards: Tensor) -> Tensor:
        """Moves [B] on boards [B, 2, C] of games that are not over."""


class RandomPlayer:
    """Any legal move, each as likely."""

    def __init__(self, rules: Game, generator: torch.Generator):
        self.rules, self.generator = rules, generator

    def act(self, boards: Tensor) -> Tensor:
        """Moves [B] on boards [B, 2, C]."""
        chance = self.rules.legal(boards).float()
        return torch.multinomial(chance, 1, generator=self.generator)[:, 0]


class SearchPlayer:
    """The move that a tree search takes most often.

    Attributes:
        thoughts: the trees of the last moves.
    """

    thoughts: Tree | None = None

    def __init__(
        self, game: Game, evaluate: Evaluate, generator: torch.Generator,
        config: SearchConfig = DEFAULT,
    ):  # fmt: skip
        self.game, self.evaluate, self.generator, self.config = game, evaluate, generator, config

    def act(self, boards: Tensor) -> Tensor:
        """Moves [B] on boards [B, 2, C]."""
        self.thoughts = search(self.game, self.evaluate, boards, self.generator, self.config)
        return self.thoughts.visits.argmax(dim=1)


class NetworkPlayer(SearchPlayer):
    """PUCT, with priors and values of a network."""

    def __init__(
        self, rules: Rules, network: BoardNetwork, generator: torch.Generator,
        config: SearchConfig = DEFAULT,
    ):  # fmt: skip
        check_network("NetworkPlayer", rules, network)
        super().__init__(rules, network.evaluate, generator, config)


class UCTPlayer(SearchPlayer):
    """UCT, with random games to the end."""

    def __init__(self, game: Game, generator: torch.Generator, config: SearchConfig = UCT):
        super().__init__(game, Rollouts(game, generator), generator, config)


class PolicyPlayer:
    """The network's first choice, without any search."""

    def __init__(self, rules: Rules, network: BoardNetwork):
        check_network("PolicyPlayer", rules, network)
        self.rules, self.network = rules, network

    def act(self, boards: Tensor) -> Tensor:
        """Moves [B] on boards [B, 2, C]."""
        return self.network.evaluate(boards, self.rules.legal(boards))[0].argmax(dim=1)
