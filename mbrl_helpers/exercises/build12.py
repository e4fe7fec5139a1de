"""The build of notebook 12: an environment that remembers, for what one look does not show."""

import gymnasium as gym
import numpy as np

from mbrl_helpers.exercises.builds import Build, Stage, Unfit, attempt, finite_array
from mbrl_helpers.exercises.frame import Wrong

DELAY, STEPS = 2, 40


class Late(gym.Env):
    """Pucks on a table: what is pushed now moves them two steps later, and no look shows it."""

    def __init__(self, num_pucks=1):
        size, self.num = 2 * num_pucks, num_pucks
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.action_space = gym.spaces.Box(-1, 1, (num_pucks,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.speed = self.np_random.uniform(-1, 1, (2, self.num))
        self.waiting = [np.zeros(self.num)] * DELAY
        return self._look(), {}

    def step(self, action):
        self.waiting = [*self.waiting, np.array(action, dtype=float)]
        self.place = self.place + 0.1 * self.speed
        self.speed = self.speed + 0.3 * self.waiting.pop(0)
        return self._look(), -float(np.abs(self.place).sum()), False, False, {}

    def _look(self):
        return np.concatenate([self.place, self.speed]).astype(np.float32)


def remember(env, k):
    class Remember(gym.Wrapper):
        def __init__(self, env):
            super().__init__(env)
            size = k * (env.observation_space.shape[0] + env.action_space.shape[0])
            size += env.observation_space.shape[0]
            self.observation_space = gym.spaces.Box(-np.inf, np.inf, (size,), np.float32)

        def reset(self, *, seed=None, options=None):
            self.now, info = self.env.reset(seed=seed, options=options)
            step = np.concatenate([self.now, np.zeros(self.env.action_space.shape)])
            self.past = [step] * k
            return self.whole(), info

        def step(self, action):
            step = np.concatenate([self.now, action])
            self.now, *rest = self.env.step(action)
            self.past = [*self.past[1:], step]
            return self.whole(), *rest

        def whole(self):
            return np.concatenate([*self.past, self.now]).astype(np.float32)

    return Remember(env)


def starter(env, k):
    class Remember(gym.Wrapper):
        def __init__(self, env):
            super().__init__(env)
            self.observation_space = ...  # as many numbers as you return

        def reset(self, *, seed=None, options=None):
            obs, info = self.env.reset(seed=seed, options=options)
            ...  # a new episode: nothing has been done yet
            return ..., info

        def step(self, action):
            ...  # which look belongs to this action?
            obs, reward, terminated, truncated, info = self.env.step(action)
            return ..., reward, terminated, truncated, info

    return Remember(env)


def played(env, seed, actions, size):
    """Observations [T+1, size] of an episode, copied as they come; `late`: read at the end."""
    obs, info = unpack(attempt(lambda: env.reset(seed=seed)), 2, "reset(seed=...)")
    rows, kept = [finite_array(obs, (size,), "What reset returns")], [obs]
    if not isinstance(info, dict):
        raise Unfit("reset should return the observation and a dictionary, as Gymnasium's do.")
    for action in actions:
        obs, reward, *_ = unpack(attempt(lambda a=action: env.step(a.copy())), 5, "step(action)")
        rows.append(finite_array(obs, (size,), "What step returns"))
        kept.append(obs)
    if not np.allclose(np.array(kept, dtype=float), np.array(rows)):
        raise Unfit(
            "An observation that it has returned changes later, in place. Who keeps it (a replay "
            "buffer does) has the last one many times: return a new array for every step."
        )
    return np.array(rows)


def unpack(result, num, what):
    """What an environment returns, as a tuple of so many."""
    if not isinstance(result, tuple) or len(result) != num:
        raise Unfit(f"{what} should return {num} things, as Gymnasium's do. Yours does not.")
    return result


def expected(seed, actions, k, num_pucks):
    """The same rows by a plain environment; those with a whole past."""
    env = Late(num_pucks)
    looks = [env.reset(seed=seed)[0], *(env.step(action)[0] for action in actions)]
    steps = [np.concatenate(pair) for pair in zip(looks, actions)]  # noqa: B905
    return np.array([[*np.concatenate(steps[t - k : t]), *looks[t]]
                     for t in range(k, len(looks))])  # fmt: skip


def right_rows(rows, truth):
    """Share of the rows that are right."""
    return float(np.isclose(rows, truth, atol=1e-5).all(axis=1).mean())


def diagnose(rows, truth, actions, k, num_obs):
    """Which known fault remembers like this."""
    size = num_obs + actions.shape[1]
    past, now = rows[:, : k * size].reshape(len(rows), k, size), rows[:, k * size :]
    true_past = truth[:, : k * size].reshape(len(rows), k, size)
    if not np.allclose(now, truth[:, k * size :], atol=1e-5):
        return "The last numbers of an observation should be the look of now."
    if np.allclose(past[:, ::-1], true_past, atol=1e-5):
        return "The right steps in another order: oldest first."
    later = [np.concatenate([true_past[:, i, :num_obs], true_past[:, i + 1, num_obs:]], 1)
             for i in range(k - 1)]  # fmt: skip
    if k > 1 and np.allclose(past[:, :-1], np.stack(later, 1), atol=1e-5):
        return "Each look stands beside the action of the *next* step. What was done after it?"
    looks = np.concatenate([truth[:, i * size : i * size + num_obs] for i in range(1, k)]
                           + [truth[:, k * size :]], 1)  # fmt: skip
    if np.allclose(past[..., :num_obs].reshape(len(rows), -1), looks, atol=1e-5):
        return "Each action stands beside the look that came *after* it: keep the one before."
    if np.abs(past[..., num_obs:]).max() == 0:
        return "The actions are missing: there are zeros in their places. A delay hides in them."
    return "Follow two steps by hand: which look, which action, in which place?"


def judge(answer):
    """Rows of episodes, their first steps, and whether a line predicts a late world from them."""
    for num_pucks, k in ((1, 2), (2, 3)):
        rng, num_obs = np.random.default_rng(num_pucks), 2 * num_pucks
        size = k * (num_obs + num_pucks) + num_obs
        env = attempt(answer, Late(num_pucks), k)
        if not hasattr(env, "step") or not hasattr(env, "reset"):
            raise Unfit("remember should return an environment, with reset and step.")
        if getattr(env.observation_space, "shape", None) != (size,):
            raise Unfit(
                f"With k = {k}, looks of {num_obs} numbers and actions of {num_pucks}, the "
                f"observation space should have shape [{size}]; yours: {env.observation_space}."
            )
        actions = rng.uniform(-1, 1, (STEPS, num_pucks)).astype(np.float32)
        rows = played(env, 5, actions, size)
        truth = expected(5, actions, k, num_pucks)
        share = right_rows(rows[k:], truth)
        yield Stage(
            name=f"{num_pucks} puck{'s' * (num_pucks > 1)}, k = {k}: rows that are right",
            measured=share, unit="of all", at_least=1.0,
            fault=diagnose(rows[k:], truth, actions, k, num_obs) if share < 1 else "",
        )  # fmt: skip
        again = played(env, 5, actions, size)[:k]
        yield Stage(
            name=f"k = {k}, the same episode again: first rows as before", measured=float(
                right_rows(again, rows[:k])), unit="of all", at_least=1.0,
            fault="After a reset it remembers the episode before. Fill the past anew.",
        )  # fmt: skip
        first = np.tile(np.concatenate([rows[0, -num_obs:], np.zeros(num_pucks)]), k)
        if not np.allclose(rows[0], np.concatenate([first, rows[0, -num_obs:]]), atol=1e-5):
            raise Unfit(
                "After a reset the past should be the first look, k times, each with an action of "
                "zeros. A model takes every number for true."
            )
    yield late_world(answer)


def late_world(answer):
    """A line, fitted to twenty episodes of the late world as remembered; five are held out."""
    env, rng, parts = attempt(answer, Late(), DELAY), np.random.default_rng(9), []
    size = DELAY * 3 + 2
    for seed in range(25):
        actions = rng.uniform(-1, 1, (STEPS, 1)).astype(np.float32)
        rows = played(env, seed, actions, size)
        parts.append((np.hstack([rows[:-1], actions, np.ones((STEPS, 1))]), rows[1:, -2:]))
    (x, y), (new_x, new_y) = ([np.concatenate(p) for p in zip(*some)]  # noqa: B905
                              for some in (parts[:20], parts[20:]))  # fmt: skip
    weights = np.linalg.lstsq(x, y, rcond=None)[0]
    error = np.sqrt(((new_x @ weights - new_y) ** 2).mean(0)) / (new_y - new_x[:, -4:-2]).std(0)
    return Stage(
        name="a line predicts the late world", measured=float(error.max()), unit="of a change",
        at_most=0.01, fault="The rows are right, and yet a line can't predict from them.",
    )  # fmt: skip


def variant(how):
    """The reference with a fault."""

    def faulty(env, k):
        size = env.observation_space.shape[0]
        width = k * (size + env.action_space.shape[0]) + size

        class Faulty(gym.Wrapper):
            observation_space = gym.spaces.Box(-np.inf, np.inf, (width,), np.float32)

            def reset(self, *, seed=None, options=None):
                if how == "no reset" and hasattr(self, "steps"):
                    self.now, info = env.reset(seed=seed)
                    return self.whole(), info
                self.now, info = env.reset(seed=seed)
                zeros = np.zeros(env.action_space.shape)
                first = np.zeros(size) if how == "zeros" else self.now
                self.steps = [np.concatenate([first, zeros])] * k
                self.buffer = np.zeros(width, np.float32)
                self.last = zeros
                return self.whole(), info

            def step(self, action):
                before = self.now
                self.now, *rest = env.step(action)
                look = self.now if how == "look after" else before
                done = self.last if how == "action before" else action
                done = np.zeros_like(action) if how == "no actions" else done
                self.last = action
                self.steps = [*self.steps[1:], np.concatenate([look, done])]
                if how == "four things":
                    rest = rest[1:]
                return self.whole(), *rest

            def whole(self):
                steps = self.steps[::-1] if how == "newest first" else self.steps
                parts = [self.now, *steps] if how == "now first" else [*steps, self.now]
                row = np.concatenate(parts).astype(np.float32)
                if how != "in place":
                    return row
                self.buffer[:] = row
                return self.buffer

        return Faulty(env)

    return faulty


def nothing(env, k):
    return env


BUILD = Build(
    reference=remember,
    starter=starter,
    judge=judge,
    hints=(
        "When `step(action)` is called: which look was the agent seeing when it chose this action, "
        "and where do you still have it?",
        "Keep two things: the look of now, and a list of the last k steps, each a look and the "
        "action that followed it. `step` first puts the two together, then asks the inner "
        "environment, then drops the oldest step. `reset` fills the list anew.",
        "k = 1, looks 5, 6 and action 9 in between: reset gives 5, 0, 5, and step(9) gives 5, 9, "
        "6. After a step(8) that leads to 7 it is 6, 8, 7.",
        "`self.past = [*self.past[1:], np.concatenate([self.now, action])]`, and return "
        "`np.concatenate([*self.past, obs]).astype(np.float32)`",
    ),
    faulty=(
        Wrong(variant("no reset"), "After a reset it remembers the episode before"),
        Wrong(variant("zeros"), "the past should be the first look"),
        Wrong(variant("look after"), "the look that came *after* it"),
        Wrong(variant("action before"), "Follow two steps by hand"),
        Wrong(variant("no actions"), "The actions are missing"),
        Wrong(variant("newest first"), "oldest first"),
        Wrong(variant("now first"), "should be the look of now"),
        Wrong(variant("in place"), "changes later, in place"),
        Wrong(nothing, "the observation space should have shape [8]"),
        Wrong(variant("four things"), "should return 5 things"),
    ),
)
