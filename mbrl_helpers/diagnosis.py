"""What a model can't learn from some experience, why not, and what to do about it.

`diagnose` fits models to most of the episodes, and judges them on the others.

Axes: T transitions, O observation, A encoded action.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mbrl_helpers.angles import MAX_SPREAD, radius_spread
from mbrl_helpers.data import Transitions, concatenate
from mbrl_helpers.dynamics import DynamicsConfig, EnsembleModel, FittedModel
from mbrl_helpers.envs import Task
from mbrl_helpers.units import never_back

HIGH = 0.3  # an error, as a share of the spread, that wants a reason
FALLS = 0.5  # to which share an error must fall for what was changed to be its reason
OFTEN = 0.25  # share of the time at a bound; a goal in nine episodes is at one in two of them
KINDS = {
    "angles": (
        "named as cosine and sine of one angle, but their squares do not add up to a constant",
        "Name the right columns in angles, or none.",
    ),
    "wraps": (
        "some changes are nearly as large as the whole range, as where an angle wraps round",
        "Observe its cosine and sine instead, and name the two columns in Task(angles=...).",
    ),
    "float32": (
        "numbers so large that float32 hardly tells one value from the next",
        "Subtract a constant before they are cast (gymnasium.wrappers.TransformObservation).",
    ),
    "coarse": (
        "measured in steps that are coarse beside the changes: most of a change is rounding",
        "Measure more finely, act less often (repeat each action), or remember the steps before "
        "(mbrl_helpers.RememberSteps).",
    ),
    "clipped": (
        "often stays at its largest or smallest value, and what follows is predicted far worse "
        "there than elsewhere: what lies beyond is hidden",
        "Observe it without that bound, or with a wider one.",
    ),
    "hidden": (
        "predicted far better with the steps before: the observation hides a part of the state",
        "Put the past into the observation, looks and actions: mbrl_helpers.RememberSteps(env, 2), "
        "or more steps.",
    ),
    "episode": (
        "depends on something that differs from episode to episode and is not observed",
        "Show it in the observation; in place of a reward, write down an objective.",
    ),
    "noise": (
        "not predicted from what is observed, and no better with twice the episodes, nor with two "
        "remembered steps",
        "Look again with four times as many. If it stays, it is noise (DynamicsConfig(gaussian="
        "True), and plan with particles), or something is missing from the observation: show it. "
        "A reward that is a running score wants the last score shown.",
    ),
    "data": (
        "predicted badly so far, but better than by a line, or better with more episodes",
        "Collect more of them, and such as go where the agent will be.",
    ),
    "time": (
        "episodes terminate after the same number of steps each time, as by a time limit",
        "Return truncated=True there, not terminated (gymnasium.wrappers.TimeLimit does): after a "
        "limit more would come, and plans should count on it.",
    ),
    "no effect": (
        "nothing that is observed depends on it, nor does the reward",
        "Look at what the environment does with it; if it acts late, remember the last actions.",
    ),
}


@dataclass(frozen=True)
class Finding:
    """Something that looks wrong.

    Attributes:
        kind: one of KINDS.
        columns: names of what it was found in: of observations, "reward", "end" or "action".
    """

    kind: str
    columns: tuple[str, ...]

    def __str__(self) -> str:
        what, cure = KINDS[self.kind]
        return f"{', '.join(self.columns)}: {what}.\n    {cure}"


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found; print it.

    Attributes:
        names: of the O columns of the observation, and "reward".
        error: [O+1] of the model, on held-out episodes, of each change and the reward, as a share
            of its spread: 1 is no better than the mean. NaN where all changes are alike (as of the
            second column of an angle, which turns with the first).
        line: [O+1] the same of a straight line.
        clocks: names of columns that never come back, and so are not looked at.
        findings: what looks wrong, in the order of KINDS; none if all is well.
    """

    names: tuple[str, ...]
    error: np.ndarray
    line: np.ndarray
    clocks: tuple[str, ...]
    findings: tuple[Finding, ...]

    def __str__(self) -> str:
        width = max(map(len, self.names)) + 2
        rows = [f"{'held-out error':{width}}{'model':>9}{'a line':>9}"]
        for name, error, line in zip(self.names, self.error, self.line, strict=True):
            shown = f"{error:9.2g}{line:9.2g}" if np.isfinite(error) else f"{'always alike':>18}"
            rows.append(f"{name:{width}}{shown}" + "   a clock" * (name in self.clocks))
        found = [f"! {finding}" for finding in self.findings] or ["Nothing looks wrong."]
        return "\n".join([*rows, *found])


def diagnose(
    task: Task,
    transitions: Transitions,
    generator: torch.Generator,
    config: DynamicsConfig | None = None,
) -> Diagnosis:
    """Find out how well each number can be predicted, and what stands in the way.

    Every fifth episode is held out, at least one. Where a number is predicted badly, models that
    remember the steps before, and models of fewer episodes, tell what is missing.

    Args:
        task: whose experience it is.
        transitions: whole episodes, the rows of each in order; better twenty than five.
        generator: of the models' randomness.
        config: of the models; by default two members, or else those of the fit to be explained.

    Raises:
        ValueError: for fewer than five episodes.
    """
    numbers = transitions.episodes
    if len(numbers) < 5:
        raise ValueError(
            f"diagnose: expected at least 5 episodes, of which one is held out, got {len(numbers)}."
            " Collect more: twenty short ones say more than a long one."
        )
    examination = _Examination(
        task, transitions, generator, config or DynamicsConfig(num_members=2)
    )
    return examination.run()


class _Examination:
    """The steps of `diagnose`, which share the experience and how models are fitted."""

    def __init__(
        self, task: Task, transitions: Transitions, rng: torch.Generator, config: DynamicsConfig
    ) -> None:
        self.task, self.transitions, self.rng = task, transitions, rng
        angles = task.angles if config.angles is None else config.angles
        obs = torch.as_tensor(transitions.obs)
        self.twisted = [pair for pair in angles if radius_spread(obs, pair) > MAX_SPREAD]
        self.angles = tuple(pair for pair in angles if pair not in self.twisted)
        self.config = dataclasses.replace(config, angles=self.angles, warm_start=False)
        self.names = (*task.obs_names, "reward")
        self.held_out = transitions.episodes[4::5]

    def run(self) -> Diagnosis:
        """All steps."""
        model, error, line = self._judge(0)
        clocks = tuple(np.array(self.names[:-1])[never_back(self.transitions).numpy()])
        found: dict[str, list[str]] = {kind: [] for kind in KINDS}
        for pair in self.twisted:
            found["angles"] += [self.names[column] for column in pair]
        found["wraps"] = [name for i, name in enumerate(self.names[:-1]) if self._wraps(i)]
        found["float32"] = [name for i, name in enumerate(self.names[:-1]) if self._lost(i)]
        explained = {*clocks, *found["wraps"], *found["float32"]}
        high = [i for i, e in enumerate(error) if e > HIGH and self.names[i] not in explained]
        clipped = self._clipped(model, high)
        found["clipped"] = [self.names[i] for i in clipped]
        hidden = {i for pair in clipped.items() for i in (pair[0], *pair[1])}
        high = [i for i in high if i not in hidden]
        for i, kind in self._reasons(model, high, error, line).items():
            found[kind].append(self.names[i])
        if self._same_length():
            found["time"].append("end")
        elif self._ends_unseen(model):
            found["noise"].append("end")
        if self._action_idle(model):
            found["no effect"].append("action")
        findings = tuple(Finding(kind, tuple(names)) for kind, names in found.items() if names)
        return Diagnosis(self.names, error, line, clocks, findings)

    def _judge(
        self, steps: int, half: int | None = None, since: int = 0
    ) -> tuple[FittedModel, np.ndarray, np.ndarray]:
        """Fit with so many remembered steps, to all episodes or a half; held-out errors [O+1]."""
        rows = remembering(self.transitions, self.task, steps, since=max(since, steps))
        test = np.isin(rows.episode, self.held_out)
        learned = [n for n in self.transitions.episodes if n not in self.held_out]
        learned = learned if half is None else learned[half::2]
        width = rows.obs.shape[1]
        past = width - self.task.num_obs
        shifted = tuple((cos + past, sin + past) for cos, sin in self.angles)
        names = tuple(f"column {i}" for i in range(width))
        task = Task(env_id=self.task.env_id, obs_names=names, space=self.task.action_space)
        config = dataclasses.replace(self.config, angles=shifted)
        model = EnsembleModel(task, self.rng, config).fit(rows[np.isin(rows.episode, learned)])
        target = model.targets(rows)[:, past:].double()
        spread = target.std(0, correction=0)
        spread[model.units.outputs.constant[past:]] = torch.nan
        predicted = _mean(model, rows[test])[:, past:], model.line(rows[test])[:, past:]
        errors = ((p - target[test]).square().mean(0).sqrt() / spread for p in predicted)
        mine, line = (e.numpy() for e in errors)
        return model, mine, line

    def _reasons(
        self, model: FittedModel, columns: list[int], error: np.ndarray, line: np.ndarray
    ) -> dict[int, str]:
        """Why these are predicted badly."""
        reasons = {i: "coarse" for i in columns if self._coarse(i)}
        left = [i for i in columns if i not in reasons]
        if not left:
            return reasons
        plain = self._judge(0, since=2)[1]
        past = np.fmin(self._judge(1, since=2)[1], self._judge(2)[1])
        fewer = np.mean([self._judge(0, half=half)[1] for half in (0, 1)], axis=0)
        for i in left:
            if past[i] < FALLS * plain[i] and error[i] > 0.7 * fewer[i]:
                reasons[i] = "hidden"
            elif error[i] < 0.75 * fewer[i] or error[i] < 0.7 * line[i]:  # there is more to learn
                reasons[i] = "data"
            else:
                reasons[i] = "episode" if self._by_episode(model, i) else "noise"
        # An error that falls is no fault yet, unless it is still large.
        return {i: kind for i, kind in reasons.items() if kind != "data" or error[i] > 2 * HIGH}

    def _change(self, column: int) -> np.ndarray:
        return self.transitions.next_obs[:, column] - self.transitions.obs[:, column]

    def _wraps(self, column: int) -> bool:
        """Whether rare changes are as large as the range, and the others far smaller."""
        if any(column in pair for pair in self.angles):
            return False
        change, extent = np.abs(self._change(column)), np.ptp(self.transitions.obs[:, column])
        far = change > 0.6 * extent
        if not 2 <= far.sum() <= 0.2 * len(change):
            return False
        both = len(set(np.sign(self._change(column)[far]))) == 2 or far.sum() >= 5
        return bool(both and np.quantile(change[~far], 0.99) < 0.4 * extent)

    def _coarse(self, column: int) -> bool:
        """Whether values lie on a grid that is coarse beside their changes."""
        if column == len(self.names) - 1:
            return False
        values = np.unique(self.transitions.obs[:, column])
        if not 8 < len(values) < len(self.transitions) / 2:  # fewer are flags, or counts
            return False
        grid = np.diff(values).min()
        off = np.abs(values / grid - np.round(values / grid)).max()
        return bool(off < 0.05 and np.abs(self._change(column)).mean() < 2 * grid)

    def _clipped(self, model: FittedModel, high: list[int]) -> dict[int, list[int]]:
        """Columns that are often at a bound, and what is predicted far worse while they are."""
        rows = self.transitions[np.isin(self.transitions.episode, self.held_out)]
        off = (model.targets(rows).double() - _mean(model, rows)).square().numpy()
        clipped: dict[int, list[int]] = {}
        for i, values in enumerate(self.transitions.obs.T):
            bounds = values.min(), values.max()
            often = np.isin(values, bounds).mean() > OFTEN and len(np.unique(values)) > 8
            there = np.isin(rows.obs[:, i], bounds)
            if often and min(there.sum(), (~there).sum()) >= 10:
                at, elsewhere = off[there].mean(0), off[~there].mean(0)
                worse = [j for j in high if j != i and elsewhere[j] < FALLS**2 * at[j]]
                clipped |= {i: worse} if worse else {}
        return clipped

    def _lost(self, column: int) -> bool:
        """Whether 32 bits tell its values apart no more, or hardly."""
        values = self.transitions.obs[:, column]
        digits = np.spacing(np.abs(values).max().astype(np.float32))
        return bool(0 < values.astype(float).std() < 50 * digits)

    def _by_episode(self, model: FittedModel, column: int) -> bool:
        """Whether what the model leaves over has a mean of its own in each held-out episode."""
        rest = (model.targets(self.transitions).double() - _mean(model, self.transitions)).numpy()
        parts = [rest[self.transitions.episode == n, column] for n in self.held_out]
        within = np.mean([part.var() for part in parts])
        between = np.var([part.mean() for part in parts])
        return bool(between > 0.5 * within)

    def _same_length(self) -> bool:
        """Whether episodes terminate, and all after as many steps."""
        ended = self.transitions.episode[self.transitions.terminated]
        lengths = np.unique(self.transitions.episode, return_counts=True)[1]
        return bool(len(ended) >= 5 and len(ended) == len(lengths) and np.ptp(lengths) == 0)

    def _ends_unseen(self, model: FittedModel) -> bool:
        """Whether ends come as a surprise, though there were enough of them to learn from."""
        rows = self.transitions[np.isin(self.transitions.episode, self.held_out)]
        ended = torch.as_tensor(rows.terminated)
        if "termination" not in model.history or ended.sum() < 10:
            return False
        chance = model.step(*_inputs(model, rows)).terminated.mean(0).clamp(1e-6, 1 - 1e-6)
        rate = ended.double().mean()
        mine = -(torch.where(ended, chance, 1 - chance)).log().mean()
        return bool(mine > 0.9 * -(rate * rate.log() + (1 - rate) * (1 - rate).log()))

    def _action_idle(self, model: FittedModel) -> bool:
        """Whether other actions would predict as well: nothing follows from them.

        They move the predictions by next to nothing, or by little, and held-out rows are predicted
        no better with their own actions than with those of other rows.
        """
        rows = self.transitions[np.isin(self.transitions.episode, self.held_out)]
        # Of all rows: those held out may have one and the same action.
        order = torch.randint(len(self.transitions), (len(rows),), generator=self.rng).numpy()
        swapped = dataclasses.replace(rows, action=self.transitions.action[order])
        inputs = [_inputs(model, r) for r in (rows, swapped)]
        if torch.equal(inputs[0][1], inputs[1][1]):
            return False  # nobody tried another one
        with torch.inference_mode():
            steps = [model.step(*x) for x in inputs]
        one, other = (torch.cat([s.next_obs, s.reward[..., None]], -1) for s in steps)
        moved = ((one - other) / model.units.outputs.std).square().mean((0, 1))
        ended = (steps[0].terminated - steps[1].terminated).abs().mean()
        if ended >= 0.01:
            return False
        most = (moved * ~model.units.outputs.constant).max()
        if most < 1e-4:
            return True
        target = model.targets(rows).double()
        errors = [(_mean(model, r) - target).square() for r in (rows, swapped)]
        worse = errors[1] - errors[0]
        surprise = worse.mean(0) / (worse.std(0) / len(worse) ** 0.5).clamp(min=1e-12)
        return bool(most < 1e-2 and surprise[~model.units.outputs.constant].max() < 3)


def remembering(transitions: Transitions, task: Task, steps: int, *, since: int = 0) -> Transitions:
    """Rows whose observation begins with the steps before; only the present changes.

    Args:
        transitions: whole episodes, the rows of each in order.
        task: whose.
        steps: k, how many; the first k rows of each episode have no such past, and are left out.
        since: leave out so many, if that is more.

    Returns:
        Transitions with obs [T', k (O+A) + O], oldest first.
    """
    parts, since = [], max(since, steps)
    for number in transitions.episodes:
        part = transitions[transitions.episode == number]
        if len(part) <= since:
            continue
        row = np.hstack([part.obs, task.actions.encode(part.action).numpy()])
        past = [row[since - k : len(part) - k] for k in range(steps, 0, -1)]
        kept = part[since:]
        obs = np.hstack([*past, kept.obs]).astype(np.float32)
        after = np.hstack([*past, kept.next_obs]).astype(np.float32)
        parts.append(dataclasses.replace(kept, obs=obs, next_obs=after))
    if not parts:
        raise ValueError(
            f"remembering: expected an episode of more than {since} steps, got none. Remember less."
        )
    return concatenate(parts)


def _inputs(model: FittedModel, rows: Transitions) -> tuple[Tensor, Tensor]:
    return torch.as_tensor(rows.obs, dtype=torch.float32), model.task.actions.encode(rows.action)


@torch.inference_mode()
def _mean(model: FittedModel, rows: Transitions) -> Tensor:
    return model.predict(*_inputs(model, rows)).mean.mean(0).double()
