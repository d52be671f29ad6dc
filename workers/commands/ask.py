"""`webhooks ask`: play Plugsurfing at the charger."""

import json
from collections.abc import Mapping
from datetime import timedelta

import click
import httpx

from ingest.config.secrets import authorization_values
from ingest.config.settings import Settings
from ingest.errors import SettingsError
from ingest.simulator.authorization_requests import (
    DEFAULT_KEY,
    ocpi_request,
    plugsurfing_request,
)
from ingest.simulator.requests import HttpRequest, curl
from ingest.wire.authorization.request import WireFormat
from workers.commands import options
from workers.commands.errors import Failure
from workers.commands.output import json_line
from workers.dev.env_file import settings_with_dev_defaults
from workers.lists.formatting import human_duration, printable
from workers.net import reachable

TIMEOUT = timedelta(seconds=10)


@click.command()
@click.option("--key", default=DEFAULT_KEY, show_default=True, metavar="KEY", help="The charging key.")
@click.option("--session", metavar="ID", help="The session that is to start.")
@click.option("--location", metavar="ID", help="The location of the charger.")
@click.option("--reference", metavar="ID", help="Plugsurfing's reference.")
@click.option("--country", metavar="CODE", help="The country.")
@click.option(
    "--form",
    type=click.Choice([form.value for form in WireFormat]),
    default=WireFormat.PLUGSURFING.value,
    show_default=True,
)
@click.option("--url", metavar="URL", help="The receiver.  [default: the one on this machine]")
@click.option("--print", "only_print", is_flag=True, help="Print the request, as curl; send nothing.")
@options.as_json
def ask(form: str, url: str | None, *, only_print: bool, as_json: bool, **parts: str | None) -> None:
    """Play Plugsurfing at the charger: ask whether a key may charge, and print the answer.

    Plugsurfing's format has each part where the settings AUTHORIZE_… look for it first; OCPI's has only the key and
    the location.
    """
    settings = settings_with_dev_defaults()
    request = _request(settings, WireFormat(form), {name: part for name, part in parts.items() if part is not None})
    url = (url or f"http://{reachable(settings.host)}:{settings.authorize_port}").rstrip("/")
    if only_print:
        click.echo(curl(url, request))
        return
    try:
        answer = httpx.post(
            f"{url}{request.path}", content=request.body, headers=request.headers, timeout=TIMEOUT.total_seconds()
        )
    except httpx.TransportError as error:
        raise Failure(f"Nothing answers at {url} ({type(error).__name__}): is `webhooks dev` running?") from error
    took = answer.elapsed
    if as_json:
        json_line(
            {"status": answer.status_code, "took_ms": took / timedelta(milliseconds=1), "answer": _document(answer)}
        )
    else:
        click.echo(f"{answer.status_code} {printable(answer.text)}  {human_duration(took)}")
    if answer.status_code != httpx.codes.OK:
        raise Failure("The response is no decision.")


def _request(settings: Settings, form: WireFormat, parts: Mapping[str, str]) -> HttpRequest:
    values = authorization_values(settings.authorize_credentials)
    if not values:
        raise SettingsError("AUTHORIZE_CREDENTIALS is not set: no request would be answered.")
    credentials = values[0].decode()
    if form is WireFormat.OCPI:
        return ocpi_request(parts, credentials)
    return plugsurfing_request(settings, parts, credentials)


def _document(answer: httpx.Response) -> str | dict[str, str]:
    try:
        document: dict[str, str] = json.loads(answer.content)
    except ValueError:
        return answer.text
    return document
