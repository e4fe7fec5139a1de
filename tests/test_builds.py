"""Builds: what passes, which fault draws which sentence; and no answer hangs or breaks them."""

import ast
import builtins
import functools
import inspect
import re
import signal
import time

import gymnasium as gym
import nbformat
import numpy as np
import pytest
import torch
from course import notebooks
from test_exercises import ALL, words

from mbrl_helpers.envs import get_task
from mbrl_helpers.exercises import build, build02, builds, frame, hint, solution, starter, worlds
from mbrl_helpers.notebook import read_recorded

NETWORKS = ("06.b", "07.b", "08.b", "09.b")  # they learn, or drive by what torch has smoothed
BUILDS = {number: task for number, task in ALL.items() if isinstance(task, builds.Build)}
FAULTY = [(number, fault) for number, task in BUILDS.items() for fault in task.faulty]
every_build = pytest.mark.parametrize("number", BUILDS)


def as_in_a_cell(function, name=None):
    """The same source, compiled as a notebook's cell is."""
    scope = {"__name__": "__main__", "np": np, "torch": torch, "gym": gym}
    exec(inspect.getsource(function), scope)
    return scope[name or function.__name__]


@functools.cache
def nodes_of(number):
    """What stands in the code cells of the notebook of an exercise, as nodes of Python's syntax."""
    (path,) = [path for path in notebooks() if path.name.startswith(f"{number.split('.')[0]}_")]
    cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    trees = [ast.parse(cell.source.replace("%matplotlib", "#")) for cell in cells]
    return [node for tree in trees for node in ast.walk(tree)]


@pytest.fixture
def submit(capsys):
    def submit(number, answer):
        capsys.readouterr()
        assert build(number)(answer) is answer
        return words(capsys.readouterr().out)

    return submit


# --- answers -------------------------------------------------------------------------------------


def test_there_are_builds():
    assert set(BUILDS) == {
        "02.b",
        "03.b",
        "04.b",
        "05.b",
        "06.b",
        "07.b",
        "08.b",
        "09.b",
        "10.b",
        "11.b",
        "12.b",
    }
    for task in BUILDS.values():
        assert len(task.faulty) >= 4


@every_build
def test_reference_passes_on_its_own(submit, number):
    """As a cell has it: with nothing around it but NumPy, PyTorch and Gymnasium."""
    begin = time.process_time()
    said = submit(number, as_in_a_cell(BUILDS[number].reference))
    assert f"Exercise {number}: correct ✓" in said
    assert "✗" not in said
    assert time.process_time() - begin < 60  # a judge takes seconds
    rows = [row for row in read_recorded("builds") if row["build"] == number]
    assert said.count("✓") == len(rows)
    # What a network learns in seconds is another on another processor.
    slack = {"rel": 0.5, "abs": 0.1} if number in NETWORKS else {"rel": 1e-3}
    for row in rows:
        line = rf"✓ {re.escape(row['stage'])}: (\S+) {re.escape(row['unit'])} \(at "
        measured = float(re.search(line, said)[1])
        assert measured == pytest.approx(row["measured"], **slack)


def test_a_network_passes_as_well(submit):
    assert "Exercise 02.b: correct" in submit("02.b", as_in_a_cell(build02.fit_network))


@pytest.mark.parametrize(("number", "fault"), FAULTY)
def test_fault_is_named(submit, number, fault):
    said = submit(number, fault.answer)
    assert f"Exercise {number}: not yet" in said
    assert words(fault.hint) in said
    assert said.count("✗") <= 1


@every_build
def test_not_attempted_shows_a_recorded_run_and_runs_nothing(submit, monkeypatch, number):
    def never(*_):
        raise AssertionError("it was run")

    monkeypatch.setattr(builds, "attempt", never)
    task = BUILDS[number]
    stub = f"def stub{inspect.signature(task.reference)}:\n    '''Write it.'''\n    ..."
    scope = {}
    exec(stub, scope)
    for answer in (scope["stub"], as_in_a_cell(task.starter)):
        said = submit(number, answer)
        assert f"Exercise {number}: not attempted A recorded run of a reference reached" in said
        for row in read_recorded("builds"):
            assert (f"{row['stage']}: {row['measured']:.4g}" in said) == (row["build"] == number)


@every_build
def test_starter_has_the_name_and_arguments_of_the_answer(number):
    task = BUILDS[number]
    assert inspect.signature(task.starter) == inspect.signature(task.reference)
    shown = starter(number).data
    assert "def starter(" in shown
    assert shown.count("...") >= 3


@every_build
def test_hints_and_solution(capsys, monkeypatch, number):
    monkeypatch.setattr(frame, "_hints_given", {})
    rungs = BUILDS[number].hints
    assert len(rungs) == len(frame.RUNGS)
    assert "?" in rungs[0]
    assert len(re.findall(r"\d", rungs[2])) >= 3
    for rung in rungs:
        hint(number)
        assert words(rung) in words(capsys.readouterr().out)
    assert solution(number).data == inspect.getsource(BUILDS[number].reference)


# --- whatever is handed in -----------------------------------------------------------------------


def raises(*arguments):
    return 1 / 0


def wants_no_arguments():
    return 0


def returns_text(*arguments):
    return "abc"


def returns_nothing(*arguments):
    len(arguments)


def returns_nan(*arguments):
    return np.full(12, np.nan)


def returns_far_too_much(*arguments):
    return np.zeros((3, 4, 5))


BAD = (raises, wants_no_arguments, returns_text, returns_nothing, returns_nan, returns_far_too_much)


@every_build
@pytest.mark.parametrize("bad", BAD)
def test_bad_answers_are_told_so(submit, number, bad):
    said = submit(number, bad)
    told = "your code raised" if bad in (raises, wants_no_arguments) else "not yet"
    assert f"Exercise {number}: {told}" in said
    if bad is raises:
        assert "ZeroDivisionError" in said
        assert "return 1 / 0" in said


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.default_int_handler])
@every_build
def test_what_never_ends_is_stopped(submit, monkeypatch, number, handler):
    """In the background of a shell, too, where interrupts are ignored."""
    monkeypatch.setattr(builds, "SECONDS", 0.3)
    before = signal.signal(signal.SIGINT, handler)

    def for_ever(*arguments):
        while True:
            time.sleep(0.01)

    try:
        said = submit(number, for_ever)
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert f"Exercise {number}: not yet" in said
    assert "not finished within 0.3 seconds" in said


def test_a_learner_s_interrupt_is_one(submit):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build("04.b")(interrupted)


def test_steps_that_break_the_contract(submit):
    def fits(step):
        return submit("02.b", lambda rows: step)

    assert "answers differently" in fits(lambda obs, action: obs + np.random.normal(size=obs.shape))  # noqa: NPY002
    assert "should be an array of numbers; yours is a str" in fits(lambda obs, action: "up")
    assert "your code raised ZeroDivisionError" in fits(lambda obs, action: obs / (1 // 0))
    assert "not yet" in fits(lambda obs, action: 1e300 * obs)

    def spoils(rows):
        rows["obs"][:] = 0
        return lambda obs, action: obs

    assert "fit changes the rows" in submit("02.b", spoils)


def test_players_that_break_the_contract(submit):
    def plays(act, model=lambda step, obs: None, end=None):
        def answer(env, step, seed):
            obs, _ = env.reset(seed=seed)
            total, ended = 0, False
            while not ended and total != end:
                model(step, obs)
                obs, reward, terminated, truncated, _ = env.step(act)
                total, ended = total + reward, terminated or truncated
            return total if act else -1

        return submit("03.b", answer)

    assert "expects the action 0 or 1, as a whole number; it was given 0.5" in plays(0.5)
    assert "the episode was not over" in plays(1, end=3)
    assert "should return the sum of the rewards" in plays(0)
    nonsense = plays(1, lambda step, obs: step(obs, 1))
    assert "expects states [N, 4] and actions [N]; it was given shapes [4] and []" in nonsense
    assert "it was given [7]" in plays(1, lambda step, obs: step(obs[None], np.array([7])))
    many = np.zeros((30_000, 4)), np.zeros(30_000)
    assert "imagined states for one decision" in plays(1, lambda step, obs: step(*many))
    assert "env.reset" in submit("03.b", lambda env, step, seed: env.step(1))

    def twice(env, step, seed):
        env.reset(seed=seed)
        env.reset(seed=seed)

    assert "a second time" in submit("03.b", twice)


@pytest.mark.parametrize("what", ["force_mag", "gravity", "theta_threshold_radians"])
def test_a_world_that_was_changed_is_found_out(submit, what):
    def changes(env, step, seed):
        obs, _ = env.reset(seed=seed)
        setattr(env.unwrapped, what, 0.0)
        total, ended = 0.0, False
        while not ended:
            obs, reward, terminated, truncated, _ = env.step(int(obs[2] > 0))
            total, ended = total + reward, terminated or truncated
        return total

    assert "leave `env.unwrapped` alone" in submit("03.b", changes)


def test_searches_that_break_the_contract(submit):
    def searches(candidates):
        return submit("04.b", lambda score, mean, *rest: score(candidates(mean)))

    assert "candidates [n, 12], a row for each; it was given shape [12]" in searches(
        lambda mean: mean
    )
    assert "NaN or infinite" in searches(lambda mean: mean[None] * np.nan)
    assert "never calls score" in submit("04.b", lambda score, mean, *rest: mean)
    assert "beyond the bounds" in submit("04.b", lambda score, mean, *rest: mean + 9)

    def hides_errors(score, mean, std, low, high, num_calls, rng):
        for _ in range(50):
            try:
                score(np.zeros((num_calls, len(mean))))
            except Exception:
                continue
        return mean

    assert "not yet" in submit("04.b", hides_errors)


def test_the_page_is_blank(submit):
    source = """
def fetch(name):
    return get_task(name)

def fit(rows):
    task = [fetch(name) for name in ("CartPole-v1",)]
    return lambda obs, action: rollout(task, obs)
"""
    scope = {"__name__": "__main__", "get_task": get_task, "rollout": get_task, "np": np}
    exec(source, scope)
    said = submit("02.b", scope["fit"])
    assert "It uses get_task, rollout of the course's package" in said


def test_the_page_is_blank_of_imports_too(submit):
    def fit(rows):
        from mbrl_helpers.networks import fit_ridge

        return lambda obs, action: fit_ridge(obs, action, 1.0)

    assert "It uses mbrl_helpers.networks of the course's package" in submit("02.b", fit)


def test_an_attribute_is_nothing_borrowed():
    source = """
def play(env, step):
    return np.concatenate([env.step(step)[0], [part.obs for part in env.parts]])
"""
    names = dict.fromkeys(("step", "concatenate", "obs", "parts"), get_task)
    scope = {"__name__": "__main__", "np": np} | names
    exec(source, scope)
    assert builds.borrowed(scope["play"]) == []


@every_build
def test_right_answers_borrow_nothing_whatever_their_notebook_has(number):
    """Every name that the notebook gives to something is taken for one of the package's."""
    nodes = nodes_of(number)
    given = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    given |= {alias.name for n in nodes if isinstance(n, ast.ImportFrom) and "mbrl" in n.module
              for alias in n.names}  # fmt: skip
    reference = BUILDS[number].reference
    scope = {"__name__": "__main__"} | dict.fromkeys(given, get_task)
    exec(inspect.getsource(reference), scope)
    assert len(given) > 20
    assert builds.borrowed(scope[reference.__name__]) == []


@pytest.mark.parametrize("number", [n for n, task in ALL.items() if hasattr(task, "reference")])
def test_references_find_all_names_in_their_notebook(number):
    """So that a learner may paste what solution() shows."""
    names = set(dir(builtins))
    for node in nodes_of(number):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {(each.asname or each.name).split(".")[0] for each in node.names}
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    read = {name for how, name in builds._names(ALL[number].reference.__code__)
            if how != "IMPORT_NAME"}  # fmt: skip
    assert read <= names


def test_unknown_numbers_and_other_kinds():
    with pytest.raises(ValueError, match=r"expected the number of a build, got '02.1'.*@exercise"):
        build("02.1")
    with pytest.raises(ValueError, match="expected the number of an exercise"):
        starter("02.z")
    with pytest.raises(ValueError, match=r"code to write, got '02.b'. Answer it with @build"):
        frame.find_kind("02.b", frame.Exercise)


def test_stage_without_a_number_does_not_pass():
    stage = builds.Stage(name="x", measured=float("nan"), unit="m", at_most=1.0)
    assert not stage.passed
    assert str(builds.Stage(name="x", measured=0.5, unit="m", at_most=1)) == "x: 0.5 m (at most 1)"
    near = builds.Stage(name="x", measured=-425.04, unit="m", at_least=-425)
    assert str(near) == "x: -425.04 m (at least -425)"


# --- the worlds and the notebooks ----------------------------------------------------------------


def test_cartpole_is_gymnasium_s():
    env = gym.make("CartPole-v1").unwrapped
    rng = np.random.default_rng(0)
    for _ in range(50):
        env.reset(seed=0)
        env.state = rng.normal(size=4) * [1, 1, 0.1, 1]
        before, action = np.array(env.state), int(rng.integers(2))
        _, _, terminated, _, _ = env.step(action)
        ours = worlds.cartpole(before[None], np.array([action]))
        np.testing.assert_allclose(ours[0], env.state, rtol=1e-9)
        assert worlds.fallen(ours)[0] == terminated


def test_pendulum_is_gymnasium_s():
    env = gym.make("Pendulum-v1").unwrapped
    rng = np.random.default_rng(0)
    for _ in range(5):
        env.reset(seed=0)
        env.state = rng.uniform(-4, 4, size=2)
        start, torques = env.state.copy(), rng.uniform(-3, 3, size=30)
        rewards = sum(env.step(np.array([torque]))[1] for torque in torques)
        np.testing.assert_allclose(
            worlds.pendulum_returns(start, torques[None]), rewards, rtol=1e-6
        )


def test_the_experience_is_of_whole_episodes():
    rows = build02.experience(1)
    assert len(rows["obs"]) == build02.NUM_ROWS
    goes_on = rows["episode"][1:] == rows["episode"][:-1]
    np.testing.assert_array_equal(rows["obs"][1:][goes_on], rows["next_obs"][:-1][goes_on])
    assert worlds.fallen(rows["next_obs"][:-1][~goes_on]).all()
    assert not worlds.fallen(rows["obs"]).any()


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_builds_in_notebooks_are_there(path):
    text = path.read_text(encoding="utf-8")
    for number, name in re.findall(r'@build\(\\"([\w.]+)\\"\)\\n",\s*"def (\w+)', text):
        assert BUILDS[number].reference.__name__ == name
        assert number.startswith(path.name[:2])
