"""Fills what some lists show above their rows: totals, and whether a signing key can be retired."""

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request

from workers.console.list_page import Top
from workers.lists.key_list import read_usage, rotation_advice
from workers.lists.list_query import Selection, Stores


def above_keys(_request: Request, stores: Stores, _selection: Selection) -> Mapping[str, Any]:
    """Return whether the current signing key can be retired, in a sentence."""
    return {"advice": rotation_advice(stores.settings, read_usage(stores))}


def _nothing(_request: Request, _stores: Stores, _selection: Selection) -> Mapping[str, Any]:
    return {}


TOPS: Mapping[str, Top] = {"keys": above_keys, "authorizations": _nothing, "cdrs": _nothing}
"""By the name of the list."""
