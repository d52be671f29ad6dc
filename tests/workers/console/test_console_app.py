"""Every page: what comes from outside is text on it, never HTML."""

import pytest

from tests.faults.documents import HOSTILE
from tests.workers.console.conftest import keys_of, reveal
from tests.workers.console.past import fill
from workers.console.list_page import LISTS


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_what_comes_from_outside_is_text_on_every_page(node, console_of, text):
    fill(node, user=f"u{text}", text=text, failures=1)
    console = console_of(node)
    failures = console.get("/failures").text
    causes = [f"/failures/{key}" for key in keys_of(failures)]
    causes += [f"/failures/pushes/{key}" for key in keys_of(failures, "failures/pushes")]
    assert len(causes) >= 2
    things = [f"/deliveries/{row['id']}" for row in node.rows("deliveries", "--limit", "4")]
    things += [f"/pushes/{row['id']}" for row in node.rows("pushes")]
    things += ["/sessions/warned", "/sessions/refused"]
    lists = [f"/{name}" for name in LISTS]
    for url in (*things, *lists):
        reveal(console, url)
    for url in ("/", "/failures", *causes, *things, *lists):
        answer = console.get(url)
        assert answer.status_code == 200, url
        assert "<script>alert" not in answer.text
        assert "<img" not in answer.text
    for url in lists:
        assert console.get(f"{url}.csv").status_code == 200
    for url in ("/find", "/drivers/x"):
        answer = console.get(url, params={"q": f"u{text}"[:9_000].encode("utf-8", "replace").decode()})
        assert answer.status_code in {200, 404}
        assert "<script>alert" not in answer.text
        assert "<img" not in answer.text
