"""Trials: late deliveries are stuck, and a trial is skipped only if its disk may not be mounted."""

import itertools
import subprocess
import threading
from types import SimpleNamespace

import pytest

from tests.faults import small_disk, trials
from tests.faults.audit import Discrepancies
from tests.faults.cluster import Cluster
from tests.faults.small_disk import SmallDisk
from tests.faults.trials import Impossible, Trial, TrialState, run_trial


class Load:
    """A load whose items are all acknowledged at once."""

    def __init__(self):
        self.numbers = itertools.count(1)
        self.sent = set()
        self.wrong_ids = []

    def start(self):
        pass

    pause = start

    def count(self):
        return next(self.numbers) * trials.BEFORE

    def acknowledged(self):
        return set(range(self.count()))


@pytest.fixture
def cluster(monkeypatch):
    """Return a cluster without discrepancies."""
    monkeypatch.setattr(trials, "is_settled", lambda *_: True)
    monkeypatch.setattr(trials, "wait_until_quiet", lambda *_: 1.0)
    monkeypatch.setattr(trials, "audit", lambda *_: Discrepancies())
    monkeypatch.setattr(trials, "pushed_more_than_once", lambda _cluster: set())
    return SimpleNamespace(load=Load(), database="SQLite")


def test_a_delivery_that_is_settled_too_late_is_stuck(cluster, monkeypatch):
    monkeypatch.setattr(trials, "STUCK_AFTER_S", 0)
    monkeypatch.setattr(trials, "is_settled", lambda *_: False)
    assert run_trial(cluster, Trial("nothing", lambda _cluster: None), TrialState(), threading.Event()).stuck == 1


def test_the_cluster_recovers_after_some_of_many_faults_and_after_the_last(cluster, monkeypatch):
    faults, checked_after = [], []
    monkeypatch.setattr(trials, "is_settled", lambda _cluster, _ids: checked_after.append(len(faults)) or True)
    monkeypatch.setattr(trials, "RECOVERS_EVERY", 3)
    verdict = run_trial(cluster, Trial("nothing", faults.append, times=7), TrialState(), threading.Event())
    assert checked_after == [3, 6, 7]
    assert (verdict.times, verdict.stuck) == (7, 0)


def test_a_push_that_was_sent_twice_is_a_double_unless_its_sender_was_killed(cluster, monkeypatch):
    monkeypatch.setattr(trials, "pushed_more_than_once", lambda _cluster: {"hello"})
    state = TrialState()
    found = [
        run_trial(
            cluster, Trial("nothing", lambda _cluster: None, clock_survives=spares), state, threading.Event()
        ).doubled
        for spares in (False, True)
    ]
    assert found == [0, 0]  # once excused, it is not reported again
    assert run_trial(cluster, Trial("nothing", lambda _cluster: None), TrialState(), threading.Event()).doubled == 1


def test_an_answer_with_the_id_of_another_delivery_is_a_loss(cluster):
    cluster.load.wrong_ids.append("a delivery")
    assert run_trial(cluster, Trial("nothing", lambda _cluster: None), TrialState(), threading.Event()).lost == 1


def test_a_trial_is_interrupted_when_its_group_closes(cluster):
    is_closing = threading.Event()
    with pytest.raises(InterruptedError):
        run_trial(cluster, Trial("nothing", lambda _cluster: is_closing.set(), times=1000), TrialState(), is_closing)


def test_only_a_disk_that_may_not_be_mounted_is_impossible(tmp_path, monkeypatch):
    refused = []

    def run(command, **_options):
        if command[0] == "mount" and refused:
            raise subprocess.CalledProcessError(32, command)

    monkeypatch.setattr(small_disk.subprocess, "run", run)
    disk = SmallDisk(tmp_path / "disk", 1)
    refused.append(True)
    with pytest.raises(subprocess.CalledProcessError):
        disk.make_read_only()
    with pytest.raises(Impossible):
        SmallDisk(tmp_path / "another", 1)


def test_a_line_that_was_logged_before_does_not_count(tmp_path):
    log = tmp_path / "work.log"
    log.write_text("the disk is full\n")
    cluster = SimpleNamespace(members={"work": SimpleNamespace(log=log)}, log_of=lambda _name: log.read_text())
    with pytest.raises(AssertionError), Cluster.expect_log(cluster, "the disk is full", 0):
        pass
    with Cluster.expect_log(cluster, "the disk is full"), log.open("a") as file:
        file.write("the disk is full\n")


def test_a_process_that_cannot_be_restarted_is_told_of_and_tried_again():
    def launch(*_):
        launched.append(None)
        if len(launched) == 2:
            raise OSError("no descriptor is left")
        return SimpleNamespace(poll=lambda: 0 if len(launched) == 1 else None)

    launched = []
    cluster = Cluster()
    endpoint = cluster.add_program("serve", [], launch)
    endpoint.start()
    with pytest.warns(UserWarning, match="no descriptor is left"):
        cluster.restart_dead()
    cluster.restart_dead()
    assert endpoint.is_running
    cluster.folder.rmdir()
