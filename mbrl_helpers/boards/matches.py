"""How well players play: games from distinct openings, every reply walked, and ratings.

Axes: B games, P players. A result is 1 for a win, 0 for a draw, -1 for a loss.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mbrl_helpers.boards.players import Player, RandomPlayer
from mbrl_helpers.boards.rules import Rules, check_actions, check_boards
from mbrl_helpers.checks import check_counts

ELO = 400 / np.log(10)  # ten times as many points are 400 of Elo's


def openings(rules: Rules, num_openings: int, num_moves: int, generator: torch.Generator) -> Tensor:
    """Distinct boards [B, 2, C] after some random moves, of games that are not over.

    Raises:
        ValueError: if there are not so many.
    """
    check_counts("openings", num_openings=num_openings, num_moves=num_moves)
    found: dict[bytes, Tensor] = {}
    player = RandomPlayer(rules, generator)
    for _ in range(100):
        boards = rules.start(num_openings)
        for _ in range(num_moves):
            turn = rules.step(boards, player.act(boards))
            boards = turn.boards[~turn.ended]
        found |= {board.numpy().tobytes(): board for board in boards}
        if len(found) >= num_openings:
            return torch.stack(list(found.values())[:num_openings])
    raise ValueError(
        f"openings: expected num_openings <= {len(found)}, which is all that were found after "
        f"{num_moves} moves, got {num_openings}. Ask for fewer, or make more moves."
    )


def play_out(rules: Rules, boards: Tensor, first: Player, second: Player) -> Tensor:
    """Results [B] for who moves first from the boards [B, 2, C].

    Raises:
        ValueError: for boards that can't be played from, or if a player makes an illegal move.
    """
    check_boards("play_out", rules, boards)
    results, playing, sign = torch.zeros(len(boards)), torch.arange(len(boards)), 1.0
    mover, other = first, second
    while len(playing):
        actions = mover.act(boards)
        check_actions(f"play_out: {type(mover).__name__}", rules, boards, actions)
        turn = rules.step(boards, actions)
        results[playing] = turn.won * sign
        boards, playing, sign = turn.boards[~turn.ended], playing[~turn.ended], -sign
        mover, other = other, mover
    return results


def match(rules: Rules, player: Player, rival: Player, boards: Tensor) -> Tensor:
    """Results [2, B] for the player: from each of the boards it moves first, and second."""
    second = -play_out(rules, boards, rival, player)
    return torch.stack([play_out(rules, boards, player, rival), second])


def score(results: Tensor) -> float:
    """Share of the points: wins, and half of the draws."""
    return float((results + 1).mean() / 2)


def losing_leaves(rules: Rules, player: Player) -> tuple[int, int]:
    """On how many boards the player can be beaten, as first and as second.

    Every legal reply of the opponent is walked; boards that are met twice count once.
    """
    return _losses(rules, player, rules.start()), _losses(rules, player, _replies(rules, None)[0])


def _losses(rules: Rules, player: Player, boards: Tensor) -> int:
    """Lost games below boards on which the player is to move."""
    lost = 0
    while len(boards):
        turn = rules.step(boards, player.act(boards))
        boards = turn.boards[~turn.ended]
        if len(boards):
            boards, num_lost = _replies(rules, boards)
            lost += num_lost
    return lost


def _replies(rules: Rules, boards: Tensor | None) -> tuple[Tensor, int]:
    """Distinct boards after each legal move of the opponent, and how many of them it has won."""
    boards = rules.start() if boards is None else boards
    which, actions = rules.legal(boards).nonzero().unbind(1)
    turn = rules.step(boards[which], actions)
    on, won = turn.boards[~turn.ended].unique(dim=0), turn.boards[turn.won].unique(dim=0)
    return on, len(won)


class Rating(NamedTuple):
    """Strength in Elo's points, with a 95 % interval."""

    elo: float
    low: float
    high: float


def ratings(
    results: Mapping[tuple[str, str], Tensor], anchor: str, rng: np.random.Generator,
    num_resamples: int = 200,
) -> dict[str, Rating]:  # fmt: skip
    """Ratings of players that met each other; the anchor has 0.

    To each pairing a drawn game is added: who has won all its games would else be infinitely
    strong. Intervals come from drawing the games anew (bootstrap).

    Args:
        results: of each pairing, for the first one named.
        anchor: who has 0.
        rng: for the intervals.
        num_resamples: of the games.

    Raises:
        ValueError: if the anchor has not played.
    """
    names = sorted({name for pair in results for name in pair})
    if anchor not in names:
        raise ValueError(
            f"ratings: expected an anchor among {names}, got {anchor!r}. Name one who has played."
        )
    games = {
        tuple(map(names.index, pair)): (np.asarray(r).ravel() + 1) / 2
        for pair, r in results.items()
    }  # fmt: skip
    found = _elo(names, games, names.index(anchor))
    drawn = np.stack([
        _elo(names, {p: rng.choice(g, len(g)) for p, g in games.items()}, names.index(anchor))
        for _ in range(num_resamples)
    ])  # fmt: skip
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    return {n: Rating(*map(float, r)) for n, *r in zip(names, found, low, high, strict=True)}


def _elo(names: list[str], games: dict[tuple[int, ...], np.ndarray], anchor: int) -> np.ndarray:
    """The most likely ratings [P] of Bradley and Terry's model, by Newton's method."""
    strength = np.zeros(len(names))
    for _ in range(100):
        slope, bend = np.zeros(len(names)), np.eye(len(names)) * 1e-9
        for (i, j), points in games.items():
            expected = 1 / (1 + np.exp(strength[j] - strength[i]))
            missed = points.sum() + 0.5 - (len(points) + 1) * expected
            slope[[i, j]] += missed, -missed
            weight = (len(points) + 1) * expected * (1 - expected)
            bend[[i, j, i, j], [i, j, j, i]] += weight * np.array([1, 1, -1, -1])
        move = np.linalg.lstsq(bend, slope, rcond=None)[0].clip(-1, 1)
        strength = strength + move
        if np.abs(move).max() < 1e-9:
            break
    return ELO * (strength - strength[anchor])
