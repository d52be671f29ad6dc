"""`webhooks send`: play Plugsurfing."""

import asyncio
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain
from random import Random
from typing import Any

import click

from ingest.config.keyring import Keyring
from ingest.config.settings import Settings
from ingest.events import CHARGING_RECORD, WIRE_NAMES
from ingest.simulator import sender
from ingest.simulator.drive.state import state_from_scenario
from ingest.simulator.faults import DEFAULT_RATE, Fault, PlannedRequest, inject_faults
from ingest.simulator.requests import RequestSigner, SigningKeyChoice, as_curl
from ingest.simulator.scenarios import NO_FIELDS, SCENARIOS, Participants, build_scenario, random_participants
from ingest.simulator.sender import ResponseStats, SimulatorResponse
from workers.commands.errors import Failure
from workers.commands.options import WHEN, Parsed
from workers.dev.drive_simulator import push_sessions, simulated_url
from workers.dev.env_file import settings_with_dev_defaults
from workers.lists.formatting import human_duration, printable, short_id

DEFAULT_SCENARIO = "session"
SHOWN = 20
"""Up to so many responses are printed one by one."""


def parse_faults(text: str) -> tuple[Fault, ...]:
    """Parse names separated by commas, of which each counts once; raise ValueError."""
    names = dict.fromkeys(name.strip() for name in text.split(",") if name.strip())
    try:
        return tuple(map(Fault, names))
    except ValueError:
        raise ValueError(f"choose from {', '.join(Fault)}, by comma") from None


FAULTS = Parsed("faults", parse_faults)
SHARE = click.FloatRange(0, 1)


@click.command(
    epilog="Scenarios: " + "; ".join(f"{name} ({each.description})" for name, each in SCENARIOS.items()) + "."
)
@click.argument("event", required=False)
@click.option("--scenario", type=click.Choice(list(SCENARIOS)), help="Play this scenario.")
@click.option("--url", metavar="URL", help="The receiver.  [default: the one on this machine]")
@click.option("--session", "session_id", metavar="ID", help="The session's id; of several sessions its beginning.")
@click.option("--user", "user_id", metavar="ID", help="The driver's id.")
@click.option("--at", type=WHEN, metavar="WHEN", help="When the scenario begins: ISO 8601, or 10m, 2h, 3d ago.")
@click.option(
    "--sign", type=click.Choice([*map(str, SigningKeyChoice)]), help="The key to sign with.  [default: current]"
)
@click.option("--count", type=click.IntRange(min=1), default=1, help="How many sessions to play.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="At most so many requests a second.")
@click.option("--seed", type=int, help="The same seed draws the same sessions and faults; with --at, the same bytes.")
@click.option(
    "--fault", "faults", type=FAULTS, default="", metavar="NAMES", help=f"What goes wrong: {', '.join(Fault)}."
)
@click.option(
    "--share",
    type=SHARE,
    default=DEFAULT_RATE,
    show_default=True,
    help="The share of requests that each fault affects.",
)
@click.option("--users", type=click.IntRange(min=1), help="How many drivers to draw from.")
@click.option(
    "--drive",
    "drive_url",
    metavar="URL",
    help="The simulated Drive API that learns what really happens.  [default: the one of `webhooks dev`]",
)
@click.option("--print", "only_print", is_flag=True, help="Print the requests, as curl; send nothing.")
def send(  # noqa: PLR0913  the options of the interface
    *,
    event: str | None,
    scenario: str | None,
    url: str | None,
    session_id: str | None,
    user_id: str | None,
    at: datetime | None,
    sign: str | None,
    count: int,
    rate: float | None,
    seed: int | None,
    faults: tuple[Fault, ...],
    share: float,
    users: int | None,
    drive_url: str | None,
    only_print: bool,
) -> None:
    """Play Plugsurfing: sign events and send them.

    EVENT is any wire name, known or not, or a scenario; the default is a session from its start to its price. Exit
    code 1 unless every response is as it should be; with faults, a refusal may be.
    """
    if event and scenario:
        raise click.UsageError("Choose EVENT or --scenario.")
    settings = settings_with_dev_defaults()
    signer = _signer_from(settings, SigningKeyChoice(sign) if sign else None)
    url = (url or f"http://{settings.host}:{settings.port}").rstrip("/")
    random = Random(seed)  # noqa: S311  nothing secret is drawn
    about, now = event or scenario or DEFAULT_SCENARIO, datetime.now(UTC)
    participants = list(_draw_participants(random, count, session_id, user_id, users))
    sample = _sample(about, settings)
    scenarios = [build_scenario(about, each, begins_at=at, now=now, sample=sample) for each in participants]
    tracks = inject_faults(scenarios, faults, random, share)
    if only_print:
        for step in chain.from_iterable(tracks):
            click.echo(as_curl(signer.request(step, at=now), url))
        return
    drive_url = drive_url or simulated_url(settings)
    if drive_url is not None:  # before anything is sent, or dropped
        push_sessions(drive_url, list(filter(None, map(state_from_scenario, scenarios))))
    answers = _send_all(url, tracks, signer, rate)
    if not answers:
        click.echo("Nothing was sent: every event was dropped.")
        return
    _summarize(answers, url)
    if count == 1:
        click.echo(f"See the result: webhooks session {printable(participants[0].session_id)}")


def _sample(name: str, settings: Settings) -> Mapping[str, Any]:
    """Return what the payload of an event has that only a plugin knows; the plugins are loaded for no other name."""
    if name in SCENARIOS or name in WIRE_NAMES or name == CHARGING_RECORD:
        return NO_FIELDS
    from workers.plugins import PluginError, load_plugins  # noqa: PLC0415  it imports SQLAlchemy

    try:
        known = load_plugins(settings).event_types
    except PluginError as error:
        click.echo(f"Without fields of a plugin: {error}", err=True)
        return NO_FIELDS
    return next((each.sample for each in known if each.model.wire_name == name), NO_FIELDS)


def _signer_from(settings: Settings, sign: SigningKeyChoice | None) -> RequestSigner:
    """Return the signer for a choice of key, else for the keys that are set; raise SettingsError if none is."""
    keys = Keyring(settings).keys
    required = settings.plugsurfing_hmac_required
    if sign is None:
        sign = SigningKeyChoice.NEXT if keys.next and not keys.current else SigningKeyChoice.CURRENT
        if not required and not keys.current and not keys.next:
            sign = SigningKeyChoice.NONE
    return RequestSigner(keys, sign, required)


def _draw_participants(
    random: Random, count: int, session_id: str | None, user_id: str | None, users: int | None
) -> Iterator[Participants]:
    """Yield sessions with their drivers; ids that were given are used instead, the session's with a number if several.

    With `users`, a driver is one of so many, always the same for the same draw.
    """
    for number in range(1, count + 1):
        drawn = random_participants(random)
        numbered = session_id if session_id is None or count == 1 else f"{session_id}-{number:0{len(str(count))}}"
        driver = drawn.user_id if user_id is None else user_id
        if users is not None:
            driver = f"driver-{Random(driver).randrange(users):04}"  # noqa: S311  as above
        yield Participants(numbered or drawn.session_id, driver)


def _send_all(
    url: str, tracks: Sequence[Sequence[PlannedRequest]], signer: RequestSigner, rate: float | None
) -> list[SimulatorResponse]:
    """Send everything; few responses are printed one by one, many as progress."""
    total = sum(map(len, tracks))
    answers: list[SimulatorResponse] = []
    is_quiet = total <= SHOWN or not sys.stderr.isatty()
    with click.progressbar(length=total, label="Sending", show_pos=True, file=sys.stderr, hidden=is_quiet) as bar:

        def on_response(answer: SimulatorResponse) -> None:
            answers.append(answer)
            bar.update(1)
            if total <= SHOWN:
                click.echo(_response_text(answer))

        asyncio.run(sender.send(url, tracks, signer, on_response=on_response, rate=rate))
    return answers


def _response_text(answer: SimulatorResponse) -> str:
    event = answer.request.event
    if answer.status is None:
        text = f"no answer ({answer.problem})"
    elif not answer.is_expected:
        text = f"{answer.status}, which is wrong: it should be {' or '.join(map(str, sorted(answer.request.expected)))}"
    elif answer.delivery_id is None:
        text = f"{answer.status}, as it should be"
    else:
        text = f"{answer.status} {'known already as' if answer.duplicate else 'kept as'} {short_id(answer.delivery_id)}"
    return f"{printable(event.name):<22}{printable(event.session_id):<13}{text}  {human_duration(answer.took)}"


def _summarize(answers: Sequence[SimulatorResponse], url: str) -> None:
    """Print the responses, counted; raise Failure if one is wrong."""
    counted = ResponseStats.of(answers)
    statuses = ", ".join(f"{count} x {status}" for status, count in counted.statuses)
    again = f" ({counted.duplicates} known already)" if counted.duplicates else ""
    click.echo(
        f"{len(answers)} sent: {statuses}{again} · p50 {human_duration(counted.p50)}"
        f" · p99 {human_duration(counted.p99)}"
    )
    if all(answer.status is None for answer in answers):
        raise Failure(f"Nothing answers at {url}: is `webhooks dev` running?")
    if counted.wrong:
        worst = next(answer for answer in answers if not answer.is_expected)
        raise Failure(f"{counted.wrong} of {len(answers)} answers are wrong; the first: {_response_text(worst)}")
