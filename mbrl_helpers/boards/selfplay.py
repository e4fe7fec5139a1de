"""Learning by self-play: search with the network, play oneself, learn what the search found.

Axes: B games side by side, C cells, A actions. A game that has ended makes room for a new one, so
that the batch stays full.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from mbrl_helpers.boards.network import BoardNetwork, check_network
from mbrl_helpers.boards.players import RandomPlayer
from mbrl_helpers.boards.rules import Rules
from mbrl_helpers.boards.search import SearchConfig, search
from mbrl_helpers.checks import check_counts, check_range

FULL = SearchConfig(num_simulations=64, noise=0.25)


@dataclass(frozen=True, kw_only=True)
class SelfPlayConfig:
    """Settings of self-play.

    Attributes:
        num_games: B, side by side.
        moves_per_round: of each of them, before the network learns.
        updates_per_round: gradient steps after that.
        search: of the moves from which the policy learns.
        full_share: how many of the moves are searched in full; the others only carry the game on.
        quick_simulations: of those others.
        random_moves: games begin after 0 to so many random moves, so that all kinds are seen.
        opening_moves: so many are drawn by how often the search took them; then, the most frequent.
        result_weight: of the game's result in the value to learn; the rest is what the search says.
        replay_size: positions that are remembered.
        batch_size: of a gradient step.
        learning_rate: at the beginning; it falls to a tenth in `num_rounds` rounds.
        num_rounds: after which learning is over.
        weight_decay: of the weights.
    """

    num_games: int = 256
    moves_per_round: int = 16
    updates_per_round: int = 60
    search: SearchConfig = FULL
    full_share: float = 0.25
    quick_simulations: int = 16
    random_moves: int = 8
    opening_moves: int = 10
    result_weight: float = 0.5
    replay_size: int = 60_000
    batch_size: int = 512
    learning_rate: float = 2e-3
    num_rounds: int = 64
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        """Refuse settings that can't be meant."""
        counts = ("num_games", "moves_per_round", "updates_per_round", "quick_simulations",
                  "replay_size", "batch_size", "num_rounds")  # fmt: skip
        check_counts("SelfPlayConfig", **{name: getattr(self, name) for name in counts})
        for name, low in (("full_share", 0), ("result_weight", 0), ("learning_rate", 0)):
            check_range(self, name, low, 1, ends="(]" if name != "result_weight" else "[]")
        for name in ("opening_moves", "random_moves"):
            check_range(self, name, 0, 1000)
        check_range(self, "weight_decay", 0, 1)


DEFAULT = SelfPlayConfig()


@dataclass(frozen=True)
class Round:
    """What a round of self-play did.

    Attributes:
        number: of the round, from 1 on.
        num_finished: games that ended, since the beginning.
        num_simulations: of all searches, since the beginning.
        policy_loss: cross-entropy to what the searches chose, mean over this round.
        value_loss: squared error of the values, mean over this round.
    """

    number: int
    num_finished: int
    num_simulations: int
    policy_loss: float
    value_loss: float


class SelfPlay:
    """Games against itself, and what was learned of them; interrupted, it goes on where it was.

    Attributes:
        network: what learns.
        num_rounds: that were played.
        num_finished: games that ended.
        num_simulations: of all searches.
    """

    def __init__(
        self, rules: Rules, network: BoardNetwork, generator: torch.Generator,
        config: SelfPlayConfig = DEFAULT,
    ):  # fmt: skip
        check_network("SelfPlay", rules, network)
        self.rules, self.network, self.generator, self.config = rules, network, generator, config
        self.num_rounds = self.num_finished = self.num_simulations = 0
        self._optimizer = torch.optim.AdamW(
            network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        size, (games, longest) = (2, rules.num_cells), (config.num_games, rules.max_moves)
        self._boards, self._length = self._openings(games), torch.zeros(games, dtype=torch.long)
        rows = {"boards": size, "policy": (rules.num_actions,), "value": (), "full": ()}
        self._games = {k: torch.zeros(games, longest, *shape) for k, shape in rows.items()}
        self._replay = {k: torch.zeros(config.replay_size, *shape) for k, shape in rows.items()}
        self._num_kept = 0

    def rounds(self, num_rounds: int | None = None) -> Iterator[Round]:
        """Play and learn round by round, up to the last one of the settings, or so many."""
        left = self.config.num_rounds - self.num_rounds
        for _ in range(left if num_rounds is None else min(left, num_rounds)):
            for _ in range(self.config.moves_per_round):
                self._move()
            losses = self._learn() if self._num_kept else (float("nan"), float("nan"))
            self.num_rounds += 1
            yield Round(self.num_rounds, self.num_finished, self.num_simulations, *losses)

    def _move(self) -> None:
        """Make a move in all games, and begin those anew that it ends."""
        c, rows = self.config, torch.arange(self.config.num_games)
        full = bool(torch.rand((), generator=self.generator) < c.full_share)
        settings = c.search
        if not full:
            settings = dataclasses.replace(settings, num_simulations=c.quick_simulations, noise=0)
        tree = search(self.rules, self.network.evaluate, self._boards, self.generator, settings)
        policy = tree.visits / settings.num_simulations  # [B, A]
        best = one_hot(policy.argmax(dim=1), self.rules.num_actions).float()
        drawn = torch.where((self._boards.sum(dim=(1, 2)) < c.opening_moves)[:, None], policy, best)
        actions = torch.multinomial(drawn, 1, generator=self.generator)[:, 0]
        now = {"boards": self._boards, "policy": policy, "value": tree.root_values,
               "full": torch.full((len(rows),), float(full))}  # fmt: skip
        for name, value in now.items():
            self._games[name][rows, self._length] = value
        turn, length = self.rules.step(self._boards, actions), self._length + 1
        boards, ended = turn.boards, turn.ended.nonzero()[:, 0]
        if len(ended):
            self._remember(ended, turn.won[ended], length[ended])
            boards[ended], length[ended] = self._openings(len(ended)), 0
        # Last of all, and in one step: an interrupt leaves games that can go on.
        self._boards, self._length = boards, length
        self.num_simulations += len(rows) * settings.num_simulations

    def _remember(self, ended: Tensor, won: Tensor, length: Tensor) -> None:
        """Keep the positions of games that have ended, with their results."""
        ply = torch.arange(self.rules.max_moves)[None]  # [1, T]
        result = won[:, None] * (1.0 - 2.0 * ((length[:, None] - 1 - ply) % 2))  # [K, T]
        played = (ply < length[:, None]).flatten()
        new = {k: v[ended].flatten(0, 1)[played] for k, v in self._games.items()}
        mix = self.config.result_weight
        new["value"] = mix * result.flatten()[played] + (1 - mix) * new["value"]
        at = (self._num_kept + torch.arange(int(played.sum()))) % self.config.replay_size
        for name, value in new.items():
            self._replay[name][at] = value
        self._num_kept += len(at)
        self.num_finished += len(ended)

    def _openings(self, num_games: int) -> Tensor:
        """Boards [B, 2, C] of new games, each after some random moves that don't end it."""
        number = torch.randint(self.config.random_moves + 1, (num_games,), generator=self.generator)
        boards, player = self.rules.start(num_games), RandomPlayer(self.rules, self.generator)
        for ply in range(self.config.random_moves):
            turn = self.rules.step(boards, player.act(boards))
            on = (ply < number) & ~turn.ended
            number = torch.where(on, number, 0)  # who had ended the game, begins it here
            boards = torch.where(on[:, None, None], turn.boards, boards)
        return boards

    def _learn(self) -> tuple[float, float]:
        """Some gradient steps on what is remembered; gives both losses."""
        c, total = self.config, torch.zeros(2)
        size = min(self._num_kept, c.replay_size)
        for group in self._optimizer.param_groups:
            group["lr"] = c.learning_rate * (1 - 0.9 * self.num_rounds / c.num_rounds)
        for _ in range(c.updates_per_round):
            at = torch.randint(size, (c.batch_size,), generator=self.generator)
            batch = self._turned({name: value[at] for name, value in self._replay.items()})
            logits, values = self.network(batch["boards"])
            entropy = -(batch["policy"] * logits.log_softmax(dim=1)).sum(dim=1)
            policy_loss = (entropy * batch["full"]).sum() / batch["full"].sum().clamp(min=1)
            value_loss = (values - batch["value"]).square().mean()
            self._optimizer.zero_grad()
            (policy_loss + value_loss).backward()
            self._optimizer.step()
            total += torch.stack([policy_loss, value_loss]).detach()
        policy, value = (total / c.updates_per_round).tolist()
        return policy, value

    def _turned(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Seen in a mirror, or turned: a board and its image have the same value."""
        cells, actions = zip(*self.rules.symmetries, strict=True)
        which = torch.randint(len(cells), (len(batch["value"]),), generator=self.generator)
        cell, action = torch.stack(cells)[which], torch.stack(actions)[which]
        boards = batch["boards"].gather(2, cell[:, None].expand(-1, 2, -1))
        return batch | {"boards": boards, "policy": batch["policy"].gather(1, action)}
