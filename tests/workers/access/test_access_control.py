"""Who may what in the dashboard: each test is a line of SECURITY.md."""

import time
from base64 import b64encode
from http import HTTPStatus

import pytest
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from ingest.config.settings import load_settings
from ingest.errors import SettingsError
from workers.access.access_control import AccessControl
from workers.access.csrf import read_form
from workers.access.login_limit import WRONG_LOGINS
from workers.ledger import audit_log
from workers.ledger.database.engine import create_ledger_engine, read_only
from workers.ledger.tables import metadata

USERS = "olga look olgas-long-secret\nabel act abels-long-secret\nada admin adas-long-secret"
PROXY = "10.0.0.1"
HTML = {"accept": "text/html"}


def page(request):
    who = request.scope["user"]
    return JSONResponse(
        {"name": who.name, "role": who.role, "token": who.csrf_token, "reveals": who.reveals} if who else {"name": None}
    )


async def form(request):
    return JSONResponse(await read_form(request))


def framed(_request):
    return HTMLResponse("<p>", headers={"x-frame-options": "ALLOWALL", "access-control-allow-origin": "*"})


def plain_error(_request, error):
    return HTMLResponse(error.detail, error.status_code)


@pytest.fixture
def engine(tmp_path):
    engine = create_ledger_engine(f"sqlite:///{tmp_path / 'ledger.db'}", creates_file=True)
    metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def console(tmp_path, engine):
    """Build the client of an application behind the access control."""

    def build(address="203.0.113.7", base_url="http://testserver", **given):
        given = {"dashboard_users": USERS, **given}
        settings = load_settings(data_dir=tmp_path, **{name: value for name, value in given.items() if value})
        routes = [
            Route("/acts", form, methods=["POST"]),
            Route("/framed", framed),
            Route("/rq/queue/sessions/empty", form, methods=["POST"]),
            Route("/{path:path}", page),
        ]
        access = AccessControl(Starlette(routes=routes), settings, engine, plain_error)
        return TestClient(access, base_url=base_url, client=(address, 1234), follow_redirects=False)

    return build


def log_in(client, name, **headers):
    form = {"name": name, "secret": f"{name}s-long-secret", "next": "/deliveries"}
    answer = client.post("/login", data=form, headers=headers)
    assert (answer.status_code, answer.headers["location"]) == (HTTPStatus.SEE_OTHER, "/deliveries")
    return answer


def token(client):
    return client.get("/").json()["token"]


def acts(engine):
    with read_only(engine) as conn:
        return [(row.act, row.actor, row.origin, row.subject) for row in audit_log.find(conn)]


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1"])
def test_it_does_not_start_open_to_other_machines(console, host):
    with pytest.raises(SettingsError, match="HOST is reachable"):
        console(host=host, dashboard_users=None)
    console(host=host)
    console(host=host, dashboard_users=None, dashboard_password="a password")
    console(host=host, dashboard_users=None, dashboard_user_header="x-user", forwarded_by=PROXY)


@pytest.mark.parametrize(
    ("users", "problem"),
    [
        ("olga look short", "12 characters"),
        ("olga owner a-long-enough-secret", "line 1"),
        ("olga a-long-enough-secret", "line 1"),
        ("a look a-long-enough-secret\na act another-long-secret", "twice"),
        ("a look a-long-enough-secret\nb act a-long-enough-secret", "same secret"),
    ],
)
def test_users_that_are_no_safe_ones_are_refused_without_their_secrets(console, users, problem):
    with pytest.raises(SettingsError, match=problem) as refused:
        console(dashboard_users=users)
    assert "a-long-enough-secret" not in str(refused.value)


def test_a_header_for_users_needs_to_know_the_proxy(console):
    with pytest.raises(SettingsError, match="FORWARDED_BY"):
        console(dashboard_user_header="x-user")


@pytest.mark.parametrize("host", ["[", "[::1", "a b", ""])
def test_a_host_that_is_no_name_is_never_a_500(console, host):
    client = console()
    form = {"name": "olga", "secret": "olgas-long-secret"}
    for answer in (
        client.get("/", headers={**HTML, "host": host}),
        client.post("/login", data=form, headers={"host": host, "origin": "http://["}),
        client.post("/login", data={**form, "secret": "wrong"}, headers={"host": host}),
    ):
        assert answer.status_code < 500


def test_nothing_but_the_login_and_the_probe_is_open(console):
    client = console()
    assert client.get("/healthz").status_code == 200
    assert client.get("/static/style.css").status_code == 200
    assert client.get("/login").status_code == 200
    for path in ("/", "/deliveries", "/metrics", "/rq/", "/api/deliveries", "/staticfiles", "/login/x", "//healthz"):
        assert client.get(path).status_code == HTTPStatus.UNAUTHORIZED, path
        asked = client.get(path, headers=HTML)
        assert asked.status_code == HTTPStatus.SEE_OTHER
        assert asked.headers["location"].startswith("/login?next=%2F")
    assert client.post("/acts").status_code == HTTPStatus.UNAUTHORIZED
    assert client.post("/healthz").status_code == HTTPStatus.FORBIDDEN
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/"):
        pass


def test_the_cookie_of_a_login_is_out_of_reach_of_scripts_and_other_sites(console, engine):
    client = console()
    cookie = log_in(client, "olga").headers["set-cookie"]
    assert {"HttpOnly", "SameSite=lax", "Path=/", "Max-Age=43200"} <= set(cookie.split("; "))
    assert "Secure" not in cookie
    assert client.get("/").json()["name"] == "olga"
    assert acts(engine) == [("logged_in", "olga", "203.0.113.7", None)]
    https = console(base_url="https://testserver")
    assert "Secure" in log_in(https, "olga").headers["set-cookie"]


def test_behind_a_proxy_that_ends_tls_the_cookie_is_secure(console):
    forwarded = {"x-forwarded-proto": "https", "x-forwarded-for": "198.51.100.9"}
    assert "Secure" in log_in(console(PROXY, forwarded_by=PROXY), "olga", **forwarded).headers["set-cookie"]
    assert "Secure" not in log_in(console(forwarded_by=PROXY), "olga", **forwarded).headers["set-cookie"]


def test_a_cookie_that_is_forged_too_old_or_logged_out_is_none(console):
    client = console(dashboard_session_key="a key")
    log_in(client, "ada")
    (cookie,) = client.cookies.jar
    for value in (cookie.value[:-1] + "x", "x" + cookie.value, cookie.value.partition(".")[0], ""):
        assert console(dashboard_session_key="a key").get("/", cookies={cookie.name: value}).status_code == 401
    kept = {cookie.name: cookie.value}
    assert console(dashboard_session_key="a key").get("/", cookies=kept).status_code == 200
    assert console(dashboard_session_key="another key").get("/", cookies=kept).status_code == 401
    assert console().get("/", cookies=kept).status_code == 401
    short = console(dashboard_session_key="a key", dashboard_login_for="1s")
    time.sleep(2.1)  # the cookie's time is in whole seconds
    assert short.get("/", cookies=kept).status_code == 401
    assert client.post("/logout", data={"csrf_token": token(client)}).status_code == HTTPStatus.SEE_OTHER
    assert client.get("/").status_code == 401
    assert client.get("/", cookies=kept).status_code == 401


def test_who_is_removed_or_has_another_role_or_secret_is_logged_out(console, tmp_path):
    client = console(dashboard_session_key="a key")
    log_in(client, "ada")
    (cookie,) = client.cookies.jar
    for users in (
        "olga look olgas-long-secret",
        USERS.replace("admin", "look"),
        USERS.replace("adas-long", "adas-other"),
    ):
        changed = console(dashboard_session_key="a key", dashboard_users=users)
        assert changed.get("/", cookies={cookie.name: cookie.value}).status_code == 401


def test_users_in_a_file_are_reread(console, tmp_path, monkeypatch):
    file = tmp_path / "users"
    file.write_text(USERS)
    client = console(dashboard_users=None, dashboard_users_file=file)
    log_in(client, "ada")
    file.write_text("olga look olgas-long-secret")
    monkeypatch.setattr("ingest.config.secret_reload.SETTLE_TIME", 0)
    monkeypatch.setattr("workers.access.dashboard_users.REREAD_EVERY", 0)
    deadline = time.monotonic() + 20
    while client.get("/").status_code == 200:
        assert time.monotonic() < deadline


@pytest.mark.parametrize(
    ("name", "allowed"), [("olga", set()), ("abel", {"/acts"}), ("ada", {"/acts", "/rq/queue/sessions/empty"})]
)
def test_a_role_may_what_it_says_whatever_page_is_asked_for(console, name, allowed):
    client = console()
    log_in(client, name)
    headers = {"x-csrf-token": token(client), "x-requested-with": "XMLHttpRequest"}
    assert client.get("/rq/").status_code == 200
    for path in ("/acts", "/rq/queue/sessions/empty"):
        expected = 200 if path in allowed else 403
        assert client.post(path, headers=headers).status_code == expected, path
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
        assert client.request(method, "/acts", headers=headers).status_code in {403, 405}


def test_the_password_and_its_user_name_log_in_as_before_with_every_right(console):
    client = console(dashboard_users=None, dashboard_password="a password", dashboard_username="ops")
    basic = {"authorization": "Basic " + b64encode(b"ops:a password").decode()}
    assert client.get("/metrics", headers=basic).json()["role"] == "admin"
    assert client.post("/login", data={"name": "ops", "secret": "a password"}).headers["location"] == "/"
    assert client.get("/").json()["role"] == "admin"


def test_programs_show_their_secret_and_can_only_read(console):
    client = console()
    for credentials in ("Bearer adas-long-secret", "Basic " + b64encode(b"ada:adas-long-secret").decode()):
        headers = {"authorization": credentials}
        assert client.get("/api/deliveries", headers=headers).json() == {
            "name": "ada",
            "role": "admin",
            "token": "",
            "reveals": False,
        }
        assert client.post("/acts", headers=headers, data={"csrf_token": ""}).status_code == 403
    for wrong in ("Bearer olgas", "Bearer", "Basic !", "Basic " + b64encode(b"olga:adas-long-secret").decode(), "x"):
        assert client.get("/", headers={"authorization": wrong}).status_code == 401


def test_an_act_without_the_token_of_its_login_is_refused(console):
    client, other = console(), console()
    log_in(client, "ada")
    log_in(other, "ada")
    own = {"csrf_token": token(client), "more": "ä"}
    assert client.post("/acts", data=own).json() == own
    for wrong in ({}, {"csrf_token": ""}, {"csrf_token": "x"}, {"csrf_token": "é"}, {"csrf_token": token(other)}):
        assert client.post("/acts", data=wrong).status_code == 403
    assert client.post("/acts", json=own).status_code == 403
    assert client.post("/acts", files={"csrf_token": (None, token(client))}).status_code == 403
    assert client.post("/acts", data={**own, "more": "x" * 100_000}).status_code == 413
    assert client.post("/logout").status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site", "origin": "http://testserver"},
    ],
)
def test_what_another_site_makes_a_browser_send_is_refused_even_with_the_token(console, engine, headers):
    client = console()
    log_in(client, "ada")
    data = {"csrf_token": token(client)}
    own = {"origin": "http://testserver"}
    assert client.post("/acts", data=data, headers=own).status_code == 200
    assert client.post("/acts", data=data, headers={"sec-fetch-site": "same-origin"}).status_code == 200
    assert client.post("/acts", data=data, headers=headers).status_code == 403
    form = {"name": "ada", "secret": "adas-long-secret"}
    assert client.post("/login", data=form, headers=headers).status_code == 403
    ajax = {"x-requested-with": "XMLHttpRequest"}
    assert client.post("/rq/queue/sessions/empty", headers={**headers, **ajax}).status_code == 403
    assert client.post("/rq/queue/sessions/empty", headers=own).status_code == 403  # no form of a page can set it
    assert client.post("/rq/queue/sessions/empty", headers={**own, **ajax}).status_code == 200
    assert acts(engine)[0][:4:3] == ("queues_changed", "/rq/queue/sessions/empty")


def test_every_answer_forbids_scripts_in_pages_frames_and_other_origins(console):
    client = console()
    for path in ("/login", "/", "/framed", "/healthz"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-frame-options"] == "DENY"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["referrer-policy"] == "same-origin"
        assert headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in headers
    log_in(client, "olga")
    assert client.get("/framed").headers["x-frame-options"] == "DENY"
    assert "access-control-allow-origin" not in client.get("/framed").headers


def test_too_many_wrong_logins_of_an_address_are_refused_and_each_is_recorded_without_what_was_typed(console, engine):
    client = console("2001:db8::1")
    for number in range(WRONG_LOGINS.amount):
        form = {"name": "ada" if number else "my-secret-in-the-wrong-field", "secret": "wrong"}
        assert client.post("/login", data=form).headers["location"].startswith("/login?wrong=1")
    form = {"name": "ada", "secret": "adas-long-secret"}
    assert client.post("/login", data=form).status_code == HTTPStatus.TOO_MANY_REQUESTS
    bearer = {"authorization": "Bearer adas-long-secret"}
    assert client.get("/", headers=bearer).status_code == HTTPStatus.TOO_MANY_REQUESTS
    recorded = acts(engine)
    assert len(recorded) == WRONG_LOGINS.amount
    assert {act[:3] for act in recorded} == {
        ("login_failed", "somebody", "2001:db8::1"),
        ("login_failed", "ada", "2001:db8::1"),
    }
    neighbour = TestClient(client.app, client=("2001:db8::2", 1), follow_redirects=False)
    assert neighbour.post("/login", data=form).status_code == HTTPStatus.TOO_MANY_REQUESTS
    elsewhere = TestClient(client.app, client=("2001:db8:1::1", 1), follow_redirects=False)
    assert elsewhere.post("/login", data=form).status_code == HTTPStatus.SEE_OTHER


def test_only_a_proxy_of_ours_may_name_the_user_and_the_role(console):
    given = {"dashboard_user_header": "X-User", "dashboard_role_header": "X-Role", "forwarded_by": PROXY}
    named = {"x-user": "alice", "x-role": "act"}
    proxied = console(PROXY, **given)
    assert proxied.get("/", headers=named).json() | {"token": ""} == {
        "name": "alice",
        "role": "act",
        "token": "",
        "reveals": False,
    }
    assert proxied.get("/", headers={"x-user": "alice"}).json()["role"] == "look"
    for forged in ({**named, "x-role": "owner"}, [("x-user", "a"), ("x-user", "b")], {**named, "x-role": ""}):
        assert proxied.get("/", headers=forged).status_code == 403
    assert proxied.get("/", headers={"x-user": " "}).status_code == 401
    own = {"csrf_token": proxied.get("/", headers=named).json()["token"]}
    assert proxied.post("/acts", data=own, headers=named).status_code == 200
    assert proxied.post("/acts", data=own, headers={**named, "x-user": "bob"}).status_code == 403
    stranger = console("203.0.113.7", **given)
    assert stranger.get("/", headers=named).status_code == 401
    assert stranger.get("/", headers={**named, "x-forwarded-for": PROXY}).status_code == 401
    log_in(stranger, "olga")
    assert stranger.get("/", headers=named).json()["name"] == "olga"


def test_without_a_login_a_foreign_name_of_this_machine_is_refused(console):
    """A page at evil.example, whose name is then pointed to 127.0.0.1, would be of one origin with the dashboard."""
    open_one = console(dashboard_users=None)
    assert open_one.get("/", headers={"host": "evil.example:8002"}).status_code == HTTPStatus.MISDIRECTED_REQUEST
    for host in ("[", "[::1", "a b", "", "localhost.evil.example", "127.0.0.1.evil.example"):
        assert open_one.get("/", headers={"host": host}).status_code == HTTPStatus.MISDIRECTED_REQUEST
    for host in ("127.0.0.1:8002", "localhost:8002", "[::1]:8002"):
        assert open_one.get("/", headers={"host": host}).json()["role"] == "admin"
    own = {"csrf_token": open_one.get("/", headers={"host": "localhost"}).json()["token"]}
    assert open_one.post("/acts", data=own, headers={"host": "localhost"}).status_code == 200
    assert open_one.post("/acts", headers={"host": "localhost"}).status_code == 403


@pytest.mark.parametrize(
    "target",
    ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)", "evil", "/a\r\nb: c", "//["],
)
def test_a_login_leads_to_no_other_site(console, target):
    form = {"name": "olga", "secret": "olgas-long-secret", "next": target}
    assert console().post("/login", data=form).headers["location"] == "/"


def test_a_click_shows_one_page_unmasked_and_is_recorded_without_the_driver(console, engine):
    client = console()
    log_in(client, "olga")
    own = {"csrf_token": token(client)}
    assert client.post("/reveal", data={"page": "/pushes"}).status_code == 403
    shown = client.post("/reveal", data={**own, "page": "/drivers/jane@example.com?since=2h"})
    assert shown.headers["location"] == "/drivers/jane@example.com?since=2h"
    assert client.get("/drivers/jane@example.com").json()["reveals"] is True
    assert client.get("/drivers/jane@example.com.json").json()["reveals"] is True
    assert client.get("/drivers/joe@example.com").json()["reveals"] is False
    client.post("/reveal", data={**own, "page": "/drivers/a%2Fb%40c"})
    assert client.get("/drivers/a%2Fb%40c").json()["reveals"] is True
    assert client.get("/drivers/a/b@c").json()["reveals"] is False
    client.post("/reveal", data={**own, "page": "/deliveries/d1"})
    assert client.get("/deliveries/d1").json()["reveals"] is True
    assert client.get("/drivers/jane@example.com").json()["reveals"] is False
    assert acts(engine)[:2] == [
        ("body_viewed", "olga", "203.0.113.7", "/deliveries/d1"),
        ("user_viewed", "olga", "203.0.113.7", "/drivers/…"),
    ]
    value = client.cookies["webhooks_reveal"]
    other = console()
    log_in(other, "abel")
    assert other.get("/deliveries/d1", cookies={"webhooks_reveal": value}).json()["reveals"] is False


def test_a_program_that_sees_users_or_bodies_is_recorded(console, engine):
    client = console()
    bearer = {"authorization": "Bearer olgas-long-secret"}
    assert client.get("/api/deliveries/d1?reveal=true", headers=bearer).json()["reveals"] is True
    assert acts(engine) == [("body_viewed", "olga", "203.0.113.7", "/deliveries/d1")]
    log_in(client, "olga")
    assert client.get("/deliveries/d1?reveal=true").json()["reveals"] is False  # a link must not do it


def test_nothing_is_shown_that_cannot_be_recorded_and_a_login_works_all_the_same(console, engine, monkeypatch):
    monkeypatch.setattr("workers.access.access_control.AUDIT_TIMEOUT", 0.01)
    metadata.drop_all(engine)
    client = console()
    log_in(client, "olga")
    own = {"csrf_token": token(client)}
    assert client.post("/reveal", data={**own, "page": "/pushes"}).status_code == HTTPStatus.SERVICE_UNAVAILABLE
    assert client.get("/pushes").json()["reveals"] is False
