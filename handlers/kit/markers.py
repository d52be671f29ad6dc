"""Mark functions of plugins, and find the marked functions of a module; the functions themselves stay unchanged."""

import inspect
import re
from collections.abc import Callable
from types import ModuleType
from typing import Protocol, TypeVar

NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")


class Marker(Protocol):
    """What a decorator attaches to its function."""

    @property
    def name(self) -> str:
        """The name that operators see and the ledger stores."""

    @property
    def function(self) -> Callable[..., object]:
        """The function itself."""

    @property
    def plugin(self) -> str:
        """The module that defines it."""


M = TypeVar("M", bound=Marker)


def check_function(function: Callable[..., object], decorator: str, attribute: str) -> None:
    """Raise TypeError unless this is a function that can be called and has no such marker yet."""
    if not inspect.isfunction(function):
        raise TypeError(f"@{decorator} marks functions, not {function!r}")
    if hasattr(function, attribute):
        raise TypeError(f"{function.__name__} is marked twice; use one decorator with all of its arguments")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"{function.__name__} yields, so calling it would not run it")


def checked_name(name: str, what: str) -> str:
    """Return the name. Raise TypeError if it is not a valid name."""
    if not NAME.fullmatch(name):
        raise TypeError(f"{name!r} cannot name a {what}: use letters, digits, _ and -, at most 100")
    return name


def file_of(function: Callable[..., object]) -> str:
    """Return the file that defines a function, below its decorators."""
    file: str = inspect.unwrap(function).__code__.co_filename
    return file


def markers_in(module: ModuleType, attribute: str, kind: type[M]) -> list[M]:
    """Return the markers that a module itself defines, in its order; imported functions belong to other plugins.

    Raise TypeError for a marked function inside another decorator.
    """
    found: list[M] = []
    for value in dict.fromkeys(each for each in vars(module).values() if inspect.isfunction(each)):
        marker = getattr(value, attribute, None)
        if not isinstance(marker, kind) or marker.plugin != module.__name__:
            continue
        if marker.function is not value:
            # functools.wraps copies the marker; calling the marked function would leave the wrapper out.
            raise TypeError(f"the mark of {marker.name} must stand above its other decorators")
        found.append(marker)
    return found
