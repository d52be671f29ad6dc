"""Every word of the wire has a recorded sample, and every plugin a test of its own."""

import json
import pkgutil

import pytest

import handlers
from ingest.events import WIRE_NAMES, decode
from ingest.wire.envelope import Kind

PLUGINS = [found.name for found in pkgutil.iter_modules(handlers.__path__) if not found.ispkg]


@pytest.mark.parametrize("wire_name", WIRE_NAMES)
def test_a_wire_name_has_a_sample_that_is_read_as_its_event(root, wire_name):
    body = (root / "tests" / "events" / f"{wire_name}.json").read_bytes()
    assert json.loads(body)["event"] == wire_name
    assert type(decode(Kind.EVENTS, body)) is WIRE_NAMES[wire_name]


@pytest.mark.parametrize("plugin", PLUGINS)
def test_a_plugin_has_a_test_file(root, plugin):
    assert (root / "tests" / "handlers" / f"test_{plugin}.py").is_file()
