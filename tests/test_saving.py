"""Files: what was saved comes back to the bit; anything else is named, and never executed."""

import dataclasses
import io
import json
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from mbrl_helpers import saving
from mbrl_helpers.agents import RandomAgent
from mbrl_helpers.data import Transitions, load_transitions
from mbrl_helpers.dynamics import DynamicsConfig, EnsembleModel, FittedModel
from mbrl_helpers.envs import Task, get_task
from mbrl_helpers.futures import Imagination, rollout
from mbrl_helpers.interaction import collect_episodes
from mbrl_helpers.uncertainty import disagreement, predictive

CARTPOLE, PENDULUM = get_task("CartPole-v1"), get_task("Pendulum-v1")
FIELDS = [field.name for field in dataclasses.fields(Transitions)]
QUICK = {"max_updates": 30, "hidden_sizes": (16, 16), "termination_sizes": (8,)}
QUICK |= {"num_members": 3, "min_terminations": 0, "learning_rate": 1e-2}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def transitions(lengths=(3, 2), task=None, seed=0):
    """Made-up episodes of a task; of two numbers and two choices unless given."""
    rng, num = np.random.default_rng(seed), sum(lengths)
    num_obs = 2 if task is None else task.num_obs
    space = Discrete(2) if task is None else task.action_space
    space.seed(seed)
    kind = np.int64 if isinstance(space, Discrete) else np.float32
    obs = rng.normal(size=(num, num_obs))
    next_obs = np.sin(2 * obs) + 0.1 * rng.normal(size=obs.shape)
    for pair in () if task is None else map(list, task.angles):
        for rows in (obs, next_obs):
            rows[:, pair] /= np.linalg.norm(rows[:, pair], axis=1, keepdims=True)
    last = np.isin(np.arange(num), np.cumsum(lengths) - 1)
    return Transitions(
        obs=obs.astype(np.float32),
        action=np.array([space.sample() for _ in range(num)]).astype(kind),
        reward=rng.normal(size=num).astype(np.float32),
        next_obs=next_obs.astype(np.float32),
        terminated=last,
        truncated=np.zeros(num, dtype=bool),
        episode=np.repeat(np.arange(len(lengths)), lengths),
    )


def assert_equal(a, b):
    for name in FIELDS:
        left, right = getattr(a, name), getattr(b, name)
        np.testing.assert_array_equal(left, right, err_msg=name)
        assert left.dtype == right.dtype


# --- models, to the bit --------------------------------------------------------------------------

OWN = Task(env_id="Ünïcode Own-v0", obs_names=("a [m]", "winkel φ", "c"),
           space=Discrete(3, start=-1))  # fmt: skip
ARM = Task(env_id="an arm", obs_names=("sin", "cos", "speed", "d"), angles=((1, 0),),
           space=Box(np.array([-1, 0.1]), np.array([1, 1 / 3]), dtype=np.float64))  # fmt: skip
MODELS = {
    "plain": (PENDULUM, {}),
    "without angles": (PENDULUM, {"angles": ()}),
    "gaussian": (PENDULUM, {"gaussian": True, "bootstrap": True}),
    "elites": (CARTPOLE, {"num_members": 5, "num_elites": 2}),
    "gaussian elites": (CARTPOLE, {"num_members": 4, "num_elites": 3, "gaussian": True}),
    "dropout": (PENDULUM, {"method": "dropout", "dropout": 0.3}),
    "dropout of choices": (CARTPOLE, {"method": "dropout"}),
    "last layer": (PENDULUM, {"method": "last_layer"}),
    "last layer of choices": (CARTPOLE, {"method": "last_layer", "num_members": 6}),
    "one network": (CARTPOLE, {"num_members": 1}),
    "choices from -1 on": (OWN, {}),
    "an arm": (ARM, {"gaussian": True, "clamp": False}),
    "linear": (ARM, {"hidden_sizes": (), "termination_sizes": ()}),
    "no linear part": (CARTPOLE, {"linear_part": False, "hidden_sizes": (40, 8)}),
    "wide to narrow": (OWN, {"hidden_sizes": (64, 2, 32), "termination_sizes": (1,)}),
    "of numpy's numbers": (
        OWN, {"num_members": np.int64(2), "ridge": np.float32(1e-3), "hidden_sizes": (np.int32(8),),
              "gaussian": np.bool_(True), "num_folds": np.uint8(3), "min_gain": np.float16(0.25)},
    ),
    "of lists": (OWN, {"hidden_sizes": [8, 4], "termination_sizes": []}),
}  # fmt: skip


def experience(task):
    if task in (CARTPOLE, PENDULUM):
        agent = RandomAgent(task.action_space, seeded())
        return collect_episodes(task, agent, num_episodes=5, seed=0)
    return transitions((20,) * 6, task)


@pytest.fixture(scope="module")
def models():
    """A fitted model of each kind."""
    return {
        name: EnsembleModel(task, seeded(1), DynamicsConfig(**QUICK | changes)).fit(
            experience(task)
        )
        for name, (task, changes) in MODELS.items()
    }


def said(model):
    """What a model says of states inside its data and out, of one row and of many."""
    task, rng, parts = model.task, seeded(7), []
    bounded = task.actions.uniform((700,), rng)
    for num_rows, own in ((1, False), (7, True), (700, False), (64, True)):
        members = (model.num_members,) if own else ()
        obs = 2 * torch.randn(*members, num_rows, task.num_obs, generator=rng)
        action = bounded[:num_rows].expand(*members, -1, -1)
        parts += model.predict(obs, action)
        parts += model.step(obs, action)
        parts += model.step(obs, action, seeded(8))
    obs, actions = torch.randn(6, task.num_obs, generator=rng), bounded[:60].view(6, 10, -1)
    for how in (
        Imagination(), Imagination(propagation="expectation"),
        Imagination(propagation="ts1", generator=seeded(9)),
    ):  # fmt: skip
        parts.append(rollout(model, obs, actions, how))
    parts += predictive(model, obs, actions[:, 0])
    return [*parts, disagreement(model, obs, actions[:, 0])]


@pytest.mark.parametrize("name", MODELS)
def test_a_model_survives_a_file_to_the_bit(models, tmp_path, name):
    model, path = models[name], tmp_path / "model.npz"
    model.save(path)
    again = FittedModel.load(path)
    assert all(torch.equal(a, b) for a, b in zip(said(model), said(again), strict=True))
    assert again.num_members == model.num_members
    assert repr(again.history) == repr(model.history)  # NaN is in it
    assert again.angles == model.angles
    data = experience(model.task)
    assert torch.equal(again.targets(data), model.targets(data))
    task, _ = MODELS[name]
    if task in (CARTPOLE, PENDULUM):
        assert again.task is task
    for field in ("env_id", "obs_names", "angles", "action_space"):
        assert getattr(again.task, field) == getattr(task, field)
    if name != "of lists":
        assert again.config == model.config
    assert not any(p.requires_grad for net in (again.change, again.termination)
                   for p in net.parameters())  # fmt: skip


@pytest.mark.parametrize("name", ["plain", "gaussian elites", "of numpy's numbers"])
def test_what_was_loaded_can_be_saved_again(models, tmp_path, name):
    models[name].save(tmp_path / "first.npz")
    FittedModel.load(tmp_path / "first.npz").save(tmp_path / "second.npz")
    first, second = (
        saving.load("test", tmp_path / f"{which}.npz", "fitted model")
        for which in ("first", "second")
    )
    assert first[0] == second[0]
    assert first[1].keys() == second[1].keys()
    for key, value in first[1].items():
        np.testing.assert_array_equal(value, second[1][key], err_msg=key)
        assert value.dtype == second[1][key].dtype


def test_what_was_loaded_can_be_fitted_and_planned_with(models, tmp_path):
    """It is as frozen as any fit, and belongs to nobody who learns."""
    models["plain"].save(tmp_path / "model.npz")
    again = FittedModel.load(tmp_path / "model.npz")
    learning = EnsembleModel(again.task, seeded(), again.config)
    before = said(again)
    learning.fit(experience(PENDULUM))
    assert all(map(torch.equal, before, said(again)))
    with pytest.raises(dataclasses.FrozenInstanceError):
        again.config = None


ELSEWHERE = """
import sys
import numpy as np, torch
sys.path.insert(0, sys.argv[1])
torch.set_num_threads(1)
from test_saving import said
from mbrl_helpers import FittedModel, load_transitions
for path in sys.argv[3:]:
    parts = [part.numpy() for part in said(FittedModel.load(path))]
    np.savez(path + ".said.npz", *parts)
np.save(sys.argv[2] + ".obs.npy", load_transitions(sys.argv[2]).obs)
"""


def test_another_process_says_the_same_to_the_bit(models, tmp_path):
    """From files whose paths have blanks and letters that are not English."""
    folder = tmp_path / "mein Ordner – ünïcode 模型"
    folder.mkdir()
    data, of_data = transitions(), folder / "experience of today.npz"
    data.save(of_data)
    paths = {}
    for number, (name, model) in enumerate(models.items()):
        paths[name] = folder / f"Modell {number} größer.npz"
        model.save(str(paths[name]))
    arguments = map(str, (Path(__file__).parent, of_data, *paths.values()))
    command = [sys.executable, "-c", ELSEWHERE, *arguments]
    subprocess.run(command, check=True, cwd=tmp_path)
    np.testing.assert_array_equal(np.load(f"{of_data}.obs.npy"), data.obs)
    for name, path in paths.items():
        with np.load(f"{path}.said.npz") as file:
            for key, part in zip(file.files, said(models[name]), strict=True):
                np.testing.assert_array_equal(file[key], part, err_msg=f"{name}, {key}")


# --- transitions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [None, ARM, OWN], ids=str)
def test_files_keep_everything(tmp_path, task):
    path, data = tmp_path / "data.npz", transitions(task=task)
    data.save(path)
    assert_equal(load_transitions(path), data)
    assert_equal(load_transitions(str(path)), data)
    newer = transitions(lengths=(1,), task=task, seed=1)
    newer.save(str(path))  # our own file may be replaced
    assert_equal(load_transitions(path), newer)
    assert [file.name for file in tmp_path.iterdir()] == ["data.npz"]


def test_a_path_is_taken_as_it_is(tmp_path, monkeypatch):
    """No ending is added, and none is asked for; a name alone is of this folder."""
    monkeypatch.chdir(tmp_path)
    transitions().save("mein Versuch 1")
    assert [file.name for file in tmp_path.iterdir()] == ["mein Versuch 1"]
    assert_equal(load_transitions("mein Versuch 1"), transitions())


# --- any kind of file ----------------------------------------------------------------------------


def a_model():
    config = DynamicsConfig(**QUICK | {"max_updates": 1, "hidden_sizes": (4,)})
    return EnsembleModel(OWN, seeded(), config).fit(transitions((9, 9), OWN))


# What is saved, how it is loaded, and the names of both.
KINDS = {
    "transitions": (transitions, load_transitions, "Transitions.save", "load_transitions"),
    "fitted model": (a_model, FittedModel.load, "FittedModel.save", "FittedModel.load"),
}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The bytes of a good file of each kind."""
    path = tmp_path_factory.mktemp("good")
    for name, (make, *_) in KINDS.items():
        make().save(path / name)
    return {name: (path / name).read_bytes() for name in KINDS}


def contents(data):
    """Header and arrays of a file's bytes."""
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        arrays = dict(file)
    return json.loads(str(arrays.pop("header"))), arrays


def write(path, header, arrays):
    with path.open("wb") as file:
        np.savez(file, header=np.array(json.dumps(header)), **arrays)


def test_nothing_in_a_file_is_pickled(good, kind, tmp_path):
    """A zip archive of plain arrays, and the header is text that says what it is."""
    header, arrays = contents(good[kind])
    assert header["program"] == "mbrl_helpers"
    assert header["kind"] == kind
    assert header["format"] == saving.FORMAT
    assert {array.dtype.kind for array in arrays.values()} <= set("bif")
    (tmp_path / "file").write_bytes(good[kind])
    with zipfile.ZipFile(tmp_path / "file") as file:
        assert {name[-4:] for name in file.namelist()} == {".npy"}
        assert file.testzip() is None


def test_missing_file(tmp_path, kind):
    _, load, _, where = KINDS[kind]
    with pytest.raises(
        FileNotFoundError, match=rf"{where}: expected .* \({kind}\), got none at .*nowhere\.npz"
    ):
        load(tmp_path / "nowhere.npz")


@pytest.mark.parametrize("given", ["~/model", "~/a folder/model.npz"])
def test_home_folder_is_understood(tmp_path, monkeypatch, given):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))  # on Windows
    path = tmp_path / given.removeprefix("~/")
    path.parent.mkdir(exist_ok=True)
    saving.save("x", given, "thing", {"a": 1}, {})
    assert path.is_file()
    assert saving.load("x", given, "thing") == ({"a": 1}, {})


def test_missing_folder(tmp_path, kind):
    """Named by the path that was given, and not by that of an unfinished file."""
    make, _, where, _ = KINDS[kind]
    with pytest.raises(
        FileNotFoundError, match=rf"{where}: expected a path in a folder .*nowhere.*model\. Make"
    ):
        make().save(tmp_path / "nowhere" / "model")
    assert list(tmp_path.iterdir()) == []


class Bomb:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("a file was unpickled",))


def pickled(path, data):
    path.write_bytes(pickle.dumps(Bomb()))


def object_array(path, data):
    header, arrays = contents(data)
    name = next(iter(arrays))
    write(path, header, arrays | {name: np.array([Bomb()], dtype=object)})


def object_header(path, data):
    with path.open("wb") as file:
        np.savez(file, header=np.array([Bomb()], dtype=object))


def field_missing(path, data):
    header, arrays = contents(data)
    arrays.popitem()
    write(path, header, arrays)


def one_more_field(path, data):
    header, arrays = contents(data)
    write(path, header, arrays | {"change/weights.9": np.zeros(3), "surplus": np.zeros(3)})


def other_shape(path, data):
    header, arrays = contents(data)
    name = "obs" if "obs" in arrays else "termination/biases.0"
    write(path, header, arrays | {name: arrays[name][..., :-1]})


def settings_missing(path, data):
    header, arrays = contents(data)
    del header["settings"]
    write(path, header, arrays)


def other_program(path, data):
    header, arrays = contents(data)
    write(path, header | {"program": "another"}, arrays)


def header_of_another_kind(path, data):
    _, arrays = contents(data)
    write(path, [1, 2], arrays)


def other_npz(path, data):
    with path.open("wb") as file:
        np.savez(file, weights=np.zeros(3))


def single_array(path, data):
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def other_zip(path, data):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "hello")


def of_torch(path, data):
    torch.save({"weights": torch.zeros(3)}, path)


FOREIGN = [
    pickled, object_array, object_header, field_missing, one_more_field, other_shape,
    settings_missing, other_program, header_of_another_kind, other_npz, single_array, other_zip,
    of_torch,
]  # fmt: skip
FOREIGN += [
    lambda path, data: path.write_bytes(data[: len(data) // 2]),
    lambda path, data: path.write_bytes(data[:-100]),
    lambda path, data: path.write_bytes(data[100:]),
    lambda path, data: path.write_bytes(np.random.default_rng(0).bytes(500)),
    lambda path, data: path.write_text("obs,action\n1,2\n"),
    lambda path, data: path.write_bytes(b""),
]


@pytest.mark.parametrize("spoil", FOREIGN)
def test_foreign_files_are_refused(tmp_path, good, kind, spoil):
    _, load, _, where = KINDS[kind]
    path = tmp_path / "data.npz"
    spoil(path, good[kind])
    with pytest.raises(
        ValueError, match=rf"{where}: expected a file that can be read, got .*data\.npz \(.+\)\. If"
    ) as error:
        load(path)
    assert "allow_pickle" not in str(error.value)  # no advice to run what is in it


# A file with the right header is ours: it may be replaced, even if what it holds makes no sense.
OURS = {field_missing, one_more_field, other_shape}


@pytest.mark.parametrize("spoil", [f for f in FOREIGN if f not in OURS])
def test_foreign_files_are_left_alone(tmp_path, good, kind, spoil):
    make, _, where, _ = KINDS[kind]
    path = tmp_path / "data.npz"
    spoil(path, good[kind])
    before = path.read_bytes()
    with pytest.raises(
        ValueError,
        match=rf"{where}: expected a new path or an older file of this kind \({kind}\), got .*"
        r"data\.npz, .*Choose another name",
    ):
        make().save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["data.npz"]


def test_a_folder_is_no_file(tmp_path, kind):
    make, load, where, _ = KINDS[kind]
    path = tmp_path / "data.npz"
    path.mkdir()
    with pytest.raises(FileNotFoundError, match=r"got none at .*data\.npz"):
        load(path)
    with pytest.raises(ValueError, match=rf"{where}: .*data\.npz.*Choose another name"):
        make().save(path)
    assert list(path.iterdir()) == []


def test_a_file_of_another_kind_is_named(tmp_path, good, kind):
    make, load, save_where, where = KINDS[kind]
    (other,) = set(KINDS) - {kind}
    path = tmp_path / "data.npz"
    path.write_bytes(good[other])
    with pytest.raises(ValueError, match=rf"{where}: .*another kind of thing: {other}, not {kind}"):
        load(path)
    with pytest.raises(
        ValueError, match=rf"{save_where}: .*of this kind \({kind}\).*something else"
    ):
        make().save(path)
    assert path.read_bytes() == good[other]


def test_a_file_of_a_newer_version_is_named(tmp_path, good, kind):
    """Also one of a kind that this version does not know; and it is not overwritten."""
    make, load, save_where, where = KINDS[kind]
    path, (header, arrays) = tmp_path / "data.npz", contents(good[kind])
    newer = {"format": saving.FORMAT + 1, "version": "9.8", "settings": {"news": 1}}
    write(path, header | newer, arrays)
    before = path.read_bytes()
    with pytest.raises(
        ValueError, match=rf"{where}: .*written by mbrl_helpers 9\.8, which is newer .*update the"
    ):
        load(path)
    with pytest.raises(ValueError, match=f"{save_where}: .*something else"):
        make().save(path)
    assert path.read_bytes() == before


def test_a_file_of_an_older_version_is_named(tmp_path, good, kind):
    """Of one that knew no headers yet: it is ours, and can't be read."""
    make, load, save_where, where = KINDS[kind]
    path, (_, arrays) = tmp_path / "data.npz", contents(good[kind])
    with path.open("wb") as file:
        np.savez_compressed(file, format=np.array("mbrl_helpers transitions 1"), **arrays)
    before = path.read_bytes()
    with pytest.raises(
        ValueError,
        match=rf"{where}: .*data\.npz \(it was written by a version of mbrl_.* too old\)",
    ):
        load(path)
    with pytest.raises(ValueError, match=f"{save_where}: .*Choose another name"):
        make().save(path)
    assert path.read_bytes() == before


def test_damaged_files_are_noticed(tmp_path, good, kind):
    """Whatever byte is wrong: what is loaded is as it was, or the file is said to be bad."""
    load = KINDS[kind][1]
    path, rng, refused = tmp_path / "data.npz", np.random.default_rng(0), 0
    data, (header, arrays) = good[kind], contents(good[kind])
    for place in rng.choice(len(data), 150, replace=False):
        path.write_bytes(data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :])
        try:
            loaded = load(path)
        except ValueError:
            refused += 1
            continue
        loaded.save(tmp_path / "again.npz")
        again, same = contents((tmp_path / "again.npz").read_bytes())
        assert again == header
        assert same.keys() == arrays.keys()
        for name, value in same.items():
            np.testing.assert_array_equal(value, arrays[name], err_msg=name)
    assert refused > 50


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("no space left on the disk")])
def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch, good, kind, error):
    make, load, _, _ = KINDS[kind]
    path, new = tmp_path / "data.npz", tmp_path / "new.npz"
    path.write_bytes(good[kind])

    def failing(file, **arrays):
        file.write(b"PK half a file")
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(np, "savez_compressed", failing)
        for where in (path, new):
            with pytest.raises((KeyboardInterrupt, OSError)):
                make().save(where)
    assert path.read_bytes() == good[kind]
    assert [file.name for file in tmp_path.iterdir()] == ["data.npz"]  # nothing half done is left
    make().save(new)
    load(new)
    load(path)


# --- settings ------------------------------------------------------------------------------------


def test_settings_and_arrays_come_back(tmp_path):
    """Tuples as lists; numbers of NumPy's as Python's; what is no number as it is."""
    path = tmp_path / "any"
    settings = {
        "sizes": (1, 2), "none": None, "float": 0.1 + 0.2, "inf": float("inf"), "ü": "φ – 模",
        "nested": {"a": [np.int64(3), np.float32(0.1), np.bool_(True)]}, "empty": {},
    }  # fmt: skip
    arrays = {"a/b.c": np.arange(6).reshape(2, 3).T, "bool": np.array([True]), "0-d": np.float32(2),
              "nothing": np.zeros((0, 3)), "nan": np.array([np.nan, -0.0])}  # fmt: skip
    saving.save("test", path, "any", settings, arrays)
    found, same = saving.load("test", path, "any")
    assert found == settings | {
        "sizes": [1, 2], "nested": {"a": [3, float(np.float32(0.1)), True]},
    }  # fmt: skip
    assert same.keys() == arrays.keys()
    for name, value in arrays.items():
        np.testing.assert_array_equal(same[name], value)
        assert same[name].dtype == value.dtype
    assert np.signbit(same["nan"][1])
    assert saving.under("a/", same).keys() == {"b.c"}


def test_settings_that_no_file_can_hold(tmp_path):
    """Refused before anything is written."""
    path = tmp_path / "any"
    for settings in ({"generator": torch.Generator()}, {"weights": np.zeros(3)}):
        with pytest.raises(TypeError, match=r"settings of (Generator|ndarray) cannot be kept"):
            saving.save("test", path, "any", settings, {})
    assert list(tmp_path.iterdir()) == []
