"""`webhooks dev` and its demo, from an empty folder."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

WEBHOOKS = (sys.executable, "-m", "workers.cli")


def processes_in(folder: Path) -> set[int]:
    """Return the processes whose current folder is this one or in it."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink().is_relative_to(folder):
                found.add(int(process.name))
        except OSError:
            continue
    return found


def test_the_demo_shows_one_session_from_the_socket_to_the_ledger(clean_env, dev_port, tmp_path):
    port = dev_port()
    command = [*WEBHOOKS, "dev", "--demo", "--exit", "--port", str(port)]
    ran = subprocess.run(command, env=clean_env, cwd=tmp_path, capture_output=True, check=False, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"http://127.0.0.1:{port}/plugsurfing/events" in ran.stdout
    assert re.search(r"status +COMPLETE", ran.stdout)
    our_clock = time.tzname[time.localtime().tm_isdst]  # not the driver's, in which the push writes the fee's time
    assert re.search(rf"time \({re.escape(our_clock)}\) +late", ran.stdout)  # the column is wider after midnight
    assert ran.stdout.count("✓") == 5
    assert "✗" not in ran.stdout
    assert "Traceback" not in ran.stdout + ran.stderr
    assert processes_in(tmp_path) == set()


def test_dev_restarts_its_children_serves_a_second_terminal_and_leaves_no_process(clean_env, dev_port, tmp_path):
    port = dev_port()
    command = [*WEBHOOKS, "dev", "--port", str(port)]
    log = tmp_path / "dev.log"
    with log.open("w") as file:
        running = subprocess.Popen(command, env=clean_env, cwd=tmp_path, stdout=file, stderr=file)
    try:
        wait_until(lambda: "Everything is up." in log.read_text(), running)
        sent = subprocess.run(
            [*WEBHOOKS, "send"], env=clean_env, cwd=tmp_path, capture_output=True, check=False, text=True
        )
        assert sent.returncode == 0, sent.stdout + sent.stderr
        assert "3 sent: 3 x 200" in sent.stdout
        for child in processes_in(tmp_path) - {running.pid}:
            os.kill(child, signal.SIGKILL)
        wait_until(lambda: log.read_text().count("started again") >= 5, running)
        wait_until(lambda: answers(clean_env, tmp_path), running)
    finally:
        running.send_signal(signal.SIGINT)
    assert running.wait(timeout=60) == 0, log.read_text()
    assert processes_in(tmp_path) == set()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux sends a process a signal when its parent dies")
def test_no_process_outlives_a_killed_dev_and_the_next_one_uses_its_data(clean_env, dev_port, tmp_path):
    command = [*WEBHOOKS, "dev", "--port", str(dev_port())]
    log = tmp_path / "dev.log"
    with log.open("w") as file:
        killed = subprocess.Popen(command, env=clean_env, cwd=tmp_path, stdout=file, stderr=file)
        wait_until(lambda: "Everything is up." in log.read_text(), killed)
        killed.kill()
        killed.wait()
        next_one = subprocess.run(
            [*command, "--demo", "--exit"],
            env=clean_env,
            cwd=tmp_path,
            stdout=file,
            stderr=file,
            timeout=120,
            check=False,
        )
    assert next_one.returncode == 0, log.read_text()
    deadline = time.monotonic() + 30
    while processes_in(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def answers(environment: dict[str, str], folder: Path) -> bool:
    sent = subprocess.run([*WEBHOOKS, "send", "unknown"], env=environment, cwd=folder, capture_output=True, check=False)
    return sent.returncode == 0


def wait_until(condition, running: subprocess.Popen) -> None:
    deadline = time.monotonic() + 180  # a busy machine takes its time
    while not condition():
        assert running.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
