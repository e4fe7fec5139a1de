"""Exercises of notebook 01, collecting experience."""

import numpy as np

from mbrl_helpers.exercises.frame import Exercise, Question, Wrong
from mbrl_helpers.exercises.inputs import count, one_of, scale

# --- 01.2: what a transition is worth -------------------------------------------------------------


def value_target(reward, next_value, terminated, truncated, discount):
    return reward + discount * next_value * (1 - terminated)


def _masks_both_ends(reward, next_value, terminated, truncated, discount):
    return reward + discount * next_value * (1 - np.maximum(terminated, truncated))


def _masks_truncated(reward, next_value, terminated, truncated, discount):
    return reward + discount * next_value * (1 - truncated)


def _masks_nothing(reward, next_value, terminated, truncated, discount):
    return reward + discount * next_value


def _masks_reward_too(reward, next_value, terminated, truncated, discount):
    return (reward + discount * next_value) * (1 - terminated)


def _keeps_only_ends(reward, next_value, terminated, truncated, discount):
    return reward + discount * next_value * terminated


def _discounts_reward(reward, next_value, terminated, truncated, discount):
    return discount * (reward + next_value * (1 - terminated))


def _forgets_the_discount(reward, next_value, terminated, truncated, discount):
    return reward + next_value * (1 - terminated)


def _masks_where_both(reward, next_value, terminated, truncated, discount):
    return reward + discount * next_value * (1 - terminated * truncated)


def _ends(rng):
    num = count(rng, most=60)
    reward, next_value = scale(rng) * rng.normal(size=num), scale(rng) * rng.normal(size=num)
    discount = one_of(rng, 0, 1, 0.99, rng.uniform(0.5, 0.95))
    return reward, next_value, rng.random(num) < 0.5, rng.random(num) < 0.5, discount


# --- 01.3: one episode by hand --------------------------------------------------------------------


class ToyEnv:
    """A random little world with Gymnasium's face, which may be copied."""

    def __init__(self, rng):
        self.matrix, self.push = rng.normal(size=(3, 3)), rng.normal(size=(4, 3))
        self.price = np.array([0.0, -1.5, *rng.uniform(0.5, 2, size=2)])  # 0 proves nothing
        self.rng = np.random.default_rng(int(rng.integers(10**9)))
        self.longest = int(one_of(rng, *[8] * 14, 90, 1200))
        self.obs, self.t, self.end, self.limit = np.zeros(3), 0, 1, 1
        self.resets = 0

    def close(self):
        """Nothing is open."""

    def reset(self, *, seed=None, options=None):
        """Begin an episode of random length."""
        self.resets += 1
        if self.resets > 300:
            raise RuntimeError("300 resets, and your loop has not stopped. Reset once, before it.")
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.obs, self.t = self.rng.normal(size=3), 0
        self.end, self.limit = (int(n) for n in self.rng.integers(1, 9, size=2))
        if self.longest > 8:
            self.end, self.limit = self.longest, self.longest + self.end - self.limit
        return self.obs, {}

    def step(self, action):
        """Go on, also after an end: it is the loop that must stop."""
        self.t += 1
        if self.t > 3000:
            raise RuntimeError("3,000 steps, and your loop has not stopped. When does it?")
        self.obs = np.tanh(self.matrix @ self.obs + self.push[action])
        flags = self.t >= self.end, self.t >= self.limit
        return self.obs, float(self.price[action]), *flags, {}


def collect_episode(env, policy, seed):
    rows = []
    obs, _ = env.reset(seed=seed)
    while True:
        action = policy(obs)
        next_obs, reward, terminated, truncated, _ = env.step(action)
        rows.append((obs, action, reward, next_obs, terminated, truncated))
        if terminated or truncated:
            return rows
        obs = next_obs


def _obs_too_late(env, policy, seed):
    rows = []
    obs, _ = env.reset(seed=seed)
    ended = False
    while not ended:
        action = policy(obs)
        obs, reward, terminated, truncated, _ = env.step(action)
        rows.append((obs, action, reward, obs, terminated, truncated))
        ended = terminated or truncated
    return rows


def _stops_at_terminated(env, policy, seed):
    rows = []
    obs, _ = env.reset(seed=seed)
    terminated = False
    while not terminated:
        action = policy(obs)
        next_obs, reward, terminated, truncated, _ = env.step(action)
        rows.append((obs, action, reward, next_obs, terminated, truncated))
        obs = next_obs
    return rows


def _stops_at_truncated(env, policy, seed):
    rows = []
    obs, _ = env.reset(seed=seed)
    truncated = False
    while not truncated:
        action = policy(obs)
        next_obs, reward, terminated, truncated, _ = env.step(action)
        rows.append((obs, action, reward, next_obs, terminated, truncated))
        obs = next_obs
    return rows


def _loses_the_end(env, policy, seed):
    return collect_episode(env, policy, seed)[:-1]


def _never_looks_again(env, policy, seed):
    rows = []
    obs, _ = env.reset(seed=seed)
    ended = False
    while not ended:
        action = policy(obs)
        next_obs, reward, terminated, truncated, _ = env.step(action)
        rows.append((obs, action, reward, next_obs, terminated, truncated))
        ended = terminated or truncated
    return rows


def _forgets_the_seed(env, policy, seed):
    return collect_episode(env, policy, None)


def _one_flag(env, policy, seed):
    return [(*row[:4], row[4] or row[5]) for row in collect_episode(env, policy, seed)]


def _swaps_the_flags(env, policy, seed):
    return [(*row[:4], row[5], row[4]) for row in collect_episode(env, policy, seed)]


def _asks_once(env, policy, seed):
    rows = []
    obs, _ = env.reset(seed=seed)
    action, ended = policy(obs), False
    while not ended:
        next_obs, reward, terminated, truncated, _ = env.step(action)
        rows.append((obs, action, reward, next_obs, terminated, truncated))
        obs, ended = next_obs, terminated or truncated
    return rows


def _world(rng):
    weights = rng.normal(size=(4, 3))

    def policy(obs):
        if isinstance(obs, tuple):
            raise TypeError("policy expected an observation, got a pair. reset gives (obs, info)")
        return int((weights @ obs).argmax())

    return ToyEnv(rng), policy, int(one_of(rng, 0, rng.integers(1000)))


# --- 01.4: bug hunt -------------------------------------------------------------------------------


class ToyVectorEnv:
    """Some of them side by side, which reset themselves at the step after an end."""

    def __init__(self, rng):
        self.matrix, self.push = rng.normal(size=(3, 3)), rng.normal(size=(4, 3))
        self.price = np.array([0.0, -1.5, *rng.uniform(0.5, 2, size=2)])
        self.num_envs, self.rng = count(rng, most=6), np.random.default_rng(0)
        self.shape = self.num_envs, 3

    def reset(self, *, seed=None):
        """Begin an episode of random length in each."""
        self.rng = np.random.default_rng(seed)
        self.ends = self._new_ends()
        self.obs, self.t = self.rng.normal(size=self.shape), np.zeros(self.num_envs, dtype=int)
        return self.obs, {}

    def step(self, action):
        """Go on in those that run; begin anew in those that ended."""
        over = (self.t[:, None] >= self.ends).any(1)
        obs = np.tanh(self.obs @ self.matrix + self.push[action])
        self.obs = np.where(over[:, None], self.rng.normal(size=self.shape), obs)
        self.ends = np.where(over[:, None], self._new_ends(), self.ends)
        self.t = np.where(over, 0, self.t + 1)
        reward = np.where(over, 0, self.price[action])
        terminated, truncated = (self.t[:, None] >= self.ends).T
        return self.obs, reward, terminated, truncated, {}

    def _new_ends(self):
        """After how many steps each terminates, and is truncated: at times both at once."""
        return self.rng.integers(1, 7, size=(self.num_envs, 2))


def collect_rows_as_given(envs, policy, num_steps, seed):
    rows = []
    obs, _ = envs.reset(seed=seed)
    for _ in range(num_steps):
        action = policy(obs)
        next_obs, reward, terminated, truncated, _ = envs.step(action)
        done = terminated | truncated
        for b in range(envs.num_envs):
            rows.append((obs[b], action[b], reward[b], next_obs[b], done[b]))
        obs = next_obs
    return rows


def collect_rows(envs, policy, num_steps, seed):
    rows = []
    obs, _ = envs.reset(seed=seed)
    fresh = np.zeros(envs.num_envs, dtype=bool)  # whose next step will only be a reset
    for _ in range(num_steps):
        action = policy(obs)
        next_obs, reward, terminated, truncated, _ = envs.step(action)
        for b in range(envs.num_envs):
            if not fresh[b]:
                rows.append((obs[b], action[b], reward[b], next_obs[b], terminated[b]))
        fresh = terminated | truncated
        obs = next_obs
    return rows


def _rows_by_copy(envs, policy, num_steps, seed):
    """The same rows in another order, of which the task says nothing."""
    rows = [[] for _ in range(envs.num_envs)]
    obs, _ = envs.reset(seed=seed)
    fresh = np.zeros(envs.num_envs, dtype=bool)
    for _ in range(num_steps):
        action = policy(obs)
        next_obs, reward, terminated, truncated, _ = envs.step(action)
        for b in np.flatnonzero(~fresh):
            rows[b].append((obs[b], action[b], reward[b], next_obs[b], terminated[b]))
        fresh = terminated | truncated
        obs = next_obs
    return [row for copy in rows for row in copy]


def _collect(envs, policy, num_steps, seed, keep, flag, update=lambda fresh, te, tr: te | tr):
    """The same with parts to be spoilt: which rows are kept, which flag, who is fresh."""
    rows = []
    obs, _ = envs.reset(seed=seed)
    fresh = np.zeros(envs.num_envs, dtype=bool)
    for _ in range(num_steps):
        action = policy(obs)
        next_obs, reward, terminated, truncated, _ = envs.step(action)
        kept, last = keep(fresh, terminated, truncated), flag(terminated, truncated)
        rows += [(obs[b], action[b], reward[b], next_obs[b], last[b]) for b in np.flatnonzero(kept)]
        fresh = update(fresh, terminated, truncated)
        obs = next_obs
    return rows


def _not_fresh(fresh, terminated, truncated):
    return ~fresh


def _terminated_only(terminated, truncated):
    return terminated


def _still_done(envs, policy, num_steps, seed):
    return _collect(envs, policy, num_steps, seed, _not_fresh, np.logical_or)


def _still_crosses(envs, policy, num_steps, seed):
    return _collect(
        envs, policy, num_steps, seed, lambda fresh, te, tr: fresh | True, _terminated_only
    )


def _drops_the_ends(envs, policy, num_steps, seed):
    return _collect(
        envs, policy, num_steps, seed, lambda fresh, te, tr: ~(te | tr), _terminated_only
    )


def _drops_two(envs, policy, num_steps, seed):
    return _collect(
        envs, policy, num_steps, seed, lambda fresh, te, tr: ~(fresh | te | tr), _terminated_only
    )


def _drops_after_terminated(envs, policy, num_steps, seed):
    return _collect(
        envs, policy, num_steps, seed, _not_fresh, _terminated_only, lambda fresh, te, tr: te
    )


def _drops_for_ever(envs, policy, num_steps, seed):
    return _collect(
        envs, policy, num_steps, seed, _not_fresh, _terminated_only,
        lambda fresh, te, tr: fresh | te | tr,
    )  # fmt: skip


def _drops_zero_rewards(envs, policy, num_steps, seed):
    return [row for row in _still_crosses(envs, policy, num_steps, seed) if row[2] != 0]


def _forgives_the_last_tick(envs, policy, num_steps, seed):
    return _collect(
        envs,
        policy,
        num_steps,
        seed,
        _not_fresh,
        lambda terminated, truncated: terminated & ~truncated,
    )


def _skips_all(envs, policy, num_steps, seed):
    return _collect(
        envs, policy, num_steps, seed,
        lambda fresh, te, tr: ~fresh if not fresh.any() else fresh & False, _terminated_only,
    )  # fmt: skip


def _worlds(rng):
    weights = rng.normal(size=(3, 4))

    def policy(obs):
        return (obs @ weights).argmax(axis=1)

    return ToyVectorEnv(rng), policy, count(rng, most=80), int(rng.integers(1000))


# --- 01.6: noise with a memory --------------------------------------------------------------------


def red_noise(white, correlation):
    red = [white[0]]
    for w in white[1:]:
        red.append(correlation * red[-1] + np.sqrt(1 - correlation**2) * w)
    return np.stack(red)


def _filtered(white, old, new, first=1.0):
    red = [first * white[0]]
    for w in white[1:]:
        red.append(old * red[-1] + new * w)
    return np.stack(red)


def _grows(white, correlation):
    return _filtered(white, correlation, 1)


def _shrinks(white, correlation):
    return _filtered(white, correlation, 1 - correlation)


def _no_root(white, correlation):
    return _filtered(white, correlation, 1 - correlation**2)


def _starts_from_zero(white, correlation):
    scale = np.sqrt(1 - correlation**2)
    return _filtered(white, correlation, scale, first=scale)


def _begins_with_zeros(white, correlation):
    red = np.zeros_like(white)
    for t in range(1, len(white)):
        red[t] = correlation * red[t - 1] + np.sqrt(1 - correlation**2) * white[t]
    return red


def _forgets_the_square(white, correlation):
    return _filtered(white, correlation, np.sqrt(1 - correlation))


def _remembers_white(white, correlation):
    later = correlation * white[:-1] + np.sqrt(1 - correlation**2) * white[1:]
    return np.concatenate([white[:1], later])


def _across_columns(white, correlation):
    return red_noise(white.T, correlation).T


def _white(rng):
    white = scale(rng) * rng.normal(size=(count(rng, most=120), count(rng, most=6)))
    return white, one_of(rng, 0, 0.99, -0.5, rng.uniform(0.3, 0.9), rng.uniform(0.3, 0.9))


EXERCISES = {
    "01.1": Question(
        answer="b",
        replies={
            "a": "Nothing fell: the state at step 500 is as good as the one at step 499. "
                 "Terminated means that nothing *can* follow.",
            "b": "Yes: it was cut off in the middle of balancing, and more would have followed.",
            "c": "Both at once can happen, when a pole falls at the very last step. Here it "
                 "stands.",
        },
        hints=("What would have happened at step 501, had nobody counted?",),
    ),
    "01.2": Exercise(
        reference=value_target,
        inputs=_ends,
        wrong=(
            Wrong(_masks_both_ends, "This is the old `done`: it treats a time limit like a fall. "
                  "After a truncation more would have followed, and it has a value."),
            Wrong(_masks_truncated, "The mask is on the wrong kind of end. Which of the two means "
                  "that nothing follows?"),
            Wrong(_masks_nothing, "The next value counts even after a fall: both flags are "
                  "ignored. What follows a terminal state is worth nothing."),
            Wrong(_masks_reward_too, "The step that terminates still earns its reward. Only what "
                  "comes after it is masked."),
            Wrong(_keeps_only_ends, "The mask is turned round: this counts what follows a fall, "
                  "and nothing else. You need 1 - terminated."),
            Wrong(_forgets_the_discount, "What follows comes a step later: multiply it by the "
                  "discount."),
            Wrong(_discounts_reward, "The reward of this step is not discounted, only what comes "
                  "a step later."),
            Wrong(_masks_where_both, "It masks only where *both* flags are set. A fall is the end "
                  "of everything, whatever the clock says."),
        ),
        hints=(
            "After a fall nothing follows. And when the clock has stopped an episode in the "
            "middle?",
            "Two terms: the reward of the step, and the discounted value of what follows. A mask "
            "of 0 takes the second one away, and only where nothing *can* follow.",
            "reward 1, next_value 10, discount 0.9. Truncated: 1 + 0.9 * 10 = 10. Terminated: 1. "
            "Both at once: 1, for it has fallen.",
            "`reward + discount * next_value * (1 - terminated)`",
        ),
    ),
    "01.3": Exercise(
        reference=collect_episode,
        inputs=_world,
        wrong=(
            Wrong(_obs_too_late, "`obs` and `next_obs` are the same in all your rows: `obs` was "
                  "replaced before the row was stored."),
            Wrong(_stops_at_terminated, "It runs on after a truncation. An episode has two kinds "
                  "of end: stop at either."),
            Wrong(_stops_at_truncated, "It runs on after a termination. An episode has two kinds "
                  "of end: stop at either."),
            Wrong(_loses_the_end, "The last transition is missing, the only one that knows how "
                  "the episode ended. Store the row first, then ask whether to stop."),
            Wrong(_never_looks_again, "Every row begins with the observation of the reset. The "
                  "`next_obs` of one step is the `obs` of the next."),
            Wrong(_forgets_the_seed, "The start is another one than `seed` asks for: "
                  "`env.reset(seed=seed)`."),
            Wrong(_one_flag, "Both ends went into one flag. Keep them apart: "
                  "a row ends with `terminated, truncated`."),
            Wrong(_swaps_the_flags, "The two flags are swapped: `env.step` gives `terminated` "
                  "first, then `truncated`, and a row ends in this order."),
            Wrong(_asks_once, "The policy is asked once, and its first action repeated. Ask it "
                  "again at every step."),
        ),
        hints=(
            "What does the second step of an episode start from? And when is the row of the last "
            "step stored?",
            "Reset; then, until one of the flags is true: choose an action, step, store the row, "
            "and let `obs` be `next_obs`. Store first, ask afterwards.",
            "An episode that is truncated at its third step has 3 rows. The `obs` of row 1 is the "
            "`next_obs` of row 0, and only row 2 ends with (False, True).",
            "`obs, _ = env.reset(seed=seed)` and, in a loop, `next_obs, reward, terminated, "
            "truncated, _ = env.step(policy(obs))`; append the row; `if terminated or truncated: "
            "return rows`; `obs = next_obs`.",
        ),
    ),
    "01.4": Exercise(
        reference=collect_rows,
        given=collect_rows_as_given,
        also=(_rows_by_copy,),
        inputs=_worlds,
        wrong=(
            Wrong(_still_done, "No row crosses two episodes any more. One fault is left: the last "
                  "column should say that nothing follows, and `done` also says that time was up."),
            Wrong(_still_crosses, "The flag is right now. One fault is left: what does the step "
                  "*after* an end do?"),
            Wrong(_drops_the_ends, "You drop the last step of each episode, which is real, and "
                  "keep the one after it, which is not."),
            Wrong(_drops_two, "Two rows are gone at each end: that of the step after it, which is "
                  "false, and that of the end itself, which happened. Drop the first kind only."),
            Wrong(_drops_after_terminated, "Nearly: environments reset themselves after a "
                  "truncation too. The row after it is as false as the one after a fall."),
            Wrong(_drops_for_ever, "Once an environment has ended, all its later rows are gone. "
                  "Only a single one is false: who is fresh must be told anew after each step."),
            Wrong(_drops_zero_rewards, "A reset row has a reward of 0, but a reward of 0 does not "
                  "make a reset row: honest ones are lost. Remember who ended in the step before."),
            Wrong(_forgives_the_last_tick, "The rows are right now. But a pole may fall just as "
                  "time runs out: both flags are set. Store `terminated` as it is."),
            Wrong(_skips_all, "After the end of *one* environment the rows of all are dropped. The "
                  "others went on: ask each of them whether it is fresh."),
        ),
        hints=(
            "Look at one environment around an end. Which step leads from the old episode into the "
            "new one, and what did its action do?",
            "Two faults. One is *which* rows are stored: the step after an end is a mere reset. "
            "The other is what a row's last entry says: `done` is also true when only the time was "
            "up.",
            "An episode terminates at step 3: step 4 resets, whatever the action. The rows of "
            "steps 0, 1, 2, 3, 5, 6 happened, that of step 4 did not. If step 3 was truncated "
            "instead, row 4 goes all the same, and row 3 ends with False.",
            "`fresh = np.zeros(envs.num_envs, dtype=bool)` before the loop; `if not fresh[b]:` "
            "before the append, which stores `terminated[b]`; `fresh = terminated | truncated` "
            "after each step.",
        ),
    ),
    "01.5": Question(
        answer="c",
        replies={
            "a": "In the pole's angle and both velocities it does, by far. In one direction it "
                 "does not: see the left panel.",
            "b": "It goes further along the rail. But its pole hardly ever leans far: see the "
                 "right panel.",
            "c": "Yes: falling is wide in some directions, balancing in another.",
        },
        hints=("How far can a cart get before a neglected pole is down? And in ten seconds?",),
    ),
    "01.6": Exercise(
        reference=red_noise,
        inputs=_white,
        wrong=(
            Wrong(_grows, "The fresh noise comes in at full strength, and the sum grows stronger "
                  "than white noise. Scale it by the square root."),
            Wrong(_shrinks, "With 1 - c this is a running mean: smooth, and much weaker than the "
                  "white noise it came from. The factor is the square root of 1 - c**2."),
            Wrong(_no_root, "Variances add up, not standard deviations: take the square root of "
                  "1 - c**2."),
            Wrong(_starts_from_zero, "The first value is white[0] as it is. Yours starts weaker, "
                  "as if there had been a zero before it."),
            Wrong(_begins_with_zeros, "The first row is all zeros. It should be white[0]."),
            Wrong(_forgets_the_square, "The root is right, but of 1 - c**2: the variances are "
                  "c**2 and 1 - c**2."),
            Wrong(_remembers_white, "It remembers the *white* noise of one step before, and "
                  "nothing older. Multiply the last value of the red noise."),
            Wrong(_across_columns, "The memory runs across the columns. Time is axis 0: each "
                  "column is a noise of its own."),
        ),
        hints=(
            "Which number does row t need, apart from white[t]?",
            "Begin with `white[0]`. Each further row needs the row of your *own result* before it: "
            "write a loop over time.",
            "c = 0.6, so that the root is 0.8; white = 1, 0, 2. Then x = 1, then 0.6 * 1 + 0.8 * 0 "
            "= 0.6, then 0.6 * 0.6 + 0.8 * 2 = 1.96.",
            "`red.append(correlation * red[-1] + np.sqrt(1 - correlation**2) * white[t])`, and "
            "`np.stack(red)`",
        ),
    ),
    "01.7": Question(
        answer="a",
        replies={
            "a": "Yes: best is noise that has the rhythm of the pendulum in it.",
            "b": "Only up to a point. Noise that never changes its mind is a constant push, and "
                 "that holds the pendulum a little to one side.",
            "c": "It does not level off: it falls again. Noise that hardly ever changes is a "
                 "constant push.",
        },
        hints=("What does the pendulum do under a torque that never changes?",),
    ),
}  # fmt: skip
