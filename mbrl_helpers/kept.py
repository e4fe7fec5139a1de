"""Finished runs in a file, a line of JSON each; what is written stays, whatever happens after."""

import copy
import hashlib
import inspect
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from filelock import FileLock, Timeout
from joblib.hashing import NumpyHasher

PROGRAM, FORMAT = "mbrl_helpers sweep", 1


class Kept:
    """The file of one sweep, open and locked; without a path it keeps nothing.

    Args:
        where: what the user called.
        path: of the file, or None.
        run: the function of which results are kept.
        restart: whether to forget what the file holds.

    Attributes:
        found: rows that stood in it, by key.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if the file holds something else.
        RuntimeError: if somebody else is writing to it.
    """

    def __init__(self, where: str, path: str | Path | None, run: Callable, restart: bool) -> None:
        self.where = where
        self.path: Path | None = None
        self.found: dict[str, list[dict]] = {}
        self._unwritten: list[str] = []
        self._lock: FileLock | None = None
        if path is None:
            return
        self.path = Path(path).expanduser()
        if not self.path.parent.is_dir():
            raise FileNotFoundError(
                f"{where}: expected a path in a folder that exists, got {self.path}. Make the "
                f"folder {self.path.parent} first, or choose another one."
            )
        self._lock = FileLock(f"{self.path}.lock", timeout=0)
        try:
            self._lock.acquire()
        except Timeout:
            raise RuntimeError(
                f"{where}: expected {self.path} to be free, got one that another sweep is writing "
                "to. Wait until that is done, or choose another path."
            ) from None
        try:
            self._open(_about(run), restart)
        except BaseException:
            self._lock.release()
            raise

    def add(self, key: str, rows: list[dict]) -> None:
        """Keep the rows of one run, at once."""
        if self.path is None:
            return
        self._unwritten.append(json.dumps({"key": key, "rows": rows}) + "\n")
        try:
            self._write("".join(self._unwritten))
            self._unwritten.clear()
        except OSError as error:
            if len(self._unwritten) == 1:  # said once; tried again with the next
                warnings.warn(
                    f"{self.where}: can't write to {self.path} ({error}). It goes on, and keeps "
                    "the results in memory until it can: make room on the disk.",
                    stacklevel=3,
                )

    def close(self) -> None:
        """Let others have the file; says so if some results are not in it."""
        if self._unwritten:
            warnings.warn(
                f"{self.where}: {len(self._unwritten)} runs could not be written to {self.path}. "
                "They are in what is given back only: save that elsewhere.",
                stacklevel=3,
            )
        if self._lock is not None:
            self._lock.release()

    def _open(self, about: dict[str, Any], restart: bool) -> None:
        assert self.path is not None
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        lines = text.splitlines(keepends=True)
        header = _parsed(lines[0]) if lines else None
        if text.strip() and (not isinstance(header, dict) or header.get("program") != PROGRAM):
            raise ValueError(
                f"{self.where}: expected a new path or the file of an earlier sweep, got "
                f"{self.path}, which is something else. Choose another name."
            )
        if header is None or restart:
            self._size = 0
            self._write(json.dumps(about) + "\n")
            return
        assert isinstance(header, dict)
        if other := [name for name in about if header.get(name) != about[name]]:
            said = "; ".join(f"{n}: there {header.get(n)!r}, here {about[n]!r}" for n in other)
            raise ValueError(
                f"{self.where}: expected {self.path} to be of this very run, got one of another "
                f"({said}). Choose another path, or begin anew with restart=True."
            )
        whole = 0
        for number, line in enumerate(lines, start=1):
            entry = _parsed(line) if line.endswith("\n") else None
            if entry is None and number == len(lines):
                break  # cut off by a full disk or a lost machine: that run is done again
            if not isinstance(entry, dict):
                raise ValueError(
                    f"{self.where}: expected a run in each line of {self.path}, got something else "
                    f"in line {number}. Mend or delete that line, or choose another path."
                )
            whole += len(line.encode())
            if "key" in entry:
                self.found[entry["key"]] = entry["rows"]
        self._size = whole

    def _write(self, text: str) -> None:
        """Append after what is whole; what can't be written entirely is as if it had not been."""
        assert self.path is not None
        data = text.encode()
        with self.path.open("r+b" if self.path.exists() else "wb") as file:
            file.truncate(self._size)
            file.seek(self._size)
            file.write(data)
        self._size += len(data)


def plain(value: Any) -> Any:
    """NumPy's and torch's numbers and arrays as JSON can hold them."""
    if isinstance(value, (np.generic, np.ndarray, torch.Tensor)):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is no number, text or list")


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


# --- which run it is ------------------------------------------------------------------------------


def _about(run: Callable) -> dict[str, Any]:
    """What has to be the same for results to belong together."""
    from mbrl_helpers import __version__  # the package itself imports this module

    package = hashlib.sha256()
    for source in sorted(Path(__file__).parent.rglob("*.py")):
        package.update(source.read_bytes())
    return {
        "program": PROGRAM,
        "format": FORMAT,
        "function": getattr(_inner(run), "__qualname__", type(run).__name__),
        "code": hashlib.sha256("\n".join(_described(run, set())).encode()).hexdigest()[:16],
        "mbrl_helpers": f"{__version__} {package.hexdigest()[:16]}",
        "libraries": f"torch {torch.__version__}, gymnasium {gym.__version__}, "
        f"numpy {np.__version__}",
    }


def _inner(run: Callable) -> Any:
    while isinstance(run, partial):
        run = run.func
    return run


def _described(thing: Any, seen: set[int]) -> Iterator[str]:
    """Source of a function, and of what it uses of its own module; values of what it reads."""
    if id(thing) in seen:
        return
    seen.add(id(thing))
    parts = "", {"class": type(thing), "value": thing}
    if isinstance(thing, partial):
        parts = "", {"": thing.func, **{str(i): a for i, a in enumerate(thing.args)}}
        parts[1].update(thing.keywords)
    elif isinstance(thing, FunctionType):
        parts = _source(thing), _used(thing)
    elif isinstance(thing, type):  # by its parts: in a notebook a class has no source
        own = {k: v for k, v in vars(thing).items() if k[:2] != "__" or isinstance(v, FunctionType)}
        parts = repr(thing.__mro__), own
    yield parts[0]
    for name, value in sorted(parts[1].items()):
        if value is not thing and isinstance(value, (FunctionType, type, partial)):
            yield from _described(value, seen)
        else:
            yield f"{name} = {_value(value)}"


def _used(function: FunctionType) -> dict[str, Any]:
    """What a function reads from outside: values, and functions and classes of its own module."""
    names = _names(function.__code__, function.__globals__)
    used = {name: function.__globals__[name] for name in names}
    used |= inspect.getclosurevars(function).nonlocals

    def counts(value: Any) -> bool:
        if isinstance(value, (FunctionType, type)):
            return value.__module__ == function.__module__
        return isinstance(value, partial) or not (callable(value) or inspect.ismodule(value))

    return {name: value for name, value in used.items() if counts(value)}


def _names(code: CodeType, known: Mapping[str, Any]) -> set[str]:
    inner = [_names(const, known) for const in code.co_consts if isinstance(const, CodeType)]
    return {name for name in code.co_names if name in known}.union(*inner)


def _source(thing: Any) -> str:
    try:
        return inspect.getsource(thing)
    except (OSError, TypeError):  # typed into a plain Python, or written in another language
        code = getattr(thing, "__code__", None)
        return code.co_code.hex() + repr(code.co_names) if code else repr(thing)


class _Hasher(NumpyHasher):
    """joblib's, blind to what an object works out when first asked (`cached_property`)."""

    def save(self, obj: Any) -> None:
        worked_out = {
            name
            for cls in type(obj).__mro__
            for name, value in vars(cls).items()
            if isinstance(value, cached_property)
        }
        if worked_out.intersection(getattr(obj, "__dict__", ())):
            obj = copy.copy(obj)
            for name in worked_out:
                vars(obj).pop(name, None)
        super().save(obj)


def _value(value: Any) -> str:
    try:
        return _Hasher("md5").hash(value) or ""
    except Exception:  # what can't be pickled, such as an open window, has no value to compare
        return type(value).__name__
