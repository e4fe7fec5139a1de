"""Exercises of notebook 03, planning with MPC."""

import torch

from mbrl_helpers.exercises.build03 import BUILD
from mbrl_helpers.exercises.frame import Exercise, Question, Wrong
from mbrl_helpers.exercises.inputs import count, normal, one_of, scale

# --- 03.3: the first action of the best plan ------------------------------------------------------


def first_actions(actions, returns):
    best = returns.argmax(dim=1)
    return actions[torch.arange(len(best)), best, 0]


def _last_action(actions, returns):
    best = returns.argmax(dim=1)
    return actions[torch.arange(len(best)), best, -1]


def _worst_plan(actions, returns):
    return first_actions(actions, -returns)


def _ignores_returns(actions, returns):
    return actions[:, 0, 0]


def _best_of_all_envs(actions, returns):
    best = returns.max(dim=0).values.argmax()
    return actions[:, best, 0]


def _every_pair(actions, returns):
    return actions[:, returns.argmax(dim=1), 0]


def _whole_plan(actions, returns):
    best = returns.argmax(dim=1)
    return actions[torch.arange(len(best)), best]


def _average_of_all(actions, returns):
    return actions[:, :, 0].mean(dim=1)


def _candidates(rng):
    """Candidates that are choices, or real numbers; returns of any size, failed ones among them."""
    num_envs, population, horizon, size = (count(rng) for _ in range(4))
    index = torch.as_tensor(rng.integers(size, size=(num_envs, population, horizon)))
    actions = torch.eye(size)[index] if rng.random() < 0.5 else normal(rng, *index.shape, size)
    returns = torch.as_tensor(scale(rng) * rng.normal(one_of(rng, -9, 0, 9), size=index.shape[:2]))
    failed = torch.as_tensor(rng.random(returns.shape) < 0.2)
    failed[:, -1] = False
    return actions, returns.float().masked_fill(failed, -torch.inf)


# --- 03.2: rewards count until the episode ends ---------------------------------------------------


def return_of_plan(reward, terminated):
    total, running = torch.zeros_like(reward[:, 0]), torch.ones_like(reward[:, 0])
    for t in range(reward.shape[1]):
        total = total + running * reward[:, t]
        running = running * (1 - terminated[:, t])
    return total


def _counts_all(reward, terminated):
    return reward.sum(dim=1)


def _loses_last_reward(reward, terminated):
    return (reward * (1 - terminated).cumprod(dim=1)).sum(dim=1)


def _forgets_the_past(reward, terminated):
    return (reward * (1 - terminated)).sum(dim=1)


def _sums_candidates(reward, terminated):
    running = torch.cat([torch.ones_like(reward[:, :1]), (1 - terminated).cumprod(1)[:, :-1]], 1)
    return (reward * running).sum(dim=0)


def _rises_again(reward, terminated):
    total, running = torch.zeros_like(reward[:, 0]), torch.ones_like(reward[:, 0])
    for t in range(reward.shape[1]):
        total = total + running * reward[:, t]
        running = 1 - terminated[:, t]
    return total


def _below_zero(reward, terminated):
    return (reward * (1 - (terminated.cumsum(dim=1) - terminated))).sum(dim=1)


def _rolled(reward, terminated):
    return (reward * (1 - terminated).cumprod(dim=1).roll(1, dims=1)).sum(dim=1)


def _all_stop(reward, terminated):
    """The first end, of whichever candidate, ends all."""
    total = torch.zeros_like(reward[:, 0])
    for t in range(reward.shape[1]):
        total = total + reward[:, t]
        if terminated[:, t].any():
            break
    return total


def _all_stop_before(reward, terminated):
    total = torch.zeros_like(reward[:, 0])
    for t in range(reward.shape[1]):
        if terminated[:, t].any():
            break
        total = total + reward[:, t]
    return total


def _mean_reward(reward, terminated):
    return return_of_plan(reward, terminated) / reward.shape[1]


def _mean_while_running(reward, terminated):
    one = torch.ones_like(reward)
    return return_of_plan(reward, terminated) / return_of_plan(one, terminated)


def _over_candidates(reward, terminated):
    ended = terminated.cumsum(dim=0) - terminated
    return (reward * (ended == 0)).sum(dim=1)


def _over_candidates_cut(reward, terminated):
    return (reward * (1 - terminated.cumsum(dim=0).clamp(max=1))).sum(dim=1)


def _over_candidates_product(reward, terminated):
    return (reward * (1 - terminated).cumprod(dim=0)).sum(dim=1)


def _over_candidates_with_ends(reward, terminated):
    return (reward * (1 - terminated.cumsum(0).clamp(max=1) + terminated)).sum(dim=1)


def _ends_twice(reward, terminated):
    running = 1 - terminated.cumsum(dim=1).clamp(max=1) + terminated
    return (reward * running).sum(dim=1)


def _futures(rng):
    """Rewards of both signs; plans that never end, that end at once, and again and again."""
    shape = count(rng, most=120), count(rng, most=60)
    chance = one_of(rng, 0.02, 0.3, 0.7)
    return scale(rng) * normal(rng, *shape), torch.as_tensor(rng.random(shape) < chance).float()


def _cut_at_argmax(reward, terminated):
    last = terminated.argmax(dim=1)
    return torch.stack([row[: end + 1].sum() for row, end in zip(reward, last, strict=True)])


# --- 03.4: an objective that can tell plans apart -------------------------------------------------


def margin(next_obs):
    cart, pole = next_obs[..., 0] / 2.4, next_obs[..., 2] / 0.2095
    return 1 - 0.3 * cart**2 - 0.3 * pole**2


def _not_squared(next_obs):
    cart, pole = next_obs[..., 0] / 2.4, next_obs[..., 2] / 0.2095
    return 1 - 0.3 * cart - 0.3 * pole


def _absolute(next_obs):
    cart, pole = next_obs[..., 0] / 2.4, next_obs[..., 2] / 0.2095
    return 1 - 0.3 * cart.abs() - 0.3 * pole.abs()


def _velocities(next_obs):
    cart, pole = next_obs[..., 1] / 2.4, next_obs[..., 3] / 0.2095
    return 1 - 0.3 * cart**2 - 0.3 * pole**2


def _of(cart, pole, cart_limit=2.4, pole_limit=0.2095):
    """The formula with other columns or other limits."""

    def answer(next_obs):
        x, angle = next_obs[..., cart] / cart_limit, next_obs[..., pole] / pole_limit
        return 1 - 0.3 * x**2 - 0.3 * angle**2

    return answer


def _limits_not_squared(next_obs):
    return 1 - 0.3 * next_obs[..., 0] ** 2 / 2.4 - 0.3 * next_obs[..., 2] ** 2 / 0.2095


def _rewards_leaving(next_obs):
    return 2 - margin(next_obs)


def _no_limits(next_obs):
    return 1 - 0.3 * next_obs[..., 0] ** 2 - 0.3 * next_obs[..., 2] ** 2


def _pole_only(next_obs):
    return 1 - 0.3 * (next_obs[..., 2] / 0.2095) ** 2


def _twelve_degrees(next_obs):
    """The limit as the environment has it, 12 degrees in radians."""
    cart, pole = next_obs[..., 0] / 2.4, next_obs[..., 2] / (12 * 2 * torch.pi / 360)
    return 1 - 0.3 * cart**2 - 0.3 * pole**2


def _without_the_one(next_obs):
    return margin(next_obs) - 1


def _states(rng):
    spread = one_of(rng, 0.01, 1, 10) * torch.tensor([1.5, 2.0, 0.15, 2.0])
    leading = [(), (1,), (5,), (3, 7), (2, 1, 4)][rng.integers(5)]
    return (spread * normal(rng, *leading, 4),)


# --- 03.6: bug hunt -------------------------------------------------------------------------------


def tutorial_planner_as_given(step, obs, plans):
    best_action, best_return = None, -float("inf")
    for plan in plans:
        state, total = obs, 0.0
        for action in plan:
            state, reward, terminated = step(state, action)
            total += reward
        if total > best_return:
            best_return, best_action = total, action
    return best_action


def tutorial_planner(step, obs, plans):
    best_action, best_return = None, -float("inf")
    for plan in plans:
        state, total = obs, 0.0
        for action in plan:
            state, reward, terminated = step(state, action)
            total += reward
            if terminated:
                break
        if total > best_return:
            best_return, best_action = total, plan[0]
    return best_action


def _still_last_action(step, obs, plans):
    best_action, best_return = None, -float("inf")
    for plan in plans:
        state, total = obs, 0.0
        for action in plan:
            state, reward, terminated = step(state, action)
            total += reward
            if terminated:
                break
        if total > best_return:
            best_return, best_action = total, action
    return best_action


def _still_past_the_end(step, obs, plans):
    best_action, best_return = None, -float("inf")
    for plan in plans:
        state, total = obs, 0.0
        for action in plan:
            state, reward, terminated = step(state, action)
            total += reward
        if total > best_return:
            best_return, best_action = total, plan[0]
    return best_action


def _loses_final_reward(step, obs, plans):
    best_action, best_return = None, -float("inf")
    for plan in plans:
        state, total = obs, 0.0
        for action in plan:
            state, reward, terminated = step(state, action)
            if terminated:
                break
            total += reward
        if total > best_return:
            best_return, best_action = total, plan[0]
    return best_action


def _never_starts_again(step, obs, plans):
    best_action, best_return, state = None, -float("inf"), obs
    for plan in plans:
        total = 0.0
        for action in plan:
            state, reward, terminated = step(state, action)
            total += reward
            if terminated:
                break
        if total > best_return:
            best_return, best_action = total, plan[0]
    return best_action


def _last_of_the_plan(step, obs, plans):
    return _still_last_of(tutorial_planner, step, obs, plans)


def _still_last_of(planner, step, obs, plans):
    """The last action of the plan that a planner chooses."""
    first = planner(step, obs, plans)
    return next(plan[-1] for plan in plans if (plan[0] == first).all())


def _discounts(step, obs, plans):
    best_action, best_return = None, -float("inf")
    for plan in plans:
        state, total = obs, 0.0
        for k, action in enumerate(plan):
            state, reward, terminated = step(state, action)
            total += 0.9**k * reward
            if terminated:
                break
        if total > best_return:
            best_return, best_action = total, plan[0]
    return best_action


def _never_past_an_end(step, obs, plans):
    best_action, best_return = None, -float("inf")
    for plan in plans:
        state, total = obs, 0.0
        for action in plan:
            state, reward, terminated = step(state, action)
            total += reward
            if terminated:
                total = -float("inf")
                break
        if total > best_return:
            best_return, best_action = total, plan[0]
    return best_action


def _walks(rng):
    """Plans in a random little world of three numbers, in which some places are terminal."""
    turn, push, worth, edge = normal(rng, 3, 3), normal(rng, 2, 3), normal(rng, 3), rng.normal(0.7)
    unit = scale(rng, 1e-3, 1e12)  # no number is low enough to begin with
    num_plans, horizon = count(rng, 2, 30), count(rng, most=30)

    def step(state, action):
        following = torch.tanh(state @ turn + action @ push)
        return following, unit * (following @ worth - 0.3), (following[..., 0] > edge).float()

    return step, normal(rng, 3), normal(rng, num_plans, horizon, 2)


EXERCISES = {
    "03.1": Question(
        answer="a",
        replies={
            "a": "Yes, although nothing is wrong with the model. Section 3 shows what is missing.",
            "b": "So most people think. Section 3 shows where a perfect model is not enough.",
            "c": "It does far better than that: it sees a fall coming in time, mostly. Section 3 "
                 "shows how far that takes it.",
        },
        hints=("What does the reward say about two plans that both survive 10 steps?",),
    ),
    "03.5": Question(
        answer="b",
        replies={
            "a": "The model's errors would add up, but section 5 showed how small they are for 10 "
                 "steps. Something else must happen to make looking worth while.",
            "b": "Yes: a good model can be trusted for 10 steps in a world that does what it "
                 "predicts. Feedback is for everything else.",
            "c": "It was chosen for the 10 steps that the model predicts. After one slip the cart "
                 "is elsewhere, and the rest of the plan belongs to another place.",
        },
        hints=("In which world does the agent, after some steps, stand where it expected to?",),
    ),
    "03.3": Exercise(
        reference=first_actions,
        inputs=_candidates,
        wrong=(
            Wrong(_last_action, "This is the *last* action of the best plan: the tutorial's "
                  "fault. What is to be done now stands at the beginning of the plan."),
            Wrong(_worst_plan, "You found the plan with the lowest return. Rewards are maximised."),
            Wrong(_ignores_returns, "It takes the same candidate whatever `returns` says. Which "
                  "candidate has the highest return?"),
            Wrong(_best_of_all_envs, "All environments got one and the same candidate. Each row of "
                  "`returns` is an environment with a best candidate of its own."),
            Wrong(_every_pair, "`:` takes every environment for each of the best candidates. Pair "
                  "them up instead: `torch.arange(B)` in its place."),
            Wrong(_whole_plan, "This is the whole plan, [B, H, A]. Only its first action is "
                  "executed: [B, A]."),
            Wrong(_average_of_all, "This is the mean of all first actions, good and bad. Take that "
                  "of the best plan alone."),
        ),
        hints=(
            "Row b of `returns` belongs to environment b. Along which axis are its candidates?",
            "`argmax` over the candidates gives the best one of each environment: [B]. Then *pair* "
            "each environment with its own candidate, and take the first step.",
            "x = [[10, 11], [20, 21]] and best = [1, 0]: `x[torch.arange(2), best]` is 11, 20. "
            "`x[:, best]` would be all four pairs.",
            "`best = returns.argmax(dim=1)`, and `actions[torch.arange(len(best)), best, 0]`",
        ),
    ),
    "03.2": Exercise(
        reference=return_of_plan,
        inputs=_futures,
        wrong=(
            Wrong(_counts_all, "Rewards after the end are counted too: `terminated` is ignored."),
            Wrong(_loses_last_reward, "Nearly: the step that ends the episode still earns its "
                  "reward. Add the reward first, then update who is running."),
            Wrong(_forgets_the_past, "Only the very step that terminates is left out. Once ended, "
                  "always ended: `running` has to be carried from step to step."),
            Wrong(_sums_candidates, "The sum is over the candidates. Sum over time, `dim=1`."),
            Wrong(_rises_again, "`running` forgets: a candidate that ended two steps ago runs "
                  "again. Multiply the old `running` by `1 - terminated[:, t]`."),
            Wrong(_cut_at_argmax, "Right where an episode ends. Where none does, `argmax` of a row "
                  "of zeros is 0, and only the first reward is left: such a plan earns all."),
            Wrong(_below_zero, "A sum of ends grows: after the second one, 1 minus it is negative, "
                  "and rewards are taken away. Multiply the old `running` by `1 - terminated[:, "
                  "t]`, which stays 0."),
            Wrong(_all_stop, "`break` ends the loop for *all* candidates as soon as one of them "
                  "ends. The others go on: carry a number for each, whether it is still running.",
                  (_all_stop_before,)),
            Wrong(_mean_reward, "This is a mean. The return is a sum: a plan that stands for "
                  "longer earns more.", (_mean_while_running,)),
            Wrong(_over_candidates, "What is carried along goes from candidate to candidate "
                  "(axis 0): they are strangers to each other. Go along time, `dim=1`.",
                  (_over_candidates_cut, _over_candidates_product, _over_candidates_with_ends)),
            Wrong(_ends_twice, "A step after the end may say `terminated` again, and its reward "
                  "comes back with it. Who is running before step t depends only on the steps "
                  "before t."),
            Wrong(_rolled, "`roll` brings the last column to the front: a plan that ends at any "
                  "time has lost its first reward. The first column should be all 1."),
        ),
        hints=(
            "A candidate has ended two steps ago. How do you know in this step?",
            "Go through the steps, and carry two vectors along, with a number for each candidate: "
            "the total so far, and whether it is still running (1 or 0).",
            "reward 1, 2, 3, 4 and terminated 0, 1, 0, 0: running is 1, 1, 0, 0, and the total 1 + "
            "2 = 3.",
            "In each step `total = total + running * reward[:, t]`, and only then `running = "
            "running * (1 - terminated[:, t])`",
        ),
    ),
    "03.4": Exercise(
        reference=margin,
        inputs=_states,
        also=(_twelve_degrees,),
        wrong=(
            Wrong(_not_squared, "Without the square it pays to lean one way: the left counts as "
                  "better than the middle."),
            Wrong(_absolute, "A fair objective too, but the formula asks for squares: near the "
                  "middle they are gentle, near the limits steep."),
            Wrong(_velocities, "These are the velocities (columns 1 and 3). Positions of cart and "
                  "pole are columns 0 and 2."),
            Wrong(_of(0, 1), "One of the columns is another one. They are: cart's position 0, its "
                  "velocity 1, pole's angle 2, its velocity 3. The formula has 0 and 2.",
                  (_of(0, 3), _of(1, 2), _of(3, 2), _of(1, 0), _of(2, 3))),
            Wrong(_of(0, 2, 0.2095, 2.4), "Cart and pole are swapped, in their columns or their "
                  "limits: column 0 goes with 2.4 m, column 2 with 0.2095 rad."),
            Wrong(_limits_not_squared, "Only the numerator is squared. Divide first, then square: "
                  "`(x / 2.4) ** 2` is 1 at the limit, `x ** 2 / 2.4` is not."),
            Wrong(_rewards_leaving, "The sign is turned: this is highest at the limits."),
            Wrong(_no_limits, "Divide by the limits, 2.4 m and 0.2095 rad: otherwise a pole that "
                  "is about to fall costs next to nothing."),
            Wrong(_pole_only, "The pole is in, the cart is not: nothing says where on its rail it "
                  "should be. The formula has both."),
            Wrong(_without_the_one, "The 1 is missing: without it each step costs something, and "
                  "it would pay to fall at once."),
        ),
        hints=(
            "Which value should it have in the middle, and which at the limits, on both sides?",
            "`next_obs[..., 0]` is the cart's position, `next_obs[..., 2]` the pole's angle. "
            "Divide each by its limit: then the square is 1 at either end.",
            "x = 1.2 and angle 0: (1.2 / 2.4)**2 = 0.25, and 1 - 0.3 * 0.25 = 0.925.",
            "`1 - 0.3 * (next_obs[..., 0] / 2.4) ** 2 - 0.3 * (next_obs[..., 2] / 0.2095) ** 2`",
        ),
    ),
    "03.6": Exercise(
        reference=tutorial_planner,
        given=tutorial_planner_as_given,
        inputs=_walks,
        wrong=(
            Wrong(_still_past_the_end, "The action is right now. One fault is left: which rewards "
                  "are counted when a plan ends early?"),
            Wrong(_still_last_action, "The end is right now. One fault is left: which action of "
                  "the best plan should be executed?"),
            Wrong(_loses_final_reward, "Both faults are found, but the step that terminates still "
                  "earns its reward: add it before you break."),
            Wrong(_never_starts_again, "Each plan starts where the one before ended. All of them "
                  "start from `obs`."),
            Wrong(_last_of_the_plan, "The end is right now. One fault is left: this is the last "
                  "action of the best plan. Which one is to be done now?"),
            Wrong(_discounts, "Both faults are gone, but rewards are discounted now. Nobody asked "
                  "for it, and another plan may win: add them as they are."),
            Wrong(_never_past_an_end, "Plans that end are thrown away. They may be the best there "
                  "are: what they earn until the end counts."),
        ),
        hints=(
            "A plan of three actions, whose second step terminates: which rewards are added, and "
            "which action is returned?",
            "Two faults. After the end nothing is earned any more. And `action` is a variable of "
            "the inner loop: what is in it when that loop is over?",
            "Actions a, b, c earn 1, 1, 1, and the second step terminates: the return is 2, and if "
            "no plan is better, `a` is executed.",
            "`if terminated: break` after the reward is added; then `best_return, best_action = "
            "total, plan[0]`",
        ),
    ),
    "03.b": BUILD,
}  # fmt: skip
