"""Saving and loading: one kind of file, of numbers and settings, in which nothing is executed.

A file is a compressed .npz archive of arrays, none of them pickled, with a header in JSON: what it
holds, in which version of the format, by which version of the package, and the settings. What is
loaded is built anew from settings and numbers, and passes all the checks of its constructors.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

FORMAT = 1  # raise it when an older version of the package could no longer read the files
PROGRAM = "mbrl_helpers"


def save(
    where: str, path: str | Path, kind: str, settings: Mapping[str, Any], arrays: Mapping[str, Any]
) -> None:
    """Write settings and arrays, in one step; refuse to overwrite what is not of this kind.

    Args:
        where: what the user called.
        path: of the file.
        kind: what it holds, such as "policy".
        settings: what JSON can hold.
        arrays: NumPy arrays by name.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if there is something else at this path.
    """
    path = Path(path).expanduser()
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"{where}: expected a path in a folder that exists, got {path}. Make the folder "
            f"{path.parent} first, or choose another one."
        )
    if path.exists():
        try:
            _read(path, kind)
        except ValueError as error:
            raise ValueError(
                f"{where}: expected a new path or an older file of this kind ({kind}), got {path}, "
                "which is something else. Choose another name, or remove it."
            ) from error
    header = {"program": PROGRAM, "kind": kind, "format": FORMAT, "version": _version()}
    header["settings"] = dict(settings)
    partial = path.with_name(path.name + ".part")
    # Lists become lists again, tuples too: who loads makes tuples of them.
    text = json.dumps(header, default=_plain)
    try:
        with partial.open("wb") as file:
            np.savez_compressed(file, header=np.array(text), **arrays)
        partial.replace(path)  # in one step, so that an interrupt leaves the old file whole
    finally:
        partial.unlink(missing_ok=True)


def load(where: str, path: str | Path, kind: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read what `save` wrote.

    Args:
        where: what the user called.
        path: of the file.
        kind: what it should hold.

    Returns:
        Settings and arrays.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is cut off, of another kind, of a newer version, or from somewhere else.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"{where}: expected a file of this kind ({kind}), got none at {path}. Check the path, "
            "or save it first."
        )
    with reading(where, path):
        return _read(path, kind)


@contextmanager
def reading(where: str, path: str | Path) -> Iterator[None]:
    """Name the file in whatever goes wrong while something is made of its contents."""
    try:
        yield
    except Exception as error:  # zipfile, NumPy and JSON raise all kinds of things
        # NumPy's own words end in advice to load it all the same.
        why = "it contains pickled objects" if "pickle" in str(error) else error
        raise ValueError(
            f"{where}: expected a file that can be read, got {path} ({why}). If it is not cut off "
            "or from somewhere else, save it again."
        ) from error


class Saved(ABC):
    """What can be kept in a file: it says what it is made of, and is made of that again.

    Attributes:
        kind: what its files hold, such as "policy".
    """

    kind: ClassVar[str]

    @abstractmethod
    def contents(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Settings and arrays that a file keeps of it."""

    @classmethod
    @abstractmethod
    def of_contents(cls, settings: dict[str, Any], arrays: dict[str, np.ndarray]) -> Self:
        """Make it of what a file has kept."""

    def save(self, path: str | Path) -> None:
        """Write it to a file of numbers and settings.

        Raises:
            ValueError: if there is something else at this path.
        """
        save(f"{type(self).__name__}.save", path, self.kind, *self.contents())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is cut off, of something else, or of a newer version.
        """
        settings, arrays = load(f"{cls.__name__}.load", path, cls.kind)
        with reading(f"{cls.__name__}.load", path):
            return cls.of_contents(settings, arrays)


def under(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays whose names begin with a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def _read(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    try:
        with path.open("rb") as stream:  # NumPy leaves one open that it can't read
            file = np.load(stream, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it was not written by this package")
            if "header" not in file.files:
                old = "format" in file.files and str(file["format"]).startswith(PROGRAM)
                by = f"by a version of {PROGRAM} that is too old" if old else "by something else"
                raise ValueError(f"it was written {by}")
            header = json.loads(str(file["header"]))
            _check_header(header, kind)
            arrays = {name: file[name] for name in file.files if name != "header"}
            return header["settings"], arrays
    except Exception as error:
        raise ValueError(str(error)) from error


def _plain(value: Any) -> Any:
    """A number of NumPy's, as settings may be, as JSON can hold it."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"settings of {type(value).__name__} cannot be kept in a file")


def _check_header(header: Any, kind: str) -> None:
    if not isinstance(header, dict) or header.get("program") != PROGRAM:
        raise ValueError("it was not written by this package")
    if header["format"] > FORMAT:
        raise ValueError(
            f"it was written by {PROGRAM} {header['version']}, which is newer than this "
            f"{_version()}: update the package"
        )
    if header["kind"] != kind:
        raise ValueError(f"it holds another kind of thing: {header['kind']}, not {kind}")


def _version() -> str:
    from mbrl_helpers import __version__  # the package itself imports this module

    return __version__
