"""Which tasks a clock runs depends on the key of the Drive API."""

from workers.reconciliation.tasks import reconciliation_tasks


def test_with_a_key_sessions_are_polled_and_downtimes_backfilled(clock):
    tasks = reconciliation_tasks(clock.resources)
    assert [task.name for task in tasks] == ["downtimes", "reconcile", "backfill", "operators"]


def test_without_a_key_downtimes_are_imported_all_the_same(clock_on, tmp_path):
    clock = clock_on(f"sqlite:///{tmp_path / 'ledger.db'}", drive_api_key=None)
    assert [task.name for task in reconciliation_tasks(clock.resources)] == ["downtimes"]
