"""Which processes are gone: a table of what the registry knows, and what is missed."""

from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from ingest.queue.process_monitor import PATIENCE, START_PATIENCE, ProcessMonitor, find_absences
from ingest.queue.process_registry import ProcessRecord, ProcessType
from ingest.queue.queues import QUEUES

NOW = 1_000_000.0


def process(
    type_: str, name: str = "one", *, age: float = 1.0, started: float = 500.0, **parts: object
) -> ProcessRecord:
    """A process that reported itself `age` seconds ago, and started `started` seconds ago."""
    queues = QUEUES if type_ == "work" else ()
    record = ProcessRecord(
        ProcessType(type_), name, "host", 7, started_at=NOW - started, beat_at=NOW - age, age=age, queues=queues
    )
    return replace(record, **parts)  # type: ignore[arg-type]


WORK, CLOCK, SERVE = process("work"), process("clock"), process("serve")
DEAD, STOPPED = 60.0, {"age": 60.0, "is_stopped": True}


@pytest.mark.parametrize(
    ("known", "missed"),
    [
        ([WORK, CLOCK, SERVE], []),
        ([WORK, CLOCK], []),  # a serve of which nothing is known may be elsewhere
        ([], [("work", "all"), ("clock", "all")]),
        ([WORK, SERVE], [("clock", "all")]),
        ([WORK, process("clock", age=DEAD)], [("clock", "all")]),
        ([WORK, process("clock", **STOPPED)], [("clock", "all")]),
        ([WORK, CLOCK, process("serve", "node", age=DEAD)], [("serve", "node")]),
        ([WORK, CLOCK, process("serve", **STOPPED)], []),
        ([CLOCK, replace(WORK, queues=("urgent", "sessions", "other", "background"))], [("work", "queue cdrs")]),
        ([CLOCK, WORK, process("work", "two", age=DEAD)], [("work", "two")]),
        ([CLOCK, WORK, process("work", "two", **STOPPED)], []),
        ([CLOCK, process("work", started=30), process("work", "two", age=DEAD)], []),  # replaced
        (
            [CLOCK, process("work", started=30), process("work", "two", age=DEAD), process("work", "three", age=50)],
            [("work", "three")],
        ),
        ([CLOCK, process("work", age=-5000.0)], []),  # the clock of Redis was set back
    ],
)
def test_what_is_absent(known: list[ProcessRecord], missed: list[tuple[str, str]]) -> None:
    assert [(each.process.value, each.subject) for each in find_absences(known)] == missed


def test_each_sentence_says_what_to_do() -> None:
    known = [process("serve", age=DEAD), process("work", "two", age=DEAD), replace(WORK, queues=())]
    absences = list(find_absences(known))
    assert {each.process for each in absences} == set(ProcessType)
    assert all("tart" in each.sentence for each in absences)


def test_an_absence_counts_only_after_its_patience_without_a_break() -> None:
    moment = 0.0
    monitor = ProcessMonitor(clock=lambda: moment)
    dead = [WORK, process("clock", age=DEAD)]
    assert monitor.update(dead) == []
    moment = PATIENCE.total_seconds() - 1
    assert monitor.update(dead) == []
    assert monitor.update([WORK, CLOCK]) == []
    moment += 10
    assert monitor.update(dead) == []
    moment += PATIENCE.total_seconds()
    assert [each.process for each in monitor.update(dead)] == [ProcessType.CLOCK]
    monitor.reset()
    assert monitor.update(dead) == []


def test_a_process_of_which_nothing_is_known_has_time_to_start() -> None:
    moment = 0.0
    monitor = ProcessMonitor(clock=lambda: moment)
    monitor.update([WORK])
    moment = START_PATIENCE.total_seconds() - 1
    assert monitor.update([WORK]) == []
    moment += 1
    assert len(monitor.update([WORK])) == 1


def test_what_is_gone_is_logged_once_and_again_when_it_is_back() -> None:
    monitor = ProcessMonitor()
    absences = list(find_absences([WORK]))
    with capture_logs() as logs:
        monitor.log_changes(absences)
        monitor.log_changes(absences)
        monitor.log_changes([])
    assert [(line["event"], line["log_level"]) for line in logs] == [
        ("process.gone", "error"),
        ("process.returned", "info"),
    ]
    assert logs[0]["gone"] == "clock"
    assert "webhooks clock" in logs[0]["sentence"]
