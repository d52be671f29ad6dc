"""The command that writes the units for systemd."""

import sys
from pathlib import Path

import click

from ingest.config.settings import load_settings
from workers.systemd.render import render_units


@click.command()
@click.option("--into", type=click.Path(path_type=Path, file_okay=False), help="Write them there, not on the screen.")
@click.option("--user", default="webhooks", show_default=True, help="Whom the processes run as.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=Path(),
    help="Where `.env` and plugins of yours lie. Default: here.",
)
def systemd(*, into: Path | None, user: str, folder: Path) -> None:
    """Write the units for a machine with systemd: `serve` and `authorize` with their sockets, workers, the clock.

    `webhooks systemd --into /etc/systemd/system`, then `systemctl daemon-reload` and
    `systemctl enable --now webhooks-serve.socket webhooks-serve webhooks-work@1 webhooks-clock`.
    """
    settings = load_settings()
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    values = {
        "webhooks": str(Path(sys.executable).with_name("webhooks")),
        "user": user,
        "folder": str(folder.absolute()),
        "address": f"{host}:{settings.port}",
        "authorize_address": f"{host}:{settings.authorize_port}",
    }
    for name, text in render_units(values).items():
        if into is None:
            click.echo(f"# {name}\n{text}")
        else:
            into.mkdir(parents=True, exist_ok=True)
            (into / name).write_text(text, "utf-8")
            click.echo(f"{into / name}")
