import os
import signal
from pathlib import Path

import pytest

from tests.bench.harness import (
    BenchFailed,
    Harness,
    children,
    isolated_environment,
    resident_mib,
    wait_for_http,
    wait_until,
)


def python(harness, code):
    return harness.python("-c", code, name="child", environment={})


def test_a_process_that_fails_is_reported_with_its_last_line():
    with Harness() as harness:
        process = python(harness, "raise SystemExit('no such luck')")
        with pytest.raises(BenchFailed, match="no such luck"):
            process.finish(10)
        with pytest.raises(BenchFailed, match="child ended with 1"):
            wait_until(lambda: False, "never", process)


def test_a_process_that_ends_by_itself_returns_its_output():
    with Harness() as harness:
        assert python(harness, "print('measured')").finish(10) == "measured\n"


def test_a_process_that_does_not_end_is_reported():
    with Harness() as harness, pytest.raises(BenchFailed, match="did not end within 0 s"):
        python(harness, "import time; time.sleep(600)").finish(0)


def test_a_harness_leaves_neither_processes_nor_files_behind():
    with Harness() as harness:
        process = python(harness, "import time; time.sleep(600)")
        folder = harness.folder
        assert process.poll() is None
        assert resident_mib(process.pid) > 0
        assert process.pid in children(os.getpid())
    assert process.poll() is not None
    assert resident_mib(process.pid) == 0
    assert children(process.pid) == []
    assert not folder.exists()


def test_a_condition_that_never_holds_is_reported():
    with pytest.raises(BenchFailed, match="the moon is blue: not within 0 s"):
        wait_until(lambda: False, "the moon is blue", patience_s=0)


def test_any_status_is_a_response():
    with Harness() as harness:
        code = "import http.server as s; h = s.HTTPServer(('127.0.0.1', 0), s.BaseHTTPRequestHandler);"
        process = python(harness, f"{code} print(h.server_port, flush=True); h.serve_forever()")
        output = harness.folder / "child.out"
        wait_until(lambda: output.read_text().endswith("\n"), "the port is printed", process)
        wait_for_http(process, f"http://127.0.0.1:{int(output.read_text())}/")


def test_settings_of_this_shell_are_hidden_for_the_while(monkeypatch):
    monkeypatch.setenv("REDIS_URL", "redis://nobody:1/0")
    monkeypatch.setenv("LOG_LEVEL", "nonsense")
    before = signal.getsignal(signal.SIGTERM), Path.cwd()
    with isolated_environment():
        assert "REDIS_URL" not in os.environ
        assert "LOG_LEVEL" not in os.environ
        assert Path.cwd() != before[1]
        with pytest.raises(SystemExit):
            signal.raise_signal(signal.SIGTERM)
    assert os.environ["REDIS_URL"] == "redis://nobody:1/0"
    assert (signal.getsignal(signal.SIGTERM), Path.cwd()) == before
