"""The previous version is read from the history, if that is there."""

import pytest

from tests.faults import migration_load, upgrades
from tests.faults.trials import Impossible


def test_a_clone_without_the_previous_version_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(upgrades, "PREVIOUS_VERSION", "0" * 40)
    with pytest.raises(Impossible, match="git fetch --unshallow"):
        upgrades.extract_previous_version(tmp_path)


@pytest.mark.slow
def test_a_ledger_is_migrated_under_load_by_processes_that_are_killed(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["migration_load", "--rows", "2000", "--processes", "2", "--kill-within", "10"])
    assert migration_load.main() == 0
    assert "killed" in capsys.readouterr().out
