import json
import subprocess
import sys

import pytest
from structlog.testing import capture_logs

from ingest import worker_metrics
from ingest.worker_metrics import FILE_BYTES, FILES, allocate, shared_folder

# What one worker does, in a process of its own: the library decides once for a process how it counts.
WORKER = """
import json, struct, sys
from pathlib import Path
from ingest.worker_metrics import allocate, drop_gauges, registry_of_all, share_metrics

folder, place, *reasons = sys.argv[1:]
assert allocate(Path(folder), int(place))
share_metrics(Path(folder), int(place))
from ingest.metrics import Metrics

metrics = Metrics()
metrics.relay(redis_ok=True, leader=True, backlog=int(place), last_published=0)
metrics.committed(kept=1, repeated=1, seconds=0.003)
for reason in reasons:
    metrics.refused(reason)
text = metrics.text({}).decode()
used = [struct.unpack_from("i", path.read_bytes())[0] for path in Path(folder).glob(f"*_{place}.db")]
drop_gauges(Path(folder), int(place))
print(json.dumps([text, used, "webhooks_relay_held" in metrics.text({}).decode(), registry_of_all() is not None]))
"""


def work(folder, place, *reasons):
    command = [sys.executable, "-c", WORKER, str(folder), str(place), *reasons]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def test_a_worker_goes_on_counting_where_the_one_before_it_ended(tmp_path):
    work(tmp_path, 0, "TooLarge")
    work(tmp_path, 1, "TooLarge", "TooSlow")
    text, _, has_gauges, is_shared = work(tmp_path, 0, "TooLarge")
    assert 'webhooks_requests_refused_total{reason="TooLarge"} 3.0' in text
    assert 'webhooks_requests_refused_total{reason="TooSlow"} 1.0' in text
    assert "webhooks_deliveries_kept_total 3.0" in text
    assert 'webhooks_inbox_commit_seconds_bucket{le="+Inf"} 3.0' in text
    assert "webhooks_relay_held 0.0" in text  # a worker that has ended sees nothing any more
    assert (has_gauges, is_shared) == (False, True)


def test_all_metrics_fit_into_the_room_that_is_allocated_at_once(tmp_path):
    reasons = [f"Reason{number:030}" for number in range(50)]
    _, used, _, _ = work(tmp_path, 0, *reasons)
    assert len(used) == len(FILES)
    assert max(used) < FILE_BYTES / 4
    allocated = [path.stat().st_blocks * 512 for path in tmp_path.iterdir()]
    assert allocated
    assert min(allocated) >= FILE_BYTES


def test_a_worker_without_room_for_its_files_counts_alone(tmp_path):
    with capture_logs() as lines:
        assert not allocate(tmp_path / "missing", 0)
    assert [line["event"] for line in lines] == ["metrics.not_shared"]


@pytest.fixture
def memory(tmp_path, monkeypatch):
    monkeypatch.setattr(worker_metrics, "MEMORY", tmp_path)
    return tmp_path


def test_the_folder_of_a_killed_supervisor_is_deleted_and_that_of_a_living_one_stays(memory):
    abandoned = memory / "webhooks-metrics-killed"
    abandoned.mkdir()
    (abandoned / "counter_0.db").touch()
    with shared_folder(memory) as first, shared_folder(memory) as second:
        assert {*memory.iterdir()} == {first, second}
    assert [*memory.iterdir()] == []


def test_supervisors_without_a_folder_go_on(memory, monkeypatch):
    monkeypatch.setattr(worker_metrics, "MEMORY", memory / "missing")
    with capture_logs() as lines, shared_folder(memory / "missing") as folder:
        assert folder is None
    assert [line["event"] for line in lines] == ["metrics.not_shared"]
