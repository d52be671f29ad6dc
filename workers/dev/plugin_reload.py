"""Start processes again when a plugin, a template or `.env` changes."""

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import timedelta
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import click
from watchfiles import Change, awatch

from ingest.config.settings import Settings
from workers.dev.child_process import ProcessSpec
from workers.dev.child_supervisor import ChildSupervisor
from workers.dev.environment import STOP_MARGIN
from workers.plugins import ENTRY_POINTS

SUFFIXES = (".py", ".txt")
ENV_FILE = ".env"
LOADING = ("work", "clock", "authorize", "dashboard")
"""The processes of `dev` that load plugins."""
MIGRATIONS_SUFFIX = "_migrations"
"""What the folder of a plugin's migrations is called by `webhooks plugin new`, behind the plugin's name."""
DEBOUNCE = timedelta(milliseconds=300)
"""An editor writes a file in several steps."""


def is_of_plugin(_change: Change, path: str) -> bool:
    """Return whether a changed file may be part of a plugin, and no test of one."""
    file = Path(path)
    return file.name == ENV_FILE or (file.suffix in SUFFIXES and not file.name.startswith((".", "test_")))


def plugin_folders(settings: Settings) -> list[Path]:
    """Return the folders of packages with plugins, and of templates; nothing is imported, so that nothing can fail."""
    names = ["handlers", *(each.module for each in entry_points(group=ENTRY_POINTS)), *settings.handler_modules]
    specs = [find_spec(top) for top in dict.fromkeys(name.partition(".")[0] for name in names) if top]
    found = [Path(place) for spec in specs if spec for place in spec.submodule_search_locations or ()]
    found += [Path(name.partition(".")[0]) for name in settings.handler_modules]
    found += [Path(f"{name.rpartition('.')[2]}{MIGRATIONS_SUFFIX}") for name in settings.handler_modules]
    found += [settings.templates_dir] if settings.templates_dir else []
    return [path for path in dict.fromkeys(path.absolute() for path in found) if path.is_dir()]


def may_have_tables(settings: Settings) -> bool:
    """Return whether there are plugins that may have tables of their own: more than those that come with us."""
    ours = find_spec("handlers")
    folders = ours.submodule_search_locations or () if ours else ()
    has_migrations = any(any(Path(folder).glob(f"*{MIGRATIONS_SUFFIX}")) for folder in folders)
    return bool(settings.handler_modules or entry_points(group=ENTRY_POINTS)) or has_migrations


def migrate_plugins(environment: Mapping[str, str], print_line: Callable[[str], None]) -> None:
    """Run `webhooks migrate`, in a process of its own as plugins may have changed; print what it did, or what failed.

    A plugin that cannot be loaded is left to the processes that need it.
    """
    command = (sys.executable, "-P", "-m", "workers.cli", "migrate")
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603  it is ours
    for line in ran.stdout.splitlines():
        if " now has " in line:
            print_line(line)
    if ran.returncode == 1:
        for line in ran.stderr.splitlines():
            print_line(line)


async def watch_plugins(folders: Iterable[Path], reload: Callable[[], Awaitable[None]]) -> None:
    """Call `reload` after each change in the current folder, without those in it, and in these with all in them."""
    changed = asyncio.Event()

    async def watch(paths: Iterable[Path], *, recursive: bool) -> None:
        steps = int(DEBOUNCE / timedelta(milliseconds=1))
        async for _ in awatch(*paths, watch_filter=is_of_plugin, recursive=recursive, debounce=steps):
            changed.set()

    async def reload_when_changed() -> None:
        while True:
            await changed.wait()
            changed.clear()
            await reload()

    await asyncio.gather(watch([Path.cwd()], recursive=False), watch(folders, recursive=True), reload_when_changed())


def work_with_reload(settings: Settings, queues: tuple[str, ...]) -> int:
    """Run `webhooks work` as a child that is started again after each change, until a signal; return the exit code."""
    command = (sys.executable, "-P", "-m", "workers.cli", "work", "--traceback", *queues)
    supervisor = ChildSupervisor(
        [ProcessSpec("work", command, settings.handler_timeout + STOP_MARGIN)],
        None,
        lambda _name, line: click.echo(line),
    )

    async def watch() -> int | None:
        await watch_plugins(plugin_folders(settings), lambda: supervisor.reload(LOADING))
        return None

    return asyncio.run(supervisor.run(watch))
