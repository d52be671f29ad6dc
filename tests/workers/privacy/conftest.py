"""The node of the commands' tests, with a ledger of each kind."""

from tests.workers.commands.conftest import any_node, event_writer, node, noon

__all__ = ["any_node", "event_writer", "node", "noon"]
