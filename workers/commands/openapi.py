"""`webhooks openapi`: what `authorize` and `devices serve` answer, for programs that read it."""

import click

from ingest.authorize.app import OPENAPI as AUTHORIZE
from workers.devices.app import OPENAPI as DEVICES

DOCUMENTS = {"authorize": AUTHORIZE, "devices": DEVICES}


@click.command()
@click.argument("process", type=click.Choice(list(DOCUMENTS)))
def openapi(process: str) -> None:
    """Print the OpenAPI document of `authorize`, or of `devices serve`, as both give it at /openapi.json."""
    click.echo(DOCUMENTS[process].read_text("utf-8"), nl=False)
