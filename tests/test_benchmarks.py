"""The benchmarks' own logic; what they measure is in mbrl_helpers/recorded."""

import datetime
import json
import os
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import scipy.linalg
import torch

from mbrl_helpers import Step, Transitions, evaluate, get_task
from mbrl_helpers.envs import cartpole_margin
from mbrl_helpers.notebook import read_recorded

BENCHMARKS = Path(__file__).parent / "benchmarks"


@pytest.fixture
def common(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import _common

    monkeypatch.setattr(_common, "RECORDED", tmp_path)
    return _common


@pytest.fixture
def model_free(common):
    import model_free

    return model_free


@pytest.mark.parametrize(
    ("means", "in_a_row", "index"),
    [
        ([], 1, None),
        ([1, 4, 5, 6], 1, 2),  # at the threshold is enough
        ([5, 4, 5, 6, 4, 7, 8, 9, 9], 3, 5),
        ([5, 4, 5, 6], 3, None),  # two at the end are not three
        ([1, 2], 3, None),
    ],
)
def test_first_of_so_many_in_a_row(common, means, in_a_row, index):
    assert common.first(means, 5, in_a_row) == index


def test_regret_is_measured_against_the_best_returns_there_are(model_free):
    best = [row["best_return"] for row in read_recorded("pendulum_optimum")]
    assert pytest.approx(sum(best[:10]) / 10, abs=0.01) == model_free.REFERENCE


def test_recordings_keep_the_header_of_rows_that_stay(common, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x.py", "--one"])
    common.write("table", [{"a": 1, "b": "two, three"}], versions="other 1.0, ")
    header, rows = common.recorded("table")
    assert rows == [{"a": "1", "b": "two, three"}]
    assert header[0] == "# python tests/benchmarks/x.py --one"
    assert header[1].startswith(f"# {datetime.date.today()}, one core of ")
    assert header[2].startswith("# other 1.0, torch ")
    common.write("table", rows, versions="other 1.0, ", earlier=header)
    assert common.recorded("table") == (header, rows)  # nothing twice
    monkeypatch.setattr(sys, "argv", ["x.py", "--two"])
    common.write("table", rows, versions="other 1.0, ", earlier=header)
    assert common.recorded("table")[0] == [
        header[0], "# python tests/benchmarks/x.py --two", *header[1:],
    ]  # fmt: skip
    assert common.recorded("no table") == ([], [])


def fake_run(task, algorithm, seed, mean=-100.0):
    return [
        {"task": task, "algorithm": algorithm, "seed": seed, "steps": 200 * i,
         "mean_return": mean - 60 * (i == 2), "min_return": mean - 300, "seconds": 1.5 * i}
        for i in range(1, 6)
    ]  # fmt: skip


def test_model_free_measures(model_free, monkeypatch):
    monkeypatch.setattr(model_free, "REFERENCE", -130.0)
    measures = model_free.summary(fake_run("Pendulum-v1", "SAC", 0))
    assert measures == {
        "steps_to_threshold": 200, "steps_sustained": 200, "seconds": 1.5,
        "steps_to_regret": 200, "steps_to_regret_sustained": 600,
        "final_return": -100.0, "total_seconds": 7.5,
    }  # fmt: skip
    measures = model_free.summary(fake_run("CartPole-v1", "PPO", 0, mean=400.0))
    assert measures["steps_to_threshold"] is None
    assert measures["steps_sustained"] is None
    assert "steps_to_regret" not in measures


def test_a_part_replaces_only_its_own_rows(model_free, common, monkeypatch):
    monkeypatch.setattr(model_free.importlib.metadata, "version", lambda name: "1.2")
    cartpole, other = ("CartPole-v1", "PPO", 0), ("Pendulum-v1", "SAC", 1)
    key = ("Pendulum-v1", "SAC", 0)
    monkeypatch.setattr(sys, "argv", ["model_free.py", "--first"])
    model_free.keep({key: fake_run(*key) for key in (cartpole, other, key)})
    monkeypatch.setattr(sys, "argv", ["model_free.py", "--second"])
    model_free.keep({key: fake_run(*key, mean=-500.0)[:2]})
    header, rows = common.recorded("model_free")
    assert [line.split()[-1] for line in header[:2]] == ["--first", "--second"]
    assert "# stable-baselines3 1.2, torch" in header[-1]
    runs = model_free.by_run(rows)
    assert list(runs) == [key, other, cartpole]
    assert runs[key] == fake_run(*key, mean=-500.0)[:2]
    assert runs[other] == fake_run(*other)
    model_free.keep({key: fake_run(*key) for key in (cartpole, other, key)})  # nothing old is left
    assert "--first" not in "".join(common.recorded("model_free")[0])


@pytest.fixture
def classics(common):
    import classics

    return classics


def test_the_regulator_solves_riccatis_equation(classics):
    rng = np.random.default_rng(0)
    a, b = np.eye(3) + 0.3 * rng.normal(size=(3, 3)), rng.normal(size=(3, 2))
    q, r = np.diag([1.0, 0.1, 2.0]), np.diag([0.5, 0.2])
    p = scipy.linalg.solve_discrete_are(a, b, q, r)
    gain = np.linalg.solve(r + b.T @ p @ b, b.T @ p @ a)
    np.testing.assert_allclose(classics.regulator(a, b, q, r), gain, atol=1e-8)


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_the_regulator_of_the_true_equations_stays_at_the_top(classics, env_id):
    task = get_task(env_id)
    weights, price = classics.WEIGHTS[env_id]
    a, b = classics.slopes(task.true_dynamics, task)
    gain = classics.regulator(a, b, np.diag(weights), np.array([[price]]))
    far = classics.pump if env_id == "Pendulum-v1" else None
    returns = evaluate(task, classics.Regulator(task, gain, far), num_episodes=3)
    assert returns.min() >= (500 if far is None else -400)


def test_energy_is_pumped_the_way_that_the_pendulum_swings(classics):
    hanging_left, hanging_right = [[np.pi, -1.0], [np.pi, 1.0]]
    too_fast = [0.6, 8.0]
    assert classics.pump(np.array([hanging_left, hanging_right, too_fast])).ravel().tolist() == [
        -2.0, 2.0, -2.0,
    ]  # fmt: skip


def test_a_small_cost_is_measured_as_seconds_and_work(common):
    import scaling

    row = scaling.run(0, "horizon", 5)
    assert row["seconds"] > 0
    assert 0 < row["share_of_peak"] < 1
    assert len(scaling.experience(250)) == 250


BENCHMARK = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, {benchmarks!r})
import _common
from _common import finish, parser, record, run_all
_common.RECORDED = Path(sys.argv[0]).parent
_common.UNFINISHED = _common.RECORDED / "unfinished"

def run(seed, size):
    if os.path.exists("broken") and seed == 1:
        raise ValueError("no luck")
    print("not the result", time.process_time())
    return [{{"seed": seed, "square": size * seed**2, "process": os.getpid()}}]

options = parser("squares", range(3)).parse_args()
rows = run_all(run, options, {{"size": [1, 10]}}, fresh=True)
if options.record:
    record("squares", rows)
finish("squares", squares=[row["square"] for row in rows])
"""


def test_a_benchmark_goes_on_where_it_was(common, tmp_path):
    script = tmp_path / "squares.py"
    script.write_text(BENCHMARK.format(benchmarks=str(BENCHMARKS)))
    environment = {**os.environ, "PYTHONPATH": str(BENCHMARKS.parents[1])}

    def measure(*arguments):
        command = [sys.executable, str(script), "--record", *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, env=environment, cwd=tmp_path
        )

    (tmp_path / "broken").touch()
    failed = measure("--jobs", "2")
    assert failed.returncode and "ValueError: no luck" in failed.stderr
    assert not (tmp_path / "squares.csv").exists()
    unfinished = tmp_path / "unfinished" / "squares.jsonl"
    before = unfinished.read_text().splitlines()[1:]
    assert len(before) == 4
    (tmp_path / "broken").unlink()
    done = measure("--jobs", "1")
    assert json.loads(done.stdout.splitlines()[-1])["squares"] == [0, 1, 4, 0, 10, 40], done.stderr
    _, rows = common.recorded("squares")
    assert list(rows[0]) == ["size", "seed", "square", "process"]
    assert len({row["process"] for row in rows}) == 6  # each in a process of its own
    kept = [json.loads(line)["rows"][0]["process"] for line in before]
    assert {str(pid) for pid in kept} < {row["process"] for row in rows}
    assert not unfinished.exists()  # so that the next time all is measured


def test_atari_replaces_only_what_was_measured_again(common):
    import atari

    def row(agent, seed, frames, mean):
        return {"game": "Breakout", "agent": agent, "seed": seed, "frames": frames,
                "mean_return": mean}  # fmt: skip

    old = [row("dream", "1", "10000", "9.5"), row("dream", "0", "10000", "8.0"),
           row("dream", "0", "2000", "3.0")]  # fmt: skip
    merged = atari.merged([row("dream", 0, 10_000, 12.0)], old)
    assert [(int(r["frames"]), int(r["seed"]), float(r["mean_return"])) for r in merged] == [
        (2_000, 0, 3.0), (10_000, 0, 12.0), (10_000, 1, 9.5),
    ]  # fmt: skip
    assert atari.last_means(merged[:2], "Breakout", "dream") == [12.0]


# --- CartPole without its limit ------------------------------------------------------------------


@pytest.fixture
def limits(common, monkeypatch):
    from mbrl_helpers import futures

    monkeypatch.setattr(futures, "ROWS_AT_ONCE", futures.ROWS_AT_ONCE)  # which it sets
    import limits

    return limits


class Alternating:
    """Pushes right three times, then left; the same in every episode."""

    count = 0

    def act(self, obs):
        self.count += 1
        return np.full(len(obs), int(self.count % 4 > 0))


def test_limits_plays_as_gymnasium_does(limits):
    start = limits.starts(3)
    num, cart = limits.play(Alternating(), start, limit=500)
    env = gym.make("CartPole-v1").unwrapped
    for state, steps, x in zip(start.numpy(), num.tolist(), cart.tolist(), strict=True):
        env.reset()
        env.state, agent, terminated = state, Alternating(), False
        while not terminated:
            obs, _, terminated, *_ = env.step(int(agent.act(state[None])[0]))
        assert agent.count == steps
        assert obs[0] == pytest.approx(x, abs=1e-5)
    env.close()
    assert len(set(num.tolist())) > 1


def test_limits_stops_at_the_limit(limits):
    num, cart = limits.play(limits.Rule(), limits.starts(0), limit=700)
    assert num.tolist() == [700] * limits.NUM_STARTS
    assert cart.abs().max() < 1


def test_limits_has_other_starts_for_each_seed(limits):
    starts = torch.cat([limits.starts(seed) for seed in range(20)])
    assert len(starts.unique(dim=0)) == 20 * limits.NUM_STARTS
    assert 0.045 < starts.abs().max() <= 0.05


def test_limits_line_learns_a_linear_world(limits):
    rng = np.random.default_rng(0)
    obs, action = rng.normal(size=(40, 4)).astype("float32"), rng.integers(2, size=40)
    truth = rng.normal(size=(6, 4)).astype("float32")
    next_obs = obs + np.hstack([obs, np.eye(2, dtype="float32")[action]]) @ truth
    flags = np.zeros(40, bool)
    data = Transitions(
        obs, action, np.ones(40, "float32"), next_obs, flags, flags, np.zeros(40, int)
    )
    step = limits.Line(data).step(torch.tensor(obs), torch.eye(2)[torch.tensor(action)])
    torch.testing.assert_close(step.next_obs, torch.tensor(next_obs), atol=1e-3, rtol=1e-3)


def test_limits_objectives(limits):
    """The margin is the package's; where the pole leans as it should, the lean pays most."""
    obs = torch.tensor(np.random.default_rng(0).normal(0, 0.3, (50, 4)), dtype=torch.float32)
    step = Step(obs, torch.full((50,), 2.0), torch.zeros(50))
    chosen = limits.objectives(0.0)
    margin = chosen["margin"][0](obs, None, step)
    torch.testing.assert_close(margin, cartpole_margin(obs, None, step), atol=1e-5, rtol=1e-5)
    assert (chosen["speeds"][0](obs, None, step) < margin).all()
    assert (chosen["pole"][0](obs, None, step) > margin).all()
    leaning = obs.clone()
    leaning[:, 2] = -0.05 * (obs[:, 0] + obs[:, 1] - 1.0)  # to the left of its goal: to the right
    at_one = limits.objectives(1.0)["lean"][0](obs, None, Step(leaning, *step[1:]))
    torch.testing.assert_close(at_one, step.reward)
    assert (limits.objectives(1.0)["lean"][0](obs, None, step) < step.reward).all()


# --- tree search ----------------------------------------------------------------------------------


class Fork:
    """Left earns 0.6 for sure; right earns 1, but only if it is taken three times in a row."""

    num_actions, num_copies = 2, 1

    def step(self, states, actions, alive):
        time, right = states.unbind(-1)
        right, time = right * actions, time + 1
        reward = torch.where(time == 1, 0.6 * (1 - actions), 0.0) + ((time == 3) & (right > 0))
        return torch.stack([time, right], dim=-1), reward, time >= 3


def decided(planner, **how):
    from _uct import Thinker, Thinking

    settings = {"horizon": 4, "num_futures": 400, "num_copies": 2, "exploration": 1.0} | how
    thinker = Thinker(Fork(), Thinking(planner=planner, **settings), torch.Generator())
    actions = thinker.act(torch.tensor([[0, 1]] * 6))
    assert thinker.num_decisions == 6
    assert thinker.num_calls <= 6 * 400 * settings["horizon"]
    return actions.tolist()


def test_a_tree_and_the_best_plan_find_what_the_mean_does_not(common):
    assert decided("UCT") == [1] * 6
    assert decided("best plan") == [1] * 6
    assert decided("best mean") == [0] * 6  # a quarter of the plans that begin right earn 1
    assert decided("UCT", horizon=1) == [0] * 6  # what lies beyond counts for nothing


def test_a_future_that_has_ended_asks_for_nothing(common):
    from _uct import Thinker, Thinking

    how = Thinking(planner="best plan", horizon=10, num_futures=50, survival=5.0)
    thinker = Thinker(Fork(), how, torch.Generator())
    thinker.act(torch.tensor([[0, 1]] * 2))
    assert thinker.num_calls == 2 * 50 * 3  # each ends in the third step


def test_bricks_are_those_of_minatar(common):
    pytest.importorskip("minatar")
    from uct_worlds import Bricks, make_games

    rng, games = np.random.default_rng(0), make_games("Breakout", 8)
    games.reset(seed=3)
    real, bricks, hits = [g.unwrapped.game.env for g in games.envs], Bricks(), 0
    for _ in range(1500):
        after = [g.pos + int(np.sign(g.ball_x - g.pos)) for g in real]
        moves = [(0, 2, 1)[a - g.pos] for a, g in zip(after, real, strict=True)]
        chance = rng.random(8) < 0.3
        moves = np.where(chance, rng.integers(3, size=8), moves)
        states, actions = Bricks.states(real)[:, None], torch.tensor(moves)[:, None]
        state, reward, ended = bricks.step(states, actions, torch.ones(8, 1, dtype=torch.bool))
        done = [g.act([0, 1, 3][move]) for g, move in zip(real, moves, strict=True)]
        assert reward[:, 0].tolist() == [r for r, _ in done]
        assert ended[:, 0].tolist() == [over for _, over in done]
        going = ~ended[:, 0]
        assert torch.equal(state[going, 0], Bricks.states(real)[going])
        hits += int(reward.sum())
        for game, over in zip(real, ended[:, 0], strict=True):
            if over:
                game.reset()
    games.close()
    assert hits > 300


def test_each_copy_is_imagined_by_a_network_of_its_own(common):
    from uct_worlds import TASK, Equations

    class Members:
        num_members = 3

        def step(self, obs, action):
            member = torch.arange(3.0)[:, None]
            return Step(obs + member[..., None], obs[..., 0] * 0 + member, obs[..., 0] * 0)

    states, alive = torch.zeros(5, 3, 4), torch.ones(5, 3, dtype=torch.bool)
    actions = torch.ones(5, 3, dtype=torch.long)
    after, reward, ended = Equations(Members(), "reward").step(states, actions, alive)
    assert torch.equal(after, torch.arange(3.0)[None, :, None].expand(5, 3, 4))
    assert torch.equal(reward, torch.arange(3.0).expand(5, 3)) and not ended.any()
    one = Equations(TASK.true_dynamics).step(states[:, :1], actions[:, :1], alive[:, :1])
    truth = TASK.true_dynamics.step(torch.zeros(4), torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(one[0], truth.next_obs.expand(5, 1, 4))


@pytest.fixture
def latent_games(common):
    import muzero

    from mbrl_helpers.boards.search import SearchConfig

    config = muzero.Config(
        num_games=40, batch_size=200, search=SearchConfig(num_simulations=8, noise=0.25),
        result_weight=1.0,
    )  # fmt: skip
    rng = torch.Generator().manual_seed(0)
    agent = muzero.Agent(muzero.LATENT, muzero.TIC_TAC_TOE, rng, config)
    return muzero, agent, muzero.play(agent, muzero.TIC_TAC_TOE, rng, config), config


def test_games_of_latent_rules_follow_the_true_ones(latent_games):
    muzero, _, games, _ = latent_games
    rules, there = muzero.TIC_TAC_TOE, games["there"] > 0
    for t in range(rules.max_moves - 1):
        on = there[:, t + 1]
        turn = rules.step(games["boards"][there[:, t], t], games["actions"][there[:, t], t])
        assert torch.equal(turn.boards[on[there[:, t]]], games["boards"][on, t + 1])
        assert torch.equal(turn.won.float(), games["won"][there[:, t], t])
        assert torch.equal(~turn.ended, on[there[:, t]])
        # Who is to move next has lost what who moved has won.
        assert torch.equal(games["value"][on, t], -games["value"][on, t + 1])
    assert torch.equal(games["value"][games["won"] > 0], torch.ones(int(games["won"].sum())))
    assert games["won"].sum() > 5


def test_stretches_are_turned_as_a_whole(latent_games):
    muzero, _, games, config = latent_games
    batch = muzero.drawn(muzero.TIC_TAC_TOE, games, torch.Generator(), config)
    assert (batch["there"][:, 0] == 1).all() and (batch["there"][:, -1] == 0).any()
    for k in range(config.unroll):
        on = batch["there"][:, k + 1] > 0
        turn = muzero.TIC_TAC_TOE.step(batch["boards"][on, k], batch["actions"][on, k])
        assert torch.equal(turn.boards, batch["boards"][on, k + 1])
        allowed = muzero.TIC_TAC_TOE.legal(batch["boards"][on, k])
        assert not (batch["policy"][on, k] > 0)[~allowed].any()
    assert (batch["value"][batch["there"] == 0] == 0).all()


def test_latent_rules_are_told_what_is_legal_at_the_root_only(latent_games):
    muzero, agent, games, _ = latent_games
    boards = games["boards"][:, 2][games["there"][:, 2] > 0]
    states = agent.network.begin(boards)
    assert torch.equal(agent.network.legal(states), muzero.TIC_TAC_TOE.legal(boards))
    turn = agent.network.step(states, torch.zeros(len(boards), dtype=torch.long))
    assert agent.network.legal(turn.boards).all() and turn.boards.shape == states.shape
