"""The process: one login for the console and rq-dashboard, started and ended as the other servers."""

import os
import re
import signal
import subprocess
import sys
from contextlib import closing

import httpx
import psutil
import pytest
from starlette.testclient import TestClient

from ingest.config.settings import load_settings
from ingest.errors import SettingsError
from tests.conftest import NAMESPACE
from tests.ports import reserve_port
from workers.console.console_app import create_console
from workers.console.console_server import access_routes, create_console_app, with_access_control
from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.database.migrate import migrate

MIB = 1024 * 1024
CODE = (
    "from ingest.config.settings import load_settings; from workers.console.console_server import serve_console;"
    " serve_console(load_settings())"
)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "example.com"])
def test_it_does_not_start_open_to_other_machines_without_a_login(host, tmp_path):
    settings = load_settings(data_dir=tmp_path, redis_url="redis://127.0.0.1:1", host=host)
    engine = create_ledger_engine(settings.database_url)
    with pytest.raises(SettingsError, match="Neither DASHBOARD_PASSWORD nor DASHBOARD_USERS"):
        create_console_app(settings, engine)


@pytest.mark.parametrize("held", ["", "\n", " \t\r\n"])
def test_an_empty_password_is_refused(held, tmp_path):
    (tmp_path / "password").write_text(held)
    settings = load_settings(
        data_dir=tmp_path,
        redis_url="redis://127.0.0.1:1",
        host="0.0.0.0",
        dashboard_password_file=tmp_path / "password",
    )
    with pytest.raises(SettingsError, match=r"^DASHBOARD_PASSWORD is set, but empty\.$"):
        create_console_app(settings, create_ledger_engine(settings.database_url))


def test_a_user_name_without_a_password_is_refused(tmp_path):
    settings = load_settings(data_dir=tmp_path, redis_url="redis://127.0.0.1:1", dashboard_username="me")
    with pytest.raises(SettingsError, match="DASHBOARD_USERNAME"):
        create_console_app(settings, create_ledger_engine(settings.database_url))


@pytest.fixture
def process(valkey_url, tmp_path):
    """Serve the dashboard with a password; return the process and a client."""
    port = reserve_port()
    environment = os.environ | {
        "DATA_DIR": str(tmp_path),
        "REDIS_URL": valkey_url,
        "QUEUE_NAMESPACE": NAMESPACE,
        "DASHBOARD_PORT": str(port),
        "DASHBOARD_PASSWORD": "open sesame",
    }
    migrate(f"sqlite:///{tmp_path}/ledger.db")
    serving = subprocess.Popen([sys.executable, "-c", CODE], env=environment, stderr=subprocess.PIPE, text=True)
    with closing(serving.stderr), httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        assert "dashboard.started" in next(line for line in serving.stderr if "limit_raised" not in line)
        yield serving, client
        serving.kill()
        serving.wait()


def test_one_login_opens_the_console_and_rq_dashboard_and_the_process_ends_on_sigterm(process):
    serving, client = process
    for path in ("/deliveries", "/rq/", "/rq/0/data/queues.json", "/metrics"):
        assert client.get(path).status_code == 401
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/metrics", auth=("webhooks", "wrong")).status_code == 401
    assert "webhooks_redis_up 1.0" in client.get("/metrics", auth=("webhooks", "open sesame")).text
    asked = client.get("/deliveries", headers={"accept": "text/html"}, follow_redirects=True)
    assert 'name="secret"' in asked.text
    assert 'value="/deliveries"' in asked.text
    form = {"name": "webhooks", "secret": "open sesame", "next": "/deliveries"}
    assert "Deliveries" in client.post("/login", data=form, follow_redirects=True).text
    assert "RQ dashboard" in client.get("/rq/").text
    assert client.get("/rq", follow_redirects=True).url.path == "/rq/"
    assert client.get("/rq/0/data/queues.json").json()["queues"] == []
    (script,) = set(re.findall(r'src="(/rq/[^"]*jquery[^"]*)"', client.get("/rq/").text))
    assert client.get(script).status_code == 200
    assert client.post("/rq/queue/sessions/queued/empty").status_code == 403
    ajax = {"x-requested-with": "XMLHttpRequest"}
    assert client.post("/rq/queue/sessions/queued/empty", headers=ajax).json() == {"status": "OK"}
    assert psutil.Process(serving.pid).memory_info().rss < 120 * MIB
    assert "event: now" in client.get("/live", timeout=4).text  # it ends, so nothing waits for it
    serving.send_signal(signal.SIGTERM)
    said = serving.stderr.read()
    assert serving.wait(timeout=20) == 0
    assert "dashboard.stopped" in said
    assert "WARNING" not in said.upper()


def test_a_dashboard_without_a_ledger_leaves_none_behind(tmp_path):
    settings = load_settings(data_dir=tmp_path, redis_url="redis://127.0.0.1:1")
    engine = create_ledger_engine(settings.database_url)
    client = TestClient(create_console_app(settings, engine), base_url="http://127.0.0.1")
    for path in ("/", "/deliveries", "/api/deliveries", "/metrics", "/rq/"):
        assert client.get(path, follow_redirects=False).status_code < 504
    engine.dispose()
    assert not list(tmp_path.glob("ledger.db*"))


def test_every_route_but_the_open_ones_asks_for_a_login(tmp_path):
    settings = load_settings(
        data_dir=tmp_path, redis_url="redis://127.0.0.1:1", dashboard_users="olga look olgas-long-secret"
    )
    engine = create_ledger_engine(settings.database_url)
    routes = access_routes(settings, engine)
    client = TestClient(with_access_control(settings, engine, routes))
    open_routes = set()
    paths = [route.path for route in create_console(settings, engine, routes=routes).routes]
    assert len(paths) >= 7
    for path in (*paths, "/rq/", "/rq/0/data/queues.json", "/no/such/page"):
        answer = client.get(re.sub(r"\{.*?\}", "x", path), follow_redirects=False)
        if answer.status_code != 401:
            open_routes.add(path)
        if path != "/login":
            assert client.post(path, follow_redirects=False).status_code in {401, 403}
    assert open_routes == {"/healthz", "/login"}
    assert client.get("/static/console.css").status_code == 200
