"""A trial that proves nothing is none: what is late is stuck, and only a disk that may not be made is skipped."""

import itertools
import subprocess
import threading
from types import SimpleNamespace

import pytest

from tests.faults import smalldisk, trials
from tests.faults.audit import Expectations
from tests.faults.cluster import Cluster
from tests.faults.smalldisk import SmallDisk
from tests.faults.trials import Impossible, Trial, TrialState, play


class Load:
    """Sends nothing, and is told that all of it was kept."""

    def __init__(self):
        self.numbers = itertools.count(1)
        self.sent = set()
        self.mistaken = []

    def go(self):
        pass

    pause = go

    def count(self):
        return next(self.numbers) * trials.BEFORE

    def acknowledged(self):
        return set(range(self.count()))


@pytest.fixture
def cluster(monkeypatch):
    """A cluster on which all is well."""
    monkeypatch.setattr(trials, "is_settled", lambda *_: True)
    monkeypatch.setattr(trials, "wait_until_quiet", lambda *_: 1.0)
    monkeypatch.setattr(trials, "audit", lambda *_: Expectations())
    monkeypatch.setattr(trials, "pushed_twice", lambda _stage: set())
    return SimpleNamespace(load=Load(), database="SQLite")


def test_what_is_settled_too_late_is_stuck_although_it_comes_to_rest(cluster, monkeypatch):
    monkeypatch.setattr(trials, "STUCK_AFTER", 0)
    monkeypatch.setattr(trials, "is_settled", lambda *_: False)
    assert play(cluster, Trial("nothing", lambda _stage: None), TrialState(), threading.Event()).stuck == 1


def test_of_many_faults_some_are_left_to_recover_and_the_last_one(cluster, monkeypatch):
    faults, looks = [], []
    monkeypatch.setattr(trials, "is_settled", lambda _stage, _ids: looks.append(len(faults)) or True)
    monkeypatch.setattr(trials, "RECOVERS_EVERY", 3)
    verdict = play(cluster, Trial("nothing", faults.append, times=7), TrialState(), threading.Event())
    assert looks == [3, 6, 7]
    assert (verdict.times, verdict.stuck) == (7, 0)


def test_a_push_that_went_out_twice_is_a_double_unless_its_sender_was_killed(cluster, monkeypatch):
    monkeypatch.setattr(trials, "pushed_twice", lambda _stage: {"hello"})
    standing = TrialState()
    found = [
        play(cluster, Trial("nothing", lambda _stage: None, spares_clock=spares), standing, threading.Event()).doubled
        for spares in (False, True)
    ]
    assert found == [0, 0]  # once excused, it is not told of again
    assert play(cluster, Trial("nothing", lambda _stage: None), TrialState(), threading.Event()).doubled == 1


def test_who_is_told_of_another_delivery_has_lost_theirs(cluster):
    cluster.load.mistaken.append("a delivery")
    assert play(cluster, Trial("nothing", lambda _stage: None), TrialState(), threading.Event()).lost == 1


def test_a_trial_ends_soon_when_it_is_told_to(cluster):
    ending = threading.Event()
    with pytest.raises(InterruptedError):
        play(cluster, Trial("nothing", lambda _stage: ending.set(), times=1000), TrialState(), ending)


def test_only_a_disk_that_may_not_be_made_is_impossible(tmp_path, monkeypatch):
    refused = []

    def run(command, **_options):
        if command[0] == "mount" and refused:
            raise subprocess.CalledProcessError(32, command)

    monkeypatch.setattr(smalldisk.subprocess, "run", run)
    disk = SmallDisk(tmp_path / "disk", 1)
    refused.append(True)
    with pytest.raises(subprocess.CalledProcessError):
        disk.make_read_only()
    with pytest.raises(Impossible):
        SmallDisk(tmp_path / "another", 1)


def test_what_nobody_says_is_not_heard(tmp_path):
    log = tmp_path / "work.log"
    log.write_text("the disk is full\n")
    cluster = SimpleNamespace(members={"work": SimpleNamespace(log=log)}, log_of=lambda _name: log.read_text())
    with pytest.raises(AssertionError), Cluster.waits_for_log(cluster, "the disk is full", 0):
        pass
    with Cluster.waits_for_log(cluster, "the disk is full"), log.open("a") as file:
        file.write("the disk is full\n")
