import pytest
from rich.progress import Progress

from tests.bench.harness import isolated_environment
from tests.bench.memory import memory


@pytest.mark.slow
def test_the_memory_of_each_process_is_measured_after_every_step():
    with isolated_environment():
        report = memory(100, Progress(disable=True), steps=(0, 20))
    assert [column.title for column in report.columns] == ["at the start", "after 20"]
    rows = {row.name.partition(",")[0]: row for row in report.rows}
    # The child that works a job may live too short to be seen.
    assert all(rows[name].samples["20"][0] > 1 for name in ("serve", "worker", "clock"))
