"""The tree search, the network that it asks, self-play, and matches."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mbrl_helpers.boards.learned import LearnedRulesConfig, fit_rules, random_games
from mbrl_helpers.boards.matches import losing_leaves, match, openings, play_out, ratings, score
from mbrl_helpers.boards.network import BoardNetwork, NetworkConfig
from mbrl_helpers.boards.players import NetworkPlayer, PolicyPlayer, RandomPlayer, UCTPlayer
from mbrl_helpers.boards.rules import CONNECT_FOUR, TIC_TAC_TOE, Turn
from mbrl_helpers.boards.search import UCT, Rollouts, SearchConfig, scores, search
from mbrl_helpers.boards.selfplay import SelfPlay, SelfPlayConfig
from mbrl_helpers.boards.solver import PerfectPlayer

BOTH = pytest.mark.parametrize("rules", [TIC_TAC_TOE, CONNECT_FOUR])
PUCT = SearchConfig(num_simulations=40)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def some_boards(rules, num=20, seed=0):
    boards = random_games(rules, 30, seeded(seed)).boards
    return boards[torch.randperm(len(boards), generator=seeded(seed))[:num]]


def network(rules, seed=0, **config):
    made = BoardNetwork(rules, seeded(seed), NetworkConfig(hidden_sizes=(16,), **config))
    for parameter in made.parameters():  # not as even-handed as a new one
        parameter.data.mul_(3)
    return made


def played(rules, moves):
    boards = rules.start()
    for move in moves:
        boards = rules.play(boards, torch.tensor([move])).boards
    return boards


# --- identities of the search ---------------------------------------------------------------------


def plain_search(rules, evaluate, board, config):
    """The same search of one board, node by node with dictionaries: visits and sums of the root."""

    def node(board):
        legal = rules.legal(board)
        priors, value = evaluate(board, legal)
        edges = {a: [0, 0.0, float(priors[0, a])] for a in legal[0].nonzero()[:, 0].tolist()}
        return SimpleNamespace(board=board, edges=edges, value=float(value), next={})

    def chosen(at):
        total = sum(n for n, _, _ in at.edges.values())
        best, best_score = None, -math.inf
        for action, (n, w, prior) in at.edges.items():
            mean = w / n if n else at.value - config.first_value
            score = mean + config.exploration * prior * math.sqrt(total + 1) / (1 + n)
            if score > best_score + 1e-6:
                best, best_score = action, score
        return best

    root = node(board)
    for _ in range(config.num_simulations):
        at, path = root, []
        while True:
            action = chosen(at)
            path.append((at, action))
            if action in at.next and not isinstance(at.next[action], float):
                at = at.next[action]
                continue
            if action not in at.next:
                turn = rules.step(at.board, torch.tensor([action]))
                end = -float(turn.won) if turn.ended else None
                at.next[action] = node(turn.boards) if end is None else end
            child = at.next[action]
            value = child if isinstance(child, float) else child.value
            break
        for at, action in reversed(path):
            value = -value
            at.edges[action][0] += 1
            at.edges[action][1] += value
    return root


@BOTH
def test_batched_search_is_the_plain_one(rules):
    boards, net = some_boards(rules), network(rules)
    tree = search(rules, net.evaluate, boards, seeded(), PUCT)
    for i in range(len(boards)):
        root = plain_search(rules, net.evaluate, boards[i : i + 1], PUCT)
        visits = [root.edges.get(a, [0])[0] for a in range(rules.num_actions)]
        assert tree.visits[i].tolist() == visits
        for action, (n, w, _) in root.edges.items():
            assert tree.action_values[i, action] == pytest.approx(w / max(n, 1), abs=1e-4)


@BOTH
def test_all_games_together_are_each_alone(rules):
    boards, net = some_boards(rules), network(rules)
    together = search(rules, net.evaluate, boards, seeded(), PUCT)
    for i in range(len(boards)):
        alone = search(rules, net.evaluate, boards[i : i + 1], seeded(), PUCT)
        assert torch.equal(alone.visits[0], together.visits[i])
        assert torch.allclose(alone.root_values[0], together.root_values[i], atol=1e-4)


@BOTH
@pytest.mark.parametrize("config", [PUCT, dataclasses.replace(UCT, num_simulations=40)])
def test_visits_add_up(rules, config):
    boards = some_boards(rules)
    evaluate = Rollouts(rules, seeded()) if config.bonus == "uct" else network(rules).evaluate
    tree = search(rules, evaluate, boards, seeded(), config)
    assert (tree.visits.sum(dim=1) == 40).all()
    assert (tree.visits[~rules.legal(boards)] == 0).all()
    assert (tree.action_values.abs() <= 1).all()
    # Below each action as many visits as it had, less the one that made the node.
    for node in range(0, len(tree.children), 7):
        for action in range(rules.num_actions):
            child = int(tree.children[node, action])
            if child > 0:
                assert tree.stats[child, 0].sum() == tree.stats[node, 0, action] - 1
            if child < 0:
                assert tree.stats[-child, 0].sum() == 0  # nobody plays on where it is over


def test_values_change_sign_with_the_player():
    """A network that likes whoever moves next: each edge is worth the opposite, in turn."""

    def evaluate(boards, legal):
        count = boards.sum(dim=(1, 2))
        return legal / legal.sum(1, keepdim=True), torch.where(count % 2 == 0, 0.5, -0.5)

    tree = search(CONNECT_FOUR, evaluate, CONNECT_FOUR.start(3), seeded(), PUCT)
    assert torch.allclose(tree.root_values, torch.tensor(0.5))
    child = tree.children[tree.roots[0]].max()
    assert tree.stats[child, 1].sum() / tree.stats[child, 0].sum() == pytest.approx(-0.5)


@pytest.mark.parametrize("config", [PUCT, UCT])
def test_a_win_in_one_is_found_and_one_against_it_stopped(config):
    rules = CONNECT_FOUR
    win, block = played(rules, [0, 1, 0, 1, 0, 1]), played(rules, [0, 1, 0, 1, 0])
    evaluate = Rollouts(rules, seeded()) if config is UCT else network(rules).evaluate
    config = dataclasses.replace(config, num_simulations=200)
    tree = search(rules, evaluate, torch.cat([win, block]), seeded(), config)
    assert tree.visits.argmax(dim=1).tolist() == [0, 0]
    assert tree.action_values[0, 0] == 1
    assert tree.line(0, 9) == [0]  # there it ends


def test_the_bonus_by_hand():
    stats = torch.tensor([[[3.0, 1.0, 0.0], [1.5, -1.0, 0.0], [0.5, 0.3, 0.2]]])
    value = torch.tensor([0.4])
    config = SearchConfig(exploration=2.0, first_value=0.1)
    root = math.sqrt(5)
    expected = [0.5 + 2 * 0.5 * root / 4, -1 + 2 * 0.3 * root / 2, 0.3 + 2 * 0.2 * root]
    assert scores(stats, value, config)[0].tolist() == pytest.approx(expected)
    found = scores(stats, value, dataclasses.replace(config, bonus="uct"))[0]
    bonus = [2 * math.sqrt(math.log(5) / n) for n in (3, 1)]
    assert found[:2].tolist() == pytest.approx([0.5 + bonus[0], -1 + bonus[1]])
    assert found[2] > 1000  # what was never tried comes first


def test_noise_is_for_learning_only():
    rules, net = CONNECT_FOUR, network(CONNECT_FOUR)
    boards = rules.start(4)
    quiet = search(rules, net.evaluate, boards, seeded(), PUCT)
    assert (quiet.visits == quiet.visits[0]).all()
    noisy = search(rules, net.evaluate, boards, seeded(), dataclasses.replace(PUCT, noise=0.5))
    assert not (noisy.visits == noisy.visits[0]).all()
    assert torch.allclose(noisy.stats[noisy.roots, 2].sum(dim=1), torch.tensor(1.0))


def test_rollouts_are_fair():
    """From the empty board of tic-tac-toe the first wins 58.5 % at random, the second 28.8 %."""
    rollouts, boards = Rollouts(TIC_TAC_TOE, seeded()), TIC_TAC_TOE.start(4000)
    priors, values = rollouts(boards, TIC_TAC_TOE.legal(boards))
    assert (values == 1).float().mean() == pytest.approx(0.585, abs=0.03)
    assert (values == -1).float().mean() == pytest.approx(0.288, abs=0.03)
    assert priors[0].tolist() == pytest.approx([1 / 9] * 9, abs=1e-3)


def test_learned_rules_take_the_place_of_the_rules():
    moves = random_games(TIC_TAC_TOE, 600, seeded(1))
    model = fit_rules(TIC_TAC_TOE, moves, seeded(2), LearnedRulesConfig(num_updates=400))
    boards = some_boards(TIC_TAC_TOE)
    config = dataclasses.replace(UCT, num_simulations=100)
    moves = UCTPlayer(model, seeded(), config).act(boards)
    assert TIC_TAC_TOE.legal(boards).gather(1, moves[:, None]).float().mean() >= 0.8


# --- network and self-play ------------------------------------------------------------------------


QUICK = SelfPlayConfig(
    num_games=16, moves_per_round=8, updates_per_round=3, batch_size=32, num_rounds=4,
    search=SearchConfig(num_simulations=8, noise=0.25), quick_simulations=4, replay_size=300,
)  # fmt: skip


@BOTH
@pytest.mark.parametrize("lines", [True, False])
def test_network_is_saved_and_loaded(rules, lines, tmp_path):
    net = network(rules, lines=lines)
    net.save(tmp_path / "player.npz")
    again = BoardNetwork.load(tmp_path / "player.npz")
    boards = some_boards(rules)
    legal = rules.legal(boards)
    for ours, theirs in zip(
        net.evaluate(boards, legal), again.evaluate(boards, legal), strict=True
    ):
        assert torch.equal(ours, theirs)
    priors, values = net.evaluate(boards, legal)
    assert (priors[~legal] == 0).all() and torch.allclose(priors.sum(1), torch.tensor(1.0))
    assert (values.abs() <= 1).all()


def test_self_play_learns_the_results_of_its_games():
    play = SelfPlay(TIC_TAC_TOE, network(TIC_TAC_TOE), seeded(), QUICK)
    rounds = list(play.rounds())
    assert [r.number for r in rounds] == [1, 2, 3, 4]
    assert rounds[-1].num_finished >= 16
    simulations = [r.num_simulations for r in rounds]
    assert all(
        16 * 8 * 4 <= b - a <= 16 * 8 * 8
        for a, b in zip([0, *simulations[:-1]], simulations, strict=True)
    )
    assert list(play.rounds()) == []  # it is over


def test_results_stand_with_the_player_who_gets_them():
    """Who wins moved last: +1 there, -1 before, and so on back to the beginning."""
    config = dataclasses.replace(QUICK, result_weight=1.0, random_moves=0)
    play = SelfPlay(TIC_TAC_TOE, network(TIC_TAC_TOE), seeded(), config)
    next(play.rounds())
    kept = {name: value[: play._num_kept] for name, value in play._replay.items()}
    count = kept["boards"].sum(dim=(1, 2))
    begins = (count == 0).nonzero()[:, 0].tolist()
    for begin, end in zip(begins, [*begins[1:], play._num_kept], strict=True):
        results = kept["value"][begin:end]
        assert results.tolist() == [abs(results[0].item()) * (-1) ** (end - begin - 1 - i)
                                    for i in range(end - begin)]  # fmt: skip
        last, policy = kept["boards"][end - 1 : end], kept["policy"][begin:end]
        assert torch.allclose(policy.sum(1), torch.tensor(1.0))
        if results[-1] == 1:
            assert TIC_TAC_TOE.threats(last)[0, 0].any()


def test_games_begin_after_random_moves():
    config = dataclasses.replace(QUICK, random_moves=6, num_games=400)
    boards = SelfPlay(CONNECT_FOUR, network(CONNECT_FOUR), seeded(), config)._boards
    counts = boards.sum(dim=(1, 2)).long().bincount()
    assert len(counts) == 7 and (counts > 25).all()
    config = dataclasses.replace(config, random_moves=9)
    boards = SelfPlay(TIC_TAC_TOE, network(TIC_TAC_TOE), seeded(), config)._boards
    assert TIC_TAC_TOE.legal(boards).any(dim=1).all()
    assert not (boards @ TIC_TAC_TOE.lines > 2.5).any()


def test_the_same_seed_gives_the_same_network():
    nets = []
    for _ in range(2):
        net = network(TIC_TAC_TOE)
        list(SelfPlay(TIC_TAC_TOE, net, seeded(3), QUICK).rounds())
        nets.append(net)
    for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(one, other)


def test_interrupted_self_play_goes_on_where_it_was():
    net = network(TIC_TAC_TOE)
    play = SelfPlay(TIC_TAC_TOE, net, seeded(), QUICK)
    calm, calls = net.evaluate, []

    def interrupting(boards, legal):
        calls.append(1)
        if len(calls) == 150:
            raise KeyboardInterrupt
        return calm(boards, legal)

    net.evaluate = interrupting
    with pytest.raises(KeyboardInterrupt):
        list(play.rounds())
    done = play.num_rounds
    assert 1 <= done < 4
    assert [r.number for r in play.rounds()] == list(range(done + 1, 5))


def test_symmetric_pictures_of_a_board_keep_its_policy():
    play = SelfPlay(TIC_TAC_TOE, network(TIC_TAC_TOE), seeded(), QUICK)
    boards = some_boards(TIC_TAC_TOE, 50)
    policy = TIC_TAC_TOE.legal(boards).float()
    turned = play._turned({"boards": boards, "policy": policy, "value": torch.zeros(50)})
    assert torch.equal(TIC_TAC_TOE.legal(turned["boards"]).float(), turned["policy"])
    assert not torch.equal(turned["boards"], boards)


# --- matches --------------------------------------------------------------------------------------


def test_perfect_player_never_loses_and_random_does():
    rng = seeded()
    assert losing_leaves(TIC_TAC_TOE, PerfectPlayer(TIC_TAC_TOE, rng)) == (0, 0)
    first, second = losing_leaves(TIC_TAC_TOE, RandomPlayer(TIC_TAC_TOE, rng))
    assert first > 10 and second > 10


def test_scores_of_a_match():
    boards, rng = openings(CONNECT_FOUR, 20, 4, seeded()), seeded(1)
    assert len({board.numpy().tobytes() for board in boards}) == 20
    uct = UCTPlayer(CONNECT_FOUR, rng, dataclasses.replace(UCT, num_simulations=50))
    results = match(CONNECT_FOUR, uct, RandomPlayer(CONNECT_FOUR, rng), boards)
    assert results.shape == (2, 20)
    assert score(results) >= 0.9
    assert score(torch.tensor([1.0, 0.0, -1.0, 1.0])) == 0.625


def test_ratings_know_who_is_stronger():
    results = {("a", "b"): torch.tensor([1.0] * 75 + [-1.0] * 25), ("b", "c"): torch.zeros(100)}
    found = ratings(results, "c", np.random.default_rng(0))
    assert found["c"] == (0, 0, 0)
    assert found["b"].elo == pytest.approx(0, abs=1e-6)
    assert found["a"].elo == pytest.approx(400 * math.log10(75.5 / 25.5), abs=1)
    assert found["a"].low < found["a"].elo < found["a"].high
    with pytest.raises(ValueError, match="expected an anchor among"):
        ratings(results, "d", np.random.default_rng(0))


# --- bad input ------------------------------------------------------------------------------------


class Endless:
    """Rules under which nobody ever wins, and nothing ends."""

    num_actions, max_moves = 2, 10

    def legal(self, boards):
        return torch.ones(len(boards), 2, dtype=torch.bool)

    def step(self, boards, actions):
        no = torch.zeros(len(boards), dtype=torch.bool)
        return Turn(boards.flip(1), no, no)


def test_rules_without_an_end():
    game = Endless()
    with pytest.raises(RuntimeError, match="every game to end within max_moves = 10, got 3"):
        search(game, Rollouts(game, seeded()), torch.zeros(3, 2, 4), seeded(), UCT)


def test_no_legal_move():
    full = played(CONNECT_FOUR, [0] * 6)
    with pytest.raises(ValueError, match="expected games with a legal move, got none on board 1"):
        search(CONNECT_FOUR, network(CONNECT_FOUR).evaluate,
               torch.cat([full, torch.ones(1, 2, 42)]), seeded())  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_simulations": 0}, "expected num_simulations >= 1, got 0"),
        ({"bonus": "ucb"}, 'expected bonus "puct" or "uct", got ucb'),
        ({"exploration": -1.0}, "expected exploration in"),
        ({"noise": 2.0}, "expected noise in"),
        ({"first_value": float("nan")}, "expected first_value in"),
        ({"noise_concentration": 0.0}, "expected noise_concentration in"),
    ],
)
def test_impossible_settings_of_a_search(settings, message):
    with pytest.raises(ValueError, match=message):
        SearchConfig(**settings)


@pytest.mark.parametrize(
    "settings",
    [{"num_games": 0}, {"full_share": 0.0}, {"result_weight": 1.5}, {"opening_moves": -1},
     {"learning_rate": 0.0}, {"replay_size": 0}, {"weight_decay": -1}],
)  # fmt: skip
def test_impossible_settings_of_self_play(settings):
    with pytest.raises(ValueError, match=f"SelfPlayConfig: expected {next(iter(settings))}"):
        SelfPlayConfig(**settings)


def test_a_network_of_another_board():
    net = network(TIC_TAC_TOE)
    message = "expected a network of Connect Four, got one of tic-tac-toe"
    for made in (
        lambda: SelfPlay(CONNECT_FOUR, net, seeded(), QUICK),
        lambda: PolicyPlayer(CONNECT_FOUR, net),
        lambda: NetworkPlayer(CONNECT_FOUR, net, seeded()),
    ):
        with pytest.raises(ValueError, match=message):
            made()


def test_a_player_saved_by_something_else(tmp_path, monkeypatch):
    path = tmp_path / "player.npz"
    with pytest.raises(FileNotFoundError, match="Check the path"):
        BoardNetwork.load(path)
    monkeypatch.setattr("mbrl_helpers.saving.FORMAT", 99)
    network(TIC_TAC_TOE).save(path)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"newer than this .*: update the package"):
        BoardNetwork.load(path)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="expected a file that can be read"):
        BoardNetwork.load(path)


def test_a_player_that_moves_illegally():
    stubborn = SimpleNamespace(act=lambda boards: torch.zeros(len(boards), dtype=torch.long))
    with pytest.raises(ValueError, match=r"play_out: SimpleNamespace: .*that column is full"):
        play_out(CONNECT_FOUR, played(CONNECT_FOUR, [0] * 5), stubborn, stubborn)


def test_too_many_openings():
    with pytest.raises(ValueError, match="expected num_openings <= 7"):
        openings(CONNECT_FOUR, 8, 1, seeded())
