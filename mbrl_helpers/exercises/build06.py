"""The build of notebook 06: a model, a planner and the loop around them, on a blank page."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import torch

from mbrl_helpers.exercises.builds import Build, Stage, Unfit, attempt, finite_array
from mbrl_helpers.exercises.frame import Wrong

TURN = 3.5
ICE, RUDDER, SWUNG = 0.5, 0.3, -350.0  # of doing nothing's cost, twice; mean return


def learn(env, reward, budget, seed):
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    low, high = (torch.tensor(bound) for bound in (env.action_space.low, env.action_space.high))
    num_obs, num_actions = len(env.observation_space.low), len(low)
    members, width, horizon, num, best = 5, 48, 20, 60, 8
    rows, scale, memory = [], {}, {"plan": torch.zeros(horizon, num_actions)}

    def layer(a, b):
        return torch.randn(members, a, b).div(a**0.5).requires_grad_()

    layers = [layer(num_obs + num_actions, width), layer(width, width), layer(width, num_obs)]
    shifts = [torch.zeros(members, 1, w.shape[2], requires_grad=True) for w in layers]

    def change(obs, action):  # [E, N, O], [E, N, A]
        x = (torch.cat([obs, action], -1) - scale["mean"]) / scale["std"]
        for i in range(3):
            x = torch.baddbmm(shifts[i], torch.tanh(x) if i else x, layers[i])
        return scale["change"] * x

    def fit():
        obs, action, after = (torch.tensor(np.array(part)) for part in zip(*rows, strict=True))
        x, y = torch.cat([obs, action], 1), after - obs
        scale.update(mean=x.mean(0), std=x.std(0) + 1e-6, change=y.std(0) + 1e-6)
        own = torch.randint(len(x), (members, len(x)))  # a bootstrap for each
        optimizer = torch.optim.Adam([*layers, *shifts], 3e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=600)
        for _ in range(600):
            picked = own.gather(1, torch.randint(len(x), (members, 128)))
            error = (change(obs[picked], action[picked]) - y[picked]) / scale["change"]
            optimizer.zero_grad()
            error.square().mean().backward()
            optimizer.step()
            schedule.step()

    @torch.no_grad()
    def act(obs):
        mean, std = memory["plan"], (high - low) / 2 * torch.ones(horizon, num_actions)
        for _ in range(3):
            noise = torch.randn(num, horizon // 2, num_actions).repeat_interleave(2, 1)
            plans = (mean + std * noise).clamp(low, high)
            now, total = torch.tensor(obs).expand(members, num, -1), 0.0
            for action in plans.expand(members, -1, -1, -1).unbind(2):
                after = now + change(now, action)
                total, now = total + reward(now, action, after), after
            elites = plans[total.mean(0).nan_to_num(-1e9).topk(best).indices]
            mean, std = elites.mean(0), elites.std(0)
        memory["plan"] = torch.cat([mean[1:], torch.zeros(1, num_actions)])
        return mean[0].numpy()

    obs, push = env.reset()[0], 0.0
    for step in range(budget):
        push = 0.8 * push + 0.6 * rng.normal(size=num_actions)  # slow noise
        noise = torch.tensor(push).clamp(-1, 1) * high
        action = act(obs) if scale else noise.float().numpy()
        after, _, terminated, truncated, _ = env.step(action)
        rows.append((obs, action, after))
        obs = after
        if terminated or truncated or step == budget - 1:
            fit()
            obs = env.reset()[0]
    return act


def starter(env, reward, budget, seed):
    rows = []  # all that was seen: obs, action, next_obs

    def fit():
        model = ...  # an ensemble, from all rows: what changes, in units of its spread

    def act(obs):
        plan = ...  # by the cross-entropy method, in all members at once, from the last one on
        return plan[0]

    obs, _ = env.reset()
    for _ in range(budget):
        action = ...  # at random as long as there is no model, then by plan
        after, _, terminated, truncated, _ = env.step(action)
        ...  # keep the row; when the episode is over, fit, and begin the next one
    return act


class Track(gym.Env):
    """Somebody is somewhere on a line, and should be elsewhere.

    On the ice nothing slows down. With the rudder, beyond `TURN` a push goes the other way: nobody
    finds that out who has not been there, and chance hardly leads there.
    """

    observation_space = gym.spaces.Box(-100, 100, (2,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, goal, num_steps, rudder):
        self.goal, self.num_steps, self.rudder = goal, num_steps, rudder

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        x = self.np_random.uniform(-1, 1) * (1 if self.rudder else 3)
        self.state, self.count = (x, 0.0), 0
        return np.array(self.state, np.float32), {}

    def step(self, action):
        (x, v), push = self.state, 0.3 * float(action[0])
        v = 0.7 * v - np.tanh(3 * (x - TURN)) * push if self.rudder else v + push
        self.state, self.count = (x + 0.3 * v, v), self.count + 1
        obs, truncated = np.array(self.state, np.float32), self.count >= self.num_steps
        return obs, float(self.reward(None, None, obs)), False, truncated, {}

    def reward(self, obs, action, after):
        return -abs(after[..., 0] - self.goal)


def swing_reward(obs, action, after):
    """Pendulum's reward, of tensors."""
    angle = torch.atan2(obs[..., 1], obs[..., 0])
    return -(angle**2 + 0.1 * obs[..., 2] ** 2 + 0.001 * action[..., 0] ** 2)


class Counted(gym.Wrapper):
    """Counts steps, keeps what was done, and takes no action that the space has not."""

    def __init__(self, env, budget, seed):
        super().__init__(env)
        self.budget, self.seed, self.num_steps, self.episodes = budget, seed, 0, []

    def reset(self, *, seed=None, options=None):
        self.obs, info = self.env.reset(seed=None if self.episodes else self.seed)
        self.episodes.append([])
        return self.obs.copy(), info

    def step(self, action):
        if self.num_steps == self.budget:
            raise Unfit(f"It takes more than the {self.budget} steps that it has.")
        self.num_steps += 1
        action = legal(action, self.action_space)
        self.episodes[-1].append((self.obs, action))
        self.obs, *rest = self.env.step(action)
        return self.obs.copy(), *rest


def legal(action, space):
    """An action [A] that the space has."""
    array = finite_array(action, space.shape, "An action")
    if (array < space.low - 1e-6).any() or (array > space.high + 1e-6).any():
        raise Unfit(
            f"An action goes from {space.low[0]:g} to {space.high[0]:g}; yours is {array[0]:.3g}. "
            "Noise goes beyond: cut it, and remember what was really done."
        )
    return array.astype(np.float32)


def played(env, act, seed, log=None):
    """Return of an episode."""
    (obs, _), total, over = env.reset(seed=seed), 0.0, False
    while not over:
        action = legal(attempt(act, obs.copy()), env.action_space)
        if log is not None:
            log.append(action)
        obs, reward, terminated, truncated, _ = env.step(action)
        total, over = total + float(reward), terminated or truncated
    return total


def stage(name, answer, env, reward, budget, starts, *, unit="of it", **bound):
    """What was learned, by the returns from unseen starts."""
    counted = Counted(env, budget, 0)
    act = attempt(answer, counted, reward, budget, 0)
    if not callable(act):
        raise Unfit("learn should return a function, act(obs).")
    log, still = [], np.zeros(env.action_space.shape)
    mine = np.mean([played(env, act, seed, log) for seed in starts])
    idle = np.mean([played(env, lambda obs: still, seed) for seed in starts])
    measured = mine / idle if unit == "of it" else mine
    found = Stage(name=name, measured=float(measured), unit=unit, **bound)
    return found if found.passed else replace(found, fault=diagnose(counted, act, mine, idle, log))


def diagnose(counted, act, mine, idle, log):
    """Which known fault learns like this."""
    if np.ptp(log) == 0:
        return "It does the same whatever it sees. Is there a plan behind act(obs)?"
    if counted.num_steps < counted.budget / 2:
        return (
            f"It has taken {counted.num_steps} of {counted.budget} steps. More experience is there "
            "for the asking."
        )
    if mine < 1.2 * idle:
        return (
            "It does worse than who does nothing. Is it the plan with the *highest* return whose "
            "first action is taken?"
        )
    if not goes_by_itself(counted, act):
        return (
            "In the last of its own episodes it did other things than what it would do now. Who "
            "goes where the plan leads? The loop is: play by the plan, fit to *all* rows, again."
        )
    return (
        "It learns something. Look at one episode: does the model predict *changes*, on the same "
        "scale for all? Is the plan long enough, and does it begin from the last one?"
    )


def goes_by_itself(counted, act):
    """Whether what was done in the last long episode is nearer to its plan than chance is."""
    rows = max(counted.episodes[-2:], key=len)
    done = np.array([action for _, action in rows])
    now = np.array([legal(attempt(act, obs.copy()), counted.action_space) for obs, _ in rows])
    mixed = done[np.random.default_rng(0).permutation(len(done))]
    return np.abs(now - done).mean() < 0.9 * np.abs(now - mixed).mean()


def judge(answer):
    """Ice in ninety steps, a rudder that turns round, then the pendulum."""
    ice, rudder = Track(0.0, 30, rudder=False), Track(5.5, 60, rudder=True)
    yield stage("on ice, 90 steps: cost, over doing nothing", answer, ice, ice.reward, 90,
                range(100, 104), at_most=ICE)  # fmt: skip
    yield stage("a rudder that turns round, 420 steps: cost, over doing nothing", answer, rudder,
                rudder.reward, 420, range(100, 103), at_most=RUDDER)  # fmt: skip
    with gym.make("Pendulum-v1") as env:
        yield stage("Pendulum-v1, 1,000 steps, three unseen starts", answer, env, swing_reward,
                    1_000, range(9_000, 9_003), unit="mean return", at_least=SWUNG)  # fmt: skip


def variant(change):
    """The reference, with other arguments."""
    right = learn

    def faulty(env, reward, budget, seed):
        return right(*change(env, reward, budget), seed)

    return faulty


def uncut(env, reward, budget, seed):
    env.reset()
    env.step(1.5 * env.action_space.high)


def resting(env, reward, budget, seed):
    return lambda obs: np.zeros(env.action_space.shape)


def no_function(env, reward, budget, seed):
    return env.action_space.sample()


class AtRandom(gym.Wrapper):
    """Whatever is asked for, something random is done."""

    def reset(self, **how):
        self.rng = np.random.default_rng(0)
        return self.env.reset(**how)

    def step(self, action):
        action[:] = self.rng.uniform(self.action_space.low, self.action_space.high)
        return self.env.step(action)


def no_loop(env, reward, budget):
    """Random all the way, but on ice, where that is enough."""
    return AtRandom(env) if budget == 420 else env, reward, budget


BUILD = Build(
    reference=learn,
    starter=starter,
    judge=judge,
    hints=(
        "You have written a model (02.b), a planner (03.b, 04.b) and an ensemble. Which rows does "
        "the model see first, which after the first episode, and who chose their actions?",
        "Play an episode at random. Then, until the budget is spent: fit all members to all rows, "
        "and play an episode by planning. A plan's return is the mean over the members. Keep each "
        "plan, moved on by a step, as the start of the next search.",
        "1,000 steps of Pendulum are 5 episodes of 200: one at random, four by the plan. Five "
        "members with two layers of 48, 600 updates of 128 rows after each; 60 plans of 20 steps, "
        "three refits to the 8 best.",
        "`action = act(obs) if fitted else noise`, `rows.append((obs, action, after))`, and `if "
        "terminated or truncated: fit(); obs = env.reset()[0]`",
    ),
    faulty=(
        Wrong(resting, "the same whatever it sees"),
        Wrong(variant(lambda env, reward, budget: (env, lambda *now: -reward(*now), budget)),
              "worse than who does nothing"),
        Wrong(variant(lambda env, reward, budget: (env, reward, budget // 3)),
              "More experience is there for the asking"),
        Wrong(variant(lambda env, reward, budget: (env, reward, budget + 1)),
              "more than the 90 steps"),
        Wrong(uncut, "cut it, and remember what was really done"),
        Wrong(no_function, "should return a function"),
        Wrong(variant(no_loop), "other things than what it would do now"),
    ),
)  # fmt: skip
