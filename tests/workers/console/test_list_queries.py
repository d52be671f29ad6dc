"""Every list: the page shows what the command prints, whatever is in it."""

import re

import pytest

from tests.workers.console.conftest import reveal
from tests.workers.console.past import fill
from workers.console.list_page import LISTS

COMMANDS = {"downtimes": ("deliveries", "--gaps"), "charging-keys": ("keys", "charging")}
COMMANDS |= {"cdr-totals": ("cdrs", "--totals"), "missing-cdrs": ("cdrs", "--missing")}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_as_json_is_what_its_command_prints(any_node, console_of, name):
    fill(any_node, failures=3)
    console = console_of(any_node)
    printed = any_node.run(*COMMANDS.get(name, (name,)), "--json").stdout
    if name == "handlers":  # its policies follow
        printed = "".join(line for line in printed.splitlines(keepends=True) if '"handler"' in line)
    assert "dana@example.com" not in console.get(f"/{name}.json").text
    if name != "audit":  # which would have one row more, and names no user
        reveal(console, f"/{name}")
    assert console.get(f"/{name}.json").text == printed
    assert console.get(f"/{name}").status_code == 200


def test_the_time_of_the_last_match_is_in_the_zone_of_the_viewer_like_any_other(node, console, event):
    node.settle(event("SESSION_STARTED"))
    assert re.search("CURRENT matched last, at <time datetime=[^<]+</time>", console.get("/keys").text)
