import os
import pickle
import re
import subprocess
import sys
import time
from base64 import b64encode
from hashlib import sha256

import pytest
from rq import SimpleWorker
from rq.command import send_stop_job_command
from rq.job import Job
from rq.results import Result
from rq.serializers import JSONSerializer

from ingest.config.settings import load_settings
from ingest.queue.redis_client import connect_queues, connect_redis, queue
from tests.conftest import NAMESPACE
from tests.ports import reserve_port
from workers.dashboard.dashboard_app import create_dashboard
from workers.dashboard.queue_client import client_of

WORKER = """
import sys
from rq import Worker
from rq.serializers import JSONSerializer
from ingest.queue.redis_client import connect_queues, queue
connection = connect_queues(sys.argv[1], "test")
Worker([queue("urgent", connection)], connection=connection, serializer=JSONSerializer).work()
"""


@pytest.fixture(scope="module")
def app(valkey_server, tmp_path_factory):
    """rq-dashboard has one blueprint a process, so there is one app for all tests."""
    url = f"unix://{valkey_server.unix_socket_path}"
    return create_dashboard(load_settings(data_dir=tmp_path_factory.mktemp("var"), redis_url=url))


@pytest.fixture
def page(app, valkey_url):
    return app.test_client()


@pytest.fixture
def worker_with_a_job(valkey_url):
    """A worker that runs a job for as long as the test runs."""
    connection = connect_queues(valkey_url, NAMESPACE)
    job = queue("urgent", connection).enqueue("time.sleep", 60, description="SESSION_FEE_INCURRING L60XMxWy0oP")
    process = subprocess.Popen([sys.executable, "-c", WORKER, valkey_url])
    deadline = time.monotonic() + 20
    while job.get_status() != "started" and time.monotonic() < deadline:
        time.sleep(0.02)
    yield job
    send_stop_job_command(connection, job.id, serializer=JSONSerializer)
    process.terminate()
    assert process.wait(timeout=20) == 0


def test_the_worker_of_a_running_job_is_shown(page, worker_with_a_job):
    answer = page.get("/0/data/workers.json")
    assert answer.status_code == 200
    (worker,) = answer.json["workers"]
    assert worker["current_job"]["job_id"] == worker_with_a_job.id
    assert worker["current_job"]["description"] == "SESSION_FEE_INCURRING L60XMxWy0oP"
    assert page.get("/0/view/workers").status_code == 200


def test_queued_jobs_are_listed_with_their_description(page, valkey_url):
    queue("sessions", connect_queues(valkey_url, NAMESPACE)).enqueue(
        "os.getpid", description="SESSION_STARTED L60XMxWy0oP"
    )
    (shown,) = page.get("/0/data/jobs/sessions/queued/8/asc/1.json").json["jobs"]
    assert shown["description"] == "SESSION_STARTED L60XMxWy0oP"
    assert [one["count"] for one in page.get("/0/data/queues.json").json["queues"]] == [1]


def test_a_queue_is_emptied_with_its_jobs(page, valkey_url):
    connection = connect_queues(valkey_url, NAMESPACE)
    job = queue("sessions", connection).enqueue("os.getpid")
    assert page.post("/queue/sessions/queued/empty").status_code == 200
    assert queue("sessions", connection).count == 0
    assert not connection.exists(job.key)


def test_queues_workers_and_jobs_of_a_neighbour_are_not_shown(page, valkey_url):
    neighbour = connect_queues(valkey_url, "neighbour")
    job = queue("sessions", neighbour).enqueue("os.getpid")
    SimpleWorker([queue("urgent", neighbour)], connection=neighbour, serializer=JSONSerializer).register_birth()
    assert page.get("/0/data/queues.json").json["queues"] == []
    assert page.get("/0/data/workers.json").json["workers"] == []
    assert page.get(f"/0/data/job/{job.id}.json").status_code == 404


@pytest.fixture
def failed_job(valkey_url) -> Job:
    connection = connect_queues(valkey_url, NAMESPACE)
    job = queue("sessions", connection).enqueue("os.stat", "no-such-file")
    SimpleWorker([queue("sessions", connection)], connection=connection, serializer=JSONSerializer).work(burst=True)
    return job


def test_a_failed_job_is_shown_with_its_traceback(page, failed_job):
    shown = page.get(f"/0/data/job/{failed_job.id}.json").json
    assert shown["status"] == "failed"
    assert "FileNotFoundError" in shown["exc_info"]
    assert page.get(f"/0/view/job/{failed_job.id}").status_code == 200


def test_a_failed_job_can_be_queued_again_by_a_person(page, failed_job, valkey_url):
    assert page.post(f"/job/{failed_job.id}/requeue").json == {"status": "OK"}
    again = queue("sessions", connect_queues(valkey_url, NAMESPACE)).fetch_job(failed_job.id)
    assert again.get_status() == "queued"
    assert again.args == ["no-such-file"]


PAGES = (
    ("GET", "/0/view/job/{id}"),
    ("GET", "/0/data/job/{id}.json"),
    ("GET", "/0/data/jobs/sessions/failed/8/asc/1.json"),
    ("GET", "/0/data/workers.json"),
    ("POST", "/requeue/sessions"),
    ("POST", "/job/{id}/requeue"),
    ("POST", "/job/{id}/delete"),
    ("POST", "/queue/sessions/failed/empty"),
    ("POST", "/queue/sessions/queued/empty"),
)


class Planted:
    """What makes a folder when it is unpickled."""

    def __init__(self, folder):
        self._folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self._folder),)


@pytest.fixture(params=["meta", "data", "result", "return_value"])
def planted_job(request, valkey_url, tmp_path) -> Job:
    """A job, queued, failed and in the hands of a worker, that makes a folder if somebody unpickles it."""
    planted, connection = pickle.dumps(Planted(tmp_path / "ran")), connect_queues(valkey_url, NAMESPACE)
    sessions = queue("sessions", connection)
    job = sessions.enqueue("os.getpid")
    connection.zadd(sessions.failed_job_registry.key, {job.id: 9e9})
    if request.param == "return_value":
        connection.xadd(Result.get_key(job.id), {"return_value": b64encode(planted), "type": 1})
    else:
        connection.hset(job.key, request.param, planted)
    worker = SimpleWorker([sessions], connection=connection, serializer=JSONSerializer)
    worker.register_birth()
    worker.prepare_execution(job)
    return job


@pytest.mark.parametrize(("method", "path"), PAGES)
def test_a_pickle_in_redis_is_never_read(page, planted_job, tmp_path, method, path):
    answer = page.open(path.format(id=planted_job.id), method=method)

    assert answer.status_code in {200, 502}
    assert not (tmp_path / "ran").exists()


def test_a_connection_is_made_once_and_not_for_each_request(page, valkey_url):
    for _ in range(5):
        page.get("/0/data/queues.json")
    assert client_of(valkey_url) is client_of(valkey_url)


def test_while_redis_is_unavailable_the_page_is_a_503(app):
    lost, app.redis_conn = app.redis_conn, connect_redis(f"redis://127.0.0.1:{reserve_port()}")
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("rq_dashboard.web.from_url", lambda *_, **__: (None, app.redis_conn))
            answer = app.test_client().get("/0/data/workers.json")
    finally:
        app.redis_conn = lost
    assert (answer.status_code, answer.text) == (503, "Redis cannot be reached.")


def test_the_jobs_of_sessions_are_shown_first(page):
    """We have no queue `default`, which rq-dashboard opens."""
    assert "on queue <strong>sessions</strong>" in page.get("/0/view/jobs").text


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_no_link_requeues_jobs(page, failed_job, valkey_url, method):
    assert page.open("/requeue/sessions", method=method).status_code == 405
    assert queue("sessions", connect_queues(valkey_url, NAMESPACE)).count == 0
    assert page.post("/requeue/sessions").json["count"] == 1


@pytest.mark.parametrize("path", ["/", "/0/view/jobs", "/0/view/workers"])
def test_a_page_may_run_its_own_script_and_no_other(page, path):
    answer = page.get(path)
    policy = answer.headers["content-security-policy"]
    scripts = policy.partition("script-src")[2].partition(";")[0]
    assert "unsafe-inline" not in scripts
    assert len(re.findall("'sha256-", scripts)) == 1
    (script,) = re.findall(r'<script type="text/javascript">(.*?)</script>', answer.text, re.DOTALL)
    assert b64encode(sha256(script.encode()).digest()).decode() in scripts
