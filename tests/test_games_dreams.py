"""Dreams beside the games themselves: one face, one loop; a model with chance and members, too."""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from games_scenes import SHAPE, catches, played, seeded
from gymnasium.vector import AutoresetMode

from mbrl_helpers.data import ReplayBuffer
from mbrl_helpers.games.dqn import DQN, DQNConfig, PlaneQNetwork, act_and_learn
from mbrl_helpers.games.dreams import DreamConfig, ImaginedEnv, learn_in_dreams, loss_history
from mbrl_helpers.games.frames import FrameModel, make_games
from mbrl_helpers.interaction import Interaction
from mbrl_helpers.interfaces import Step


@pytest.fixture(scope="module")
def calm():
    """A model of the game whose actions never stick, and its experience."""
    torch.set_num_threads(1)
    buffer, _ = played(catches(1), 1_000)
    return FrameModel(SHAPE, 3, seeded()).fit(buffer, 300), buffer


@pytest.fixture(scope="module")
def sticky():
    """The same with actions that stick at every fifth step."""
    torch.set_num_threads(1)
    buffer, _ = played(catches(1, sticky=0.2), 2_000)
    model = FrameModel(SHAPE, 3, seeded())
    model.fit(buffer, 600)
    return model.fit(buffer, 300), buffer


# --- dreams and games have one face ---------------------------------------------------------------


def real_games(num_envs, max_steps):
    pytest.importorskip("minatar")
    return make_games("Breakout", num_envs, max_steps=max_steps)


@pytest.fixture(params=["game", "dream"])
def make(request, sticky):
    """Makes environments of either kind."""
    if request.param == "game":
        return real_games
    return lambda num_envs, max_steps: ImaginedEnv(*sticky, num_envs, seeded(), max_steps=max_steps)


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
    dreams, stuck, num = ImaginedEnv(*sticky, 200, seeded(), max_steps=50), 0, 0
    dreams.reset()
    rng = np.random.default_rng(0)
    for _ in range(40):
        action, before = rng.integers(3, size=200), dreams.last_action.numpy()
        dreams.step(action)
        stuck += (dreams.last_action.numpy() != action)[action != before].sum()
        num += (action != before).sum()
    assert stuck / num == pytest.approx(0.2, abs=0.05)


def test_dreams_begin_at_moments_of_the_experience(calm):
    obs, _ = ImaginedEnv(*calm, 50, seeded()).reset()
    known = {o.tobytes() for o in calm[1].batch().obs.numpy()}
    assert {o.tobytes() for o in obs} <= known
    assert len({o.tobytes() for o in obs}) > 10


def test_curiosity_pays_objects_for_where_they_have_rarely_been(calm):
    plain, curious = (
        ImaginedEnv(*calm, 20, seeded(), max_steps=50, curiosity=curiosity)
        for curiosity in (0.0, 0.5)
    )
    plain.reset(), curious.reset()
    seen = calm[1].batch().next_obs[:, -1].numpy()
    for _ in range(5):
        obs, reward, *_ = plain.step(np.ones(20, int))
        more = curious.step(np.ones(20, int))[1]
        for frame, bonus in zip(obs[:, -1], more - reward, strict=True):
            times = [seen[:, plane][:, frame[plane]].sum() for plane in (0, 1)]  # player, ball
            assert bonus == pytest.approx(sum(0.5 / np.sqrt(1 + n) for n in times), rel=1e-5)


# --- seeds ---------------------------------------------------------------------------------------


def some_steps(envs, num_steps=12):
    """What is seen in some steps."""
    found = []
    for step in range(num_steps):
        obs, reward, terminated, truncated, _ = envs.step(np.full(envs.num_envs, step % 3))
        found.append((obs, reward, terminated, truncated))
        ended = terminated | truncated
        if ended.any():
            found.append(envs.reset(options={"reset_mask": ended})[0])
    return found


def same(first, second):
    return all(
        np.array_equal(a, b) for x, y in zip(first, second, strict=True)
        for a, b in zip(x, y, strict=True)
    )  # fmt: skip


def test_a_seed_never_touches_a_generator_that_others_draw_from_too(sticky):
    mine = seeded(3)
    state = mine.get_state()
    dreams = ImaginedEnv(*sticky, 6, mine, max_steps=9)
    dreams.reset(seed=5)
    some_steps(dreams)
    assert torch.equal(mine.get_state(), state) and dreams.generator is not mine
    other = ImaginedEnv(*sticky, 6, seeded(99), max_steps=9)
    other.reset(seed=5), dreams.reset(seed=5)
    assert same(some_steps(other), some_steps(dreams))


def test_without_a_seed_it_draws_from_the_generator_that_it_was_given(sticky):
    mine = seeded(3)
    dreams = ImaginedEnv(*sticky, 6, mine, max_steps=9)
    first = dreams.reset()[0]
    assert dreams.generator is mine and not torch.equal(mine.get_state(), seeded(3).get_state())
    other = ImaginedEnv(*sticky, 6, seeded(0), max_steps=9)
    assert np.array_equal(other.reset(seed=3)[0], first), "the same stream, if it was fresh"
    assert same(some_steps(other), some_steps(dreams))


def test_seeds_of_each_dream_as_the_loop_gives_them(sticky):
    """`Interaction` gives a list, of which those count that begin."""
    runs = []
    for _ in range(2):
        loop = Interaction(ImaginedEnv(*sticky, 4, seeded(), max_steps=5), _stay, seed=20)
        runs.append([step.next_obs for _, step in zip(range(20), loop, strict=False)])
    assert same(*runs)
    one, listed = (ImaginedEnv(*sticky, 3, seeded()) for _ in range(2))
    assert np.array_equal(one.reset(seed=7)[0], listed.reset(seed=[7, None, 9])[0])
    state = listed.generator.get_state()
    listed.reset(seed=[1, None, 2], options={"reset_mask": np.array([False, True, False])})
    goes_on = torch.Generator()
    goes_on.set_state(state)
    torch.randint(len(listed.starts), (3,), generator=goes_on)
    torch.randint(60, (3,), generator=goes_on)
    assert torch.equal(listed.generator.get_state(), goes_on.get_state())


def _stay(obs):
    return np.zeros(len(obs), int)


# --- any model -----------------------------------------------------------------------------------


class Doubtful:
    """A counter of two members that knows chance itself: it counts on by 1 or by 2."""

    num_members, sticky, history = 2, None, {"count": [0.5]}
    observation_space = gym.spaces.Box(-np.inf, np.inf, (1, 1), np.float32)
    action_space = gym.spaces.Discrete(2)

    def step(self, obs, action, generator=None):
        more = torch.randint(1, 3, (len(obs), 1, 1), generator=generator)
        member = torch.arange(2.0).repeat_interleave(len(obs) // 2)
        return Step(obs + more, 100 * member + action, obs[:, 0, 0] > 12)

    def can_start(self, obs):
        return obs[:, 0, 0] % 2 == 0

    def bonus(self, experience, curiosity):
        return lambda obs: curiosity * obs[:, 0, 0]


class Learner:
    num_members = 2

    def __init__(self):
        self.asked = []

    def fit(self, buffer, num_updates, *, progress=False):
        self.asked.append((len(buffer), num_updates))
        return Doubtful()


class Count(gym.Env):
    observation_space, action_space = Doubtful.observation_space, Doubtful.action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0.0
        return np.full((1, 1), self.count, np.float32), {}

    def step(self, action):
        self.count += 1
        return np.full((1, 1), self.count, np.float32), 1.0, self.count == 10, False, {}


def counts(kind=Count):
    return gym.vector.SyncVectorEnv([kind], autoreset_mode=AutoresetMode.DISABLED)


def counted(num_steps=30):
    buffer = ReplayBuffer(num_steps)
    act_and_learn(_stay, counts(), buffer, num_steps)
    return buffer


def test_starts_and_chance_are_left_to_the_model():
    """Nothing is drawn for actions that stick where the model says nothing of them."""
    dice, again = seeded(1), seeded(1)
    dreams = ImaginedEnv(Doubtful(), counted(), 8, dice, curiosity=0.5)
    obs, _ = dreams.reset()
    assert obs.shape == (8, 1, 1) and (obs % 2 == 0).all() and obs.dtype == np.float32
    torch.randint(len(dreams.starts), (8,), generator=again)
    torch.randint(60, (8,), generator=again)
    more = torch.randint(1, 3, (8, 1, 1), generator=again).numpy()
    next_obs, reward, *_ = dreams.step(np.ones(8, int))
    assert np.array_equal(next_obs, obs + more)
    assert np.array_equal(reward, 1 + np.repeat([0, 100], 4) + 0.5 * next_obs[:, 0, 0])


def test_starts_are_those_of_the_moment_even_where_the_ring_is_full():
    """The action before the oldest step is gone; its own must do."""

    class Told(Count):
        action_space = gym.spaces.Discrete(12)

    buffer = ReplayBuffer(6)
    act_and_learn(lambda obs: obs[:, 0, 0].astype(int), counts(Told), buffer, 9)
    dreams = ImaginedEnv(Doubtful(), buffer, 2, seeded())
    assert dreams.starts[:, 0, 0].tolist() == [4, 6, 8]
    assert dreams.before.tolist() == [3, 5, 7]
    act_and_learn(_stay, counts(), buffer, 5)
    assert dreams.starts[:, 0, 0].tolist() == [4, 6, 8], "they stay what they were"


# --- the loop ------------------------------------------------------------------------------------


def test_the_loop_counts_frames_and_rounds():
    envs = catches(1)
    agent = DQN(PlaneQNetwork(SHAPE, 3, seeded()), seeded())
    model, buffer = FrameModel(SHAPE, 3, seeded()), ReplayBuffer(90)
    config = DreamConfig(num_random_frames=50, num_rounds=2, num_round_frames=20, num_dreams=4,
                         num_model_updates=5, num_dream_updates=6, num_last_updates=3)  # fmt: skip
    before = [p.clone() for p in agent.network.parameters()]
    rounds = list(learn_in_dreams(envs, model, agent, buffer, config))
    assert [(r.index, r.num_frames) for r in rounds] == [(0, 50), (1, 70), (2, 90)]
    assert all(set(r.losses) == {"frame", "reward", "terminated"} for r in rounds)
    assert rounds[-1].model is model.fitted and rounds[0].model is not rounds[1].model
    assert 0 < rounds[0].seconds < rounds[1].seconds < rounds[2].seconds
    changed = [not torch.equal(a, b)
               for a, b in zip(before, agent.network.parameters(), strict=True)]  # fmt: skip
    assert all(changed)


class Linear(torch.nn.Linear):
    def forward(self, obs):
        return super().forward(obs.flatten(1))


def test_the_loop_takes_any_model_and_does_what_its_settings_say(monkeypatch):
    learner, agent = Learner(), DQN(Linear(1, 2), seeded(), DQNConfig(batch_size=4))
    rates, learn = [], DQN.learn

    def learned(self, buffer, share=1.0):
        rates.append((buffer.capacity, buffer.num_envs, round(share, 3)))
        return learn(self, buffer, share)

    monkeypatch.setattr(DQN, "learn", learned)
    config = DreamConfig(
        num_random_frames=9, num_rounds=2, num_round_frames=7, num_model_updates=10,
        num_first_fits=3, last_fit_factor=5, num_dream_updates=6, num_last_updates=4,
        final_rate=0.5, num_dreams=6, num_kept=47, curiosity=0.5,
    )  # fmt: skip
    rounds = list(learn_in_dreams(counts(), learner, agent, ReplayBuffer(100), config))
    assert learner.asked == [(9, 10)] * 3 + [(16, 10), (23, 50)]
    # Five steps make a target: of the first round's six updates only the last two find so many.
    assert rates == [(7, 6, 1.0)] * (2 + 6 + 6) + [(7, 6, s) for s in (1.0, 0.875, 0.75, 0.625)]
    assert [r.real_reward for r in rounds] == [1.0] * 3
    assert all(r.dream_reward > 50 and r.losses == {"count": 0.5} for r in rounds)


@pytest.mark.parametrize("shown", [True, False])
def test_the_loop_shows_how_far_it_is_if_asked(shown, capsys):
    agent = DQN(PlaneQNetwork(SHAPE, 3, seeded()), seeded())
    config = DreamConfig(num_random_frames=20, num_rounds=1, num_round_frames=8, num_dreams=4,
                         num_model_updates=3, num_dream_updates=5, num_last_updates=2)  # fmt: skip
    list(learn_in_dreams(catches(1), FrameModel(SHAPE, 3, seeded()), agent, ReplayBuffer(40),
                         config, progress=shown))  # fmt: skip
    told = capsys.readouterr().err
    assert all((f"{name}:" in told) == shown for name in ("rounds", "fit", "steps"))


def test_history_is_means_of_stretches_of_which_the_last_is_whole():
    losses = [torch.tensor([float(i), 0.0]) for i in range(120)]
    history = loss_history(("a", "b"), losses)
    assert history["a"] == [9.5, 44.5, 94.5] and history["b"] == [0.0] * 3
    assert loss_history(("a", "b"), losses[:3]) == {"a": [1.0], "b": [0.0]}
    assert loss_history(("a", "b"), losses[:50])["a"] == [24.5]


# --- bad input -----------------------------------------------------------------------------------


def test_bad_input(calm):
    model, buffer = calm
    for name in ("num_envs", "max_steps"):
        how = {"num_envs": 2, "max_steps": 5} | {name: 0}
        with pytest.raises(ValueError, match=rf"ImaginedEnv: expected {name} >= 1, got 0"):
            ImaginedEnv(model, buffer, generator=seeded(), **how)
    for curiosity in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match=r"ImaginedEnv: expected curiosity in \[0, inf\)"):
            ImaginedEnv(model, buffer, 2, seeded(), curiosity=curiosity)
    with pytest.raises(ValueError, match=r"ImaginedEnv: expected num_envs as a multiple of .* 2 m"):
        ImaginedEnv(Doubtful(), counted(), 3, seeded())
    with pytest.raises(ValueError, match=r"ImaginedEnv: expected experience of observations"):
        ImaginedEnv(model, counted(), 2, seeded())
    odd = ReplayBuffer(1)
    odd.add_step(next(s for s in Interaction(counts(), _stay) if s.obs.item() == 1))
    with pytest.raises(ValueError, match=r"expected an observation from which a dream can start"):
        ImaginedEnv(Doubtful(), odd, 2, seeded())
    with pytest.raises(ValueError, match=r"ImaginedEnv: expected rows >= 1, got 0"):
        ImaginedEnv(model, ReplayBuffer(3), 2, seeded())


def test_what_cannot_work_is_refused_before_anything_is_played():
    learner, agent = Learner(), DQN(Linear(1, 2), seeded())
    for settings, message in (
        ({"num_dreams": 7}, "expected num_dreams as a multiple of .* 2 m"),
        ({"num_kept": 250}, "expected a buffer of at least 5 steps"),
    ):
        buffer = ReplayBuffer(10)
        with pytest.raises(ValueError, match=rf"learn_in_dreams: {message}"):
            next(learn_in_dreams(counts(), learner, agent, buffer, DreamConfig(**settings)))
        assert not len(buffer)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        *[({name: 0}, ValueError, f"{name} >= 1, got 0") for name in
          ("num_random_frames", "num_rounds", "num_round_frames", "num_model_updates",
           "num_first_fits", "last_fit_factor", "num_dream_updates", "num_last_updates",
           "num_dreams", "dream_steps", "num_kept")],
        ({"num_rounds": 1.5}, TypeError, "num_rounds as an int"),
        ({"num_kept": 63}, ValueError, "num_kept as at least 64"),
        ({"final_rate": -0.1}, ValueError, r"final_rate in \[0, 1\]"),
        ({"final_rate": math.nan}, ValueError, r"final_rate in \[0, 1\]"),
        ({"final_rate": "low"}, TypeError, "final_rate as a number"),
        ({"curiosity": -1}, ValueError, r"curiosity in \[0, inf\)"),
        ({"curiosity": None}, TypeError, "curiosity as a number"),
    ],
)  # fmt: skip
def test_settings_are_checked(settings, error, message):
    with pytest.raises(error, match=rf"DreamConfig: expected {message}"):
        DreamConfig(**settings)
