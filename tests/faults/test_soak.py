"""A soak of a minute: the books are balanced while retention deletes, and what is broken is told."""

import pytest

from tests.faults import soak
from tests.faults.cluster import POSTGRESQL, SQLITE, Cluster
from tests.faults.soak import Soak, SoakCluster, faults_on, report


@pytest.mark.slow
@pytest.mark.parametrize("database", [SQLITE, POSTGRESQL])
def test_a_minute_of_faults_loses_and_doubles_nothing(database, monkeypatch, capsys):
    monkeypatch.setattr(Cluster, "rate", 40)
    with SoakCluster(database, kept_s=soak.LEAST_KEPT_S) as cluster:
        soaked = Soak(cluster, 60, soak.LEAST_KEPT_S)
        soaked.run(faults_on(database), every=10)
        report(soaked, soak.LEAST_KEPT_S)
    assert soaked.audited > 500
    assert (soaked.found.lost, soaked.found.doubled, soaked.found.stuck) == ([], [], [])
    assert soaked.injected.total() >= 3
    assert "| serve-0-0 | memory |" in capsys.readouterr().out
