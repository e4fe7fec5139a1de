"""The build of notebook 07: a policy that learns inside a model, on a blank page."""

import numpy as np
import torch
from torch import nn

from mbrl_helpers.exercises.builds import Build, Stage, Unfit, attempt
from mbrl_helpers.exercises.frame import Wrong
from mbrl_helpers.notebook import read_recorded

UPDATES, MOST = 120, 64 * 40  # MOST: states that an update may imagine, on average
CART, SWUNG = 0.1, 150.0  # bounds: of what it costs to do nothing; of the regret, at random 1,100
CART_UPDATES = 50
EPISODE = 200


def train_policy(step, policy, obs, num_updates, rng):
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)
    for _ in range(num_updates):
        state, total = obs[torch.randint(len(obs), (64,), generator=rng)], 0.0
        for t in range(40):
            state, reward = step(state, policy(state))
            total = total + 0.98**t * reward
        optimizer.zero_grad()
        (-total.mean()).backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()


def starter(step, policy, obs, num_updates, rng):
    optimizer = ...
    for _ in range(num_updates):
        state = ...  # [64, O], some rows of obs
        total = 0.0
        for _ in range(40):
            ...  # the policy acts, step answers, the reward counts
        ...  # one step uphill: a gradient of what?


def cart(state, action, push=1.0):
    """Place and speed [K, 2] of a cart that is to stand still at 0, and its rewards [K]."""
    place, speed = state.unbind(-1)
    force = push * action[:, 0].clamp(-2, 2)
    speed = 0.9 * speed + 0.1 * force
    next_state = torch.stack([place + 0.1 * speed, speed], -1)
    return next_state, -(place**2) - 0.01 * action[:, 0] ** 2


def pendulum(state, action):
    """Gymnasium's pendulum: cosine, sine and speed [K, 3], and the rewards [K]."""
    cos, sin, speed = state.unbind(-1)
    angle, torque = torch.atan2(sin, cos), action[:, 0].clamp(-2, 2)
    reward = -(angle**2) - 0.1 * speed**2 - 0.001 * torque**2
    speed = (speed + 0.05 * (15 * sin + 3 * torque)).clamp(-8, 8)
    angle = angle + 0.05 * speed
    return torch.stack([angle.cos(), angle.sin(), speed], -1), reward


class Actor(nn.Module):
    """Actions [K, 1] within -2 … 2, of states [K, O]."""

    def __init__(self, num_obs, seed):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.Sequential(
                nn.Linear(num_obs, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1)
            )

    def forward(self, state):
        return 2 * torch.tanh(self.layers(state))


class Watched:
    """A world's step that counts, keeps to the contract, and remembers how it was asked."""

    def __init__(self, function, num_obs, num_updates):
        self.function, self.num_obs, self.most = function, num_obs, num_updates * MOST
        self.count, self.length, self.lengths, self.first = 0, 0, [], set()
        self.last, self.cut = None, False

    def __call__(self, state, action):
        """Next states [K, O] and rewards [K] of states [K, O] and actions [K, 1]."""
        for what, given, width in (("states", state, self.num_obs), ("actions", action, 1)):
            if not isinstance(given, torch.Tensor):
                raise Unfit(f"step expects {what} as a tensor; it was given {type(given).__name__}")
            if given.ndim != 2 or given.shape[1] != width or len(given) != len(state):
                raise Unfit(
                    f"step expects states [K, {self.num_obs}] and actions [K, 1]; it was given "
                    f"{what} of shape {list(given.shape)}."
                )
            if not given.isfinite().all():
                raise Unfit(
                    f"step was given {what} with NaN or infinite numbers. A gradient has exploded "
                    "on its way back through the model: scale it down (clip_grad_norm_)."
                )
        self.count += len(state)
        if self.count > self.most:
            raise Unfit(
                f"It has imagined more than {MOST:,} states for each of its updates, such as 64 "
                "futures of 40 steps. Fewer starts, fewer steps, or num_updates is not heeded."
            )
        if self.last is not None and torch.equal(state, self.last):
            self.length += 1
            self.cut |= self.length == 2 and not state.requires_grad
        else:
            self.lengths.append(self.length)
            self.length, self.first = 1, self.first | set(map(tuple, state.tolist()))
        after, reward = self.function(state, action)
        self.last = after.detach().clone()
        return after, reward

    def longest(self):
        """How many steps a future had, at most."""
        return max([*self.lengths, self.length])


def returns(world, policy, states):
    """Returns [K] of episodes in which the policy acts."""
    total = torch.zeros(len(states))
    with torch.no_grad():
        for _ in range(EPISODE):
            action = policy(states)
            states, reward = world(states, action)
            total += reward
    return total.numpy()


def train(answer, world, policy, obs, num_updates, seed):
    """Let an answer train a policy; the watched world."""
    watched, given = Watched(world, obs.shape[1], num_updates), obs.clone()
    before = [p.detach().clone() for p in policy.parameters()]
    with torch.enable_grad():
        attempt(answer, watched, policy, given, num_updates, torch.Generator().manual_seed(seed))
    if not torch.equal(given, obs):
        raise Unfit("It changes `obs`, which belongs to whoever called it: work on copies.")
    if not watched.count:
        raise Unfit("It never calls step: where does it learn?")
    after = list(policy.parameters())
    if all(torch.equal(a, b) for a, b in zip(before, after, strict=True)):
        raise Unfit(
            "The policy is as it was. Is there a loss.backward(), and an optimizer.step() on "
            "policy.parameters() after it?"
        )
    return watched


def diagnose(watched, before, after, num_starts):
    """Which known fault learns like this."""
    if watched.cut:
        return (
            "The second step gets a state without history: something between the steps (detach, "
            "no_grad, .data) cuts the gradient, and what an action does *later* is not learned."
        )
    if len(watched.first) < min(num_starts, 50) / 2:
        return (
            f"All its futures begin in {len(watched.first)} of the {num_starts} states of `obs`. "
            "Draw other starts for each update, or it learns the way from nowhere else."
        )
    if watched.longest() < 15:
        return (
            f"Its longest future has {watched.longest()} steps: too short-sighted for a swing, "
            "which leads through worse. Imagine forty."
        )
    if after < before - 0.1 * abs(before):
        return "It goes downhill. An optimizer makes its loss smaller: give it *minus* the return."
    return (
        "It learns, but too little. The loss is minus the mean of *all* rewards along the futures; "
        "gradients are set to zero before each update, and scaled down when they are long; Adam "
        "with a learning rate of 0.003 gets there in the updates that it is given."
    )


def drive_the_cart(answer):
    """A cart, pushed to either side, one of them the wrong way round: a stage."""
    rng, worst, fault = np.random.default_rng(0), 0.0, ""
    obs = torch.tensor(rng.uniform(-1, 1, (100, 2)), dtype=torch.float32)
    unseen = torch.tensor(rng.uniform(-1, 1, (50, 2)), dtype=torch.float32)
    for seed, push in enumerate((1.0, -1.0)):

        def world(state, action, push=push):
            return cart(state, action, push)

        policy, still = Actor(2, seed), torch.zeros(50, 1)
        before = returns(world, policy, unseen).mean()
        watched = train(answer, world, policy, obs, CART_UPDATES, seed)
        after = returns(world, policy, unseen).mean()
        left = after / returns(world, lambda _, still=still: still, unseen).mean()
        if left >= worst:
            worst, fault = float(left), diagnose(watched, before, after, len(obs))
    return Stage(
        name="a cart, and one that is pushed the other way: cost, over doing nothing",
        measured=worst, unit="of it", at_most=CART, fault=fault,
    )  # fmt: skip


def swing_up(answer):
    """The true pendulum from unseen starts: a stage."""
    best = np.array([row["best_return"] for row in read_recorded("pendulum_optimum")])
    rng = np.random.default_rng(1)
    angle, speed = rng.uniform(-np.pi, np.pi, 400), rng.uniform(-6, 6, 400)
    obs = torch.tensor(np.stack([np.cos(angle), np.sin(angle), speed], 1), dtype=torch.float32)
    policy, unseen = Actor(3, 0), pendulum_starts(len(best))
    before = returns(pendulum, policy, unseen).mean()
    watched = train(answer, pendulum, policy, obs, UPDATES, 0)
    after = returns(pendulum, policy, unseen)
    return Stage(
        name="the true pendulum, twenty unseen starts: regret",
        measured=float((best - after).mean()), unit="of return", at_most=SWUNG,
        fault=diagnose(watched, before, after.mean(), len(obs)),
    )  # fmt: skip


def pendulum_starts(num):
    """Gymnasium's first observations [num, 3] with seeds from 9000 on."""
    import gymnasium as gym

    with gym.make("Pendulum-v1") as env:
        return torch.tensor(np.stack([env.reset(seed=9000 + i)[0] for i in range(num)]))


def judge(answer):
    """Two carts that need a few steps of foresight, then the pendulum."""
    yield drive_the_cart(answer)
    yield swing_up(answer)


def variant(sign=-1, horizon=40, starts=64, cut=False, still=False, one=False, more=1, noise=False,
            last=False, place=False):  # fmt: skip
    """The reference with a fault."""

    def faulty(step, policy, obs, num_updates, rng):
        optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)
        for _ in range(more * num_updates):
            rows = torch.zeros(starts, dtype=int) if one else torch.randint(
                len(obs), (starts,), generator=rng)  # fmt: skip
            state, total = obs[rows], 0.0
            for _ in range(horizon):
                state, reward = step(state.detach() if cut else state, policy(state))
                total = reward if last else total + reward
            optimizer.zero_grad()
            (sign * total.mean()).backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
            if not still:
                optimizer.step()
            if noise:
                next(policy.parameters()).data += float("nan")
            if place:
                obs *= 1.01

    return faulty


BUILD = Build(
    reference=train_policy,
    starter=starter,
    judge=judge,
    hints=(
        "The model is made of functions that PyTorch can differentiate. Of which number do you "
        "want the gradient, and with respect to what?",
        "For each update: draw starts, let the policy act in the model for forty steps, add up "
        "the rewards. Minus their mean is a loss like any other; the optimizer has the policy's "
        "parameters.",
        "Three futures with returns -4, -2, -6: the loss is 4. A later reward may count less, such "
        "as 0.98 of the one before; a gradient of norm 500 is scaled down to 1.",
        "`state, reward = step(state, policy(state))` forty times, then `optimizer.zero_grad()`, "
        "`(-total.mean()).backward()`, `clip_grad_norm_(policy.parameters(), 1.0)`, "
        "`optimizer.step()`",
    ),
    faulty=(
        Wrong(variant(sign=1), "It goes downhill"),
        Wrong(variant(still=True), "The policy is as it was"),
        Wrong(variant(cut=True), "The second step gets a state without history"),
        Wrong(variant(one=True), "Draw other starts for each update"),
        Wrong(variant(horizon=8), "too short-sighted for a swing"),
        Wrong(variant(more=3), "more than 2,560 states"),
        Wrong(variant(starts=200), "more than 2,560 states"),
        Wrong(variant(noise=True), "with NaN or infinite numbers"),
        Wrong(variant(place=True), "It changes `obs`"),
        Wrong(variant(last=True), "minus the mean of *all* rewards"),
    ),
)
