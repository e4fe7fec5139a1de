"""The next-frame model on a toy game with known rules, and dreams beside the games themselves."""

import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from mbrl_helpers import atari
from mbrl_helpers.atari import (
    CELLS,
    DreamConfig,
    FrameModel,
    FrameModelConfig,
    FrameNetwork,
    ImaginedGames,
    LookAhead,
    learn_in_dreams,
    make_games,
    row_weights,
)
from mbrl_helpers.dqn import DQN, PlaneQNetwork, Replay

NUM_FRAMES = 2
SHAPE = (NUM_FRAMES, 2, CELLS, CELLS)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Catch(gym.Env):
    """A ball falls and rises in its column. Be near below it at the bottom, or it is over.

    Plane 0 is the player, in the last row; plane 1 the ball. Actions: stay, left, right.
    """

    observation_space = gym.spaces.Box(0, 1, (2, CELLS, CELLS), bool)
    action_space = gym.spaces.Discrete(3)

    def __init__(self, sticky=0.0):
        self.sticky, self.last_action = sticky, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.player, self.column = self.np_random.integers((0, 2), (CELLS, CELLS - 2))
        self.height, self.down = 3, 1
        return self.obs(), {}

    def obs(self):
        planes = np.zeros((2, CELLS, CELLS), bool)
        planes[0, -1, self.player] = planes[1, self.height, self.column] = True
        return planes

    def step(self, action):
        if self.np_random.random() < self.sticky:
            action = self.last_action
        self.last_action = int(action)
        caught = over = False
        if self.down > 0 and self.height == CELLS - 2:
            caught = bool(abs(self.player - self.column) <= 1)
            over, self.down = not caught, -1
        elif self.down < 0 and self.height == 0:
            self.down = 1
        self.player = int(np.clip(self.player + (0, -1, 1)[self.last_action], 0, CELLS - 1))
        self.height += self.down
        return self.obs(), float(caught), over, False, {"executed": self.last_action}


class SlowCatch(Catch):
    """The player moves in every third step at most: a clock counts that is not in the picture."""

    def reset(self, *, seed=None, options=None):
        self.wait = 0
        return super().reset(seed=seed, options=options)

    def step(self, action):
        before, self.wait = self.player, max(0, self.wait - 1)
        found = super().step(0 if self.wait else action)
        if self.player != before:
            self.wait = 3
        return self.obs(), *found[1:]


def catches(num_envs, sticky=0.0, max_steps=60, *, game=None, num_frames=NUM_FRAMES):
    def make():
        env = gym.wrappers.TimeLimit(game() if game else Catch(sticky), max_steps)
        return gym.wrappers.FrameStackObservation(env, num_frames)

    return SyncVectorEnv([make] * num_envs, autoreset_mode=AutoresetMode.DISABLED)


def played(envs, num_steps, seed=0):
    """Random experience of one game, and which actions it really executed."""
    rng = np.random.default_rng(seed)
    replay = Replay(num_steps, 1, envs.single_observation_space.shape)
    obs, _ = envs.reset(seed=seed)
    executed = []
    for _ in range(num_steps):
        # Half of the time towards the ball, or it would hardly ever be caught.
        ball, me = obs[0, -1, 1].any(0).argmax(), obs[0, -1, 0].any(0).argmax()
        action = rng.integers(3, size=1)
        if rng.random() < 0.5:
            action[:] = 0 if ball == me else 1 if ball < me else 2
        next_obs, reward, terminated, truncated, info = envs.step(action)
        replay.add(obs, action, reward, next_obs, terminated, truncated)
        executed.append(int(info["executed"][0]))
        ended, obs = terminated | truncated, next_obs
        if ended.any():
            obs, _ = envs.reset(options={"reset_mask": ended})
    return replay, torch.tensor(executed)


def rows(replay):
    names = ("obs", "action", "reward", "next_obs", "terminated")
    return {name: getattr(replay, name)[: len(replay), 0] for name in names}


@pytest.fixture(scope="module")
def calm():
    """A model of the game whose actions never stick, and its experience."""
    torch.set_num_threads(1)
    replay, _ = played(catches(1), 2_000)
    model = FrameModel(SHAPE, 3, seeded())
    model.fit(replay, 1_000)
    return model, replay


@pytest.fixture(scope="module")
def sticky():
    """The same with actions that stick at every fifth step; executed actions as well."""
    torch.set_num_threads(1)
    replay, executed = played(catches(1, sticky=0.2), 2_000)
    model = FrameModel(SHAPE, 3, seeded())
    for _ in range(2):
        model.fit(replay, 600)
    return model, replay, executed


# --- the model -----------------------------------------------------------------------------------


def test_recovers_a_deterministic_game_exactly(calm):
    """Next frames, rewards and ends of experience that it has not seen."""
    model, _ = calm
    assert model.single.tolist() == [True, True] and model.sticky == 0
    fresh = rows(played(catches(1), 1_000, seed=77)[0])
    next_obs, reward, terminated = model.step(fresh["obs"], fresh["action"])
    assert fresh["reward"].sum() > 5 and fresh["terminated"].sum() > 5
    assert torch.equal(terminated, fresh["terminated"])
    assert torch.equal(reward, fresh["reward"])
    assert torch.equal(next_obs, fresh["next_obs"])


def test_a_hidden_clock_needs_frames_that_show_it():
    """Whether the player has moved in the last two steps takes three frames to see."""
    right = []
    for num_frames in (2, 3):
        how = {"game": SlowCatch, "num_frames": num_frames}
        model = FrameModel((num_frames, 2, CELLS, CELLS), 3, seeded())
        model.fit(played(catches(1, **how), 2_000)[0], 1_000)
        fresh = rows(played(catches(1, **how), 1_000, seed=77)[0])
        fresh = {name: values[fresh["action"] > 0] for name, values in fresh.items()}
        same = model.step(fresh["obs"], fresh["action"])[0] == fresh["next_obs"]
        right.append(float(same.flatten(1).all(1).float().mean()))
    assert right[0] < 0.9 and right[1] > 0.98


def test_finds_out_which_actions_stuck(sticky):
    model, replay, executed = sticky
    data = rows(replay)
    assert (data["action"] != executed).float().mean() > 0.1
    # Where the walls stop the player, no frame can tell.
    moved = (data["obs"][:, -1, 0] != data["next_obs"][:, -1, 0]).flatten(1).any(1)
    found = model.executed(data)
    assert (found == executed)[moved].float().mean() > 0.98
    assert model.sticky == pytest.approx(0.2, abs=0.04)


def test_stickiness_stays_as_it_was_where_no_row_can_tell():
    """Always the same action: none of them differs from the one before it."""
    envs = catches(1)
    replay, (obs, _) = Replay(60, 1, envs.single_observation_space.shape), envs.reset(seed=0)
    for _ in range(60):
        next_obs, reward, terminated, truncated, _ = envs.step(np.zeros(1, int))
        replay.add(obs, [0], reward, next_obs, terminated, truncated)
        obs = next_obs
        if (terminated | truncated).any():
            obs, _ = envs.reset(options={"reset_mask": terminated | truncated})
    model = FrameModel(SHAPE, 3, seeded())
    for _ in range(2):
        model.fit(replay, 5)
    assert model.sticky == 0.0


def test_weight_decay_keeps_weights_small(calm):
    _, replay = calm
    size = []
    for decay in (0.0, 0.1):
        model = FrameModel(SHAPE, 3, seeded(), FrameModelConfig(weight_decay=decay))
        model.fit(replay, 100)
        size.append(sum(p.square().sum().item() for p in model.network.parameters()))
    assert size[1] < 0.5 * size[0]


def test_a_dream_ends_before_an_end_is_likely(calm):
    """One chance in four is enough: what the agent may not see, it would learn to use."""
    model, replay = calm
    obs = rows(replay)["obs"][:500]
    said = model.network(obs, torch.zeros(500, dtype=torch.long)).terminated
    ended = model.step(obs, torch.zeros(500, dtype=torch.long))[2]
    assert torch.equal(ended, said > -1.0) and ended.any() and not ended.all()


def test_losses_by_hand():
    """A network that says nothing: every cell costs what its prior says."""
    model = FrameModel(SHAPE, 3, seeded())
    for parameter in model.network.parameters():
        torch.nn.init.zeros_(parameter)
    obs = torch.zeros(1, *SHAPE, dtype=torch.bool)
    row = {"obs": obs, "action": torch.tensor([0]), "reward": torch.tensor([1.0]),
           "next_obs": obs, "terminated": torch.tensor([False])}  # fmt: skip
    off = np.log1p(np.exp(-2.0))  # of a cell that is off and stays so
    event = np.log(100) - 5.6
    expected = [[200 * off], [np.log1p(np.exp(-event))], [np.log1p(np.exp(event))]]
    torch.testing.assert_close(model.losses(row).double(), torch.tensor(expected), atol=1e-4,
                               rtol=1e-4)  # fmt: skip


def test_sees_no_further_than_two_cells_but_for_the_summary():
    """`anywhere` starts at zero: until it is trained, far cells say nothing."""
    network = FrameNetwork(SHAPE, 3, seeded())
    obs = torch.zeros(2, *SHAPE)
    obs[1, :, :, 5, 5] = 1
    said = network(obs, torch.zeros(2, dtype=torch.long)).frame
    changed = (said[0] != said[1]).any(0)
    assert changed[3:8, 3:8].all() and changed.sum() == 25


def test_rare_inputs_and_events_are_drawn_more_often():
    data = {"obs": torch.zeros(6, 1, 1, 2, 2, dtype=torch.bool), "action": torch.zeros(6).long(),
            "reward": torch.zeros(6), "terminated": torch.zeros(6, dtype=torch.bool)}  # fmt: skip
    data["action"][4] = 1  # another input than the four before
    data["obs"][5, ..., 0, 0] = True
    data["reward"][5], data["terminated"][3] = 1, True
    assert row_weights(data).tolist() == [0.5, 0.5, 0.5, 1.5, 1.0, 4.0]


# --- dreams and games have one face ---------------------------------------------------------------


def real_games(num_envs, max_steps):
    pytest.importorskip("minatar")
    return make_games("Breakout", num_envs, max_steps=max_steps)


@pytest.fixture(params=["game", "dream"])
def make(request, sticky):
    """Makes environments of either kind."""
    if request.param == "game":
        return real_games
    model, replay, _ = sticky
    return lambda num_envs, max_steps: ImaginedGames(
        model, replay, num_envs, seeded(), max_steps=max_steps
    )


def test_contract_of_environments(make):
    envs = make(5, 7)
    assert envs.metadata["autoreset_mode"] is AutoresetMode.DISABLED
    obs, info = envs.reset(seed=3)
    assert envs.num_envs == 5 and info == {}
    assert envs.observation_space.contains(obs) and obs.dtype == bool
    assert envs.action_space.shape == (5,)
    rng = np.random.default_rng(0)
    for _ in range(12):
        before = obs.copy()
        action = rng.integers(envs.single_action_space.n, size=5)
        next_obs, reward, terminated, truncated, _ = envs.step(action)
        assert np.array_equal(obs, before), "a step changed the observation before it"
        assert envs.observation_space.contains(next_obs)
        assert (next_obs[:, 0] == before[:, -1]).all(), "frames move up"
        for part, kind in ((reward, "f"), (terminated, "b"), (truncated, "b")):
            assert part.shape == (5,) and part.dtype.kind == kind
        ended = terminated | truncated
        obs = next_obs
        if ended.any():
            obs, _ = envs.reset(options={"reset_mask": ended})
            assert np.array_equal(obs[~ended], next_obs[~ended]), "others were reset, too"


def test_episodes_are_cut_and_only_there(make):
    envs = make(4, 6)
    envs.reset(seed=1)
    ages, cut = np.full(4, -1), 0
    for _ in range(40):
        _, _, terminated, truncated, _ = envs.step(np.zeros(4, int))
        ages = np.where(ages >= 0, ages + 1, ages)
        assert (ages[truncated & (ages >= 0)] == 6).all() and (ages <= 6).all()
        cut += truncated.sum()
        ended = terminated | truncated
        if ended.any():
            envs.reset(options={"reset_mask": ended})
            ages[ended] = 0
    assert cut > 4


def test_the_same_seed_gives_the_same_episode(make):
    def episode():
        envs = make(3, 20)
        found = [envs.reset(seed=5)[0]]
        for step in range(10):
            obs, _, terminated, truncated, _ = envs.step(np.full(3, step % 3))
            found.append(obs)
            if (terminated | truncated).any():
                envs.reset(options={"reset_mask": terminated | truncated})
        return np.stack(found)

    first, second = episode(), episode()
    assert np.array_equal(first, second)


def test_actions_stick_in_dreams_as_often_as_in_the_game(sticky):
    model, replay, _ = sticky
    dreams, stuck, num = ImaginedGames(model, replay, 200, seeded(), max_steps=50), 0, 0
    dreams.reset()
    rng = np.random.default_rng(0)
    for _ in range(40):
        action, before = rng.integers(3, size=200), dreams.last_action.numpy()
        dreams.step(action)
        stuck += (dreams.last_action.numpy() != action)[action != before].sum()
        num += (action != before).sum()
    assert stuck / num == pytest.approx(0.2, abs=0.05)


def test_dreams_begin_at_moments_of_the_experience(calm):
    model, replay = calm
    dreams = ImaginedGames(model, replay, 50, seeded())
    obs, _ = dreams.reset()
    known = {o.tobytes() for o in replay.obs[:, 0].numpy()}
    assert {o.tobytes() for o in obs} <= known
    assert len({o.tobytes() for o in obs}) > 10


def test_curiosity_pays_objects_for_where_they_have_rarely_been(calm):
    model, replay = calm
    plain, curious = (
        ImaginedGames(model, replay, 20, seeded(), max_steps=50, curiosity=curiosity)
        for curiosity in (0.0, 0.5)
    )
    plain.reset(), curious.reset()
    seen = replay.next_obs[:, 0, -1].numpy()
    for _ in range(5):
        obs, reward, *_ = plain.step(np.ones(20, int))
        more = curious.step(np.ones(20, int))[1]
        for frame, bonus in zip(obs[:, -1], more - reward, strict=True):
            times = [seen[:, plane][:, frame[plane]].sum() for plane in (0, 1)]  # player, ball
            assert bonus == pytest.approx(sum(0.5 / np.sqrt(1 + n) for n in times), rel=1e-5)


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
    model, replay = calm
    agent = DQN(PlaneQNetwork(SHAPE, 3, seeded()), seeded())
    think, obs = LookAhead(model, agent, depth=2), replay.obs[:20, 0].numpy()
    alone = [think.act(obs[i : i + 1])[0] for i in range(20)]
    assert think.act(obs).tolist() == alone


def test_the_loop_counts_frames_and_rounds():
    envs = catches(1)
    shape = envs.single_observation_space.shape
    agent = DQN(PlaneQNetwork(shape, 3, seeded()), seeded())
    model, replay = FrameModel(SHAPE, 3, seeded()), Replay(90, 1, shape)
    config = DreamConfig(num_random_frames=50, num_rounds=2, num_round_frames=20, num_dreams=4,
                         num_model_updates=5, num_dream_updates=6, num_last_updates=3)  # fmt: skip
    before = [p.clone() for p in agent.network.parameters()]
    rounds = list(learn_in_dreams(envs, model, agent, replay, config))
    assert [(r.index, r.num_frames) for r in rounds] == [(0, 50), (1, 70), (2, 90)]
    assert all(set(r.losses) == {"frame", "reward", "terminated"} for r in rounds)
    changed = [not torch.equal(a, b)
               for a, b in zip(before, agent.network.parameters(), strict=True)]  # fmt: skip
    assert all(changed)


# --- bad input -----------------------------------------------------------------------------------


def test_bad_input(calm, monkeypatch):
    model, replay = calm
    with pytest.raises(ValueError, match=r"make_games: expected one of .*, got 'Pong'"):
        make_games("Pong", 1)
    with pytest.raises(ValueError, match=r"make_games: expected num_envs >= 1, got 0"):
        make_games("Breakout", 0)
    with pytest.raises(ValueError, match=r"FrameModel: expected observations \[B, 2, 2, 10, 10\]"):
        model.step(torch.zeros(1, NUM_FRAMES, 4, CELLS, CELLS), torch.tensor([0]))
    with pytest.raises(ValueError, match=r"FrameModel: expected observations \[B, 2, 4, 10, 10\]"):
        FrameModel((2, 4, CELLS, CELLS), 3, seeded()).fit(replay, 1)
    new = FrameModel(SHAPE, 3, seeded())
    with pytest.raises(RuntimeError, match=r"FrameModel: expected a fitted model"):
        ImaginedGames(new, replay, 2, seeded())
    with pytest.raises(RuntimeError, match=r"FrameModel: expected a fitted model"):
        new.step(replay.obs[:2, 0], torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"ImaginedGames: expected curiosity in \[0, inf\)"):
        ImaginedGames(model, replay, 2, seeded(), curiosity=-0.1)
    with pytest.raises(ValueError, match=r"make_games: expected num_frames >= 1, got 0"):
        make_games("Breakout", 1, num_frames=0)
    with pytest.raises(ValueError, match=r"FrameModelConfig: expected width >= 1"):
        FrameModelConfig(width=0)
    with pytest.raises(ValueError, match=r"FrameModelConfig: expected learning_rate in \[0, inf\)"):
        FrameModelConfig(learning_rate=float("nan"))
    with pytest.raises(ValueError, match=r"FrameModel.fit: expected rows >= 1, got 0"):
        FrameModel(SHAPE, 3, seeded()).fit(Replay(4, 1, SHAPE), 5)
    with pytest.raises(ValueError, match=r"LookAhead: expected depth >= 1, got 0"):
        LookAhead(FrameModel(SHAPE, 3, seeded()), None, depth=0)
    with pytest.raises(ValueError, match=r"DreamConfig: expected num_dreams >= 1"):
        DreamConfig(num_dreams=0)
    monkeypatch.setitem(sys.modules, "minatar.gym", None)
    with pytest.raises(ModuleNotFoundError, match=r"make_games: expected the package minatar"):
        make_games("Breakout", 1)


@pytest.mark.parametrize("game", atari.GAMES)
def test_every_game_can_be_made(game):
    pytest.importorskip("minatar")
    for more in ({}, {"num_frames": 5}):
        obs, _ = make_games(game, 2, **more).reset(seed=0)
        assert obs.shape[:2] == (2, more.get("num_frames", 2)) and obs.shape[3:] == (CELLS, CELLS)
