"""Renders the systemd units in `workers/systemd/` for one machine."""

import re
from collections.abc import Mapping
from importlib import resources

PLACEHOLDER = re.compile(r"@(\w+)@")


def render_units(values: Mapping[str, str]) -> dict[str, str]:
    """Return the rendered units, by their file names.

    The values: `webhooks` the command, `user`, `folder` with its `.env`, `address`, `authorize_address`.
    """
    return {
        file.name: PLACEHOLDER.sub(lambda found: values[found[1]], file.read_text("utf-8"))
        for file in sorted(resources.files("workers").joinpath("systemd").iterdir(), key=lambda file: file.name)
        if file.name.endswith((".service", ".socket"))
    }
