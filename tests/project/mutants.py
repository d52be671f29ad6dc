"""Replace each function of a module by a no-op and run the module's tests: what they still pass on, they do not test.

`python -m tests.project.mutants MODULE [TESTS...]` prints a line a function and exits with 1 if one survived. Without
TESTS it runs the file that mirrors the module. A replaced function returns None; a generator yields nothing and a
context manager yields None. Processes that a test starts run the real function.
"""

import ast
import contextlib
import importlib
import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from types import ModuleType  # noqa: TC003 - nothing is imported for types alone
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
VARIABLE = "NOOP_MUTANT"
TIMEOUT_S = 300
NO_SUCH_FUNCTION = 70


def functions_of(module: str) -> list[str]:
    """List the functions and methods that a module defines, as `function` or `Class.method`."""
    tree = ast.parse(path_of(module).read_text("utf-8"))
    return list(_functions(tree.body, ""))


def path_of(module: str) -> Path:
    """Return the file of a module of ours."""
    path = ROOT / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def tests_of(module: str) -> Path:
    """Return the file that mirrors a module under `tests`."""
    path = path_of(module).relative_to(ROOT)
    return ROOT / "tests" / path.with_name(f"test_{path.name}")


def replace_by_noop(target: str) -> None:
    """Replace `module:function` or `module:Class.method`, before anything else imports it."""
    name, _, qualified = target.partition(":")
    owner: ModuleType | type = importlib.import_module(name)
    *classes, function = qualified.split(".")
    for each in classes:
        owner = getattr(owner, each)
    setattr(owner, function, _noop_like(inspect.getattr_static(owner, function)))


def passes(tests: list[str], target: str = "") -> bool:
    """Run tests, with one function replaced if a target is named; True if they pass.

    Raise ValueError if there is no such function.
    """
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "--tb=no", "-p", "no:cacheprovider"]
    environment = {**os.environ, VARIABLE: target, "PYTHONPATH": str(ROOT)}
    try:
        ended = subprocess.run(
            [*command, "-p", "tests.project.mutants", *tests],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False  # noticed: nothing waits for so long
    if ended.returncode == NO_SUCH_FUNCTION:
        raise ValueError(f"{target} cannot be replaced: nothing was tried.")
    return ended.returncode == 0


def _functions(body: list[ast.stmt], within: str) -> Iterator[str]:
    for node in body:
        match node:
            case ast.ClassDef(name=name, body=members):
                yield from _functions(members, f"{within}{name}.")
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) if not _is_declaration(node):
                yield f"{within}{name}"


def _is_declaration(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether a body is a docstring alone, as in a protocol."""
    return all(isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant) for each in node.body)


def _noop_like(original: Any) -> Any:
    match original:
        case property() | cached_property():
            return property(lambda _self: None)
        case classmethod() | staticmethod():
            return type(original)(_noop_like(original.__func__))
    function = inspect.unwrap(original)
    if function is not original and inspect.isgeneratorfunction(function):
        return lambda *_, **__: contextlib.nullcontext()
    return _noop_function(function)


def _noop_function(function: Callable[..., Any]) -> Callable[..., Any]:
    async def awaited(*_: Any, **__: Any) -> None: ...

    async def no_items(*_: Any, **__: Any) -> Any:
        return
        yield

    if inspect.iscoroutinefunction(function):
        return awaited
    if inspect.isasyncgenfunction(function):
        return no_items
    if inspect.isgeneratorfunction(function):
        return lambda *_, **__: iter(())
    return lambda *_, **__: None


def main(arguments: list[str]) -> int:
    """Try every function of the module that is named first, with the tests that are named after it."""
    if not arguments:
        print("usage: python -m tests.project.mutants MODULE [TESTS...]", file=sys.stderr)  # noqa: T201 - a command
        return 2
    module, *tests = arguments
    tests = tests or [str(tests_of(module).relative_to(ROOT))]
    if not passes(tests):
        print(f"{' '.join(tests)} fails as it is: nothing can be learnt from it.", file=sys.stderr)  # noqa: T201 - a command
        return 1
    survivors = 0
    for function in functions_of(module):
        survived = passes(tests, f"{module}:{function}")
        survivors += survived
        print(f"{'SURVIVED' if survived else 'noticed '}  {module}:{function}", flush=True)  # noqa: T201 - a command
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

if os.environ.get(VARIABLE):  # a plugin of pytest, loaded before any test
    try:
        replace_by_noop(os.environ[VARIABLE])
    except (ImportError, AttributeError):
        sys.exit(NO_SUCH_FUNCTION)  # a mutant that does not exist must not count as noticed
