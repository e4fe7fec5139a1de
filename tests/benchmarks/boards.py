"""Board games learned by self-play: how strong, in how many CPU seconds, and what it is due to.

Tic-tac-toe: boards on which a player can be beaten when every legal reply is walked. Connect Four:
points against UCT with 200 simulations and against random moves, 400 games from 200 openings of
four random moves, sides swapped; and the share of 200 fixed positions on which the move keeps what
perfect play makes of it. Where nothing else is said, each move has 200 simulations.

Controls, of the same seeds: the network's first choice without search; search without a network
(UCT), and with the network as it was before the first game; policy gradient in self-play of as many
games or updates, alone and with search at play only; four times the games with a quarter of the
simulations. CPU seconds are those of self-play and training.
"""

import time

import numpy as np
import torch
from _common import finish, parser, record, recorded, run_all

from mbrl_helpers.boards.learned import LearnedRulesConfig, fit_rules, random_games, right
from mbrl_helpers.boards.matches import losing_leaves, match, openings, score
from mbrl_helpers.boards.network import BoardNetwork, NetworkConfig
from mbrl_helpers.boards.players import (
    NetworkPlayer,
    PolicyPlayer,
    RandomPlayer,
    SearchPlayer,
    UCTPlayer,
)
from mbrl_helpers.boards.rules import CONNECT_FOUR, TIC_TAC_TOE, Rules
from mbrl_helpers.boards.search import SearchConfig
from mbrl_helpers.boards.selfplay import SelfPlay, SelfPlayConfig
from mbrl_helpers.boards.solver import fixed_positions, share_optimal
from mbrl_helpers.notebook import generator, read_recorded

NETWORKS = {
    TIC_TAC_TOE.name: NetworkConfig(hidden_sizes=(64, 64)),
    CONNECT_FOUR.name: NetworkConfig(),
}
SETTINGS = {
    TIC_TAC_TOE.name: SelfPlayConfig(
        num_games=64, moves_per_round=12, updates_per_round=40, batch_size=256, num_rounds=16,
        random_moves=4, opening_moves=4, learning_rate=3e-3, replay_size=20_000, full_share=0.5,
        search=SearchConfig(num_simulations=50, noise=0.25),
    ),
    CONNECT_FOUR.name: SelfPlayConfig(),
}  # fmt: skip
PARTS = ("tic-tac-toe", "tic-tac-toe, gradient", "tic-tac-toe, UCT", "tic-tac-toe, more games",
         "learned rules", "Connect Four", "Connect Four, untrained")  # fmt: skip


def learned(rules: Rules, seed: int, config: SelfPlayConfig) -> tuple[BoardNetwork, dict]:
    """A network after self-play, and what that took."""
    begin = time.process_time()
    rng = generator(100_000 * seed)
    network = BoardNetwork(rules, rng, NETWORKS[rules.name])
    *_, last = SelfPlay(rules, network, rng, config).rounds()
    spent = {"cpu_seconds": round(time.process_time() - begin, 1), "games": last.num_finished}
    return network, spent | {"simulations": last.num_simulations}


def policy_gradient(rules: Rules, seed: int, num_games: int, batch: int = 64) -> BoardNetwork:
    """A network after so many games of self-play by REINFORCE, with its value as baseline."""
    rng = generator(100_000 * seed)
    network = BoardNetwork(rules, rng, NETWORKS[rules.name])
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(num_games // batch):
        boards, playing = rules.start(batch), torch.arange(batch)
        rows, results = [], torch.zeros(batch)
        sign = 1.0
        while len(playing):
            priors, _ = network.evaluate(boards, rules.legal(boards))
            actions = torch.multinomial(priors, 1, generator=rng)[:, 0]
            rows.append((boards, actions, playing, torch.full((len(playing),), sign)))
            turn = rules.step(boards, actions)
            results[playing] = turn.won * sign  # for who began
            boards, playing, sign = turn.boards[~turn.ended], playing[~turn.ended], -sign
        boards, actions, whose, signs = map(torch.cat, zip(*rows, strict=True))
        target = results[whose] * signs
        logits, values = network(boards)
        logits = logits.masked_fill(~rules.legal(boards), -1e9).log_softmax(dim=1)
        chosen = logits.gather(1, actions[:, None])[:, 0]
        entropy = -(logits.exp() * logits.clamp(min=-50)).sum(dim=1)
        gain = chosen * (target - values.detach()) + 0.01 * entropy
        loss = (values - target).square().mean() - gain.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network


def run(seed: int, part: str) -> list[dict]:
    """A row for each thing that was measured."""
    rows: list[dict] = []

    def add(player: str, measure: str, value: float, **spent: float) -> None:
        nothing = {"cpu_seconds": "", "games": "", "simulations": ""}
        rows.append({"seed": seed, "part": part, "player": player, "measure": measure,
                     "value": round(float(value), 5)} | nothing | spent)  # fmt: skip

    {
        "tic-tac-toe": tic_tac_toe, "tic-tac-toe, gradient": gradient,
        "tic-tac-toe, UCT": more_uct,
        "tic-tac-toe, more games": more_games, "learned rules": learned_rules,
        "Connect Four": connect_four, "Connect Four, untrained": untrained,
    }[part](seed, add)  # fmt: skip
    return rows


def beaten(seed: int, add, player: str, evaluate, config=None, game=TIC_TAC_TOE, **spent) -> None:
    """How many boards a searching player loses on, both sides."""
    agent = SearchPlayer(game, evaluate, generator(seed + 7_000_000), config or SearchConfig())
    add(player, "losing leaves", sum(losing_leaves(TIC_TAC_TOE, agent)), **spent)


def tic_tac_toe(seed: int, add) -> None:
    rules, rng = TIC_TAC_TOE, generator(seed + 7_000_000)
    network, spent = learned(rules, seed, SETTINGS[rules.name])
    beaten(seed, add, "network and search", network.evaluate, **spent)
    add("network alone", "losing leaves", sum(losing_leaves(rules, PolicyPlayer(rules, network))))
    lost = sum(losing_leaves(rules, UCTPlayer(rules, rng)))
    add("UCT, 200 simulations", "losing leaves", lost)


def more_uct(seed: int, add) -> None:
    thousand = SearchConfig(bonus="uct", exploration=1.4, num_simulations=1000)
    player = UCTPlayer(TIC_TAC_TOE, generator(seed + 7_000_000), thousand)
    add("UCT, 1,000 simulations", "losing leaves", sum(losing_leaves(TIC_TAC_TOE, player)))


def gradient(seed: int, add) -> None:
    """As many games as self-play with search has, and as many updates, in batches of 64 games."""
    rules = TIC_TAC_TOE
    for amount, games in (("as many games", 2_150), ("as many updates", 640 * 64)):
        begin, name = time.process_time(), f"policy gradient, {amount}"
        network = policy_gradient(rules, seed, games)
        spent = {"cpu_seconds": round(time.process_time() - begin, 1), "games": games}
        lost = sum(losing_leaves(rules, PolicyPlayer(rules, network)))
        add(name, "losing leaves", lost, **spent)
        beaten(seed, add, f"{name}, search at play only", network.evaluate)


def more_games(seed: int, add) -> None:
    rules, base = TIC_TAC_TOE, SETTINGS[TIC_TAC_TOE.name]
    for name, rounds, full, quick in (
        ("a quarter of the simulations, four times the games", 64, 13, 4),
        ("four times the simulations, a quarter of the games", 4, 200, 64),
    ):
        changed = {"search": SearchConfig(num_simulations=full, noise=0.25),
                   "quick_simulations": quick, "num_rounds": rounds}  # fmt: skip
        network, spent = learned(rules, seed, SelfPlayConfig(**vars(base) | changed))
        beaten(seed, add, name, network.evaluate, **spent)


def learned_rules(seed: int, add) -> None:
    for rules, num_games, updates in ((TIC_TAC_TOE, 1000, 1500), (CONNECT_FOUR, 3000, 4000)):
        rng, begin = generator(100_000 * seed + 1), time.process_time()
        config = LearnedRulesConfig(num_updates=updates)
        model = fit_rules(rules, random_games(rules, num_games, rng), rng, config)
        spent = {"cpu_seconds": round(time.process_time() - begin, 1), "games": num_games}
        held_out = random_games(rules, 3000, rng)
        for name, is_right in right(model, held_out).items():
            add(f"rules of {rules.name}", f"{name}, held out", is_right.float().mean(), **spent)
    # What Connect Four's cost: UCT on either rules against UCT on the true ones.
    boards, few = openings(rules, 50, 4, generator(1)), SearchConfig(bonus="uct", exploration=1.4)
    rival = UCTPlayer(rules, generator(seed + 8_000_000), few)
    for name, game in (("true rules", rules), ("learned rules", model)):
        player = Referee(rules, UCTPlayer(game, generator(seed + 9_000_000), few))
        add(f"UCT on {name}", "score against UCT", score(match(rules, player, rival, boards)))


class Referee:
    """Of the moves that a search has tried, the most frequent one that the rules allow."""

    def __init__(self, rules: Rules, player: SearchPlayer):
        self.rules, self.player = rules, player

    def act(self, boards: torch.Tensor) -> torch.Tensor:
        self.player.act(boards)
        return (self.player.thoughts.visits + self.rules.legal(boards) * 1e4).argmax(dim=1)


def connect_four(seed: int, add) -> None:
    rules, rng = CONNECT_FOUR, generator(seed + 7_000_000)
    network, spent = learned(rules, seed, SETTINGS[rules.name])
    agent, uct = NetworkPlayer(rules, network, rng), UCTPlayer(rules, rng)
    policy = PolicyPlayer(rules, network)
    boards, worth = fixed_positions(read_recorded("boards_positions"))
    thousand = UCTPlayer(rules, rng, SearchConfig(bonus="uct", exploration=1.4,
                                                  num_simulations=1000))  # fmt: skip
    players = {"network and search": agent, "network alone": policy, "UCT, 200 simulations": uct,
               "UCT, 1,000 simulations": thousand, "random": RandomPlayer(rules, rng)}  # fmt: skip
    for name, player in players.items():
        more, begin = spent if player is agent else {}, time.process_time()
        add(name, "share of optimal moves", share_optimal(player.act(boards), worth), **more)
        seconds = (time.process_time() - begin) / len(boards)
        add(name, "milliseconds a move, 200 boards at once", 1e3 * seconds)
    begins = openings(rules, 200, 4, generator(seed + 6_000_000))
    add("network and search", "score against UCT 200", score(match(rules, agent, uct, begins)))
    random = match(rules, agent, players["random"], begins)
    add("network and search", "score against random", score(random))
    few = begins[:50]
    add("network alone", "score against UCT 200", score(match(rules, policy, uct, few)))
    add("network and search", "score against UCT 1,000", score(match(rules, agent, thousand, few)))


def untrained(seed: int, add) -> None:
    """The same search with the network as it was before the first game."""
    rules, rng = CONNECT_FOUR, generator(seed + 7_000_000)
    network = BoardNetwork(rules, generator(100_000 * seed), NETWORKS[rules.name])
    agent, uct = NetworkPlayer(rules, network, rng), UCTPlayer(rules, rng)
    boards, worth = fixed_positions(read_recorded("boards_positions"))
    name = "search, untrained network"
    add(name, "share of optimal moves", share_optimal(agent.act(boards), worth))
    begins = openings(rules, 50, 4, generator(seed + 6_000_000))
    add(name, "score against UCT 200", score(match(rules, agent, uct, begins)))


def main() -> None:
    arguments = parser(__doc__, range(5))
    arguments.add_argument(
        "--parts", nargs="+", default=list(PARTS), choices=PARTS,
        help="only these; a recording keeps its rows of the others",
    )  # fmt: skip
    options = arguments.parse_args()
    settings = [{"part": part} for part in options.parts]
    rows = run_all(run, options, settings)
    if options.record:
        header, old = recorded("boards")
        kept = [row for row in old if row["part"] not in options.parts]
        record("boards", kept + rows, earlier=header if kept else [])
    table: dict[tuple[str, ...], list[float]] = {}
    for row in rows:
        table.setdefault((row["part"], row["player"], row["measure"]), []).append(row["value"])
    for names, values in table.items():
        print(f"{', '.join(names):90} {np.mean(values):8.4f}  {values}")

    def of(part: str, player: str, measure: str, key: str = "value") -> list[float]:
        return [
            r[key]
            for r in rows
            if (r["part"], r["player"], r["measure"]) == (part, player, measure)
        ]

    agent = "network and search"
    finish(
        "boards", seeds=options.seeds,
        ttt_losses=of("tic-tac-toe", agent, "losing leaves"),
        c4_score_uct200=of("Connect Four", agent, "score against UCT 200"),
        c4_score_random=of("Connect Four", agent, "score against random"),
        optimal_share=of("Connect Four", agent, "share of optimal moves"),
        cpu_seconds=of("Connect Four", agent, "share of optimal moves", "cpu_seconds"),
        ttt_cpu_seconds=of("tic-tac-toe", agent, "losing leaves", "cpu_seconds"),
    )  # fmt: skip


if __name__ == "__main__":
    main()
