"""The systemd units that are shipped in `workers/systemd/`, filled in for one machine."""

import re
from collections.abc import Mapping
from importlib import resources

PLACE = re.compile(r"@(\w+)@")


def render_units(values: Mapping[str, str]) -> dict[str, str]:
    """Fill the units in, by their file names.

    The values: `webhooks` the command, `user`, `folder` with its `.env`, and where to listen: `address` and `lane`.
    """
    return {
        file.name: PLACE.sub(lambda found: values[found[1]], file.read_text("utf-8"))
        for file in sorted(resources.files("workers").joinpath("systemd").iterdir(), key=lambda file: file.name)
        if file.name.endswith((".service", ".socket"))
    }
