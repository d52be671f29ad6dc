"""A cluster recovers from pressure, and its operator is told of a transaction that stays open."""

import pytest

from tests.faults import pressure
from tests.faults.cluster import POSTGRESQL, SQLITE


@pytest.mark.slow
@pytest.mark.parametrize("database", [SQLITE, POSTGRESQL])
def test_a_cluster_recovers_and_its_operator_is_told(database, monkeypatch, capsys):
    # A machine with other work is not as fast before as after: the command is for figures.
    monkeypatch.setattr(pressure, "RECOVERED", 0.3)
    monkeypatch.setattr("sys.argv", ["pressure", "--minutes", "0.2", "--flood", "1", "--database", database])
    assert pressure.main() == 0
    out = capsys.readouterr().out
    assert ("pg_terminate_backend" if database == POSTGRESQL else "fuser -v") in out
