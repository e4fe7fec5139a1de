"""The build of notebook 02: a model of the dynamics on a blank page."""

import numpy as np
import torch

from mbrl_helpers.exercises.builds import Build, Stage, Unfit, attempt, finite_array
from mbrl_helpers.exercises.frame import Wrong
from mbrl_helpers.exercises.worlds import cartpole, fallen

NUM_ROWS, STEPS = 1000, (1, 10, 50)
BOUNDS = {1: 0.02, 10: 0.03, 50: 0.6}  # shares of the spread of each column
WEAKER = 6.0  # N, of another cart: who knows CartPole by heart does not know it


def fit(rows):
    def features(obs, action):
        return np.column_stack([obs, action, np.ones(len(obs))])

    x, change = features(rows["obs"], rows["action"]), rows["next_obs"] - rows["obs"]
    weights = np.linalg.lstsq(x, change, rcond=None)[0]

    def step(obs, action):
        return obs + features(obs, action) @ weights

    return step


def fit_network(rows):
    """Another answer that passes."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    x = np.column_stack([rows["obs"], np.eye(2)[rows["action"]]])
    change = rows["next_obs"] - rows["obs"]
    x_mean, x_std, y_mean, y_std = x.mean(0), x.std(0), change.mean(0), change.std(0)
    inputs, targets = (torch.tensor(z, dtype=torch.float32)
                       for z in ((x - x_mean) / x_std, (change - y_mean) / y_std))  # fmt: skip
    net = torch.nn.Sequential(torch.nn.Linear(6, 64), torch.nn.SiLU(), torch.nn.Linear(64, 64),
                              torch.nn.SiLU(), torch.nn.Linear(64, 4))  # fmt: skip
    updates = 2500
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, updates)
    for _ in range(updates):
        batch = torch.randint(len(inputs), (64,), generator=generator)
        loss = (net(inputs[batch]) - targets[batch]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()

    def step(obs, action):
        x = (np.column_stack([obs, np.eye(2)[action]]) - x_mean) / x_std
        with torch.no_grad():
            y = net(torch.tensor(x, dtype=torch.float32)).numpy()
        return obs + y * y_std + y_mean

    return step


def starter(rows):
    obs, action, next_obs = rows["obs"], rows["action"], rows["next_obs"]
    inputs = ...  # what the next state depends on
    targets = ...  # what you ask for: the next state, or something easier?
    ...  # fit, with what is to be remembered

    def step(obs, action):
        """Next states [K, 4] of states [K, 4] and actions [K]."""
        return ...

    return step


def random_episodes(num, longest, seed, newtons=10.0):
    """States [N, T+1, 4] and actions [N, T] of random pushes, and while it stood [N, T+1]."""
    rng = np.random.default_rng(seed)
    obs = rng.uniform(-0.05, 0.05, (num, 4))
    states, actions, stood = [obs], [], [np.ones(num, bool)]
    for _ in range(longest):
        actions.append(rng.integers(2, size=num))
        states.append(cartpole(states[-1], actions[-1], newtons))
        stood.append(stood[-1] & ~fallen(states[-1]))
    return np.stack(states, 1), np.stack(actions, 1), np.stack(stood, 1)


def experience(seed, newtons=10.0):
    """Rows of random episodes, one after the other, as a dictionary of arrays."""
    states, actions, stood = random_episodes(100, 200, seed, newtons)
    lengths = stood[:, :-1].sum(axis=1)
    episode = np.repeat(np.arange(100), lengths)[:NUM_ROWS]
    time = np.concatenate([np.arange(n) for n in lengths])[:NUM_ROWS]
    return {
        "obs": states[episode, time], "action": actions[episode, time],
        "next_obs": states[episode, time + 1], "episode": episode,
    }  # fmt: skip


def ask(step, obs, action):
    """What a learner's step says, checked."""
    before = obs.copy()
    found = attempt(step, obs, action)
    if not np.array_equal(obs, before):
        raise Unfit("step changes the states that it is given: work on a copy.")
    return np.clip(finite_array(found, obs.shape, "What step returns"), -1e6, 1e6)  # far enough


def errors(step, states, actions):
    """Error after 1, 10 and 50 steps, a share of the columns' spread, root mean square."""
    imagined, found = states[:, 0], {}
    spread = states[:, 1:].std(axis=(0, 1))
    for t in range(actions.shape[1]):
        imagined = ask(step, imagined, actions[:, t])
        if t + 1 in STEPS:
            found[t + 1] = float(np.sqrt((((imagined - states[:, t + 1]) / spread) ** 2).mean()))
    return found


def check_step(step, obs, action):
    """What breaks the contract whatever the error."""
    if not callable(step):
        raise Unfit(
            f"fit should return a function, step(obs, action); yours returns {type(step).__name__}."
        )
    together = ask(step, obs, action)
    if not np.allclose(together, ask(step, obs, action), atol=1e-5):
        raise Unfit("Asked twice, step answers differently. Is there chance in it (dropout)?")
    alone = np.concatenate([ask(step, obs[[k]], action[[k]]) for k in range(8)])
    if not np.allclose(together[:8], alone, atol=1e-4):
        raise Unfit(
            "A row's prediction depends on which other rows are asked with it. Mean and deviation "
            "must be those of the training data, for ever."
        )


def diagnose(step, obs, action, next_obs, rows):
    """Which known fault predicts like this, one step ahead."""
    found, change = ask(step, obs, action), next_obs - obs

    def error(predicted, truth=next_obs, scale=change.std(axis=0)):  # noqa: B008
        return np.sqrt((((predicted - truth) / scale) ** 2).mean())

    own = error(found)
    if np.allclose(found, obs, atol=1e-6):
        return "It always says that nothing changes."
    if error(found + obs) < 0.2:
        return "step returns the *change*. The next state is the state plus the change."
    if error(ask(step, obs, 1 - action)) < 0.5 * own:
        return "Left and right are swapped: with the other action its predictions are far better."
    if np.allclose(found, ask(step, obs, 1 - action), atol=1e-6):
        return "Both actions lead to the same state: `action` is not among the inputs."
    for likely, text in rivals(rows):
        if error(found, likely(obs, action)) < 0.3 * own:
            return text
    learned = ask(step, rows["obs"], rows["action"])
    known = error(learned, rows["next_obs"])
    if known < 0.1 * own:
        return (
            "On the rows that it was fitted to its error is a small part of that on others: it has "
            "learned them by heart."
        )
    shift = np.array([np.polyfit(c, t, 1) for c, t in zip((found - obs).T, change.T)])  # noqa: B905
    if error(obs + (found - obs) * shift[:, 0] + shift[:, 1]) < min(0.25 * own, 0.1):
        return (
            "Its changes are right up to a factor and a shift: a normalisation was not undone. "
            "Multiply by the deviation of the changes, then add their mean."
        )
    return not_near_enough(own)


def not_near_enough(own):
    """What to say of an error that no known fault explains."""
    if own > 0.5:
        return (
            "One step ahead it is hardly better than to say that nothing changes. Ask for the "
            "change, in standard units, and train for some thousands of updates with small batches."
        )
    return (
        "It has understood what happens, but not well enough: such an error grows with every step "
        "that is predicted from the one before. Ask for changes, in standard units; train until it "
        "no longer gets better; and try a straight line."
    )


def rivals(rows):
    """Models that were fitted with a known fault, and what to say to who predicts alike."""
    obs, action = rows["obs"], rows["action"]
    joined = fit({"obs": obs[:-1], "action": action[:-1], "next_obs": obs[1:]})
    text = (
        "It predicts like a model of which rows of two episodes are joined: the row below the last "
        "one of an episode is the start of another. Use `next_obs`, which knows where each led."
    )
    yield joined, text
    x = np.column_stack([obs, action])
    weights = np.linalg.lstsq(x, rows["next_obs"] - obs, rcond=None)[0]
    text = (
        "Without a constant, a line must go through 0: action 0 can't push, and it does. Encode "
        "the action one-hot, or add a column of ones."
    )
    yield (lambda obs, action: obs + np.column_stack([obs, action]) @ weights), text


def learn(answer, rows):
    """What a learner's fit makes of rows, which it must leave as they are."""
    told = {name: column.copy() for name, column in rows.items()}
    step = attempt(answer, told)
    if any(not np.array_equal(told[name], rows[name]) for name in rows):
        raise Unfit("fit changes the rows that it is given: work on copies.")
    return step


def on_another_cart(answer):
    """The same exam with a weaker motor: a stage."""
    rows = experience(3, WEAKER)
    states, actions, stood = random_episodes(400, 10, 4, WEAKER)
    seen = stood[:, -1]
    step = learn(answer, rows)
    check_step(step, states[:200, 0], actions[:200, 0])
    measured = errors(step, states[seen], actions[seen])[10]
    now, then = states[seen][:, :-1].reshape(-1, 4), states[seen][:, 1:].reshape(-1, 4)
    pushes = actions[seen].ravel()
    found, usual = ask(step, now, pushes), cartpole(now, pushes)
    if np.square(found - usual).mean() < 0.1 * np.square(found - then).mean():
        fault = (
            f"This cart is pushed with {WEAKER:g} N, and step predicts the 10 N of CartPole, which "
            "none of its rows shows. It knows the equations by heart: fit must learn from `rows`."
        )
    else:
        fault = "Right for one cart, not for another. " + diagnose(step, now, pushes, then, rows)
    return Stage(
        name=f"another cart, pushed with {WEAKER:g} N, 10 steps ahead", measured=measured,
        unit="of the spread", at_most=BOUNDS[10], fault=fault,
    )  # fmt: skip


def judge(answer):
    """The exam of the notebook: unseen random episodes, 1, 10 and 50 steps ahead; a new cart."""
    rows = experience(1)
    step = learn(answer, rows)
    states, actions, stood = random_episodes(4000, STEPS[-1], 2)
    seen = stood[:, STEPS[-1] - 1]  # the few that stood for so long
    check_step(step, states[:200, 0], actions[:200, 0])
    found = errors(step, states[seen], actions[seen])
    now, then = states[seen][:, :-1].reshape(-1, 4), states[seen][:, 1:].reshape(-1, 4)
    for steps in STEPS:
        yield Stage(
            name=f"unseen episodes, {steps} step{'s' * (steps > 1)} ahead", measured=found[steps],
            unit="of the spread", at_most=BOUNDS[steps],
            fault="" if found[steps] <= BOUNDS[steps]
            else diagnose(step, now, actions[seen].ravel(), then, rows),
        )  # fmt: skip
    yield on_another_cart(answer)


def variant(how):
    """The reference with a fault."""

    def faulty(rows):
        obs, action = rows["obs"], rows["action"]
        ones = np.ones((len(obs), 1))
        columns = [obs, ones] if how == "no action" else [obs, action[:, None], ones]
        x, change = np.hstack(columns), rows["next_obs"] - obs
        mean, std = change.mean(axis=0), change.std(axis=0)
        weights = np.linalg.lstsq(x, (change - mean) / std, rcond=None)[0]

        def step(obs, action):
            action = 1 - action if how == "swapped" else action
            ones = np.ones((len(obs), 1))
            columns = [obs, ones] if how == "no action" else [obs, action[:, None], ones]
            x = np.hstack(columns)
            if how == "own statistics":
                x = (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-8)
            units = x @ weights
            changes = units * std + mean
            if how == "by heart":
                gaps = ((obs[:, None] - rows["obs"]) ** 2).sum(axis=2)
                near = (gaps + 9 * (action[:, None] != rows["action"])).argmin(axis=1)
                changes = rows["next_obs"][near] - rows["obs"][near]
            results = {
                "change": changes, "nothing": obs.copy(), "not undone": obs + units,
                "nan": np.full_like(obs, np.nan), "transposed": (obs + changes).T,
            }  # fmt: skip
            if how == "in place":
                obs += changes
                return obs
            return results.get(how, obs + changes)

        return None if how == "no step" else step

    return faulty


def naive(rows):
    """The tutorial's network: next states, raw numbers, a hundred updates."""
    torch.manual_seed(0)
    x = torch.tensor(np.column_stack([rows["obs"], rows["action"]]), dtype=torch.float32)
    y = torch.tensor(rows["next_obs"], dtype=torch.float32)
    net = torch.nn.Sequential(torch.nn.Linear(5, 64), torch.nn.ReLU(), torch.nn.Linear(64, 4))
    optimiser = torch.optim.Adam(net.parameters())
    for _ in range(100):
        loss = (net(x) - y).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return lambda obs, action: net(
        torch.tensor(np.column_stack([obs, action]), dtype=torch.float32)
    ).detach()


def joins_episodes(rows, fitted=fit):
    return fitted(rows | {"obs": rows["obs"][:-1], "action": rows["action"][:-1],
                       "next_obs": rows["obs"][1:]})  # fmt: skip


def no_constant(rows):
    x, change = np.column_stack([rows["obs"], rows["action"]]), rows["next_obs"] - rows["obs"]
    weights = np.linalg.lstsq(x, change, rcond=None)[0]
    return lambda obs, action: obs + np.column_stack([obs, action]) @ weights


def equations_by_heart(rows, equations=cartpole):
    return equations


def asks_gymnasium(rows):
    import gymnasium as gym

    env = gym.make("CartPole-v1").unwrapped
    env.reset()

    def step(obs, action):
        following = np.empty_like(obs)
        for k in range(len(obs)):
            env.state, env.steps_beyond_terminated = obs[k], None
            env.step(int(action[k]))
            following[k] = env.state
        return following

    return step


BUILD = Build(
    reference=fit,
    starter=starter,
    judge=judge,
    hints=(
        "What changes in a fiftieth of a second, and what stays nearly as it was? Which of the two "
        "should a model be asked for?",
        "Fit the *change* from state and action: by least squares, with a column of ones; or by a "
        "network, with inputs and changes in standard units and thousands of small updates. `step` "
        "adds the predicted change to the state, and remembers all that it needs of the data.",
        "A position of 0.10 and a speed of 0.50 become 0.11 and 0.50 + 0.20 after a push: the "
        "changes are 0.01 = 0.02 * 0.50, and 0.20, which hangs on the action alone.",
        "`x = np.column_stack([obs, action, np.ones(len(obs))])`, "
        "`weights = np.linalg.lstsq(x, next_obs - obs, rcond=None)[0]`, and in `step` "
        "`obs + x @ weights`",
    ),
    faulty=(
        Wrong(naive, "hardly better than to say that nothing changes"),
        Wrong(variant("change"), "step returns the *change*"),
        Wrong(variant("nothing"), "always says that nothing changes"),
        Wrong(variant("not undone"), "a normalisation was not undone"),
        Wrong(variant("no action"), "Both actions lead to the same state"),
        Wrong(variant("swapped"), "Left and right are swapped"),
        Wrong(variant("own statistics"), "which other rows are asked with it"),
        Wrong(variant("by heart"), "learned them by heart"),
        Wrong(joins_episodes, "rows of two episodes are joined"),
        Wrong(no_constant, "one-hot, or add a column of ones"),
        Wrong(equations_by_heart, "It knows the equations by heart"),
        Wrong(asks_gymnasium, "It knows the equations by heart"),
        Wrong(variant("in place"), "changes the states"),
        Wrong(variant("nan"), "NaN"),
        Wrong(variant("transposed"), "array of shape [200, 4]"),
        Wrong(variant("no step"), "should return a function"),
    ),
)
