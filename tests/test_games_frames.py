"""The next-frame model on a toy game with known rules, and looking ahead in it."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from games_scenes import NUM_FRAMES, SHAPE, SlowCatch, catches, played, seeded

from mbrl_helpers.data import Batch, ReplayBuffer
from mbrl_helpers.games import frames
from mbrl_helpers.games.dqn import DQN, PlaneQNetwork, act_and_learn
from mbrl_helpers.games.frames import (
    CELLS,
    FittedFrames,
    FrameModel,
    FrameModelConfig,
    FrameNetwork,
    LookAhead,
    frame_losses,
    make_games,
    row_weights,
)
from mbrl_helpers.interfaces import VectorStep


@pytest.fixture(scope="module")
def calm():
    """A model of the game whose actions never stick, and its experience."""
    torch.set_num_threads(1)
    buffer, _ = played(catches(1), 2_000)
    return FrameModel(SHAPE, 3, seeded()).fit(buffer, 1_000), buffer


@pytest.fixture(scope="module")
def sticky():
    """The same with actions that stick at every fifth step; executed actions as well."""
    torch.set_num_threads(1)
    buffer, executed = played(catches(1, sticky=0.2), 2_000)
    model = FrameModel(SHAPE, 3, seeded())
    first = model.fit(buffer, 600)
    return first, model.fit(buffer, 600), buffer, executed


# --- the model -----------------------------------------------------------------------------------


def test_recovers_a_deterministic_game_exactly(calm):
    """Next frames, rewards and ends of experience that it has not seen."""
    model, _ = calm
    assert model.single.tolist() == [True, True] and model.sticky == 0
    fresh = played(catches(1), 1_000, seed=77)[0].batch()
    next_obs, reward, terminated = model.step(fresh.obs, fresh.action)
    assert fresh.reward.sum() > 5 and fresh.terminated.sum() > 5
    assert torch.equal(terminated, fresh.terminated)
    assert torch.equal(reward, fresh.reward)
    assert torch.equal(next_obs, fresh.next_obs)


def test_a_hidden_clock_needs_frames_that_show_it():
    """Whether the player has moved in the last two steps takes three frames to see."""
    right = []
    for num_frames in (2, 3):
        how = {"game": SlowCatch, "num_frames": num_frames}
        model = FrameModel((num_frames, 2, CELLS, CELLS), 3, seeded())
        fitted = model.fit(played(catches(1, **how), 2_000)[0], 1_000)
        fresh = played(catches(1, **how), 1_000, seed=77)[0].batch()
        fresh = fresh[fresh.action > 0]
        same = fitted.step(fresh.obs, fresh.action).next_obs == fresh.next_obs
        right.append(float(same.flatten(1).all(1).float().mean()))
    assert right[0] < 0.9 and right[1] > 0.98


def test_finds_out_which_actions_stuck(sticky):
    _, model, buffer, executed = sticky
    data = buffer.batch()
    assert (data.action != executed).float().mean() > 0.1
    # Where the walls stop the player, no frame can tell.
    moved = (data.obs[:, -1, 0] != data.next_obs[:, -1, 0]).flatten(1).any(1)
    found = model.executed(data)
    assert (found == executed)[moved].float().mean() > 0.98
    assert model.sticky == pytest.approx(0.2, abs=0.04)


def test_a_single_fit_says_how_sticky_the_game_is_and_the_next_one_asks_it(sticky):
    """The first can be asked when it is done; what the second learns from is what it says."""
    first, second, *_ = sticky
    assert first.sticky == second.sticky == pytest.approx(0.2, abs=0.04)
    assert first.history["frame"][-1] > 1.5 * second.history["frame"][-1]


def test_stickiness_stays_as_it_was_where_no_row_can_tell():
    """Always the same action: none of them differs from the one before it."""
    buffer = ReplayBuffer(60)
    act_and_learn(lambda obs: np.zeros(1, int), catches(1), buffer, 60)
    model = FrameModel(SHAPE, 3, seeded())
    assert [model.fit(buffer, 5).sticky for _ in range(2)] == [0.0, 0.0]


def test_a_fit_stays_as_it_is_and_the_next_one_goes_on_from_it(calm):
    _, buffer = calm
    model = FrameModel(SHAPE, 3, seeded())
    assert model.fitted is None
    first = model.fit(buffer, 60)
    kept = [p.clone() for p in first.network.parameters()]
    second = model.fit(buffer, 30)
    assert model.fitted is second
    assert all(map(torch.equal, kept, first.network.parameters()))
    assert second.history["frame"][-1] < first.history["frame"][-1]
    assert {name: len(losses) for name, losses in first.history.items()} == {
        "frame": 2, "reward": 2, "terminated": 2,
    }  # fmt: skip
    with pytest.raises(AttributeError):
        first.sticky = 0.5


def test_weight_decay_keeps_weights_small(calm):
    _, buffer = calm
    size = []
    for decay in (0.0, 0.1):
        model = FrameModel(SHAPE, 3, seeded(), FrameModelConfig(weight_decay=decay))
        model.fit(buffer, 100)
        size.append(sum(p.square().sum().item() for p in model.network.parameters()))
    assert size[1] < 0.5 * size[0]


def test_a_dream_ends_before_an_end_is_likely(calm):
    """One chance in four is enough: what the agent may not see, it would learn to use."""
    model, buffer = calm
    obs = buffer.batch().obs[:500]
    said = model.network(obs, torch.zeros(500, dtype=torch.long)).terminated
    ended = model.step(obs, torch.zeros(500, dtype=torch.long)).terminated
    assert torch.equal(ended, said > -1.0) and ended.any() and not ended.all()


def batch(obs, action, reward, next_obs, terminated):
    columns = map(torch.as_tensor, (obs, action, reward, next_obs, terminated))
    return Batch(*columns, imagined=torch.zeros(len(obs), dtype=torch.bool))


def test_losses_by_hand():
    """A network that says nothing: every cell costs what its prior says."""
    network = FrameNetwork(SHAPE, 3, seeded())
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    obs = torch.zeros(1, *SHAPE, dtype=torch.bool)
    row = batch(obs, [0], [1.0], obs, [False])
    off = np.log1p(np.exp(-2.0))  # of a cell that is off and stays so
    event = np.log(100) - 5.6
    expected = [[200 * off], [np.log1p(np.exp(-event))], [np.log1p(np.exp(event))]]
    fitted = FittedFrames(FrameModelConfig(), network, torch.ones(2, dtype=torch.bool), 0.0, {})
    for losses in (frame_losses(network, row), fitted.losses(row)):
        torch.testing.assert_close(losses.double(), torch.tensor(expected), atol=1e-4, rtol=1e-4)


def test_sees_no_further_than_two_cells_but_for_the_summary():
    """`anywhere` starts at zero: until it is trained, far cells say nothing."""
    network = FrameNetwork(SHAPE, 3, seeded())
    obs = torch.zeros(2, *SHAPE)
    obs[1, :, :, 5, 5] = 1
    said = network(obs, torch.zeros(2, dtype=torch.long)).frame
    changed = (said[0] != said[1]).any(0)
    assert changed[3:8, 3:8].all() and changed.sum() == 25


def test_rare_inputs_and_events_are_drawn_more_often():
    obs, action = torch.zeros(6, 1, 1, 2, 2, dtype=torch.bool), torch.zeros(6).long()
    data = batch(obs, action, torch.zeros(6), obs, torch.zeros(6, dtype=torch.bool))
    data.action[4] = 1  # another input than the four before
    data.obs[5, ..., 0, 0] = True
    data.reward[5], data.terminated[3] = 1, True
    assert row_weights(data).tolist() == [0.5, 0.5, 0.5, 1.5, 1.0, 4.0]


# --- acting --------------------------------------------------------------------------------------


def test_looks_ahead_to_a_catch_that_the_agent_does_not_see(calm):
    """Two columns beside the ball, one step before it arrives: only one move will do."""
    model, _ = calm
    obs = np.zeros((2, *SHAPE), bool)
    obs[:, 0, 1, 6, 5] = obs[:, 1, 1, 7, 5] = True  # the ball falls; next row 8, then it counts
    obs[0, :, 0, -1, 3] = obs[1, :, 0, -1, 7] = True  # two columns to its left, and right
    agent = DQN(PlaneQNetwork(SHAPE, 3, seeded()), seeded())
    for parameter in agent.target.parameters():
        torch.nn.init.zeros_(parameter)
    assert LookAhead(model, agent, depth=2).act(obs).tolist() == [2, 1]
    assert LookAhead(model, agent, depth=3).act(obs).tolist() == [2, 1]


def test_batched_look_ahead_equals_one_by_one(calm):
    model, buffer = calm
    agent = DQN(PlaneQNetwork(SHAPE, 3, seeded()), seeded())
    think, obs = LookAhead(model, agent, depth=2), buffer.batch().obs[:20].numpy()
    alone = [think.act(obs[i : i + 1])[0] for i in range(20)]
    assert think.act(obs).tolist() == alone


# --- saving --------------------------------------------------------------------------------------

LOADED = """
import sys, numpy as np, torch
torch.set_num_threads(1)
from mbrl_helpers.games.dqn import DQN, PlaneQNetwork
from mbrl_helpers.games.frames import FittedFrames, LookAhead
model = FittedFrames.load(sys.argv[1])
agent = DQN.load(sys.argv[2], PlaneQNetwork, torch.Generator())
obs = np.load(sys.argv[3])
said = model.network(torch.tensor(obs), torch.zeros(len(obs), dtype=torch.long))
np.savez(sys.argv[4], **{name: part.numpy() for name, part in said._asdict().items()},
         values=agent.target(torch.tensor(obs)).numpy(), action=LookAhead(model, agent).act(obs))
"""


def test_what_was_saved_plays_the_same_in_another_process(sticky, tmp_path):
    """To the bit: weights lie in memory as they did, or sums would differ by their last bit."""
    _, model, buffer, _ = sticky
    agent = DQN(PlaneQNetwork(SHAPE, 3, seeded(3)), seeded())
    obs = buffer.batch().obs[:40]
    model.save(tmp_path / "model.npz"), agent.save(tmp_path / "agent.npz")
    np.save(tmp_path / "obs.npy", obs.numpy())
    names = ("model.npz", "agent.npz", "obs.npy", "found.npz")
    paths = [str(tmp_path / name) for name in names]
    subprocess.run([sys.executable, "-c", LOADED, *paths], check=True)
    with torch.no_grad():
        said = model.network(obs, torch.zeros(40, dtype=torch.long))
        values = agent.target(obs)
    wanted = {name: part.numpy() for name, part in said._asdict().items()}
    wanted |= {"values": values.numpy(), "action": LookAhead(model, agent).act(obs.numpy())}
    with np.load(paths[-1]) as found:
        assert set(found.files) == set(wanted)
        for name, value in wanted.items():
            assert np.array_equal(found[name], value), name
    again = FittedFrames.load(paths[0])
    assert (again.config, again.sticky, again.history) == (
        model.config,
        model.sticky,
        model.history,
    )
    assert torch.equal(again.single, model.single)


def test_files_that_are_something_else_are_refused(sticky, tmp_path):
    _, model, _, _ = sticky
    path = tmp_path / "model.npz"
    model.save(path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ValueError, match=r"FittedFrames.load: expected a file that can be read"):
        FittedFrames.load(path)
    with pytest.raises(FileNotFoundError, match=r"FittedFrames.load: expected a file"):
        FittedFrames.load(tmp_path / "none.npz")
    DQN(PlaneQNetwork(SHAPE, 3, seeded()), seeded()).save(tmp_path / "agent.npz")
    with pytest.raises(ValueError, match=r"frame model.* not|not frame model"):
        FittedFrames.load(tmp_path / "agent.npz")
    with pytest.raises(ValueError, match=r"FittedFrames.save: expected a new path"):
        model.save(tmp_path / "agent.npz")


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"width": 0}, ValueError, "width >= 1, got 0"),
        ({"width": 2.5}, TypeError, "width as an int"),
        ({"batch_size": -1}, ValueError, "batch_size >= 1"),
        ({"learning_rate": float("nan")}, ValueError, r"learning_rate in \(0, inf\), got nan"),
        ({"learning_rate": 0.0}, ValueError, r"learning_rate in \(0, inf\)"),
        ({"learning_rate": "fast"}, TypeError, "learning_rate as a number"),
        ({"weight_decay": -0.1}, ValueError, r"weight_decay in \[0, inf\)"),
        ({"weight_decay": float("inf")}, ValueError, r"weight_decay in \[0, inf\)"),
    ],
)
def test_settings_are_checked(settings, error, message):
    with pytest.raises(error, match=rf"FrameModelConfig: expected {message}"):
        FrameModelConfig(**settings)


def test_bad_input(calm, monkeypatch):
    model, buffer = calm
    with pytest.raises(ValueError, match=r"make_games: expected one of .*, got 'Pong'"):
        make_games("Pong", 1)
    with pytest.raises(ValueError, match=r"make_games: expected num_envs >= 1, got 0"):
        make_games("Breakout", 0)
    with pytest.raises(ValueError, match=r"make_games: expected num_frames >= 1, got 0"):
        make_games("Breakout", 1, num_frames=0)
    with pytest.raises(ValueError, match=r"FittedFrames.step: expected .* \[B, 2, 2, 10, 10\]"):
        model.step(torch.zeros(1, NUM_FRAMES, 4, CELLS, CELLS), torch.tensor([0]))
    with pytest.raises(ValueError, match=r"FrameModel.fit: expected .* \[B, 2, 4, 10, 10\]"):
        FrameModel((2, 4, CELLS, CELLS), 3, seeded()).fit(buffer, 1)
    with pytest.raises(ValueError, match=r"FrameModel: expected num_actions >= 1"):
        FrameModel(SHAPE, 0, seeded())
    new = FrameModel(SHAPE, 3, seeded())
    with pytest.raises(ValueError, match=r"FrameModel.fit: expected rows >= 1, got 0"):
        new.fit(ReplayBuffer(4), 5)
    with pytest.raises(ValueError, match=r"FrameModel.fit: expected num_updates >= 1, got 0"):
        new.fit(buffer, 0)
    grey, none, no = ReplayBuffer(4), np.zeros(1, int), np.zeros(1, bool)
    frame = np.zeros((1, *SHAPE), np.float32)
    grey.add_step(VectorStep(frame, none, none, frame, no, no, none))
    with pytest.raises(TypeError, match=r"FrameModel.fit: expected cells that are on or off"):
        new.fit(grey, 1)
    assert new.fitted is None
    with pytest.raises(ValueError, match=r"LookAhead: expected depth >= 1, got 0"):
        LookAhead(model, DQN(PlaneQNetwork(SHAPE, 3, seeded()), seeded()), depth=0)
    monkeypatch.setitem(sys.modules, "minatar.gym", None)
    with pytest.raises(ModuleNotFoundError, match=r"make_games: expected the package minatar"):
        make_games("Breakout", 1)


@pytest.mark.parametrize("game", frames.GAMES)
def test_every_game_can_be_made(game):
    pytest.importorskip("minatar")
    for more in ({}, {"num_frames": 5}):
        obs, _ = make_games(game, 2, **more).reset(seed=0)
        assert obs.shape[:2] == (2, more.get("num_frames", 2)) and obs.shape[3:] == (CELLS, CELLS)
