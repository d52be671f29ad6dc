"""The previous version is read from the history, if that is there."""

import re

import pytest

from tests.faults import migration_load, upgrades
from tests.faults.cluster import ROOT
from tests.faults.trials import Impossible
from workers.ledger.database.schema_state import MIGRATIONS

FILES = sorted((MIGRATIONS / "versions").glob("v*.py"))


def test_a_clone_without_the_previous_version_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(upgrades, "PREVIOUS_VERSION", "0" * 40)
    with pytest.raises(Impossible, match="git fetch --unshallow"):
        upgrades.extract_previous_version(tmp_path)


def test_the_previous_version_may_work_with_the_ledger_of_this_one(tmp_path):
    try:
        upgrades.extract_previous_version(tmp_path)
    except Impossible as reason:
        pytest.skip(str(reason))
    folder = MIGRATIONS.relative_to(ROOT) / "versions"
    newest = max(path.name[1:5] for path in (tmp_path / folder).glob("v*.py"))
    needed = {path.name: re.search(r'^COMPATIBLE_FROM = "(\d+)"', path.read_text(), re.MULTILINE) for path in FILES}
    assert {name: found[1] for name, found in needed.items() if found and found[1] > newest} == {}


@pytest.mark.slow
def test_a_ledger_is_migrated_under_load_by_processes_that_are_killed(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["migration_load", "--rows", "2000", "--processes", "2", "--kill-within", "10"])
    assert migration_load.main() == 0
    assert "killed" in capsys.readouterr().out
