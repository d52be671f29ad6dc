"""Imports point down, packages form layers without cycles, and plugins do not know each other."""

import pkgutil
import subprocess
import sys
import tomllib
from pathlib import Path

import handlers


def test_import_linter_finds_nothing(root):
    linter = Path(sys.executable).with_name("lint-imports")
    found = subprocess.run([linter, "--no-cache"], cwd=root, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


def test_every_plugin_is_among_those_that_must_not_import_each_other(root):
    settings = tomllib.loads((root / "pyproject.toml").read_text())
    (contract,) = (one for one in settings["tool"]["importlinter"]["contracts"] if one["type"] == "independence")
    plugins = {f"handlers.{found.name}" for found in pkgutil.iter_modules(handlers.__path__) if not found.ispkg}
    assert set(contract["modules"]) == plugins
