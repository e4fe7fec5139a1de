"""Exercises of notebook 05b: a planner that exploits its model."""

import torch

from mbrl_helpers.exercises.frame import Exercise, Question, Wrong
from mbrl_helpers.exercises.inputs import count, one_of, scale

# --- 05b.3: bug hunt ------------------------------------------------------------------------------


def choose_plan_as_given(train_loss, valid_loss, returns, caution):
    elites = train_loss.topk(3, largest=False).indices
    returns = returns[elites]
    score = returns.mean(dim=0) + caution * returns.std(dim=0, correction=0)
    return score.argmax()


def choose_plan(train_loss, valid_loss, returns, caution):
    elites = valid_loss.topk(3, largest=False).indices
    returns = returns[elites]
    score = returns.mean(dim=0) - caution * returns.std(dim=0, correction=0)
    return score.argmax()


def _still_by_training_loss(train_loss, valid_loss, returns, caution):
    return choose_plan(train_loss, train_loss, returns, caution)


def _still_seeks_doubt(train_loss, valid_loss, returns, caution):
    return choose_plan(train_loss, valid_loss, returns, -caution)


def _worst_members(train_loss, valid_loss, returns, caution):
    return choose_plan(train_loss, -valid_loss, returns, caution)


def _no_caution(train_loss, valid_loss, returns, caution):
    return choose_plan(train_loss, valid_loss, returns, 0.0)


def _all_members(train_loss, valid_loss, returns, caution):
    return (returns.mean(dim=0) - caution * returns.std(dim=0, correction=0)).argmax()


def _some_members(rng):
    """Often with a caution that only just prefers another plan than the best on average."""
    members, plans = count(rng, 3, 12), count(rng, 2, 40)
    losses = torch.as_tensor(rng.uniform(0.1, 1, size=(2, members))).float()
    spread = rng.uniform(1, 8, size=plans)  # some plans are in more doubt than others
    returns = scale(rng) * (one_of(rng, -20, 0, 20) + spread * rng.normal(size=(members, plans)))
    returns = torch.as_tensor(returns).float()
    caution = one_of(rng, 0, rng.uniform(1, 2), rng.uniform(0.1, 5))
    elites = returns[losses[1].topk(3, largest=False).indices]
    lost, calmer = elites.mean(dim=0), elites.std(dim=0, correction=0)
    lost, calmer = lost.max() - lost, calmer[lost.argmax()] - calmer
    if rng.random() < 0.3 and (calmer > 0).any():
        caution = 1.05 * float((lost / calmer)[calmer > 0].min())
    return losses[0], losses[1], returns, caution


EXERCISES = {
    "05b.1": Question(
        answer="a",
        replies={
            "a": "Yes. Most of what a harder search finds here are errors of the net, and those "
                 "exist only in the promise.",
            "b": "So one would hope, and with a true model it is so. Look at what becomes of the "
                 "promise, and what of the truth.",
            "c": "Look at the left end of the figure: with few candidates the promise is modest. "
                 "It does find better plans. Better by which judge?",
        },
        hints=("Among more candidates the best one is better *by the model*. What is it best at?",),
    ),
    "05b.2": Question(
        answer="a",
        replies={
            "a": "Yes. The clamp, caution and a known reward all bring promises near to facts. "
                 "What plans really get differs much less.",
            "b": "Each remedy acts on what the model says of a plan. Is the plan that it then "
                 "finds another one, and a better one? Compare the two columns.",
            "c": "The left column does differ, by hundreds. Look at the right one: do its lines "
                 "lie apart by more than the dots of one line do?",
        },
        hints=("What does a remedy change at once, and what only if another plan is found?",),
    ),
    "05b.3": Exercise(
        reference=choose_plan,
        given=choose_plan_as_given,
        inputs=_some_members,
        wrong=(
            Wrong(_still_by_training_loss, "The sign is right now. One fault is left: by their "
                  "*training* loss those members win that have learned their rows by heart."),
            Wrong(_still_seeks_doubt, "The elites are right now. One fault is left: a plan about "
                  "which the members disagree gets a *bonus*."),
            Wrong(_worst_members, "These are the members with the highest losses: `topk` takes "
                  "the largest unless told otherwise."),
            Wrong(_no_caution, "Now doubt doesn't matter at all: `caution` is how much of it is "
                  "subtracted."),
            Wrong(_all_members, "All members vote here. The three with the lowest validation loss "
                  "should."),
        ),
        hints=(
            "Which loss says how a member will do on what it has *not* seen? And should "
            "disagreement make a plan more attractive, or less?",
            "Two faults: one is in who counts as an elite, the other is a sign.",
            "Returns 10, 10 and 4, 18 of two elites for two plans: means 10 and 11, deviations 0 "
            "and 7. With caution 1 the scores are 10 and 4: the first plan.",
            "`elites = valid_loss.topk(3, largest=False).indices`, and `score = "
            "returns.mean(dim=0) - caution * returns.std(dim=0, correction=0)`",
        ),
    ),
}  # fmt: skip
