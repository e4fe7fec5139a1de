"""The last rung of every ladder of hints is right: completed as a learner would, it is accepted.

The table completes it. Each piece of code in the hint must stand in its completion, letter by
letter, so that neither can change without the other.
"""

import copy
import re

import numpy as np
import pytest
import torch
from test_exercises import TASKS, from_source

from mbrl_helpers.exercises import frame

UP_TO = "05"  # the notebooks whose hints are completed here: those before it

COMPLETED = {
    "00.1": """def push_where_it_leans(obs):
    return 1 if obs[2] > 0 else 0""",
    "01.2": """def value_target(reward, next_value, terminated, truncated, discount):
    return reward + discount * next_value * (1 - terminated)""",
    "01.3": """def collect_episode(env, policy, seed):
    rows = []
    obs, _ = env.reset(seed=seed)
    while True:
        next_obs, reward, terminated, truncated, _ = env.step(policy(obs))
        rows.append((obs, policy(obs), reward, next_obs, terminated, truncated))
        if terminated or truncated: return rows
        obs = next_obs""",
    "01.4": """def collect_rows(envs, policy, num_steps, seed):
    rows = []
    obs, _ = envs.reset(seed=seed)
    fresh = np.zeros(envs.num_envs, dtype=bool)
    for _ in range(num_steps):
        action = policy(obs)
        next_obs, reward, terminated, truncated, _ = envs.step(action)
        for b in range(envs.num_envs):
            if not fresh[b]:
                rows.append((obs[b], action[b], reward[b], next_obs[b], terminated[b]))
        fresh = terminated | truncated
        obs = next_obs
    return rows""",
    "01.6": """def red_noise(white, correlation):
    red = [white[0]]
    for t in range(1, len(white)):
        red.append(correlation * red[-1] + np.sqrt(1 - correlation**2) * white[t])
    return np.stack(red)""",
    "02.1": """def open_loop(step, states, actions):
    imagined = [states[:, 0]]
    for t in range(actions.shape[1]):
        imagined.append(step(imagined[-1], actions[:, t]))
    return torch.stack(imagined, dim=1)""",
    "02.3": """def standardise(x, data):
    mean, std = data.mean(dim=0), data.std(dim=0)
    return (x - mean) / torch.where(std > 0, std, 1.0)""",
    "02.6": """def predict_next(net, obs, action, inputs, changes):
    x = torch.cat([obs, torch.eye(2)[action]], dim=-1)
    x = (x - inputs.mean(0)) / inputs.std(0)
    change = net(x) * changes.std(0) + changes.mean(0)
    return obs + change""",
    "02b.2": """def early_stopping(net, train_more, look, patience, max_looks):
    lowest, since = float("inf"), 0
    for _ in range(max_looks):
        train_more(net)
        loss = look(net)
        if loss < lowest: lowest, since, kept = loss, 0, copy.deepcopy(net.state_dict())
        else: since += 1
        if since == patience:
            break
    return kept""",
    "03.2": """def return_of_plan(reward, terminated):
    total, running = torch.zeros(len(reward)), torch.ones(len(reward))
    for t in range(reward.shape[1]):
        total = total + running * reward[:, t]
        running = running * (1 - terminated[:, t])
    return total""",
    "03.3": """def first_actions(actions, returns):
    best = returns.argmax(dim=1)
    return actions[torch.arange(len(best)), best, 0]""",
    "03.4": """def margin(next_obs):
    return 1 - 0.3 * (next_obs[..., 0] / 2.4) ** 2 - 0.3 * (next_obs[..., 2] / 0.2095) ** 2""",
    "03.6": """def tutorial_planner(step, obs, plans):
    best_action, best_return = None, -float("inf")
    for plan in plans:
        state, total = obs, 0.0
        for action in plan:
            state, reward, terminated = step(state, action)
            total += reward
            if terminated: break
        if total > best_return:
            best_return, best_action = total, plan[0]
    return best_action""",
    "04.2": """def refit(actions, returns, num_elites):
    elites = actions[returns.topk(num_elites).indices]
    return elites.mean(dim=0), elites.std(dim=0, correction=0)""",
    "04.3": """def shift(mean, last):
    return torch.cat([mean[1:], last[None]])""",
    "04.5": """def mppi_weights(returns, temperature):
    return torch.softmax(returns / temperature, dim=0)""",
    "04.6": """def probabilities(elites, share):
    return (1 - share) * elites.mean(dim=0) + share / elites.shape[-1]""",
    "04.7": """def library_planner(score, mean, noise):
    actions = (mean + noise).clamp(-2, 2)
    returns = score(actions)
    returns = returns.masked_fill(returns.isnan(), -torch.inf)
    return actions[returns.argmax()]""",
}

# The same in other words: each is what a good learner might write.
ALSO = {
    "02.3": ["(x - data.mean(0)) / torch.where(data.std(0) < 1e-6, 1.0, data.std(0))"],
    "04.2": [
        "(lambda e: (e.mean(0), ((e - e.mean(0)) ** 2).mean(0).sqrt()))"
        "(actions[returns.argsort()[-num_elites:]])",
        "(lambda e: (e.mean(0), e.std(0, unbiased=False)))"
        "(actions[returns.argsort(descending=True)[:num_elites]])",
    ],
    "04.5": [
        "torch.nn.Softmax(dim=0)(returns / temperature)",
        "torch.log_softmax(returns / temperature, dim=0).exp()",
        "torch.distributions.Categorical(logits=returns / temperature).probs",
        "(returns / temperature - torch.logsumexp(returns / temperature, dim=0)).exp()",
        "torch.softmax((returns - returns.mean()) / temperature, dim=0)",
    ],
}
HERE = {"np": np, "torch": torch, "copy": copy}


def test_every_last_rung_is_completed():
    assert set(COMPLETED) == {number for number in TASKS if number < UP_TO}


@pytest.mark.parametrize("number", COMPLETED)
def test_the_last_rung_is_right(number):
    code = " ".join(COMPLETED[number].split())
    pieces = [" ".join(piece.split()) for piece in re.findall("`([^`]+)`", TASKS[number].hints[-1])]
    assert [piece for piece in pieces if piece not in code] == []
    answer = from_source(COMPLETED[number], HERE)
    outcome, text = frame.judge(number, TASKS[number], answer)
    assert outcome == "correct", text


@pytest.mark.parametrize(("number", "line"), [(n, line) for n in ALSO for line in ALSO[n]])
def test_other_right_answers(number, line):
    head = COMPLETED[number].split("\n")[0]
    outcome, text = frame.judge(
        number, TASKS[number], from_source(f"{head}\n    return {line}", HERE)
    )
    assert outcome == "correct", text
