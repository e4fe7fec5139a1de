"""UCT for one player, many trees at once, and random shooting beside it, on any batched world.

Axes: B trees, R copies of a state, S simulations, N plans, H steps, A actions. Of a learned
ensemble each copy is imagined by a network of its own; of other models all copies are alike, and
only what is tried from a leaf on differs. Nobody answers: what a simulation is worth is the same
for all steps of its path, and no sign turns.
"""

import dataclasses
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class World(Protocol):
    """True dynamics, or a model of them.

    Attributes:
        num_actions: A.
        num_copies: R that shooting needs: the networks of an ensemble, else 1.
    """

    num_actions: int
    num_copies: int

    def step(self, states: Tensor, actions: Tensor, alive: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """From states [B, R, ...] and actions [B, R]: next states, rewards [B, R], ends [B, R].

        Of what is not alive [B, R] any more, nothing is asked.
        """


class Futures:
    """States that are carried on step by step, and what they have earned since the root.

    Attributes:
        states: [B, R, ...].
        alive: [B, R].
        earned: [B, R] sum of weighed rewards.
    """

    def __init__(self, states: Tensor, alive: Tensor | None = None, earned: Tensor | None = None):
        shape = states.shape[:2]
        self.states = states
        self.alive = torch.ones(shape, dtype=torch.bool) if alive is None else alive
        self.earned = torch.zeros(shape) if earned is None else earned

    def step(self, world: World, actions: Tensor, weight: Tensor) -> Tensor:
        """Go on by actions [B, R]; rewards weigh [B, 1]. Gives what was asked for [B, R]."""
        asked = self.alive & (weight > 0)
        self.states, rewards, ended = world.step(self.states, actions, asked)
        self.earned = torch.addcmul(self.earned, rewards, weight * asked)
        self.alive = self.alive & ~(ended & asked)
        return asked


@dataclass(frozen=True, kw_only=True)
class Thinking:
    """How a decision is made.

    Attributes:
        planner: "UCT"; "best plan", random shooting; or "best mean" of a first action's plans.
        horizon: H, steps from the root; what lies beyond counts for nothing.
        num_futures: all in all; UCT shares them out to simulations of `num_copies` each.
        num_copies: R of UCT, random futures from a leaf.
        exploration: weight of UCT's bonus; returns are scaled to 0 … 1 within a tree. Of 0.3 and 1
            the former is better on seeds 100 and 101.
        discount: of the reward a step later.
        hold: chance that a random plan holds on to the action before.
        survival: what a future earns by being alive at the horizon.
    """

    planner: str = "UCT"
    horizon: int = 10
    num_futures: int = 100
    num_copies: int = 5
    exploration: float = 0.3
    discount: float = 1.0
    hold: float = 0.0
    survival: float = 0.0


class Thinker:
    """Decides for many states at once.

    Attributes:
        num_calls: steps that the world was asked for.
        num_decisions: of single states.
    """

    def __init__(self, world: World, how: Thinking, generator: torch.Generator):
        self.world, self.how, self.generator = world, how, generator
        self.num_calls = self.num_decisions = 0
        self.weights = how.discount ** torch.arange(2 * how.horizon + how.num_futures)
        self.weights[how.horizon :] = 0.0

    @torch.inference_mode()
    def act(self, roots: Tensor) -> np.ndarray:
        """Actions [B] in states [B, ...]."""
        self.num_decisions += len(roots)
        return self._tree(roots) if self.how.planner == "UCT" else self._shoot(roots)

    def plans(self, *shape: int, before: Tensor | None = None) -> Tensor:
        """Random actions [*shape, H]; the first may hold on to the action before [*shape]."""
        actions = torch.randint(
            self.world.num_actions, (*shape, self.how.horizon), generator=self.generator
        )
        if self.how.hold:
            held = torch.rand(actions.shape, generator=self.generator) < self.how.hold
            last = actions[..., 0] if before is None else before
            for t in range(self.how.horizon):
                last = actions[..., t] = torch.where(held[..., t], last, actions[..., t])
        return actions

    def play_out(self, futures: Futures, plans: Tensor, depth: Tensor) -> Tensor:
        """What futures at some depth [B] earn by plans [B, R, H]: mean of the copies [B]."""
        steps = self.how.horizon - int(depth.min())
        weights = self.weights[depth[:, None] + torch.arange(max(steps, 1))]  # [B, steps]
        asked = []
        for t in range(steps):
            if t % 4 == 0 and not futures.alive.any():
                break
            asked.append(futures.step(self.world, plans[..., t], weights[:, t, None]))
        self.num_calls += int(sum(part.sum() for part in asked))
        left = self.how.survival * self.how.discount**self.how.horizon
        return (futures.earned + left * futures.alive).mean(dim=1)

    def _shoot(self, roots: Tensor) -> np.ndarray:
        """Random plans from the root; a copy of each for each network."""
        copies = self.world.num_copies
        num, size = len(roots), self.how.num_futures // copies
        plans = self.plans(num * size, 1)
        states = roots.repeat_interleave(size, dim=0)[:, None]
        states = states.repeat_interleave(copies, dim=1)
        depth = torch.zeros(num * size, dtype=torch.long)
        worth = self.play_out(Futures(states), plans.expand(-1, copies, -1), depth).view(num, size)
        first = plans[:, 0, 0].view(num, size)
        if self.how.planner == "best plan":
            return first.gather(1, worth.argmax(dim=1, keepdim=True))[:, 0].numpy()
        table = torch.full((num, self.world.num_actions), -torch.inf)
        return table.scatter_reduce(1, first, worth, "mean", include_self=False).argmax(1).numpy()

    def _tree(self, roots: Tensor) -> np.ndarray:
        """The action that UCT takes most often."""
        how = self.how
        copies = max(how.num_copies, self.world.num_copies)
        tree = _Trees(roots, self.world.num_actions, how.num_futures // copies + 1, copies,
                      self.generator)  # fmt: skip
        for new in range(1, tree.num_nodes):
            path, parents, actions, depth = tree.select(how.exploration)
            futures = tree.at(parents)
            wide = torch.as_tensor(actions)[:, None].expand(-1, copies)
            asked = futures.step(self.world, wide, self.weights[depth - 1][:, None])
            self.num_calls += int(asked.sum())
            tree.add(new, parents, actions, futures)
            plans = self.plans(len(roots), copies, before=wide)
            worth = self.play_out(futures, plans, depth)
            tree.tell(path, worth.numpy())
        return tree.visits[:, 0].argmax(axis=1)


class _Trees:
    """A tree for each root; each simulation adds a node to all of them.

    Attributes:
        children, visits, sums: [B, S + 1, A] of each node's actions; a child 0 was not tried.
    """

    def __init__(
        self, roots: Tensor, num_actions: int, num_nodes: int, copies: int,
        generator: torch.Generator,
    ):  # fmt: skip
        num, self.num_nodes = len(roots), num_nodes
        shape = (num, num_nodes, num_actions)
        self.children, self.visits = np.zeros(shape, dtype=int), np.zeros(shape)
        self.sums = np.zeros(shape)
        self.ties = 1e-6 * torch.rand(shape, generator=generator).numpy()
        self.low, self.high = np.full(num, np.inf), np.full(num, -np.inf)
        self.rows = np.arange(num)
        self.states = roots.new_zeros(num, num_nodes, copies, *roots.shape[1:])
        self.states[:, 0] = roots[:, None]
        self.alive = torch.ones(num, num_nodes, copies, dtype=torch.bool)
        self.earned = torch.zeros(num, num_nodes, copies)

    def select(self, exploration: float) -> tuple[list, np.ndarray, np.ndarray, Tensor]:
        """Steps (trees, nodes, actions) down to untried ones, their nodes, actions and depths."""
        parents, last = np.zeros(len(self.rows), dtype=int), np.zeros(len(self.rows), dtype=int)
        depth, path = torch.zeros(len(self.rows), dtype=torch.long), []
        trees, nodes = self.rows, parents.copy()
        while len(trees):
            actions = self._scores(trees, nodes, exploration).argmax(axis=1)
            path.append((trees, nodes, actions))
            parents[trees], last[trees] = nodes, actions
            depth[trees] += 1
            child = self.children[trees, nodes, actions]
            trees, nodes = trees[child > 0], child[child > 0]
        return path, parents, last, depth

    def _scores(self, trees: np.ndarray, nodes: np.ndarray, exploration: float) -> np.ndarray:
        """UCB1 of actions [K, A], with means scaled by the lowest and highest return of a tree."""
        visits, sums = self.visits[trees, nodes], self.sums[trees, nodes]
        tried = np.maximum(visits, 1e-9)
        span = np.maximum(self.high[trees] - self.low[trees], 1e-6)[:, None]
        low = np.where(np.isfinite(self.low[trees]), self.low[trees], 0.0)[:, None]
        means = np.where(visits > 0, (sums / tried - low) / span, 0.0)
        total = np.log(visits.sum(axis=1, keepdims=True) + 1)
        return means + exploration * np.sqrt(total / tried) + self.ties[trees, nodes]

    def at(self, nodes: np.ndarray) -> Futures:
        """The futures of one node of each tree [B]."""
        here = (self.rows, nodes)
        return Futures(self.states[here], self.alive[here], self.earned[here])

    def add(self, new: int, parents: np.ndarray, actions: np.ndarray, futures: Futures) -> None:
        """Keep a new node of each tree."""
        self.states[:, new], self.alive[:, new] = futures.states, futures.alive
        self.earned[:, new] = futures.earned
        self.children[self.rows, parents, actions] = new

    def tell(self, path: list, worth: np.ndarray) -> None:
        """Tell every step of a path what its simulation was worth [B]."""
        self.low, self.high = np.minimum(self.low, worth), np.maximum(self.high, worth)
        for trees, nodes, actions in path:
            self.visits[trees, nodes, actions] += 1
            self.sums[trees, nodes, actions] += worth[trees]


def changed(how: Thinking, **changes: object) -> Thinking:
    """The same with other settings."""
    return dataclasses.replace(how, **changes)
