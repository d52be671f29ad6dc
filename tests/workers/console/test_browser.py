"""The login in a real browser: Debian's Chromium, with and without scripts, by keyboard alone; accessibility by axe."""

import shutil
import socket
import threading

import pytest
import uvicorn
from sqlalchemy import update

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")

from ingest.config.settings import load_settings  # noqa: E402
from ingest.errors import NotAuthentic  # noqa: E402
from ingest.inbox.quarantine import Quarantine  # noqa: E402
from ingest.inbox.quarantined_request import from_request  # noqa: E402
from ingest.inbox.schema import FILE_NAME  # noqa: E402
from ingest.wire.envelope import Kind  # noqa: E402
from ingest.wire.signature import SIGNATURE_HEADER, SigningKeys, sign  # noqa: E402
from ingest.wire.timestamps import utc_now  # noqa: E402
from tests.workers.console.past import PLUGIN, fill  # noqa: E402
from workers.console import now_page, page_template, replay_status_page  # noqa: E402
from workers.console.console_server import access_routes, with_access_control  # noqa: E402
from workers.console.list_page import LISTS  # noqa: E402
from workers.ledger.states import Outcome, PushState  # noqa: E402
from workers.ledger.tables.alert_tables import alerts  # noqa: E402
from workers.ledger.tables.core_tables import pushes, runs  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SECRET = "adas-long-secret"
PHONE = {"width": 360, "height": 740}

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (apt-get install chromium)")


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def address(node, monkeypatch):
    """Serve the console of a node with a past; return its address."""
    for name, value in {**node.environment, "DASHBOARD_USERS": f"ada admin {SECRET}"}.items():
        monkeypatch.setenv(name, value)
    (node.folder / "loyalty.py").write_text(PLUGIN)
    monkeypatch.setenv("HANDLER_MODULES", "handlers,loyalty")
    monkeypatch.syspath_prepend(str(node.folder))
    fill(node, failures=3)
    settings = load_settings()
    app = with_access_control(settings, node.engine, access_routes(settings, node.engine))
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture(params=["scripts", "no scripts"])
def page(request, chromium, address):
    context = chromium.new_context(base_url=address, java_script_enabled=request.param == "scripts")
    yield context.new_page()
    context.close()


@pytest.fixture
def logged_in(chromium, address):
    """Return a page of a browser that is logged in, and fail if anything is refused by the policy."""
    context = chromium.new_context(base_url=address, viewport=PHONE)
    page = context.new_page()
    refused = []
    page.on("console", lambda message: refused.append(message.text) if message.type == "error" else None)
    page.goto("/login")
    log_in(page)
    yield page
    context.close()
    assert [text for text in refused if "Content Security Policy" in text] == []


def log_in(page):
    """Log in with the keyboard: the first field has the focus."""
    page.wait_for_selector("#name:focus")
    page.keyboard.type("ada")
    page.keyboard.press("Tab")
    page.keyboard.type(SECRET)
    page.keyboard.press("Enter")
    page.wait_for_url(lambda url: "/login" not in url)


def test_the_keyboard_alone_logs_in_where_one_wanted_to_go_and_out_again(page):
    page.goto("/deliveries?state=dead")
    assert page.url.endswith("/login?next=%2Fdeliveries%3Fstate%3Ddead")
    assert "adas" not in page.content()
    page.wait_for_selector("#name:focus")
    page.keyboard.type("ada")
    page.keyboard.press("Tab")
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    page.wait_for_selector("[role=alert]")
    log_in(page)
    assert page.url.endswith("/deliveries?state=dead")
    assert "dead" in page.inner_text("tbody")
    page.focus("text=Log out")
    page.keyboard.press("Enter")
    page.wait_for_url("**/login")
    page.goto("/deliveries")
    assert "/login" in page.url


def test_what_a_foreign_page_sends_is_refused_and_the_own_form_is_not(page, address):
    page.goto("/login")
    log_in(page)
    page.goto("/pushes")
    assert "dan…" in page.inner_text("tbody")
    other = page.context.new_page()
    other.set_content(
        f'<form method="post" action="{address}/reveal"><input name="page" value="/pushes"><button>Go</button>'
    )
    other.click("button")
    other.wait_for_load_state()
    assert "This requires a login" in other.content()  # it is sent without the cookie
    page.click("text=Show user ids")
    page.wait_for_load_state()
    assert "dana@example.com" in page.inner_text("tbody")


def test_a_form_of_our_own_without_its_token_is_refused(logged_in):
    logged_in.goto("/pushes")
    logged_in.evaluate("for (const field of document.querySelectorAll('[name=csrf_token]')) field.value = 'x'")
    logged_in.click("text=Show user ids")
    logged_in.wait_for_selector("text=load the page again")


def test_no_page_of_another_origin_frames_the_console(page, address):
    page.goto("/login")
    log_in(page)
    page.set_content(f'<iframe src="{address}/pushes"></iframe>')
    page.wait_for_timeout(0)
    frame = page.frames[-1]
    frame.wait_for_load_state()
    assert "dan…" not in frame.content()


DETAILS = {
    "a failure": ("/failures", "a[href^='/failures/']:not([href*=pushes])"),
    "dead pushes": ("/failures", "a[href^='/failures/pushes/']"),
    "a delivery": ("/deliveries?state=dead", "tbody a[href^='/deliveries/']"),
    "a push": ("/pushes", "tbody a[href^='/pushes/']"),
    "a session": ("/deliveries?session=warned", "tbody a[href^='/sessions/']"),
}
OTHERS = (
    *("/login", "/drivers/dana@example.com", "/find?q=dan", "/failures"),
    *("/settings", "/quarantine/reverify", "/nothing"),
)


@pytest.mark.parametrize("path", [*OTHERS, *(f"/{name}" for name in LISTS), *DETAILS])
def test_axe_finds_nothing_and_a_phone_scrolls_no_page_sideways(logged_in, path):
    page, link = DETAILS.get(path, (path, None))
    logged_in.goto(page)
    if link is not None:
        logged_in.locator(link).first.click()
        logged_in.wait_for_load_state()
    for scheme in ("light", "dark"):
        logged_in.emulate_media(color_scheme=scheme)
        found = axe.Axe().run(logged_in).response["violations"]
        assert [(each["id"], [node["html"] for node in each["nodes"]][:3]) for each in found] == []
    for width in (PHONE["width"], 1200):
        logged_in.set_viewport_size({"width": width, "height": 800})
        assert logged_in.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("path", ["/sessions/warned", "/drivers/dana@example.com", "/deliveries", "/failures"])
def test_a_phone_shows_each_cell_of_a_table_whole(logged_in, path):
    logged_in.goto(path)
    assert logged_in.locator("tbody tr").count()
    tables = "[...document.querySelectorAll('.scroll > table')].map(each => each.parentElement)"
    assert logged_in.evaluate(f"{tables}.filter(each => each.scrollWidth > each.clientWidth).length") == 0
    side_by_side = """[...document.querySelectorAll("td")].filter(cell => {
        const times = [...cell.querySelectorAll("time")];
        return times.some(time => time.getBoundingClientRect().right > cell.getBoundingClientRect().right + 1);
    }).length"""
    assert logged_in.evaluate(side_by_side) == 0


def test_the_first_page_follows_what_happens_without_being_loaded_again(node, logged_in, monkeypatch):
    monkeypatch.setattr(now_page, "LIVE_EVERY", 50)
    logged_in.goto("/")
    assert [each["id"] for each in axe.Axe().run(logged_in).response["violations"]] == []
    assert logged_in.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    logged_in.evaluate("document.title = 'not loaded again'")
    assert logged_in.locator("article.alert").count() == 2
    with node.engine.begin() as conn:
        conn.execute(update(alerts).values(resolved_at=utc_now()))
    logged_in.wait_for_selector("article.alert", state="detached")
    assert logged_in.title() == "not loaded again"


def test_what_is_masked_is_shown_after_a_click_with_the_keyboard(logged_in, node):
    logged_in.goto("/pushes")
    assert "dana@example.com" not in logged_in.content()
    logged_in.focus("text=Show user ids")
    logged_in.keyboard.press("Enter")
    logged_in.wait_for_selector("text=dana@example.com")
    assert node.rows("audit")[0]["act"] == "user_viewed"


def test_failures_run_again_by_the_keyboard_alone_and_the_bar_moves_to_its_end(node, logged_in, monkeypatch):
    monkeypatch.setattr(replay_status_page, "LIVE_EVERY", 50)
    logged_in.goto("/failures")
    logged_in.focus("a:has-text('KeyError')")
    logged_in.keyboard.press("Enter")
    logged_in.wait_for_selector("text=Run again (3)")
    logged_in.focus("text=Run again (3)")
    logged_in.keyboard.press("Enter")
    logged_in.wait_for_selector("text=0 of 3 have ended")
    assert [each["id"] for each in axe.Axe().run(logged_in).response["violations"]] == []
    logged_in.evaluate("document.title = 'not loaded again'")
    with node.engine.begin() as conn:
        waiting = update(runs).where(runs.c.handler == "add_points", runs.c.outcome == Outcome.WAITING)
        conn.execute(waiting.values(outcome=Outcome.DONE, due_at=None, finished_at=utc_now()))
    logged_in.wait_for_selector("text=All have ended.")
    assert logged_in.locator("progress").get_attribute("value") == "3"
    assert logged_in.title() == "not loaded again"
    assert node.rows("audit", "--act", "replayed")[0]["count"] == 3


def test_without_scripts_the_page_of_progress_loads_itself_again(node, page):
    page.goto("/login")
    log_in(page)
    page.goto("/failures")
    page.click("a[href^='/failures/pushes/']")
    page.click("text=Send again (1)")
    page.wait_for_selector("text=0 of 1 have ended")
    with node.engine.begin() as conn:
        sent = {"state": PushState.SENT, "due_at": None, "sent_at": utc_now()}
        conn.execute(update(pushes).where(pushes.c.state == PushState.WAITING).values(sent))
    page.wait_for_selector("text=All have ended.")
    assert node.rows("audit", "--act", "resent")[0]["count"] == 1


def test_an_alert_is_resolved_on_the_first_page(node, logged_in):
    logged_in.goto("/")
    logged_in.locator("article.alert button").first.click()
    logged_in.wait_for_selector("text=The alert is resolved.")
    assert logged_in.locator("article.alert").count() == 1


def test_what_would_pass_is_shown_before_it_is_let_in(node, logged_in, event):
    body = event("SESSION_STARTED", "s-again")
    signature = sign(body, node.environment["PLUGSURFING_HMAC_CURRENT"].encode())
    headers = [(SIGNATURE_HEADER.encode(), signature.encode())]
    refusal = NotAuthentic("The signature was made with neither key.")
    request = from_request(Kind.EVENTS, headers, body, refusal, SigningKeys(current=b"an-older-key"))
    Quarantine(node.folder / FILE_NAME, load_settings()).add([request])
    logged_in.goto("/quarantine")
    logged_in.click("text=see what would pass")
    logged_in.click("text=Let in (1)")
    logged_in.wait_for_selector("text=Let in: 1. Still refused: 0.")
    assert node.rows("quarantine") == []


def test_a_body_is_shown_after_a_click_and_a_key_is_tried(node, logged_in):
    logged_in.goto("/deliveries?state=dead")
    logged_in.locator("tbody a[href^='/deliveries/']").first.click()
    logged_in.click("text=Show body, headers and tracebacks")
    logged_in.wait_for_selector("text=Traceback of add_points")
    logged_in.goto("/authorizations")
    logged_in.click("summary")
    logged_in.fill("input[name=key] >> nth=0", "04a1b2")
    logged_in.click("text=Try this key")
    logged_in.wait_for_selector("text=It is a try")
    assert [each["id"] for each in axe.Axe().run(logged_in).response["violations"]] == []
    assert len(node.rows("authorizations")) == 2


def test_an_open_page_says_that_nothing_comes_any_more_until_something_does(logged_in, monkeypatch):
    monkeypatch.setattr(now_page, "LIVE_EVERY", 50)
    monkeypatch.setattr(page_template, "SLOWEST_EVENT", 1500)
    logged_in.goto("/")
    warning = logged_in.locator("#silence")
    assert warning.is_hidden()
    logged_in.route("**/live", lambda route: route.abort())
    warning.wait_for(state="visible")
    logged_in.unroute("**/live")
    warning.wait_for(state="hidden")


def test_a_page_that_is_used_goes_on_being_live_and_keeps_the_place_of_the_keyboard(node, logged_in, monkeypatch):
    monkeypatch.setattr(now_page, "LIVE_EVERY", 50)
    logged_in.goto("/")
    last = logged_in.locator("article.alert button").last
    last.focus()
    kept = logged_in.evaluate("document.activeElement.form.action")
    with node.engine.begin() as conn:
        other = alerts.c.id != kept.split("/")[-2]
        conn.execute(update(alerts).where(other).values(resolved_at=utc_now()))
    logged_in.wait_for_selector("article.alert >> nth=1", state="detached")
    assert logged_in.evaluate("document.activeElement.form.action") == kept
