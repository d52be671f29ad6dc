"""What grows is told from what fills once, goes up and down, or starts anew."""

import random
import subprocess
import sys

import pytest

from tests.faults.growth import FILES, MEMORY, Sample, trend
from tests.faults.resource_samples import of_process

WARM_UP = 900.0
HOUR = range(0, 3600, 10)


def grows(samples):
    found = trend(("serve", MEMORY), samples, warm_up=WARM_UP)
    assert found is not None
    return found.grows


def noise():
    return random.uniform(-2, 2)


@pytest.mark.parametrize(
    ("what", "value", "is_growth"),
    [
        ("it stays", lambda _at: 100 + noise(), False),
        ("it leaks", lambda at: 100 + at / 100 + noise(), True),
        ("a cache fills in the warm-up", lambda at: min(100 + at / 10, 190) + noise(), False),
        ("it rises and is emptied", lambda at: 100 + at % 300 / 3, False),
        ("it shrinks", lambda at: 200 - at / 100, False),
        ("it leaks less than noise is", lambda at: 100 + at / 2000 + noise(), False),
    ],
)
def test_only_what_rises_for_good_grows(what, value, is_growth):
    assert grows([Sample(at, value(at)) for at in HOUR]) is is_growth, what


def test_a_leak_is_seen_although_the_process_is_killed_again_and_again():
    leaking = [Sample(at, 100 + at % 1200 / 50 + noise(), life=at // 1200) for at in HOUR]
    assert grows(leaking)
    found = trend(("serve", MEMORY), leaking, warm_up=WARM_UP)
    assert found.per_hour == pytest.approx(72, rel=0.2)


def test_a_process_that_is_larger_each_time_it_starts_does_not_leak():
    assert not grows([Sample(at, 100 + 50 * (at // 1200) + noise(), life=at // 1200) for at in HOUR])


def test_a_store_that_fills_anew_after_each_restart_does_not_leak():
    """It was taken for growth of 12 MiB an hour, where it never had more than 16."""
    filling = [Sample(at, 12 + at % 1200 / 300, life=at // 1200) for at in HOUR]
    assert not grows(filling)


def test_too_few_samples_are_no_trend():
    assert trend(("serve", MEMORY), [Sample(1000, 1), Sample(1010, 2)], warm_up=WARM_UP) is None


def test_files_that_a_process_and_its_children_leave_open_are_seen():
    leaking = "import os, sys\nos.fork()\nfor _ in sys.stdin: os.open(os.devnull, os.O_RDONLY); print(flush=True)"
    with subprocess.Popen([sys.executable, "-c", leaking], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        samples = []
        for at in range(20):
            process.stdin.write(b"\n")
            process.stdin.flush()
            process.stdout.readline()
            samples.append(Sample(at, dict(of_process(process.pid))[FILES]))
        process.kill()
        process.stdin.close()
    found = trend(("leaking", FILES), samples, warm_up=0)
    assert found.grows
    assert found.rose_by == pytest.approx(19, abs=1)
    assert "file descriptors" in str(found)
    assert "**grows**" in str(found)
