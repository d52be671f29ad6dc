"""How a mark is put on a function of a plugin, and found again: the function stays as it is."""

import inspect
import re
from collections.abc import Callable
from types import ModuleType
from typing import Protocol, TypeVar

NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")


class Marker(Protocol):
    """What a mark says of its function."""

    @property
    def name(self) -> str:
        """What operators see and the ledger keeps."""

    @property
    def function(self) -> Callable[..., object]:
        """The function itself."""

    @property
    def plugin(self) -> str:
        """The module that defines it."""


M = TypeVar("M", bound=Marker)


def check_function(function: Callable[..., object], decorator: str, attribute: str) -> None:
    """Raise TypeError unless this is a function that can be called and has no such mark yet."""
    if not inspect.isfunction(function):
        raise TypeError(f"@{decorator} marks functions, not {function!r}")
    if hasattr(function, attribute):
        raise TypeError(f"{function.__name__} is marked twice; one mark says all")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"{function.__name__} yields, so calling it would not run it")


def checked_name(name: str, what: str) -> str:
    """Give the name back. Raise TypeError if it cannot name what it shall."""
    if not NAME.fullmatch(name):
        raise TypeError(f"{name!r} cannot name a {what}: use letters, digits, _ and -, at most 100")
    return name


def file_of(function: Callable[..., object]) -> str:
    """Say which file a function stands in, below whatever decorates it."""
    file: str = inspect.unwrap(function).__code__.co_filename
    return file


def markers_in(module: ModuleType, attribute: str, kind: type[M]) -> list[M]:
    """List the marks of what a module itself defines, in its order: what it only imports belongs to another plugin."""
    found: list[M] = []
    for value in dict.fromkeys(each for each in vars(module).values() if inspect.isfunction(each)):
        mark = getattr(value, attribute, None)
        if not isinstance(mark, kind) or mark.plugin != module.__name__:
            continue
        if mark.function is not value:
            # functools.wraps copies the mark; calling what it names would leave the wrapper out.
            raise TypeError(f"the mark of {mark.name} must stand above its other decorators")
        found.append(mark)
    return found
