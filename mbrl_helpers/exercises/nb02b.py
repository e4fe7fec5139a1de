"""Exercises of notebook 02b: when to stop, what to hold out, what heads learn."""

import copy

import numpy as np
import torch
from torch import nn

from mbrl_helpers.exercises.frame import Exercise, Question, Wrong
from mbrl_helpers.exercises.inputs import count, normal, one_of, scale

# --- 02b.2: early stopping ------------------------------------------------------------------------


def early_stopping(net, train_more, look, patience, max_looks):
    lowest = float("inf")
    for _ in range(max_looks):
        train_more(net)
        loss = look(net)
        if loss < lowest:
            lowest, since = loss, 0
            kept = copy.deepcopy(net.state_dict())
        else:
            since += 1
        if since == patience:
            break
    return kept


def _no_copy(net, train_more, look, patience, max_looks):
    early_stopping(net, train_more, look, patience, max_looks)
    return net.state_dict()


def _ignores_patience(net, train_more, look, patience, max_looks):
    return early_stopping(net, train_more, look, max_looks, max_looks)


def _against_the_last_look(net, train_more, look, patience, max_looks):
    last, since = float("inf"), 0
    for _ in range(max_looks):
        train_more(net)
        loss = look(net)
        if loss < last:
            since, kept = 0, copy.deepcopy(net.state_dict())
        else:
            since += 1
        last = loss
        if since == patience:
            break
    return kept


def _never_forgives(net, train_more, look, patience, max_looks):
    lowest, since = float("inf"), 0
    for _ in range(max_looks):
        train_more(net)
        loss = look(net)
        if loss < lowest:
            lowest, kept = loss, copy.deepcopy(net.state_dict())
        else:
            since += 1
        if since == patience:
            break
    return kept


def _too_patient(net, train_more, look, patience, max_looks):
    return early_stopping(net, train_more, look, patience + 1, max_looks)


def _looks_before_training(net, train_more, look, patience, max_looks):
    lowest, since = float("inf"), 0
    for _ in range(max_looks):
        loss = look(net)
        if loss < lowest:
            lowest, since, kept = loss, 0, copy.deepcopy(net.state_dict())
        else:
            since += 1
        if since == patience:
            break
        train_more(net)
    return kept


def _keeps_the_highest(net, train_more, look, patience, max_looks):
    def negative(net):
        return -look(net)

    return early_stopping(net, train_more, negative, patience, max_looks)


def _wants(better):
    """Early stopping that takes a look for a new best only if it is better by some rule."""

    def answer(net, train_more, look, patience, max_looks):
        lowest, since = float("inf"), 0
        for _ in range(max_looks):
            train_more(net)
            loss = look(net)
            if better(loss, lowest):
                lowest, since, kept = loss, 0, copy.deepcopy(net.state_dict())
            else:
                since += 1
            if since == patience:
                break
        return kept

    return answer


MARGINS = tuple(
    _wants(rule)
    for delta in (0.1, 0.05, 0.01, 5e-3, 1e-3, 1e-4, 1e-5, 1e-6)
    for rule in (
        lambda loss, lowest, delta=delta: loss < lowest - delta,
        lambda loss, lowest, delta=delta: loss < lowest * (1 - delta),
    )
)
ROUNDED = tuple(
    _wants(lambda loss, lowest, digits=digits: round(loss, digits) < lowest)
    for digits in range(1, 7)
) + tuple(
    _wants(
        lambda loss, lowest, digits=digits: round(loss, digits) < round(lowest, digits)
        if np.isfinite(lowest) else True
    )
    for digits in range(1, 7)
)  # fmt: skip
_ties_count = _wants(lambda loss, lowest: loss <= lowest)


def _copies_the_network(net, train_more, look, patience, max_looks):
    """A copy of the whole network each time: as good, if its weights are returned."""
    losses, nets = [], []
    while len(losses) < max_looks and len(losses) - int(np.argmin(losses or [0])) <= patience:
        train_more(net)
        losses.append(look(net))
        nets.append(copy.deepcopy(net))
    return nets[int(np.argmin(losses))].state_dict()


def _training(rng):
    """Weights that tell how often they were trained, and losses with ties and recoveries.

    Of any size, and with improvements that are a small part of them: no margin is small enough.
    """
    num, size = count(rng, most=100), count(rng, most=4)
    falling = rng.normal(size=num) - one_of(rng, 0, 0.1, 0.3) * np.arange(num)
    level, part = one_of(rng, 0, 40, 40), one_of(rng, 1, 1, 0.01, 1e-4)
    losses = (scale(rng, 1e-6) * (level + part * falling.round(1))).tolist()
    net, step = nn.Linear(size, 2), normal(rng, 2, size)
    first = net.weight.detach().clone()

    def train_more(net):
        with torch.no_grad():
            net.weight += step

    def look(net):
        done = int(((net.weight - first) / step).mean().round())
        return losses[max(done, 1) - 1]

    return net, train_more, look, int(one_of(rng, 1, 2, 3, 4, 10, num + 1)), num


EXERCISES = {
    "02b.1": Question(
        answer="b",
        replies={
            "a": "Only if it knew the noise of rows that it has never seen. It can know at most "
                 "what is true of them.",
            "b": "Yes: even the true equations would miss by the noise itself, whose square is "
                 "0.2 x 0.2 on average. This is the *noise floor*.",
            "c": "0.2 is what they miss by; the loss squares it.",
        },
        hints=("What would the loss of the simulator's own equations be?",),
    ),
    "02b.2": Exercise(
        reference=early_stopping,
        inputs=_training,
        also=(_copies_the_network,),
        wrong=(
            Wrong(_no_copy, "These are the weights at the end, not those of the best look. "
                  "`net.state_dict()` is a view of weights that go on changing: keep a copy, "
                  "`copy.deepcopy(net.state_dict())`."),
            Wrong(_ignores_patience, "The lowest of all looks would be best, but training must not "
                  "get there: it stops after `patience` looks in a row without a new best."),
            Wrong(_against_the_last_look, "Each look is compared with the one before it. Compare "
                  "with the best so far: a small recovery is not a new best."),
            Wrong(_never_forgives, "The looks without improvement must come in a row: after a new "
                  "best, count from 0 again."),
            Wrong(_too_patient, "It stops one look too late: count a look without improvement "
                  "first, then compare the count with `patience`."),
            Wrong(_looks_before_training, "It looks before it trains: an untrained network is no "
                  "candidate. Train, then look."),
            Wrong(_keeps_the_highest, "It keeps the weights of the highest loss."),
            Wrong(MARGINS[4], "It asks for a margin: a look that is better by less counts as no "
                  "better. A new best is *any* loss below the lowest so far, however little; what "
                  "is little depends on the unit.", MARGINS),
            Wrong(ROUNDED[2], "It compares losses that were rounded: small improvements are lost. "
                  "Compare them as they are.", ROUNDED),
            Wrong(_ties_count, "A look that equals the best is no new best: it should count "
                  "against `patience`. Compare with <, not <=."),
        ),
        hints=(
            "When training stops, the best weights are `patience` looks old, and the network has "
            "trained on since. Where are they then?",
            "Carry three things along: the lowest loss so far, how many looks have passed since, "
            "and a copy of the weights of that look.",
            "Losses 5, 4, 4.5, 4.6, 1 with patience 2: the second look is best, the third and "
            "fourth bring nothing new, training stops; the fifth never happens. Return the "
            "weights as they were at the second look.",
            "`if loss < lowest: lowest, since, kept = loss, 0, copy.deepcopy(net.state_dict())`, "
            "`else: since += 1`; and break as soon as `since == patience`",
        ),
    ),
    "02b.3": Question(
        answer="a",
        replies={
            "a": "Yes. Rows of one episode resemble each other, and a network that has seen both "
                 "neighbours of a row hardly needs to predict it.",
            "b": "Five or six episodes are held out as a whole: none of their rows was learned "
                 "from. That is what new episodes will be like.",
            "c": "The rows come from the same episodes, but held out is not the same as unlike.",
        },
        hints=("The row before a held-out one ends where that one starts. Who has seen it?",),
    ),
    "02b.4": Question(
        answer="b",
        replies={
            "a": "Count the rows: an episode has some 20 steps, and one of them ends it.",
            "b": "Yes: one row in about twenty ends an episode. So accuracy says little here, and "
                 "you have to ask how many of the *ends* a head finds.",
            "c": "That would be the share of rows it gets *wrong*: those that do end.",
        },
        hints=("How long is a random episode, and how many of its steps end it?",),
    ),
}  # fmt: skip
