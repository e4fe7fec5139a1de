"""Seeds and settings over cores: the same numbers everywhere, nothing lost, no lies on disk."""

# ruff: noqa: NPY002 (the old generators are what must be left alone)

import functools
import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch

from mbrl_helpers import Task, over_seeds
from mbrl_helpers.boards.rules import Rules
from mbrl_helpers.kept import Kept, _about
from mbrl_helpers.planners import CEMConfig

here = partial(over_seeds, num_workers=1)  # in this process, which is quick


def measure(seed, width=1, **kinds):
    """Depends on its seed only, and draws from every source there is."""
    drawn = torch.rand(width).sum() + np.random.rand() + random.random()
    return {"drawn": float(drawn), "threads": torch.get_num_threads()}


def runs_of(path):
    return [json.loads(line)["key"] for line in Path(path).read_text().splitlines()[1:]]


# --- the table -----------------------------------------------------------------------------------


def test_rows_come_in_the_order_of_settings_then_seeds():
    sweep = here(lambda seed, a, b: {"sum": seed + a + b}, [2, 0], {"a": [10, 20], "b": [100]})
    assert sweep.rows == [
        {"seed": s, "a": a, "b": 100, "sum": s + a + 100} for a in (10, 20) for s in (2, 0)
    ]
    np.testing.assert_array_equal(sweep.column("sum", a=20), [122, 120])
    assert sweep.failures == []


@pytest.mark.parametrize(
    ("result", "rows"),
    [
        (3.5, [{"result": 3.5}]),
        (np.float32(0.5), [{"result": 0.5}]),
        (torch.tensor([1, 2]), [{"result": [1, 2]}]),
        ({"a": np.arange(2)}, [{"a": [0, 1]}]),
        ([{"t": 0}, {"t": 1}], [{"t": 0}, {"t": 1}]),
        ({"seed": 0, "a": 1}, [{"a": 1}]),
    ],
)
def test_what_a_run_may_give_back(result, rows):
    assert here(lambda seed: result, [0]).rows == [{"seed": 0, **row} for row in rows]


def test_settings_stand_in_the_table_by_name(tmp_path):
    config = CEMConfig(horizon=7)
    settings = [{"planner": CEMConfig, "config": config}, {"planner": max, "config": None}]
    sweep = here(lambda seed, planner, config: 1, [0], settings, path=tmp_path / "table")
    assert [row["planner"] for row in sweep.rows] == ["CEMConfig", "max"]
    assert len(sweep.column("result", config=config)) == 1


def test_column_says_which_columns_there_are():
    sweep = here(lambda seed: [{"a": 1}, {"b": 1}], [0])
    with pytest.raises(KeyError, match=r"\['a', 'b', 'seed'\], got \['c'\]"):
        sweep.column("c")
    with pytest.raises(KeyError, match="rows without"):
        sweep.column("a")


# --- the same numbers, whatever carries the runs out ---------------------------------------------


def test_cores_change_no_number_and_leave_this_process_alone():
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    one = here(measure, range(4), {"width": [1, 50]})
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]
    assert over_seeds(measure, range(4), {"width": [1, 50]}, num_workers=2).rows == one.rows
    reverse = here(measure, range(3, -1, -1), {"width": [50, 1]})
    key = lambda row: (row["width"], row["seed"])  # noqa: E731
    assert sorted(reverse.rows, key=key) == sorted(one.rows, key=key)
    assert set(one.column("threads")) == {1}


def test_a_cluster_of_two_loses_nothing_when_one_dies(tmp_path):
    distributed = pytest.importorskip("distributed")

    def slow(seed):
        time.sleep(0.5)
        return {"drawn": float(torch.rand(1)), "process": os.getpid()}

    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
        victim = next(iter(client.run(os.getpid).values()))
        threading.Timer(1.2, os.kill, (victim, signal.SIGKILL)).start()
        with joblib.parallel_config(backend="dask"):
            sweep = over_seeds(slow, range(8), path=tmp_path / "table")
    assert not sweep.failures and len(runs_of(tmp_path / "table")) == 8
    assert set(sweep.column("process")) - {victim}
    np.testing.assert_array_equal(sweep.column("drawn"), here(slow, range(8)).column("drawn"))


def test_on_ray():
    ray = pytest.importorskip("ray")
    joblib_backend = pytest.importorskip("ray.util.joblib")
    ray.init(num_cpus=2, include_dashboard=False)
    try:
        joblib_backend.register_ray()
        with joblib.parallel_config(backend="ray"):
            assert over_seeds(measure, range(3)).rows == here(measure, range(3)).rows
    finally:
        ray.shutdown()


# --- failures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError("three"), SystemExit("three")])
def test_a_failed_run_leaves_the_others_alone(error, tmp_path):
    broken = [True]

    def run(seed):
        if seed == 3 and broken[0]:
            raise error
        return seed

    path = tmp_path / "table"
    with pytest.warns(UserWarning, match=r"1 of 5 runs failed.*seed 3: \w+: three"):
        sweep = here(run, range(5), path=path)
    assert list(sweep.column("result")) == [0, 1, 2, 4]
    [failure] = sweep.failures
    assert failure.seed == 3 and "raise error" in failure.details
    broken[0] = False  # which changes what the run does: the file is of another one
    with pytest.raises(ValueError, match="of another"):
        here(run, range(5), path=path)


def test_failures_are_tried_again_and_nothing_else(tmp_path):
    def run(seed):
        (tmp_path / f"did{seed}").open("a").write("x")
        if seed == 1 and not (tmp_path / "mended").exists():
            raise RuntimeError("not yet")
        return seed

    with pytest.warns(UserWarning, match="not yet"):
        here(run, range(3), path=tmp_path / "table")
    (tmp_path / "mended").touch()
    sweep = here(run, range(4), path=tmp_path / "table")
    assert list(sweep.column("result")) == [0, 1, 2, 3]
    assert [len((tmp_path / f"did{s}").read_text()) for s in range(4)] == [1, 2, 1, 1]


def test_workers_that_die_take_only_their_own_run_with_them(tmp_path):
    def run(seed):
        time.sleep(0.1)
        if seed in (1, 4):
            os._exit(9)
        return seed

    with pytest.warns(UserWarning) as warned:
        sweep = over_seeds(run, range(7), path=tmp_path / "table", num_workers=2)
    assert list(sweep.column("result")) == [0, 2, 3, 5, 6]
    assert [failure.seed for failure in sweep.failures] == [1, 4]
    assert all("worker died" in failure.error for failure in sweep.failures)
    assert "each by itself" in str(warned[0].message)
    assert len(runs_of(tmp_path / "table")) == 5


def test_when_all_fail_it_says_why():
    with pytest.raises(RuntimeError, match=r"each of 2 runs.*ZeroDivisionError(.|\n)*1 / seed"):
        here(lambda seed, a: 1 / seed, [0], {"a": [1, 2]})


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (None, "got None"),
        ([], "a list of dicts"),
        ([1, 2], "a list of dicts"),
        ({"agent": object()}, "object is no number"),
        ({"seed": 7}, "seed=0"),
        ({"a": 2}, "a=1"),
    ],
)
def test_results_that_fit_no_table_are_failures(result, said):
    with pytest.raises(RuntimeError, match=said):
        here(lambda seed, a: result, [0], {"a": [1]})


# --- the file ------------------------------------------------------------------------------------


INTERRUPTED = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # not so in the background of a shell
from mbrl_helpers import Task, over_seeds
from mbrl_helpers.boards.rules import Rules

def run(seed):
    print("run", seed, flush=True)
    time.sleep(0.4)
    return seed

over_seeds(run, range(8), path=sys.argv[1], num_workers=int(sys.argv[2]))
print("done", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
@pytest.mark.parametrize(
    ("how", "workers"), [(signal.SIGINT, "1"), (signal.SIGINT, "2"), (signal.SIGKILL, "2")]
)
def test_an_interrupted_sweep_goes_on_where_it_was(tmp_path, how, workers):
    script, path = tmp_path / "script.py", tmp_path / "table"
    script.write_text(INTERRUPTED)
    command = [sys.executable, script, path, workers]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    kept = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    with subprocess.Popen(command, start_new_session=True, **kept) as process:
        while not path.exists() or len(path.read_text().splitlines()) < 3:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        os.killpg(process.pid, how)
        process.wait(timeout=60)
    had = runs_of(path)
    assert 2 <= len(had) < 8
    again = subprocess.run(command, timeout=120, **kept)
    assert "done" in again.stdout, again.stderr
    assert sorted(runs_of(path)) == sorted(f"[{seed}, {{}}]" for seed in range(8))
    assert runs_of(path)[: len(had)] == had


def test_a_line_cut_off_is_done_again(tmp_path):
    path = tmp_path / "table"
    here(measure, range(3), path=path)
    whole = path.read_bytes()
    for cut in (1, 20):
        path.write_bytes(whole[:-cut])
        here(measure, range(3), path=path)
        assert path.read_bytes() == whole
    path.write_bytes(whole[:30])  # not even the header is whole
    with pytest.raises(ValueError, match="something else"):
        here(measure, range(3), path=path)


@pytest.mark.parametrize("damage", [b"{oops\n", b"[1]\n"])
def test_a_damaged_line_does_not_cost_those_after_it(tmp_path, damage):
    path = tmp_path / "table"
    here(measure, range(3), path=path)
    header, _, *rest = path.read_bytes().splitlines(keepends=True)
    damaged = b"".join([header, damage, *rest])
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"in line 2\. Mend or delete that line"):
        here(measure, range(3), path=path)
    assert path.read_bytes() == damaged


def test_a_disk_with_room_again_gets_what_it_missed(tmp_path, monkeypatch):
    path, tries, write = tmp_path / "table", [], Kept._write

    def limited(self, text):
        tries.append(text)
        if 1 < len(tries) < 4:  # the header fits
            raise OSError(28, "No space left on device")
        write(self, text)

    monkeypatch.setattr(Kept, "_write", limited)
    with pytest.warns(UserWarning, match="No space") as warned:
        here(one, range(4), path=path)
    assert len(warned) == 1
    assert len(runs_of(path)) == 4


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    path, full, write = tmp_path / "table", [True], Kept._write

    def limited(self, text):
        if full[0] and "key" in text:
            with self.path.open("ab") as file:
                file.write(text.encode()[:10])
            raise OSError(28, "No space left on device")
        write(self, text)

    monkeypatch.setattr(Kept, "_write", limited)

    def run(seed):
        return seed

    with pytest.warns(UserWarning) as warned:
        sweep = here(run, range(3), path=path)
    assert list(sweep.column("result")) == [0, 1, 2]
    assert ["No space" in str(w.message) for w in warned] == [True, False]
    assert "3 runs could not be written" in str(warned[1].message)
    full[0] = False
    assert here(run, range(3), path=path).rows == sweep.rows
    assert len(runs_of(path)) == 3


def test_two_sweeps_do_not_write_one_file(tmp_path):
    path = tmp_path / "table"

    def run(seed):
        return here(measure, [0], path=path).rows[0]

    with pytest.raises(RuntimeError, match="that another sweep is writing to"):
        here(run, [0], path=path)
    Kept("over_seeds", path, run, False).close()  # and it is free afterwards


def one(seed):
    return seed * FACTOR


FACTOR = 2


def test_results_of_another_function_are_not_taken_for_this_ones(tmp_path, monkeypatch):
    path = tmp_path / "table"
    here(one, [1], path=path)
    with pytest.raises(ValueError, match=r"function: there 'one', here 'measure'.*restart=True"):
        here(measure, [1], path=path)
    monkeypatch.setitem(one.__globals__, "FACTOR", 3)  # what it reads
    with pytest.raises(ValueError, match="code: there"):
        here(one, [1], path=path)
    assert list(here(one, [1], path=path, restart=True).column("result")) == [3]


class Worked:
    """Works something out when first asked, and keeps it."""

    size = 3

    @functools.cached_property
    def double(self):
        return 2 * self.size


@pytest.mark.parametrize(
    ("thing", "use"),
    [
        (Task(env_id="Pendulum-v1", obs_names=("cos", "sin", "speed")), lambda t: t.actions),
        ([Worked()], lambda things: things[0].double),
        ({"rules": Rules("small", 3, 3, 3, gravity=False)}, lambda kept: kept["rules"].symmetries),
    ],
)
def test_what_was_worked_out_on_the_way_makes_no_other_function(tmp_path, thing, use):
    def run(seed):
        return float(seed + len(str(type(thing))))

    path = tmp_path / "runs.jsonl"
    before = over_seeds(run, [1, 2], path=path, num_workers=1)
    use(thing)
    assert over_seeds(run, [1, 2, 3], path=path, num_workers=1).rows[:2] == before.rows


@pytest.mark.parametrize("name", ["mbrl_helpers", "libraries", "format"])
def test_results_of_another_version_are_not_taken_for_this_ones(tmp_path, name):
    path = tmp_path / "table"
    here(one, [1], path=path)
    header, *lines = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps(json.loads(header) | {name: "older"}), *lines, ""]))
    with pytest.raises(ValueError, match=f"{name}: there 'older'"):
        here(one, [1], path=path)


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("content", ["thesis\n", '{"program": "other"}\n', "[1]\n"])
def test_a_foreign_file_is_never_touched(tmp_path, content, restart):
    path = tmp_path / "table"
    path.write_text(content)
    with pytest.raises(ValueError, match="something else"):
        here(one, [1], path=path, restart=restart)
    assert path.read_text() == content


MINE = """
from functools import partial
UNUSED = 1
SIZES = {"b", "a", "c"}
class Thing:
    size = 2
def helper(x):
    return [Thing.size * x for _ in SIZES]
def go(seed, size):
    return helper(seed) + [size]
run = partial(go, size=3)
"""


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("UNUSED = 1", "UNUSED = 2", True),
        ('{"b", "a", "c"}', '{"a", "c", "b"}', True),
        ("size = 2", "size = 5", False),
        ("* x", "+ x", False),
        ("size=3", "size=4", False),
        ('"a"', '"d"', False),
    ],
)
def test_what_a_function_uses_of_its_own_file_counts(tmp_path, old, new, same):
    codes = []
    for name, text in (("first", MINE), ("second", MINE.replace(old, new))):
        (tmp_path / f"{name}.py").write_text(text)
        spec = importlib.util.spec_from_file_location("mine", tmp_path / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        codes.append(_about(module.run)["code"])
    assert (codes[0] == codes[1]) is same


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seeds", "error", "said"),
    [
        (5, TypeError, r"For one seed: \[5\]"),
        ("abc", TypeError, "whole numbers"),
        ([0.5], TypeError, "got 0.5"),
        ([True], TypeError, "got True"),
        ([-1], TypeError, "Count from 0"),
        ([], ValueError, "at least one"),
        ([1, np.int64(1)], ValueError, "none twice"),
    ],
)
def test_seeds_are_looked_at(seeds, error, said):
    with pytest.raises(error, match=f"over_seeds: (.|\n)*{said}"):
        here(one, seeds)


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"a": 5}, TypeError, r"For one value: \[5\]"),
        ({"a": "abc"}, TypeError, "For one value"),
        ({"a": []}, ValueError, "got none"),
        ({"a": [1, 1]}, ValueError, "one twice"),
        ([{"a": 1}, {"b": 1}], ValueError, "the same names"),
        ({"seed": [1]}, ValueError, "no seed"),
        ([1], TypeError, "Make each a dict"),
        (7, TypeError, "Make each a dict"),
        ([], ValueError, "got none"),
        ({"a": [object()]}, TypeError, "with a name for the table"),
    ],
)
def test_settings_are_looked_at(settings, error, said):
    with pytest.raises(error, match=f"over_seeds: (.|\n)*{said}"):
        here(lambda seed, **more: 1, [0], settings)


def test_what_cannot_be_sent_is_said_at_once():
    lock = threading.Lock()
    with pytest.raises(TypeError, match=r"sent.*inside of run"):
        over_seeds(lambda seed: lock.locked(), [0])
    with pytest.raises(TypeError, match="Pass the function"):
        over_seeds(measure(0), [0])


def test_paths_and_workers_are_looked_at(tmp_path):
    with pytest.raises(FileNotFoundError, match="Make the folder"):
        here(one, [0], path=tmp_path / "none" / "table")
    with pytest.raises(ValueError, match="num_workers >= 1"):
        over_seeds(one, [0], num_workers=0)
