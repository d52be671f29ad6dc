"""The console in Chromium: the answer to a support question, a click that runs failures again, wide and narrow."""

import shutil
import subprocess
import threading
from pathlib import Path

import pytest
import uvicorn

from ingest.config.settings import load_settings
from tests.workers.console.past import fill
from workers.console.console_server import access_routes, with_access_control

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium")


@pytest.fixture
def address(node, monkeypatch, until):
    """Serve the console of a node with a past."""
    fill(node, failures=3)
    for name, value in node.environment.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    app = with_access_control(settings, node.engine, access_routes(settings, node.engine))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, timeout_graceful_shutdown=0))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def run_chromium(folder: Path, url: str) -> tuple[str, str]:
    """Load a page, and return its document after the scripts have run, and what the browser logged."""
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=3000", "--dump-dom"]
    options += ["--enable-logging=stderr", f"--user-data-dir={folder}"]
    assert CHROMIUM is not None
    found = subprocess.run([CHROMIUM, *options, url], capture_output=True, timeout=120, check=True)
    return found.stdout.decode("utf-8", "replace"), found.stderr.decode("utf-8", "replace")


def test_why_there_was_no_warning_is_shown_with_times_in_the_zone_of_the_viewer(address, tmp_path, monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    document, _ = run_chromium(tmp_path / "profile", f"{address}/find?q=DANA@example.com")
    assert '<span id="zone">Asia/Tokyo</span>' in document
    assert "not warned, because" in document
    assert "the driver was warned 10 min before it began." in document


@pytest.mark.parametrize("page", ["failures", "sessions/warned", "deliveries"])
def test_nothing_of_a_page_is_refused_by_its_own_policy(address, tmp_path, page):
    document, logged = run_chromium(tmp_path / "profile", f"{address}/{page}")
    assert '<span id="zone">' in document
    assert "Refused to" not in logged
    assert "violates" not in logged
    assert "Uncaught" not in logged
