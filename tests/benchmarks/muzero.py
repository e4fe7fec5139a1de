"""Tic-tac-toe with latent rules (MuZero): what it costs to learn a model that predicts no board.

A representation makes a latent vector of the board, a dynamics network carries it on by an action
and predicts the reward (whether that move wins), a prediction network gives policy and value. All
are trained together, unrolled along games of self-play; no board is ever reconstructed. The
search is the course's: a predicted reward of more than one half counts as a win that ends the game.
Legal moves are given at the root only.

Beside it, in the same self-play, with the same search, inputs, symmetries, games and updates: an
agent that is given the true rules. At the end of learning, of the same latent networks: their
policy without search, and their policy and value in a search on the true rules, which tells what
the latent rules lose from what the values lose. Measured: boards on which a player can be beaten
when every legal reply is walked. CPU seconds are those of self-play and learning.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from _common import finish, parser, record, run_all
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

from mbrl_helpers.boards.matches import losing_leaves
from mbrl_helpers.boards.network import BoardNetwork, NetworkConfig
from mbrl_helpers.boards.players import Player, RandomPlayer, SearchPlayer
from mbrl_helpers.boards.rules import TIC_TAC_TOE, Rules, Turn
from mbrl_helpers.boards.search import SearchConfig, Tree, search
from mbrl_helpers.notebook import generator

LATENT, TRUE = "latent rules", "true rules"
SEARCH = SearchConfig(num_simulations=50, noise=0.25)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings, chosen on seeds 100 and 101.

    Attributes:
        num_rounds: of self-play and learning; after every `every` of them it is evaluated.
        every: see there.
        num_games: of a round, side by side.
        num_updates: of a round.
        batch_size: positions from which an update unrolls.
        unroll: steps of an unrolled game; with the true rules there is nothing to unroll.
        size: of a latent vector.
        width: of the hidden layers.
        learning_rate: at first; it falls to a tenth.
        kept: games that are remembered.
        random_moves: games begin after 0 to so many random moves.
        drawn_moves: so many are drawn by how often the search took them.
        result_weight: of the game's result in the value to learn; the rest is what the search says.
        search: of each move of self-play.
    """

    num_rounds: int = 48
    every: int = 6
    num_games: int = 64
    num_updates: int = 60
    batch_size: int = 256
    unroll: int = 3
    size: int = 64
    width: int = 128
    learning_rate: float = 3e-3
    kept: int = 1500
    random_moves: int = 4
    drawn_moves: int = 4
    result_weight: float = 0.5
    search: SearchConfig = SEARCH


CONFIG = Config()


def mlp(sizes: tuple[int, ...], generator: torch.Generator) -> nn.Sequential:
    """Layers with rectifiers between them, drawn from a generator."""
    layers: list[nn.Module] = []
    for i in range(len(sizes) - 1):
        layer, last = nn.Linear(sizes[i], sizes[i + 1]), i == len(sizes) - 2
        bound = (6 / sizes[i]) ** 0.5 * (0.1 if last else 1)
        nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
        nn.init.zeros_(layer.bias)
        layers += [layer] if last else [layer, nn.ReLU()]
    return nn.Sequential(*layers)


class LatentRules(nn.Module):
    """Rules in a latent space, which a tree search takes for a game; and what it evaluates with.

    A state [D + A] is a latent vector, and which actions may be searched: at the root those that
    are legal, further down all, for the model knows no rules.
    """

    def __init__(self, rules: Rules, generator: torch.Generator, config: Config = CONFIG):
        super().__init__()
        size, width = config.size, config.width
        self.rules, self.size, self.num_actions = rules, size, rules.num_actions
        self.max_moves = rules.max_moves
        inputs = rules.num_cells * 8
        self.representation = mlp((inputs, width, size), generator)
        self.dynamics = mlp((size + self.num_actions, width, width, size + 1), generator)
        self.prediction = mlp((size, width, self.num_actions + 1), generator)

    def begin(self, boards: Tensor) -> Tensor:
        """States [B, D + A] of boards [B, 2, C]."""
        return torch.cat([self.encode(boards), self.rules.legal(boards).float()], dim=1)

    def encode(self, boards: Tensor) -> Tensor:
        """Latent vectors [B, D] of boards [B, 2, C], seen as the course's network sees them."""
        seen = torch.cat([boards, self.rules.line_planes(boards)], dim=1).flatten(1)
        return self._bounded(self.representation(seen))

    def advance(self, latent: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Next latent vectors [B, D], and logits [B] of a reward, from latent [B, D], actions [B].

        What it learns is a change: most of a board stays as it is.
        """
        acted = torch.cat([latent, one_hot(actions, self.num_actions).float()], dim=1)
        out = self.dynamics(acted)
        return self._bounded(latent + out[:, :-1]), out[:, -1]

    def predict(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the moves [B, A] and values [B] of latent vectors [B, D]."""
        out = self.prediction(latent)
        return out[:, :-1], out[:, -1].tanh()

    def legal(self, states: Tensor) -> Tensor:
        """Which actions may be searched [B, A]."""
        return states[:, self.size :] > 0.5

    def step(self, states: Tensor, actions: Tensor) -> Turn:
        """Where actions [B] lead, as far as it knows."""
        latent, reward = self.advance(states[:, : self.size], actions)
        anything = torch.ones(len(states), self.num_actions)
        return Turn(torch.cat([latent, anything], dim=1), reward > 0, reward > 0)

    @torch.inference_mode()
    def evaluate(self, states: Tensor, legal: Tensor) -> tuple[Tensor, Tensor]:
        """Priors [B, A] of the legal moves, and values [B] for who is to move."""
        logits, values = self.predict(states[:, : self.size])
        return logits.masked_fill(~legal, -1e9).softmax(dim=1), values

    @torch.inference_mode()
    def evaluate_boards(self, boards: Tensor, legal: Tensor) -> tuple[Tensor, Tensor]:
        """The same of boards [B, 2, C], which are represented first."""
        return self.evaluate(self.begin(boards), legal)

    @staticmethod
    def _bounded(latent: Tensor) -> Tensor:
        """Of length 1 per number: unrolled for long, it neither grows nor fades."""
        return nn.functional.layer_norm(latent, latent.shape[1:])


class Agent:
    """Latent or true rules, and how each searches, loses and learns.

    Attributes:
        network: what learns.
    """

    def __init__(self, kind: str, rules: Rules, rng: torch.Generator, config: Config = CONFIG):
        self.kind, self.rules, self.rng, self.config = kind, rules, rng, config
        self.network: LatentRules | BoardNetwork
        if kind == LATENT:
            self.network = LatentRules(rules, rng, config)
        else:
            self.network = BoardNetwork(rules, rng, NetworkConfig(hidden_sizes=(64, 64)))
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), config.learning_rate, weight_decay=1e-4
        )

    def think(self, boards: Tensor, config: SearchConfig) -> Tree:
        """Trees of boards [B, 2, C]."""
        if isinstance(self.network, LatentRules):
            states = self.network.begin(boards)
            return search(self.network, self.network.evaluate, states, self.rng, config)
        return search(self.rules, self.network.evaluate, boards, self.rng, config)

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Of policy, value and reward, along unrolled games: each part of the batch [N, K, ...]."""
        network, there = self.network, batch["there"]
        if not isinstance(network, LatentRules):
            return _losses(*network(batch["boards"][:, 0]), batch, 0)
        latent = network.encode(batch["boards"][:, 0])
        loss, steps = _losses(*network.predict(latent), batch, 0), there.shape[1] - 1
        for k in range(steps):
            latent, reward = network.advance(latent, batch["actions"][:, k])
            won = binary_cross_entropy_with_logits(reward, batch["won"][:, k], reduction="none")
            # After the end nothing is learned of rewards; values there are 0.
            part = (won * there[:, k]).mean() + _losses(*network.predict(latent), batch, k + 1)
            loss = loss + part / steps
            if latent.requires_grad:  # as in MuZero: of many steps, none dominates
                latent.register_hook(lambda gradient: gradient * 0.5)
        return loss

    def learn(self, games: dict[str, Tensor], rate: float) -> None:
        """Some updates on the games that are remembered."""
        self.optimizer.param_groups[0]["lr"] = rate
        for _ in range(self.config.num_updates):
            loss = self.loss(drawn(self.rules, games, self.rng, self.config))
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
            self.optimizer.step()


def _losses(logits: Tensor, values: Tensor, batch: dict[str, Tensor], k: int) -> Tensor:
    """Cross-entropy of the policy where the game goes on, and squared error of the value."""
    entropy = -(batch["policy"][:, k] * logits.log_softmax(dim=1)).sum(dim=1)
    return (entropy * batch["there"][:, k] + (values - batch["value"][:, k]).square()).mean()


def drawn(
    rules: Rules, games: dict[str, Tensor], rng: torch.Generator, config: Config
) -> dict[str, Tensor]:
    """Stretches [N, unroll + 1, ...] of games, each turned or mirrored; 0 after their end."""
    spots = games["there"].nonzero()  # [positions, 2]
    spot = spots[torch.randint(len(spots), (config.batch_size,), generator=rng)]
    move = spot[:, 1:] + torch.arange(config.unroll + 1)
    past = move >= rules.max_moves
    batch = {name: value[spot[:, :1], move.clamp(max=rules.max_moves - 1)]
             for name, value in games.items()}  # fmt: skip
    batch["there"] = batch["there"].masked_fill(past, 0.0)
    batch["value"] = batch["value"] * batch["there"]
    cells = torch.stack([cells for cells, _ in rules.symmetries])
    which = torch.randint(len(cells), (config.batch_size, 1), generator=rng)
    cell = cells[which].expand_as(batch["policy"])  # [N, K, C]; here an action is a cell
    batch["boards"] = batch["boards"].gather(3, cell[:, :, None].expand_as(batch["boards"]))
    batch["policy"] = batch["policy"].gather(2, cell)
    batch["actions"] = cell.argsort(dim=2).gather(2, batch["actions"][..., None])[..., 0]
    return batch


def openings(rules: Rules, config: Config, rng: torch.Generator) -> Tensor:
    """Boards [B, 2, C], each after some random moves that don't end the game."""
    boards, player = rules.start(config.num_games), RandomPlayer(rules, rng)
    number = torch.randint(config.random_moves + 1, (config.num_games,), generator=rng)
    for move in range(config.random_moves):
        turn = rules.step(boards, player.act(boards))
        number = torch.where(turn.ended, 0, number)
        boards = torch.where((move < number)[:, None, None], turn.boards, boards)
    return boards


def play(agent: Agent, rules: Rules, rng: torch.Generator, config: Config) -> dict[str, Tensor]:
    """Games against itself, a row for each [B, T, ...], and 0 in `there` after their end."""
    boards, on = openings(rules, config, rng), torch.arange(config.num_games)
    shape, num = (config.num_games, rules.max_moves), rules.num_actions
    games = {"boards": torch.zeros(*shape, *boards.shape[1:]), "policy": torch.zeros(*shape, num),
             "actions": torch.zeros(shape, dtype=torch.long)}  # fmt: skip
    games |= {name: torch.zeros(shape) for name in ("value", "won", "there")}
    length = torch.zeros(config.num_games, dtype=torch.long)
    for move in range(rules.max_moves):
        tree = agent.think(boards, config.search)
        policy = tree.visits / config.search.num_simulations
        best = one_hot(policy.argmax(dim=1), num).float()
        early = boards.sum(dim=(1, 2)) < config.drawn_moves
        actions = torch.multinomial(torch.where(early[:, None], policy, best), 1, generator=rng)
        turn = rules.step(boards, actions[:, 0])
        now = {"boards": boards, "policy": policy, "actions": actions[:, 0], "there": 1.0,
               "value": tree.root_values, "won": turn.won.float()}  # fmt: skip
        for name, value in now.items():
            games[name][on, move] = value
        length[on] += 1
        boards, on = turn.boards[~turn.ended], on[~turn.ended]
        if not len(on):
            break
    after = length[:, None] - 1 - torch.arange(rules.max_moves)  # moves until the end [B, T]
    result = games["won"].sum(dim=1, keepdim=True) * (1.0 - 2.0 * (after % 2))
    mix = config.result_weight
    games["value"] = (mix * result + (1 - mix) * games["value"]) * games["there"]
    return games


def self_play(agent: Agent, config: Config) -> Iterator[int]:
    """Play and learn, round by round; gives the number of games so far."""
    games: dict[str, Tensor] = {}
    for index in range(config.num_rounds):
        new = play(agent, agent.rules, agent.rng, config)
        games = {name: torch.cat([games.get(name, value[:0]), value])[-config.kept :]
                 for name, value in new.items()}  # fmt: skip
        agent.learn(games, config.learning_rate * (1 - 0.9 * index / config.num_rounds))
        yield (index + 1) * config.num_games


class AgentPlayer:
    """The move that an agent's search takes most often."""

    def __init__(self, agent: Agent, config: SearchConfig | None = None):
        self.agent, self.config = agent, config or SearchConfig()

    def act(self, boards: Tensor) -> Tensor:
        """Moves [B] on boards [B, 2, C]."""
        return self.agent.think(boards, self.config).visits.argmax(dim=1)


class FirstChoice:
    """The policy of latent networks, without search."""

    def __init__(self, network: LatentRules):
        self.network = network

    def act(self, boards: Tensor) -> Tensor:
        """Moves [B] on boards [B, 2, C]."""
        legal = self.network.rules.legal(boards)
        return self.network.evaluate_boards(boards, legal)[0].argmax(dim=1)


def run(seed: int, kind: str) -> list[dict]:
    """A row for each evaluation."""
    rng, config, rows, seconds = generator(100_000 * seed), CONFIG, [], 0.0
    agent = Agent(kind, TIC_TAC_TOE, rng, config)

    def add(player: str, games: int, who: Player) -> None:
        lost = sum(losing_leaves(TIC_TAC_TOE, who))
        updates = games // config.num_games * config.num_updates
        rows.append({"seed": seed, "player": player, "games": games, "updates": updates,
                     "cpu_seconds": round(seconds, 1), "lost": lost})  # fmt: skip

    begin = time.process_time()
    for games in self_play(agent, config):
        seconds += time.process_time() - begin
        if games % (config.every * config.num_games) == 0:
            add(kind, games, AgentPlayer(agent))
        begin = time.process_time()
    if isinstance(agent.network, LatentRules):
        network, mixed = agent.network, generator(seed + 7_000_000)
        add(f"{LATENT}, no search", games, FirstChoice(network))
        true = SearchPlayer(TIC_TAC_TOE, network.evaluate_boards, mixed)
        add(f"{LATENT}, searched on the true ones", games, true)
    return rows


def main() -> None:
    options = parser(__doc__, range(5)).parse_args()
    rows = run_all(run, options, [{"kind": kind} for kind in (LATENT, TRUE)])
    rows = [{key: row[key] for key in row if key != "kind"} for row in rows]
    if options.record:
        record("muzero", rows)
    table: dict[tuple[str, int], list[dict]] = {}
    for row in rows:
        table.setdefault((row["player"], row["games"]), []).append(row)
    for (player, games), own in table.items():
        spent = np.mean([row["cpu_seconds"] for row in own])
        print(f"{player:40} {games:6,} games {spent:6.1f} s  {[row['lost'] for row in own]}")
    last = max(row["games"] for row in rows)
    final = {player: [r["lost"] for r in own] for (player, games), own in table.items()
             if games == last}  # fmt: skip
    spent = {kind: [r["cpu_seconds"] for r in table[kind, last]] for kind in (LATENT, TRUE)}
    finish("muzero", seeds=options.seeds, lost=final, cpu_seconds=spent, games=last)


if __name__ == "__main__":
    main()
