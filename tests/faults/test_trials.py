"""A trial that proves nothing is none: what is late is stuck, and only a disk that may not be made is skipped."""

import itertools
import subprocess
from types import SimpleNamespace

import pytest

from tests.faults import smalldisk, trials
from tests.faults.audit import Books
from tests.faults.smalldisk import SmallDisk
from tests.faults.stage import Stage
from tests.faults.trials import Impossible, Standing, Trial, play


class Load:
    """Sends nothing, and is told that all of it was kept."""

    def __init__(self):
        self.numbers = itertools.count(1)
        self.sent = set()

    def go(self):
        pass

    pause = go

    def count(self):
        return next(self.numbers) * trials.BEFORE

    def acknowledged(self):
        return set(range(self.count()))


def test_what_is_settled_too_late_is_stuck_although_it_comes_to_rest(monkeypatch):
    monkeypatch.setattr(trials, "STUCK_AFTER", 0)
    monkeypatch.setattr(trials, "is_settled", lambda *_: False)
    monkeypatch.setattr(trials, "settle", lambda *_: 1.0)
    monkeypatch.setattr(trials, "audit", lambda *_: Books())
    stage = SimpleNamespace(load=Load(), database="SQLite")
    assert play(stage, Trial("nothing", lambda _stage: None), Standing()).stuck == 1


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
    stage = SimpleNamespace(members={"work": SimpleNamespace(log=log)}, said=lambda _name: log.read_text())
    with pytest.raises(AssertionError), Stage.hears(stage, "the disk is full", 0):
        pass
    with Stage.hears(stage, "the disk is full"), log.open("a") as file:
        file.write("the disk is full\n")
