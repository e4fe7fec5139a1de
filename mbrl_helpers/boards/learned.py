"""Rules learned from random games: where a stone lands, what is legal, and who has won.

Axes: B games, C cells, A actions; grids are [B, planes, rows, columns]. What is the same everywhere
on the board is learned once, by convolutions.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

from mbrl_helpers.boards.players import RandomPlayer
from mbrl_helpers.boards.rules import Rules, Turn
from mbrl_helpers.checks import check_counts, check_range


class Moves(NamedTuple):
    """What was seen of some games, a row for each move [N].

    Attributes:
        boards: [N, 2, C] before the move.
        actions: [N].
        turn: what it led to.
        legal: [N, A] what was allowed before it.
        number: [N] of the move in its game, from 0 on.
    """

    boards: Tensor
    actions: Tensor
    turn: Turn
    legal: Tensor
    number: Tensor


def random_games(rules: Rules, num_games: int, generator: torch.Generator) -> Moves:
    """Play some games at random, and write down all their moves."""
    boards, player, rows = rules.start(num_games), RandomPlayer(rules, generator), []
    for number in range(rules.max_moves):
        actions = player.act(boards)
        turn = rules.step(boards, actions)
        rows.append((boards, actions, *turn, rules.legal(boards), torch.full_like(actions, number)))
        boards = turn.boards[~turn.ended]
        if not len(boards):
            break
    boards, actions, after, won, ended, legal, numbers = map(torch.cat, zip(*rows, strict=True))
    return Moves(boards, actions, Turn(after, won, ended), legal, numbers)


@dataclass(frozen=True, kw_only=True)
class LearnedRulesConfig:
    """Settings of learned rules.

    Attributes:
        width: of the layers.
        num_updates: gradient steps.
        batch_size: of each.
        learning_rate: of Adam at the beginning; it falls to 0.
    """

    width: int = 64
    num_updates: int = 1500
    batch_size: int = 256
    learning_rate: float = 5e-3

    def __post_init__(self) -> None:
        """Refuse settings that can't be meant."""
        names = ("width", "num_updates", "batch_size")
        check_counts("LearnedRulesConfig", **{name: getattr(self, name) for name in names})
        check_range(self, "learning_rate", 0, 1, ends="(]")


DEFAULT = LearnedRulesConfig()


class LearnedRules(nn.Module):
    """A network in place of the rules: a tree search can't tell the difference, unless it errs.

    It is told the size of the board, that players take turns and each sets a stone on an empty
    cell, how long a row must be, and whether an action is a column or a cell. That a stone falls,
    that full columns are closed, and what a row is, it must find out.

    Attributes:
        rules: whose board it is; only their sizes are used.
        num_steps: boards that it was asked to step from.
    """

    def __init__(self, rules: Rules, generator: torch.Generator, config: LearnedRulesConfig):
        super().__init__()
        self.rules, self.config, self.num_steps = rules, config, 0
        size = rules.in_a_row
        self.place = nn.Sequential(
            nn.Conv2d(4, config.width, 3, padding=1), nn.ReLU(), nn.Conv2d(config.width, 1, 1)
        )
        self.row = nn.Sequential(
            nn.Conv2d(1, config.width, size, padding=size - 1), nn.ReLU(),
            nn.Conv2d(config.width, 1, 1),
        )  # fmt: skip
        self.room = nn.Conv2d(2, 1, (rules.num_rows, 1) if rules.gravity else 1)
        for weights in self.parameters():
            bound = weights[0].numel() ** -0.5 if weights.ndim > 1 else 0.0
            nn.init.uniform_(weights, -1.7 * bound, 1.7 * bound, generator=generator)
        nn.init.constant_([*self.row.parameters()][-1], -6.0)  # most boards have no row anywhere

    @property
    def num_actions(self) -> int:
        """A."""
        return self.rules.num_actions

    @property
    def max_moves(self) -> int:
        """As many as there are cells: each move fills one."""
        return self.rules.num_cells

    def logits(self, boards: Tensor, actions: Tensor) -> Tensor:
        """Where the stone lands: logits of the cells [B, C]."""
        rows, columns = self.rules.num_rows, self.rules.num_columns
        grid = boards.view(-1, 2, rows, columns)
        chosen = one_hot(actions, self.num_actions).float()
        column = chosen[:, None, None].expand(-1, 1, rows, -1)
        plane = column if self.rules.gravity else chosen.view(-1, 1, rows, columns)
        planes = torch.cat([grid, plane, torch.ones_like(plane)], dim=1)
        return self.place(planes).flatten(1)

    def win_logits(self, stones: Tensor) -> Tensor:
        """Whether some player's stones [B, C] have a row anywhere: logits [B]."""
        grid = stones.view(-1, 1, self.rules.num_rows, self.rules.num_columns)
        return self.row(grid).logsumexp(dim=(1, 2, 3))

    def legal_logits(self, boards: Tensor) -> Tensor:
        """Which actions are allowed: logits [B, A]."""
        return self.room(boards.view(-1, 2, self.rules.num_rows, self.rules.num_columns)).flatten(1)

    def legal(self, boards: Tensor) -> Tensor:
        """Which actions are allowed, as far as it knows [B, A]."""
        return self.legal_logits(boards) > 0

    def step(self, boards: Tensor, actions: Tensor) -> Turn:
        """Where actions [B] lead, as far as it knows; no game goes on without a legal move."""
        self.num_steps += len(boards)
        taken = boards.sum(dim=1) > 0.5
        logits = self.logits(boards, actions).masked_fill(taken, -float("inf"))
        cell = logits.argmax(dim=1, keepdim=True)
        mine = boards[:, 0].scatter(1, cell, 1.0)
        turned = torch.stack([boards[:, 1], mine], dim=1)
        won = self.win_logits(mine) > 0
        over = won | ~self.legal(turned).any(dim=1) | (turned.sum(dim=(1, 2)) >= taken.shape[1])
        return Turn(turned, won, over)


def fit_rules(
    rules: Rules, moves: Moves, generator: torch.Generator,
    config: LearnedRulesConfig = DEFAULT,
) -> LearnedRules:  # fmt: skip
    """Learn the rules from what was seen of some games.

    Args:
        rules: whose board it is; they are not asked.
        moves: of the games.
        generator: for weights and batches.
        config: settings.
    """
    model = LearnedRules(rules, generator, config)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, config.num_updates)
    landed = (moves.turn.boards[:, 1] - moves.boards[:, 0]).argmax(dim=1)  # [N]
    for _ in range(config.num_updates):
        at = torch.randint(len(landed), (config.batch_size,), generator=generator)
        boards = moves.boards[at]
        loss = cross_entropy(model.logits(boards, moves.actions[at]), landed[at])
        won = model.win_logits(moves.turn.boards[at, 1])
        loss = loss + binary_cross_entropy_with_logits(won, moves.turn.won[at].float())
        allowed = model.legal_logits(boards)
        loss = loss + binary_cross_entropy_with_logits(allowed, moves.legal[at].float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.requires_grad_(False)


def right(model: LearnedRules, moves: Moves) -> dict[str, Tensor]:
    """Of each of the moves [N], whether it is right about all of that.

    Returns:
        "next board", "legal moves" (all of them) and "winner", each [N] bool.
    """
    turn = model.step(moves.boards, moves.actions)
    return {
        "next board": (turn.boards == moves.turn.boards).flatten(1).all(dim=1),
        "legal moves": (model.legal(moves.boards) == moves.legal).all(dim=1),
        "winner": turn.won == moves.turn.won,
    }
