"""Runs all process types in one terminal, with stores and keys of their own where none are set."""

import asyncio
import fcntl
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

import click
import httpx

from ingest.config.settings import Settings, load_settings
from ingest.errors import SettingsError
from ingest.simulator.authorization_requests import DEFAULT_KEY, plugsurfing_request
from ingest.simulator.requests import curl
from workers.dev import demo
from workers.dev.child_process import ProcessSpec
from workers.dev.child_supervisor import ChildFailedError, ChildSupervisor
from workers.dev.env_file import FILE_NAME, write_devfile
from workers.dev.environment import CREDENTIALS, DevEnvironment, build_environment, environment_of, process_list
from workers.dev.plugin_reload import LOADING, may_have_tables, migrate_plugins, plugin_folders, watch_plugins
from workers.ledger.database.migrate import migrate
from workers.net import is_free

LOCK_NAME = "dev.lock"
CHILDREN_LOCK_NAME = "dev.children.lock"
# One whose terminal was closed a moment ago is still ending.
OTHER_DEV_TIMEOUT = timedelta(seconds=5)
ORPHANS_TIMEOUT = timedelta(seconds=30)
POLL_INTERVAL = timedelta(milliseconds=100)
PROBE_TIMEOUT = timedelta(seconds=5)

COLOURS = ("cyan", "green", "magenta", "blue", "yellow", "bright_cyan")


def dev(port: int | None, show_session: Callable[[Settings, str], None] | None, *, ends: bool) -> int:
    """Run all processes until a signal comes, and return the exit code.

    With `show_session` the demo is played, and its session is shown with that; the exit code is then 0 if all findings
    are true, and with `ends` that is the end. Before anything is started it raises SettingsError, or OSError if a port
    is taken.
    """
    data_dir = load_settings().data_dir
    with single_instance(data_dir) as lock:
        env = build_environment(port)
        settings = env.settings
        ports = (settings.port, settings.authorize_port, settings.dashboard_port, settings.metrics_port)
        for wanted in (*ports, settings.devices_port):
            if not is_free(env.settings.host, wanted):
                raise OSError(f"Port {wanted} is taken. Choose others with --port.")
        migrate(env.settings.database_url)
        if may_have_tables(settings):
            migrate_plugins(environment_of(env), click.echo)
        write_devfile(data_dir, env.generated)
        try:
            return asyncio.run(run(env, process_list(env, lock), show_session, ends=ends))
        except ChildFailedError as error:
            click.secho(f"webhooks: {error}", err=True, fg="red")
            return error.exit_code
        finally:
            write_devfile(data_dir, env.kept)


async def run(
    env: DevEnvironment,
    specs: Sequence[ProcessSpec],
    show_session: Callable[[Settings, str], None] | None,
    *,
    ends: bool,
) -> int:
    """Supervise the processes; print the banner and play the demo once they are ready."""
    print_line, environment = line_printer([*(spec.name for spec in specs), "demo"]), environment_of(env)

    async def reload() -> None:
        print_line("dev", "a plugin has changed: loading it")
        await asyncio.to_thread(migrate_plugins, environment, partial(print_line, "dev"))
        await supervisor.reload(LOADING)

    async def scenario() -> int | None:
        await asyncio.gather(wait_until_ready(env.url), wait_until_ready(env.authorize_url))
        click.echo(banner(env))
        if show_session is None:
            await watch_plugins(plugin_folders(env.settings), reload)
            return None
        state = await demo.play(
            env.settings,
            env.url,
            lambda line: print_line("demo", line),
            drive_url=env.settings.drive_api_url if env.has_own_drive else None,
        )
        show_session(env.settings, state.session_id)
        click.echo(demo_summary(state.findings()))
        if ends:
            return int(not all(state.findings().values()))
        await watch_plugins(plugin_folders(env.settings), reload)
        return None

    supervisor = ChildSupervisor(specs, environment, print_line)
    return await supervisor.run(scenario)


@contextmanager
def single_instance(data_dir: Path) -> Iterator[int]:
    """Lock the folder for one `dev`, and yield the open file that its processes are to inherit.

    Waits for another `dev` that is ending, and for the processes of a killed one. Raises SettingsError if they do not
    end.
    """
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (
        locked(data_dir / LOCK_NAME, OTHER_DEV_TIMEOUT, "DATA_DIR is in use by another `webhooks dev`."),
        locked(
            data_dir / CHILDREN_LOCK_NAME, ORPHANS_TIMEOUT, "DATA_DIR is in use by processes of a dead `dev`."
        ) as lock,
    ):
        yield lock


@contextmanager
def locked(path: Path, timeout: timedelta, refusal: str) -> Iterator[int]:
    """Lock a file, and yield it open. Raises SettingsError if another process holds the lock until the timeout."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + timeout.total_seconds()
    try:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise SettingsError(refusal) from None
                time.sleep(POLL_INTERVAL.total_seconds())
        yield file
    finally:
        os.close(file)


async def wait_until_ready(url: str) -> None:
    """Wait until a process responds to its readiness probe."""
    async with httpx.AsyncClient(base_url=url, timeout=PROBE_TIMEOUT.total_seconds()) as client:
        while True:
            try:
                if (await client.get("/readyz")).status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                pass  # it is still starting
            await asyncio.sleep(POLL_INTERVAL.total_seconds())


def line_printer(names: Sequence[str]) -> Callable[[str, str], None]:
    """Return a function that prints a line behind the name of its process, each in its colour on a terminal."""
    width = max(map(len, names))
    colours = {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(names)}

    def print_line(name: str, line: str) -> None:
        click.echo(f"{click.style(f'{name:<{width}} │', fg=colours.get(name))} {line}")

    return print_line


def banner(env: DevEnvironment) -> str:
    """Format the first screen: where everything is, the generated keys, and commands to try."""
    effective = {line.name: line.effective for line in env.settings.describe_all()}
    addresses = {
        "events": f"{env.url}/plugsurfing/events",
        "cdrs": f"{env.url}/plugsurfing/cdrs",
        "authorize": f"{env.authorize_url}/plugsurfing/authorizations",
        "readiness": f"{env.url}/readyz",
        "dashboard": env.dashboard_url,
        "metrics": env.metrics_url,
        **({"devices": env.devices_url} if env.serves_devices else {}),
        **({"drive api": f"{env.settings.drive_api_url}  (simulated)"} if env.has_own_drive else {}),
        "queues": effective["REDIS_URL"] + ("  (embedded Valkey)" if env.has_own_valkey else ""),
        "ledger": effective["DATABASE_URL"],
    }
    lines = ["", click.style("  Everything is up.", bold=True) + " Ctrl-C ends it, in order.", ""]
    lines += [f"    {click.style(f'{name:<10}', dim=True)} {address}" for name, address in addresses.items()]
    if env.kept:
        file = relative_path(env.settings.data_dir / FILE_NAME)
        lines += ["", f"  These are not set. They were generated, and are kept in {file}:", ""]
        lines += [f"    {name}={value}" for name, value in env.kept.items()]
    webhooks = relative_path(Path(sys.argv[0]))
    lines += ["", "  In another terminal:", ""]
    lines += [
        f"    {click.style(f'{webhooks} {command}', fg='green')}"
        for command in ("send fee-warning", "deliveries", "ask")
    ]
    if CREDENTIALS.upper() in env.generated:
        lines += ["", "  Or ask as Plugsurfing does, whether a key may charge:", ""]
        sample = plugsurfing_request(env.settings, {"key": DEFAULT_KEY}, env.credentials)
        lines += [f"    {click.style(curl(env.authorize_url, sample), fg='green')}"]
    return "\n".join([*lines, ""])


def demo_summary(findings: Mapping[str, bool]) -> str:
    """Format the findings of the demo, one a line."""
    marks = {True: click.style("✓", fg="green"), False: click.style("✗", fg="red")}
    return "\n".join([*(f"  {marks[is_true]} {finding}" for finding, is_true in findings.items()), ""])


def relative_path(path: Path) -> str:
    """Format a path relative to the current folder if it is inside."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
