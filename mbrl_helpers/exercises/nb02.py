"""Exercises of notebook 02, learning the dynamics."""

import torch

from mbrl_helpers.exercises.build02 import BUILD
from mbrl_helpers.exercises.frame import Exercise, Question, Wrong
from mbrl_helpers.exercises.inputs import count, normal, one_of, scale

# --- 02.1: many steps ahead -----------------------------------------------------------------------


def open_loop(step, states, actions):
    imagined = [states[:, 0]]
    for t in range(actions.shape[1]):
        imagined.append(step(imagined[-1], actions[:, t]))
    return torch.stack(imagined, dim=1)


def _peeks(step, states, actions):
    imagined = [states[:, 0]]
    for t in range(actions.shape[1]):
        imagined.append(step(states[:, t], actions[:, t]))
    return torch.stack(imagined, dim=1)


def _without_start(step, states, actions):
    return open_loop(step, states, actions)[:, 1:]


def _never_moves_on(step, states, actions):
    imagined = [states[:, 0]]
    for t in range(actions.shape[1]):
        imagined.append(step(states[:, 0], actions[:, t]))
    return torch.stack(imagined, dim=1)


def _first_action_only(step, states, actions):
    imagined = [states[:, 0]]
    for _ in range(actions.shape[1]):
        imagined.append(step(imagined[-1], actions[:, 0]))
    return torch.stack(imagined, dim=1)


def _adds_the_state(step, states, actions):
    imagined = [states[:, 0]]
    for t in range(actions.shape[1]):
        imagined.append(imagined[-1] + step(imagined[-1], actions[:, t]))
    return torch.stack(imagined, dim=1)


def _time_first(step, states, actions):
    return open_loop(step, states, actions).transpose(0, 1)


def _stretches(rng):
    num, horizon, size = count(rng), count(rng, most=60), count(rng, most=6)
    turn, push = normal(rng, size, size), normal(rng, 5, size)
    turn = turn / torch.linalg.matrix_norm(turn, 2)  # it never blows up

    def step(obs, action):
        if obs.shape != (num, size) or action.shape != (num,):
            raise ValueError(
                f"step: expected states [{num}, {size}] and actions [{num}], got "
                f"{list(obs.shape)} and {list(action.shape)}. Give it all K stretches at once."
            )
        return torch.sin(obs @ turn) + push[action]

    actions = torch.as_tensor(rng.integers(5, size=(num, horizon)))
    return step, scale(rng, 0.1, 10) * normal(rng, num, horizon + 1, size), actions


# --- 02.3: one scale for all ----------------------------------------------------------------------


def standardise(x, data):
    mean, std = data.mean(dim=0), data.std(dim=0)
    return (x - mean) / torch.where(std > 0, std, 1.0)


def _own_statistics(x, data):
    return standardise(x, x)


def _own_statistics_plainly(x, data):
    return (x - x.mean(0)) / x.std(0)


def _scales_only(x, data):
    std = data.std(dim=0)
    return x / torch.where(std > 0, std, 1.0)


def _by_variance(x, data):
    mean, var = data.mean(dim=0), data.var(dim=0)
    return (x - mean) / torch.where(var > 0, var, 1.0)


def _one_scale_for_all_columns(x, data):
    return (x - data.mean()) / data.std()


def _plus(little):
    return lambda x, data: (x - data.mean(dim=0)) / (data.std(dim=0) + little)


def _at_least(little):
    return lambda x, data: (x - data.mean(dim=0)) / data.std(dim=0).clamp(min=little)


LITTLE = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-12)


def _constant_below(threshold):
    def answer(x, data):
        std = data.std(dim=0)
        return (x - data.mean(dim=0)) / torch.where(std < threshold, 1.0, std)

    return answer


def _hides_infinities(x, data):
    return torch.nan_to_num((x - data.mean(dim=0)) / data.std(dim=0))


def _hides_infinities_as_zeros(x, data):
    return torch.nan_to_num((x - data.mean(dim=0)) / data.std(dim=0), posinf=0.0, neginf=0.0)


def _constant_column(x, data):
    return (x - data.mean(dim=0)) / data.std(dim=0)


def _divides_by_all(x, data):
    """By T, not T - 1: as good."""
    std = data.std(dim=0, correction=0)
    return (x - data.mean(dim=0)) / torch.where(std > 0, std, 1.0)


def _columns(rng):
    """Columns of many scales, some of them constant in the data and not in `x`."""
    size, leading = count(rng, most=8), [(), (6,), (1,), (3, 4), (2, 1, 3)][rng.integers(5)]
    spread, shift = 10.0 ** rng.uniform(-5, 3, size), rng.normal(size=size)
    data, x = (spread * (shift + rng.normal(size=(*n, size)))
               for n in ((count(rng, 2, 2000),), leading))  # fmt: skip
    data[:, rng.random(size) < 0.3] = one_of(rng, 0, 1, -64, 1024)
    return tuple(torch.as_tensor(a, dtype=torch.float32) for a in (x, data))


# --- 02.6: bug hunt -------------------------------------------------------------------------------


def predict_next_as_given(net, obs, action, inputs, changes):
    x = torch.cat([obs, torch.eye(2)[action]], dim=-1)
    x = (x - inputs.mean(0)) / inputs.std(0)
    change = net(x) * changes.std(0)
    return x[..., :4] + change


def predict_next(net, obs, action, inputs, changes):
    x = torch.cat([obs, torch.eye(2)[action]], dim=-1)
    x = (x - inputs.mean(0)) / inputs.std(0)
    change = net(x) * changes.std(0) + changes.mean(0)
    return obs + change


def _still_no_mean(net, obs, action, inputs, changes):
    x = torch.cat([obs, torch.eye(2)[action]], dim=-1)
    x = (x - inputs.mean(0)) / inputs.std(0)
    return obs + net(x) * changes.std(0)


def _still_from_normalised(net, obs, action, inputs, changes):
    x = torch.cat([obs, torch.eye(2)[action]], dim=-1)
    x = (x - inputs.mean(0)) / inputs.std(0)
    return x[..., :4] + net(x) * changes.std(0) + changes.mean(0)


def _change_only(net, obs, action, inputs, changes):
    x = torch.cat([obs, torch.eye(2)[action]], dim=-1)
    x = (x - inputs.mean(0)) / inputs.std(0)
    return net(x) * changes.std(0) + changes.mean(0)


def _mean_before_scale(net, obs, action, inputs, changes):
    x = torch.cat([obs, torch.eye(2)[action]], dim=-1)
    x = (x - inputs.mean(0)) / inputs.std(0)
    return obs + (net(x) + changes.mean(0)) * changes.std(0)


def _standard_change(net, obs, action, inputs, changes):
    x = torch.cat([obs, torch.eye(2)[action]], dim=-1)
    x = (x - inputs.mean(0)) / inputs.std(0)
    return obs + net(x)


def _raw_inputs(net, obs, action, inputs, changes):
    x = torch.cat([obs, torch.eye(2)[action]], dim=-1)
    return obs + net(x) * changes.std(0) + changes.mean(0)


def _divides_by_all_rows(net, obs, action, inputs, changes):
    x = torch.cat([obs, torch.eye(2)[action]], dim=-1)
    x = (x - inputs.mean(0)) / inputs.std(0, correction=0)
    return obs + net(x) * changes.std(0, correction=0) + changes.mean(0)


def _net_and_data(rng):
    weight, num, rows = normal(rng, 6, 4), count(rng), count(rng, 3, 600)

    def net(x):
        return torch.tanh(x @ weight)

    def draw(num, size):
        numbers = rng.normal(size=size) + rng.normal(size=(num, size)) * rng.uniform(0.2, 2, size)
        return torch.as_tensor(numbers, dtype=torch.float32)

    obs, action = scale(rng, 0.1, 10) * draw(num, 4), torch.as_tensor(rng.integers(2, size=num))
    return net, obs, action, draw(rows, 6), scale(rng, 0.1, 10) * draw(rows, 4)


EXERCISES = {
    "02.2": Question(
        answer="a",
        replies={
            "a": "Yes. One step is a sprint, fifty are a marathon: a small error leads to a state "
                 "that is slightly off, from which the next error is larger.",
            "b": "One would hope so. But each prediction is made from the one before, which is "
                 "wrong already: each adds an error, and the pole makes all of them grow.",
            "c": "Nothing that was fitted to 1,000 rows is exact for 50 steps. Every error becomes "
                 "part of the next input.",
        },
        hints=("Where does the input of the second prediction come from?",),
    ),
    "02.1": Exercise(
        reference=open_loop,
        inputs=_stretches,
        wrong=(
            Wrong(_peeks, "This starts every prediction from the true state, `states[:, t]`: fifty "
                  "one-step predictions, with the answers at hand. A planner has only the first."),
            Wrong(_without_start, "Nearly: the start itself belongs to the result, [K, H+1, O]."),
            Wrong(_never_moves_on, "Every prediction starts from the same first state. Go on from "
                  "the last prediction."),
            Wrong(_first_action_only, "It repeats the first action. Step t takes `actions[:, t]`."),
            Wrong(_adds_the_state, "`step` returns the next state, not a change: don't add it."),
            Wrong(_time_first, "The axes are [H+1, K, O]. Stack along `dim=1`."),
        ),
        hints=(
            "From which state does the third prediction start: from one that happened, or from one "
            "that you imagined?",
            "Begin with a list that holds `states[:, 0]`, and append one prediction for each "
            "action, made from the last one in the list.",
            "Let `step` add the action. States 5, 9, 9, 9 and actions 1, 1, -2 give 5, 6, 7, 5: of "
            "what happened only the start counts.",
            "`imagined.append(step(imagined[-1], actions[:, t]))`, and in the end "
            "`torch.stack(imagined, dim=1)`",
        ),
    ),
    "02.3": Exercise(
        reference=standardise,
        inputs=_columns,
        also=(_divides_by_all, _constant_below(1e-8)),
        wrong=(
            Wrong(_own_statistics, "These are mean and deviation of `x` itself. A single "
                  "observation has none: use those of `data`, for ever.",
                  (_own_statistics_plainly,)),
            Wrong(_scales_only, "The scale is right, but the mean of `data` is not taken away."),
            Wrong(_by_variance, "Divided by the variance, numbers have no common scale: take its "
                  "square root, the standard deviation."),
            Wrong(_one_scale_for_all_columns, "One mean and one deviation for all columns: each "
                  "column needs its own, `dim=0`."),
            Wrong(_plus(1e-8), "A column that was constant and now changes by 2 becomes 2 divided "
                  "by next to nothing, which may be millions: a tiny number is hardly better than "
                  "0. Divide by 1 there.",
                  (*map(_plus, LITTLE), *map(_at_least, LITTLE))),
            Wrong(_constant_below(1e-3), "A column may be small without being constant: its unit "
                  "is large, that is all. It needs its own deviation; only where that is 0, "
                  "divide by 1.", tuple(map(_constant_below, (1e-1, 1e-2, 1e-4)))),
            Wrong(_hides_infinities, "`nan_to_num` hides the division by 0: a column that was "
                  "constant becomes 0 or 3e38, whatever `x` is. Divide by 1 there, so that the "
                  "difference from the mean is left.", (_hides_infinities_as_zeros,)),
            Wrong(_constant_column, "A column of `data` is constant: its deviation is 0, and you "
                  "divide by it. Divide by 1 there."),
        ),
        hints=(
            "`x` may be a single observation. Whose mean can you take away from it?",
            "`data.mean(dim=0)` and `data.std(dim=0)` give one number for each column. Where a "
            "deviation is 0, put 1 in its place.",
            "A column 2, 4, 6 of `data` has mean 4 and deviation 2: x = 8 becomes (8 - 4) / 2 = 2. "
            "Of a column 7, 7, 7: x = 9 becomes 9 - 7 = 2.",
            "`(x - mean) / torch.where(std > 0, std, 1.0)`",
        ),
    ),
    "02.4": Question(
        answer="c",
        replies={
            "a": "In the end, with much data, it may win. But it has some 18,000 weights to find, "
                 "and 100 rows to find them from.",
            "b": "Count what each of them has to find: 28 coefficients, and some 18,000 weights.",
            "c": "Yes. Over a fiftieth of a second, and near upright, CartPole is nearly linear, "
                 "and 28 coefficients are settled by a few dozen rows.",
        },
        hints=("How many numbers does each of them have to determine from the data?",),
    ),
    "02.5": Question(
        answer="b",
        replies={
            "a": "It would be, if the angle stayed small: but let go at any angle, sine and cosine "
                 "go all the way round, and no straight line does.",
            "b": "Yes. A line is right near *one* point of a curve. Once the data go all round the "
                 "circle, there is no such point, and no number of rows can mend that.",
            "c": "A network of 100 rows is not good, but look at what the line leaves over: with a "
                 "thousand times the rows it leaves as much.",
        },
        hints=("Draw a sine from -180 to 180 degrees, and the best straight line through it.",),
    ),
    "02.6": Exercise(
        reference=predict_next,
        inputs=_net_and_data,
        given=predict_next_as_given,
        also=(_divides_by_all_rows,),
        wrong=(
            Wrong(_still_no_mean, "One fault is gone. The other: the outputs were normalised by "
                  "deviation *and mean* of the changes, and only one of them is undone."),
            Wrong(_still_from_normalised, "One fault is gone. The other: `x` has been normalised "
                  "by now. To what should the change be added?"),
            Wrong(_change_only, "This returns the change. The next state is the state plus the "
                  "change."),
            Wrong(_mean_before_scale, "The order is turned: to undo `(y - mean) / std`, multiply "
                  "by the deviation first, then add the mean."),
            Wrong(_standard_change, "`net(x)` is in standard units: bring it back to metres and "
                  "radians before you add it to `obs`."),
            Wrong(_raw_inputs, "The net was trained on normalised inputs: leave that line in."),
        ),
        hints=(
            "Follow the units, line by line: which numbers are in metres and radians, and which in "
            "standard deviations?",
            "Two operations brought the changes to mean 0 and deviation 1: both must be undone. "
            "And a change is added to the state as it was, in its own units.",
            "Changes with mean 0.5 and deviation 2: net(x) = 1 says a change of 1 * 2 + 0.5 = 2.5, "
            "which leads from obs = 10 to 12.5.",
            "`change = net(x) * changes.std(0) + changes.mean(0)`, and `return obs + change`",
        ),
    ),
    "02.b": BUILD,
}  # fmt: skip
