"""A node, as the commands find it."""

from tests.workers.commands.conftest import any_node, event_writer, node, noon

__all__ = ["any_node", "event_writer", "node", "noon"]
