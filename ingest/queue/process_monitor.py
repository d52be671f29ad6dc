"""Finds which processes are gone, from what the registry knows of them."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

import structlog

from ingest.queue.process_registry import ProcessRecord, ProcessType
from ingest.queue.queues import QUEUES

log = structlog.get_logger()

PATIENCE = timedelta(seconds=10)
"""How long a process has to be absent before it counts as gone: a restart takes a while, and Redis may lose all."""
START_PATIENCE = timedelta(seconds=30)
"""The same where none has ever reported: it may be starting."""

ALL = "all"
CONSEQUENCES = {
    ProcessType.WORK: ("worker", "no delivery is handled"),
    ProcessType.CLOCK: ("clock", "no push is sent, no run is tried again, and no other alert is raised"),
}


@dataclass(frozen=True, slots=True)
class Absence:
    """A process that should be there and is not."""

    process: ProcessType
    subject: str
    """Identifies what is missing: all processes of the type, a queue, or one process."""
    sentence: str
    patience: timedelta = PATIENCE


class ProcessMonitor:
    """Remembers for how long processes have been absent. For one thread."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: dict[tuple[ProcessType, str], float] = {}
        self._logged: set[tuple[ProcessType, str]] = set()

    def update(self, processes: Sequence[ProcessRecord]) -> list[Absence]:
        """Return what is gone: absent in every update for as long as its patience lasts."""
        now = self._clock()
        absences = list(find_absences(processes))
        self._since = {
            (each.process, each.subject): self._since.get((each.process, each.subject), now) for each in absences
        }
        return [
            each for each in absences if now - self._since[each.process, each.subject] >= each.patience.total_seconds()
        ]

    def reset(self) -> None:
        """Forget everything: Redis did not answer, so nothing was observed."""
        self._since = {}

    def log_changes(self, absences: Sequence[Absence]) -> None:
        """Log what is gone and was not before, and what is back."""
        current = {(each.process, each.subject): each for each in absences}
        for key in current.keys() - self._logged:
            log.error("process.gone", gone=key[0], sentence=current[key].sentence)
        for process, subject in self._logged - current.keys():
            log.info("process.returned", returned=process, subject=subject)
        self._logged = set(current)


def find_absences(processes: Sequence[ProcessRecord]) -> Iterator[Absence]:
    """Yield which processes are absent now.

    A worker and a clock are always needed. Beside that, a process that has ended without saying so is missed until one
    of its type has started after it, or until it is forgotten.
    """
    for process in ProcessType:
        known = [each for each in processes if each.process is process]
        alive = [each for each in known if each.is_alive]
        if process is not ProcessType.SERVE and not alive:
            yield _none(process, known)
            continue
        if process is ProcessType.WORK:
            served = {name for each in alive for name in each.queues}
            for name in QUEUES:
                if name not in served:
                    sentence = f"No worker serves the queue {name}: start `webhooks work {name}`, or `webhooks work`."
                    yield Absence(process, f"queue {name}", sentence, START_PATIENCE)
        yield from (_one(each, len(alive)) for each in _not_replaced(known, alive))


def _not_replaced(known: Sequence[ProcessRecord], alive: Sequence[ProcessRecord]) -> list[ProcessRecord]:
    """Return the processes that died, without those for which another has started since; each replaces one."""
    successors = sorted(each.started_at for each in alive)
    missing = []
    for dead in sorted((each for each in known if not each.is_alive and not each.is_stopped), key=_beat_at):
        later = next((index for index, at in enumerate(successors) if at > dead.beat_at), None)
        if later is None:
            missing.append(dead)
        else:
            del successors[later]
    return missing


def _beat_at(record: ProcessRecord) -> float:
    return record.beat_at


def _none(process: ProcessType, known: Sequence[ProcessRecord]) -> Absence:
    name, consequence = CONSEQUENCES[process]
    last = max(known, key=_beat_at, default=None)
    since = "runs" if last is None else f"has reported since {_time(last)}"
    sentence = f"No {name} {since}: {consequence}. Start `webhooks {process}`; the end of its log says why it ended."
    return Absence(process, ALL, sentence, START_PATIENCE if last is None else PATIENCE)


def _one(dead: ProcessRecord, others: int) -> Absence:
    since = f"has not reported since {_time(dead)}, and did not say that it ends"
    if dead.process is ProcessType.SERVE:
        sentence = (
            f"`serve` on {dead.host} {since}: it was killed, hangs, or does not reach Redis. What Plugsurfing sends"
            " there meanwhile may be lost. Start it again."
        )
    else:
        name, _ = CONSEQUENCES[dead.process]
        left = "1 other runs" if others == 1 else f"{others} others run"
        sentence = (
            f"The {name} {dead.pid} on {dead.host} {since}: it was killed or hangs. Start `webhooks {dead.process}`"
            f" there again; {left}."
        )
    return Absence(dead.process, dead.id, sentence)


def _time(record: ProcessRecord) -> str:
    return f"{record.last_beat_at:%H:%M:%S} UTC"
