"""All process types in one terminal, with stores and keys of their own where none are set."""

import asyncio
import fcntl
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import click
import httpx

from ingest.config.settings import Settings, load_settings
from ingest.errors import SettingsError
from ingest.simulator.authorization_requests import DEFAULT_KEY, plugsurfing_request
from ingest.simulator.requests import curl
from workers.dev import demo
from workers.dev.child_process import ProcessSpec
from workers.dev.env_file import FILE_NAME, write_devfile
from workers.dev.environment import (
    CREDENTIALS,
    DevEnvironment,
    build_environment,
    environment_of,
    is_free,
    process_list,
)
from workers.dev.supervisor import ChildFailedError, Supervisor
from workers.ledger.database.migrate import migrate

LOCK_NAME = "dev.lock"
CHILDREN_LOCK_NAME = "dev.children.lock"
# One whose terminal was closed just now is still ending.
ANOTHER_ENDS_WITHIN = timedelta(seconds=5)
ORPHANS_END_WITHIN = timedelta(seconds=30)
LOOK_EVERY = timedelta(milliseconds=100)
PROBE_TIMEOUT = timedelta(seconds=5)

COLOURS = ("cyan", "green", "magenta", "blue", "yellow", "bright_cyan")


def dev(port: int | None, play: Callable[[Settings, str], None] | None, *, ends: bool) -> int:
    """Run everything until a signal comes and return the exit code.

    `play` asks for the demo, and shows the session that it has played; the exit code is then 0 if all came true, and
    with `ends` this is the end. Raises SettingsError, or OSError if a port is taken, before anything is started.
    """
    data_dir = load_settings().data_dir
    with single_instance(data_dir) as lock:
        house = build_environment(port)
        for wanted in ports_of(house.settings):
            if not is_free(house.settings.host, wanted):
                raise OSError(f"Port {wanted} is taken. Choose others with --port.")
        migrate(house.settings.database_url)
        write_devfile(data_dir, house.generated)
        try:
            return asyncio.run(run(house, process_list(house, lock), play, ends=ends))
        except ChildFailedError as error:
            click.secho(f"webhooks: {error}", err=True, fg="red")
            return error.exit_code
        finally:
            write_devfile(data_dir, house.kept)


def ports_of(settings: Settings) -> tuple[int, ...]:
    """Name the ports that must be free."""
    return settings.port, settings.authorize_port, settings.dashboard_port, settings.devices_port


async def run(
    house: DevEnvironment, children: Sequence[ProcessSpec], play: Callable[[Settings, str], None] | None, *, ends: bool
) -> int:
    """Keep the children running; once the door is open, say how to use the house, and play the demo."""
    say = line_printer([*(child.name for child in children), "demo"])

    async def story() -> int | None:
        await asyncio.gather(until_open(house.url), until_open(house.authorize_url))
        click.echo(banner(house))
        if play is None:
            return None
        seen = await demo.play(house.settings, house.url, lambda line: say("demo", line))
        play(house.settings, seen.session_id)
        click.echo(demo_summary(seen.findings()))
        return int(not all(seen.findings().values())) if ends else None

    return await Supervisor(children, environment_of(house), say).run(story)


@contextmanager
def single_instance(data_dir: Path) -> Iterator[int]:
    """Keep the folder for one `dev` and its children; give the open file that they are to hold.

    Waits for one that is ending, and for the children of one that was killed. Raises SettingsError if they do not end.
    """
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (
        locked(data_dir / LOCK_NAME, ANOTHER_ENDS_WITHIN, "DATA_DIR is in use by another `webhooks dev`."),
        locked(
            data_dir / CHILDREN_LOCK_NAME, ORPHANS_END_WITHIN, "DATA_DIR is in use by processes of a dead `dev`."
        ) as lock,
    ):
        yield lock


@contextmanager
def locked(path: Path, wait: timedelta, refusal: str) -> Iterator[int]:
    """Hold the lock of a file, which is given open. Raises SettingsError if it cannot be had in time."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + wait.total_seconds()
    try:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise SettingsError(refusal) from None
                time.sleep(LOOK_EVERY.total_seconds())
        yield file
    finally:
        os.close(file)


async def until_open(url: str) -> None:
    """Wait until the door can keep an event."""
    async with httpx.AsyncClient(base_url=url, timeout=PROBE_TIMEOUT.total_seconds()) as client:
        while True:
            try:
                if (await client.get("/readyz")).status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                pass  # it is still starting
            await asyncio.sleep(LOOK_EVERY.total_seconds())


def line_printer(names: Sequence[str]) -> Callable[[str, str], None]:
    """Make what prints a line behind the name of who says it, each name in its colour if this is a terminal."""
    width = max(map(len, names))
    colours = {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(names)}

    def say(name: str, line: str) -> None:
        click.echo(f"{click.style(f'{name:<{width}} │', fg=colours.get(name))} {line}")

    return say


def banner(house: DevEnvironment) -> str:
    """Write what a newcomer needs: where everything is, which keys there are, and what to type next."""
    shown = {line.name: line.effective for line in house.settings.describe_all()}
    places = {
        "events": f"{house.url}/plugsurfing/events",
        "cdrs": f"{house.url}/plugsurfing/cdrs",
        "questions": f"{house.authorize_url}/plugsurfing/authorizations",
        "readiness": f"{house.url}/readyz",
        "dashboard": house.dashboard_url,
        **({"devices": house.devices_url} if house.serves_devices else {}),
        **({"drive api": f"{house.settings.drive_api_url}  (simulated)"} if house.has_own_drive else {}),
        "queues": shown["REDIS_URL"] + ("  (embedded Valkey)" if house.has_own_valkey else ""),
        "ledger": shown["DATABASE_URL"],
    }
    lines = ["", click.style("  Everything is up.", bold=True) + " Ctrl-C ends it, in order.", ""]
    lines += [f"    {click.style(f'{name:<10}', dim=True)} {place}" for name, place in places.items()]
    if house.kept:
        file = relative_path(house.settings.data_dir / FILE_NAME)
        lines += ["", f"  These are not set. They were made up, and are kept in {file}:", ""]
        lines += [f"    {name}={value}" for name, value in house.kept.items()]
    webhooks = relative_path(Path(sys.argv[0]))
    lines += ["", "  In another terminal:", ""]
    lines += [
        f"    {click.style(f'{webhooks} {words}', fg='green')}" for words in ("send fee-warning", "deliveries", "ask")
    ]
    if CREDENTIALS.upper() in house.generated:
        lines += ["", "  Or ask as Plugsurfing does, whether a key may charge:", ""]
        lines += [f"    {click.style(sample_request(house), fg='green')}"]
    return "\n".join([*lines, ""])


def sample_request(house: DevEnvironment) -> str:
    """Write a question at the charger, as a line for a shell."""
    question = plugsurfing_request(house.settings, {"key": DEFAULT_KEY}, house.credentials)
    return curl(house.authorize_url, question)


def demo_summary(findings: Mapping[str, bool]) -> str:
    """Write what came true, and what did not."""
    marks = {True: click.style("✓", fg="green"), False: click.style("✗", fg="red")}
    return "\n".join([*(f"  {marks[is_true]} {finding}" for finding, is_true in findings.items()), ""])


def relative_path(path: Path) -> str:
    """Write a path as one would type it here."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
