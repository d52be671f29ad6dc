"""The wheel works in an environment of its own, beside a project that has folders of the same names."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
THEIRS = ("handlers", "ingest", "workers", "tests")


def ran(folder: Path, *command: object) -> str:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST", "COV"))
    }
    done = subprocess.run(
        list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel, and install it into an environment of its own; the folder with its programs.

    What it depends on is found in the environment of the tests.
    """
    folder = tmp_path_factory.mktemp("wheel")
    ran(ROOT, sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT)
    (wheel,) = folder.glob("*.whl")
    ran(folder, sys.executable, "-m", "venv", "venv")
    python = folder / "venv" / "bin" / "python"
    ran(folder, python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel)
    packages = Path(ran(folder, python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python.parent


@pytest.mark.slow
def test_a_plugin_runs_beside_folders_of_the_names_of_our_packages(environment: Path, tmp_path: Path) -> None:
    for name in THEIRS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('of the team')\n" if name != "tests" else "")
    (tmp_path / "tests" / "test_theirs.py").write_text("def test_theirs():\n    assert True\n")
    webhooks, python = environment / "webhooks", environment / "python"
    ran(tmp_path, webhooks, "plugin", "new", "beside_them", "--on", "SESSION_COMPLETE", "--table")
    assert '"handler": "beside_them"' in ran(tmp_path, webhooks, "handlers", "--json")
    assert "the tables of the plugin beside_them" in ran(tmp_path, webhooks, "migrate")
    assert "events/SESSION_COMPLETE.json" in ran(tmp_path, webhooks, "plugin", "test")
    # -P: as the program pytest, which does not put this folder first.
    pytest_here = (python, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=append")
    assert "2 passed" in ran(tmp_path, *pytest_here, "test_beside_them.py", "tests")
    where = ran(tmp_path, python, "-P", "-c", "import handlers, ingest, workers; print(handlers.__file__)")
    assert Path(where.strip()).is_relative_to(environment.parent)
