"""Rivals of the recurrent model: stacked looks, a latent without a meaning, and a particle filter.

The first two have the face of `RecurrentModel`, so that the same agent plans with them. All are for
looks of one angle: cosine, sine, and whether there was a look.
"""

import dataclasses

import numpy as np
import torch
from torch import nn
from torch.nn.functional import pad, silu, softplus

from mbrl_helpers.angles import wrap_angle
from mbrl_helpers.futures import rollout_returns
from mbrl_helpers.hidden.cell import Guess, balanced_kl, mlp
from mbrl_helpers.interfaces import Step


class Rival:
    """What both share: episodes as arrays, and the reward's units."""

    def __init__(self, task, generator):
        self.task, self.generator, self.units, self.fits = task, generator, None, 0

    def episodes(self, transitions):
        """Angle, seen, action, reward of E episodes of T steps [E, T(+1)]."""
        num = len(transitions.episodes)
        obs, next_obs = (torch.tensor(x).view(num, -1, 3)
                         for x in (transitions.obs, transitions.next_obs))  # fmt: skip
        obs = torch.cat([obs, next_obs[:, -1:]], 1)
        reward = torch.tensor(transitions.reward).view(num, -1)
        if self.units is None:
            self.units = reward.mean(), reward.std()
        reward = (reward - self.units[0]) / self.units[1]
        action = torch.tensor(transitions.action).view(num, -1) / 2
        return torch.atan2(obs[..., 1], obs[..., 0]), obs[..., 2], action, reward

    def state(self):
        """A fit that is broken off is not gone back from."""
        return {}

    def restore(self, state):
        """See above."""

    def paid(self, reward):
        """In the environment's units."""
        return reward * self.units[1] + self.units[0]


class StackModel(Rival):
    """An ensemble on the last looks and actions; it predicts the newest look alone.

    Older looks are copied as they are. It is told of angles, predicts the turn from the newest
    look that was seen, and is given the finite difference of the last two, too.
    """

    def __init__(self, task, generator, *, num_looks=2, differences=True, members=5, width=64,
                 num_updates=1500, num_more_updates=400, weight_decay=0.1):  # fmt: skip
        super().__init__(task, generator)
        self.k, self.differences = num_looks, differences
        self.counts = num_updates, num_more_updates
        inputs = 5 * num_looks + (3 if differences else 0) + 3
        sizes = [(inputs, width), (width, width), (width + inputs, 2)]
        self.weights = [
            (nn.Parameter((torch.rand(members, i, o, generator=generator) * 2 - 1) / i**0.5),
             nn.Parameter(torch.zeros(members, 1, o)))
            for i, o in sizes
        ]  # fmt: skip
        with torch.no_grad():
            self.weights[-1][0].mul_(0.1)
        self.optimizer = torch.optim.AdamW(
            [p for pair in self.weights for p in pair], lr=3e-3, weight_decay=weight_decay
        )
        self.num_members = 1  # to planners: the members' mean goes on

    def start(self, num_envs):
        """Nothing was seen, nothing done: [B, 3 k], of each look angle, seen, action before it."""
        return torch.zeros(num_envs, 3 * self.k)

    def newest(self, looks):
        """The newest look that was seen [..., 3]: angle, whether any, how many steps ago.

        And the turn per step from the one before, 0 where there is none.
        """
        angle, seen = looks[..., 0], looks[..., 1]
        back = torch.arange(self.k - 1, -1, -1.0)  # the newest is last
        age = torch.where(seen > 0, back, 1e3)
        first, at = age.min(-1)
        other = age.scatter(-1, at[..., None], 1e3)
        second, at2 = other.min(-1)
        here, there = (angle.gather(-1, i[..., None])[..., 0] for i in (at, at2))
        both = second < 1e3
        rate = torch.where(both, wrap_angle(here - there) / (second - first).clamp(min=1), 0.0)
        return here, (first < 1e3).float(), first.clamp(max=self.k), rate, both.float(), second

    def outputs(self, stack, action):
        """Turn and reward of each member [E, B], and the angle that the turn starts from."""
        looks = stack.view(*stack.shape[:-1], self.k, 3)
        here, _, age, rate, both, _ = self.newest(looks)
        angle, seen, done = looks.unbind(-1)
        parts = [angle.cos() * seen, angle.sin() * seen, seen, done, done * seen,
                 here[..., None].cos(), here[..., None].sin(), action]  # fmt: skip
        if self.differences:
            parts += [torch.stack([rate, age / 4, both], -1)]
        x = torch.cat(parts, -1)
        y = x
        for i, (weight, bias) in enumerate(self.weights):
            y = torch.cat([y, x.expand(len(y), -1, -1)], -1) if i == 2 else y
            y = torch.matmul(y, weight) + bias
            y = silu(y) if i < 2 else y
        return 0.3 * y[..., 0] + rate * (age + 1) * self.differences, y[..., 1], here

    def pushed(self, stack, angle, seen, action):
        """The stack with one look more, and the oldest gone."""
        return torch.cat([stack[..., 3:], angle, seen, action], -1)

    def predict(self, belief, action):
        """Time passes, and nothing is seen."""
        none = torch.zeros_like(belief[..., :1])
        return self.pushed(belief, none, none, action / 2)

    def correct(self, belief, obs):
        """The newest look is what was seen."""
        angle, seen = torch.atan2(obs[:, 1], obs[:, 0]), obs[:, 2]
        look = torch.stack([angle * seen, seen, belief[:, -1]], -1)
        return torch.cat([belief[:, :-3], look], -1)

    def step(self, obs, action, generator=None):
        """Imagine the newest look; in a dream it counts as seen."""
        shape, action = obs.shape, action.flatten(0, -2) / 2
        stack = obs.flatten(0, -2)
        turn, reward, here = self.outputs(stack, action)
        angle = (here + turn.mean(0))[:, None]
        after = self.pushed(stack, angle, torch.ones_like(angle), action)
        reward = self.paid(reward.mean(0)).view(shape[:-1])
        return Step(after.view(shape), reward, torch.zeros_like(reward))

    def fit(self, transitions, progress=False):
        """One-step errors, on all steps; it goes on from the last fit."""
        angle, seen, action, reward = self.episodes(transitions)
        num, length = action.shape
        before = pad(action, (1, 0))
        look = torch.stack([angle * seen, seen, before], -1)  # [E, T+1, 3]
        look = pad(look, (0, 0, self.k - 1, 0))
        stacks = torch.stack([look[:, i : i + length] for i in range(self.k)], 2)
        parts = (stacks.flatten(2), action[..., None], reward, angle[:, 1:], seen[:, 1:])
        rows = [x.flatten(0, 1) for x in parts]
        count = self.counts[min(self.fits, 1)]
        for number in range(count):
            for group in self.optimizer.param_groups:
                group["lr"] = 3e-3 * min(1.0, 2 * (1 - number / count) + 0.02)
            at = torch.randint(num * length, (256,), generator=self.generator)
            stack, act, paid, target, there = (row[at] for row in rows)
            turn, guess, here = self.outputs(stack, act)
            known = (stack.view(-1, self.k, 3)[..., 1].sum(-1) >= min(2, self.k)).float()
            miss = wrap_angle(target - here - turn).square() * there * known
            loss = 100 * miss.mean(1).sum() + ((guess - paid).square() * known).mean(1).sum()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        self.fits += 1
        return self


class CodeStack(StackModel):
    """The same for codes, two numbers of an angle that are always seen (see `PictureModel`)."""

    def correct(self, belief, obs):
        """The newest look is what was seen."""
        return super().correct(belief, pad(obs, (0, 1), value=1.0))

    def fit(self, transitions, progress=False):
        """With a column that says that everything was seen."""
        obs, next_obs = (
            np.pad(x, ((0, 0), (0, 1)), constant_values=1)
            for x in (transitions.obs, transitions.next_obs)
        )
        return super().fit(dataclasses.replace(transitions, obs=obs, next_obs=next_obs))


class LearnedLatent(Rival, nn.Module):
    """PlaNet's own parts in small: a GRU, a Gaussian latent without a meaning, a decoder."""

    def __init__(self, task, generator, *, memory=64, latent=8, width=64, overshooting=1.0,
                 num_updates=500, num_more_updates=100, sequence=24,
                 learning_rate=3e-3):  # fmt: skip
        nn.Module.__init__(self)
        Rival.__init__(self, task, generator)
        self.memory, self.latent, self.length, self.over = memory, latent, sequence, overshooting
        self.counts, self.rate = (num_updates, num_more_updates), learning_rate
        self.inputs, self.gru = nn.Linear(latent + 1, width), nn.GRUCell(width, memory)
        self.prior = nn.Linear(memory, 2 * latent)
        self.post = nn.Sequential(nn.Linear(memory + 2, width), nn.SiLU(),
                                  nn.Linear(width, 2 * latent))  # fmt: skip
        self.decoder = nn.Sequential(nn.Linear(memory + latent, width), nn.SiLU(),
                                     nn.Linear(width, 2))  # fmt: skip
        self.reward = mlp(memory + latent + 1, width)
        for weights in self.parameters():
            bound = weights.shape[-1] ** -0.5 if weights.ndim > 1 else 0.0
            nn.init.uniform_(weights, -bound, bound, generator=generator)
        self.optimizer = torch.optim.AdamW(self.parameters(), lr=learning_rate, weight_decay=0.1)

    def start(self, num_envs):
        """[B, D + latent]."""
        return torch.zeros(num_envs, self.memory + self.latent)

    def guess(self, outputs):
        """Mean and width."""
        mean, std = outputs.chunk(2, -1)
        return Guess(mean, softplus(std) + 0.1)

    def moved(self, memory, latent, action):
        """The deterministic path."""
        return self.gru(silu(self.inputs(torch.cat([latent, action], -1))), memory)

    def predict(self, belief, action):
        """The prior."""
        memory = self.moved(belief[:, : self.memory], belief[:, self.memory :], action / 2)
        return torch.cat([memory, self.guess(self.prior(memory)).mean], -1)

    def correct(self, belief, obs):
        """The posterior; of what was not seen, the prior."""
        memory = belief[:, : self.memory]
        latent = self.guess(self.post(torch.cat([memory, obs[:, :2]], -1))).mean
        latent = torch.where(obs[:, 2:] > 0, latent, belief[:, self.memory :])
        return torch.cat([memory, latent], -1)

    def step(self, obs, action, generator=None):
        """Imagine by the means."""
        shape, action = obs.shape, action.flatten(0, -2)
        belief = obs.flatten(0, -2)
        reward = self.paid(self.reward(torch.cat([belief, action / 2], -1))[:, 0]).view(shape[:-1])
        return Step(self.predict(belief, action).view(shape), reward, torch.zeros_like(reward))

    def fit(self, transitions):
        """The losses of the course's model, with a decoder in the place of the meaning."""
        data = self.episodes(transitions)
        count = self.counts[min(self.fits, 1)]
        for number in range(count):
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate * min(1.0, 2 * (1 - number / count) + 0.02)
            loss = self.loss(*data)
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.parameters(), 10.0)
            self.optimizer.step()
        self.fits += 1
        return self

    def loss(self, angle, seen, action, reward, num=64):
        """Of some sequences."""
        which = torch.randint(len(angle), (num, 1), generator=self.generator)
        begin = torch.randint(action.shape[1] - self.length + 1, (num, 1), generator=self.generator)
        rows = begin + torch.arange(self.length + 1)
        angle, seen = angle[which, rows].t(), seen[which, rows].t()
        action, reward = action[which, rows[:, :-1]].t(), reward[which, rows[:, :-1]].t()
        look = torch.stack([angle.cos(), angle.sin()], -1) * seen[..., None]
        last = torch.randint(6, self.length + 1, (num,), generator=self.generator)
        open_ = torch.rand(num, generator=self.generator) >= self.over
        eyes = (seen * ((torch.arange(self.length + 1)[:, None] <= last) | open_))[..., None]
        belief = self.start(num)
        memory, latent = belief[:, : self.memory], belief[:, self.memory :]
        noise = torch.randn(self.length + 1, num, self.latent, generator=self.generator)
        states, kl = [], 0.0
        for t in range(self.length + 1):
            memory = self.moved(memory, latent, action[t - 1][:, None]) if t else memory
            prior = self.guess(self.prior(memory))
            post = self.guess(self.post(torch.cat([memory, look[t]], -1)))
            q = Guess(*(torch.where(eyes[t] > 0, a, b) for a, b in zip(post, prior, strict=True)))
            latent = q.mean + q.std * noise[t]
            states.append(torch.cat([memory, latent], -1))
            kl = kl + balanced_kl(q, prior, 0.8).mean() / (self.length + 1)
        state = torch.stack(states)
        gap = (self.decoder(state) - look).square().sum(-1) * seen
        guess = self.reward(torch.cat([state[:-1], action[..., None]], -1))[..., 0]
        return (gap.mean() + (guess - reward).square().mean()) / 0.02 + kl.clamp(min=0.5)


class ParticleAgent:
    """Knows the equations and the noise: filters with particles, and plans from their mean.

    What no learner can beat who sees as little, but for planning as if the mean were the truth.
    """

    def __init__(self, full, planner, *, noise, num_particles=10_000):
        self.full, self.planner, self.noise, self.num = (
            full,
            planner,
            max(noise, 0.03),
            num_particles,
        )
        self.rng, self.cloud, self.state = planner.generator, None, None

    def act(self, obs):
        """Predict, correct by obs [B, 3], and plan."""
        looks = torch.tensor(obs)
        if self.cloud is None:
            angle, speed = torch.rand(2, len(looks), self.num, generator=self.rng)
            angle, speed = 2 * torch.pi * angle, 2 * speed - 1  # as episodes begin
            self.cloud = torch.stack([angle.cos(), angle.sin(), speed], -1)
        else:
            actions = self.action[:, None].expand(-1, self.num, -1)
            self.cloud = self.full.true_step(self.cloud, actions).next_obs
            self.cloud[..., 2] += 0.02 * torch.randn(self.cloud.shape[:2], generator=self.rng)
        self.cloud = self.corrected(looks)
        mean = self.cloud.mean(1)
        mean[:, :2] /= mean[:, :2].norm(dim=1, keepdim=True).clamp(min=1e-3)
        state = self.planner.start(len(looks)) if self.state is None else self.state
        plan, self.state = self.planner.plan(
            lambda actions: rollout_returns(self.full.true_dynamics, mean, actions), state
        )
        self.action = plan.actions[:, 0]
        return self.full.actions.decode(self.action)

    def corrected(self, looks):
        """Particles drawn again, as often as they explain the looks [B, 3]; blanks explain none."""
        apart = (self.cloud[..., :2] - looks[:, None, :2]).square().sum(-1)
        chance = torch.softmax(-apart / (2 * self.noise**2) * looks[:, 2:], 1)
        rows = torch.multinomial(chance, self.num, replacement=True, generator=self.rng)
        return self.cloud.gather(1, rows[..., None].expand(-1, -1, 3))

    def reset(self, ended=None):
        """Forget everything: all episodes end together here."""
        self.cloud = self.state = None
