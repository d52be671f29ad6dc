"""The command line, `webhooks COMMAND`: lists every command and imports only the one that is called."""

import gc
import os
import sys
from collections.abc import MutableMapping
from dataclasses import dataclass
from importlib import import_module
from io import TextIOWrapper
from typing import Any

import click

INTERRUPTED = 130
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
MAX_TEMPORARY_FOLDER = 60
"""In bytes. A socket's path has 107 at most (103 on macOS), and multiprocessing appends more than thirty."""


@dataclass(frozen=True)
class CommandRef:
    """The module of a command in `workers.commands`, and its sentence in `webhooks --help`."""

    module: str
    sentence: str


SECTIONS: dict[str, dict[str, CommandRef]] = {
    "Start here": {
        "dev": CommandRef("processes", "Run everything in this terminal; --demo plays one charging session."),
        "send": CommandRef("send", "Play Plugsurfing: sign events and send them."),
        "ask": CommandRef("ask", "Play Plugsurfing at the charger: ask whether a key may charge."),
        "top": CommandRef("top", "Show how everything stands, live: health, queues, today's numbers."),
        "check": CommandRef("check.command", "Check settings, stores, keys, plugins: what works, what would fail."),
    },
    "See what came": {
        "deliveries": CommandRef("deliveries", "List deliveries and the outcomes of their runs."),
        "show": CommandRef("show", "Show one delivery with its raw body."),
        "sessions": CommandRef("sessions", "List charging sessions, those with the latest news first."),
        "session": CommandRef("session", "Show one charging session and its timeline."),
        "driver": CommandRef("driver", "Show everything known of a driver: why warned, or why not."),
        "cdrs": CommandRef("cdrs", "List charging records and their totals; export them."),
        "warnings": CommandRef("warnings", "List fee warnings: sent in time or not, and did they help."),
        "pushes": CommandRef("pushes", "List what was sent to drivers."),
        "stats": CommandRef("stats", "Count what happened in a span, and how long it took."),
        "authorizations": CommandRef("authorizations", "List what was decided at the charger, and why."),
        "devices": CommandRef("devices", "List, add and remove drivers' devices, or serve the app."),
        "drive": CommandRef("drive", "Ask the Drive API; change fleets, push tokens."),
        "plugin": CommandRef("plugin", "Write a plugin, try it on what came, replay samples."),
        "mcp": CommandRef("mcp", "Serve read-only tools for agents (Model Context Protocol)."),
        "handlers": CommandRef("handlers", "List which handler takes which event, and the policies."),
    },
    "Put things right": {
        "alerts": CommandRef("alerts", "List what needs a person; resolve, test."),
        "dead": CommandRef("deliveries", "List dead letters: what failed for good, and why."),
        "replay": CommandRef("replay", "Run handlers again on deliveries that came before."),
        "quarantine": CommandRef("quarantine", "List what failed verification."),
        "reverify": CommandRef("quarantine", "Verify it again with today's keys, and keep what passes."),
        "retain": CommandRef("retain", "Delete what is older than the settings allow, or count it."),
        "archive": CommandRef("archive", "Write old deliveries to a file with a digest."),
        "backup": CommandRef("backup", "Copy the inbox and a ledger on SQLite, while everything runs."),
        "restore": CommandRef("backup", "Restore them, and say what is missing."),
        "redact": CommandRef("redact", "Try what REDACT leaves of a body."),
        "erase": CommandRef("erase", "Erase a driver or a session everywhere, with a certificate."),
        "audit": CommandRef("audit", "List who looked at what, ran it again, resolved it."),
        "keys": CommandRef("keys", "Show which key matched last, and whether CURRENT can be retired."),
    },
    "Processes": {
        "serve": CommandRef("processes", "Receive events and CDRs over HTTP."),
        "authorize": CommandRef("processes", "Answer authorization requests over HTTP."),
        "work": CommandRef("processes", "Run handlers on the batches of the queues."),
        "clock": CommandRef("processes", "Enqueue due and lost work; send pushes that wait."),
        "dashboard": CommandRef("processes", "Show the console in a browser, and rq-dashboard."),
        "migrate": CommandRef("processes", "Migrate the database to this version's tables, and plugins'."),
        "systemd": CommandRef("processes", "Print systemd units that keep the socket open over a restart."),
        "openapi": CommandRef("processes", "Print the OpenAPI document of a process."),
    },
    "Measure": {
        "bench": CommandRef("bench", "Measure speed side by side with baselines."),
    },
}
COMMANDS: dict[str, CommandRef] = {name: entry for section in SECTIONS.values() for name, entry in section.items()}


class LazyGroup(click.Group):
    """The group of all commands: an expected error is one sentence and an exit code, never a traceback."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Prepare the environment, and run a command."""
        prepare_environment(os.environ)
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # a terminal that is not UTF-8 shows what it can
        return super().main(*args, **options)

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """List the commands in the order of `--help`."""
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command that is called."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        gc.disable()  # an import makes much and leaves no garbage: looking for it takes a tenth of a command
        try:
            command = getattr(import_module(f"workers.commands.{entry.module}"), cmd_name)
        finally:
            gc.freeze()
            gc.enable()
        return command if isinstance(command, click.Command) else None

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Format the sections from the table above, so that `--help` imports nothing."""
        for title, entries in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, entry.sentence) for name, entry in entries.items()])

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; raise an expected error as the Failure that reports it."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise click.exceptions.Exit(INTERRUPTED) from None
        except (BrokenPipeError, click.ClickException, click.exceptions.Exit):
            raise  # `| head` has read enough; click ends quietly
        except Exception as error:
            from workers.commands.errors import Failure, is_expected  # noqa: PLC0415  it imports SQLAlchemy

            if is_expected(error):
                raise Failure.of(error) from error
            raise


def prepare_environment(environment: MutableMapping[str, str]) -> None:
    """Change what would break calls within this machine, for this process and those that it starts.

    A proxy is for other machines: each HTTP client, those of plugins too, leaves it out for the loopback addresses. A
    temporary folder is not used where the path of a UNIX socket in it would be too long.
    """
    without_proxy = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    missing = [each for each in LOOPBACK_NAMES if each not in without_proxy.split(",")]
    environment["no_proxy"] = environment["NO_PROXY"] = ",".join([without_proxy] * bool(without_proxy) + missing)
    for name in ("TMPDIR", "TEMP", "TMP"):
        if len(environment.get(name, "").encode("utf-8", "surrogateescape")) > MAX_TEMPORARY_FOLDER:
            del environment[name]


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="plugsurfing-webhooks", prog_name="webhooks")
def main() -> None:
    """Receive Plugsurfing's webhooks: keep every event before answering, and act on it in time.

    New here? `webhooks dev --demo` shows everything working.
    """


if __name__ == "__main__":
    main()
