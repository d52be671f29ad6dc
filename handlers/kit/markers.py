"""Mark functions of plugins, and find the marked functions of a module; the functions themselves stay unchanged."""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import TypeVar

NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")


@dataclass(frozen=True, slots=True)
class Marker:
    """What a decorator attaches to its function."""

    function: Callable[..., object]

    @property
    def plugin(self) -> str:
        """The module that defines it."""
        return self.function.__module__

    @property
    def file(self) -> str:
        """The file that defines it, below its decorators."""
        file: str = inspect.unwrap(self.function).__code__.co_filename
        return file

    @property
    def place(self) -> str:
        """The file and line of its definition, to begin a sentence."""
        return f"{self.file}, line {inspect.unwrap(self.function).__code__.co_firstlineno}:"

    @property
    def is_async(self) -> bool:
        """Whether it is a coroutine function."""
        return inspect.iscoroutinefunction(self.function)


M = TypeVar("M", bound=Marker)


def check_function(function: Callable[..., object], decorator: str, attribute: str, arguments: tuple[str, ...]) -> None:
    """Raise TypeError unless this is a function that can be called with the arguments and has no such marker yet."""
    if not inspect.isfunction(function):
        raise TypeError(f"@{decorator} marks functions, not {function!r}")
    if hasattr(function, attribute):
        raise TypeError(f"{function.__name__} is marked twice; use one decorator with all of its arguments")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"{function.__name__} yields, so calling it would not run it")
    signature = inspect.signature(function)
    try:
        signature.bind(*arguments)
    except TypeError:
        called = f"({', '.join(arguments)})"
        raise TypeError(
            f"{function.__name__}{signature} cannot be called with {called}, as @{decorator} does"
        ) from None


def checked_name(name: str, what: str) -> str:
    """Return the name. Raise TypeError if it is not a valid name."""
    if not NAME.fullmatch(name):
        raise TypeError(f"{name!r} cannot name a {what}: use letters, digits, _ and -, at most 100")
    return name


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
            raise TypeError(f"the mark of {marker.function.__name__} must stand above its other decorators")
        found.append(marker)
    return found
