"""The command line, `webhooks COMMAND`: it names every command and imports only the one that is called."""

from dataclasses import dataclass
from importlib import import_module

import click

INTERRUPTED = 130


@dataclass(frozen=True)
class CommandRef:
    """Where a command lives, and the sentence that `webhooks --help` says about it."""

    home: str
    sentence: str


SECTIONS: dict[str, dict[str, CommandRef]] = {
    "Start here": {
        "dev": CommandRef(
            "workers.commands.dev:dev", "Run everything in this terminal; --demo plays one charging session."
        ),
        "send": CommandRef("workers.commands.send:send", "Play Plugsurfing: sign events and send them."),
        "ask": CommandRef("workers.commands.ask:ask", "Play Plugsurfing at the charger: ask whether a key may charge."),
        "check": CommandRef(
            "workers.commands.check.command:check", "Say what works and what would fail: settings, stores, keys."
        ),
    },
    "See what came": {
        "deliveries": CommandRef("workers.commands.lists:deliveries", "List deliveries and what became of them."),
        "show": CommandRef("workers.commands.show:show", "Show one delivery with its raw body."),
        "session": CommandRef("workers.commands.session:session", "Show one charging session and its timeline."),
        "cdrs": CommandRef("workers.commands.cdrs:cdrs", "List charging records and what they come to; export them."),
        "pushes": CommandRef("workers.commands.lists:pushes", "List what was sent to drivers."),
        "authorizations": CommandRef(
            "workers.commands.authorizations:authorizations", "List what was decided at the charger, and why."
        ),
        "devices": CommandRef(
            "workers.commands.devices:devices", "List, add and remove drivers' devices, or serve the app."
        ),
        "drive": CommandRef("workers.commands.drive:drive", "Ask the Drive API; change fleets, push tokens."),
        "handlers": CommandRef(
            "workers.commands.lists:handlers", "List what handles what, and who decides at the charger."
        ),
    },
    "Put things right": {
        "alerts": CommandRef("workers.commands.alerts:alerts", "List what somebody should look at; resolve, test."),
        "dead": CommandRef("workers.commands.lists:dead", "List dead letters: what failed for good, and why."),
        "replay": CommandRef("workers.commands.replay:replay", "Run handlers again on deliveries that came before."),
        "quarantine": CommandRef("workers.commands.quarantine:quarantine", "List what failed verification."),
        "reverify": CommandRef("workers.commands.quarantine:reverify", "Verify it again and let in what passes."),
        "keys": CommandRef("workers.commands.keys:keys", "Say which key matched last, and whether one can go."),
    },
    "Processes": {
        "serve": CommandRef("workers.commands.processes:serve", "Take events and CDRs in over HTTP."),
        "authorize": CommandRef(
            "workers.commands.authorize:authorize", "Answer the question at the charger over HTTP."
        ),
        "work": CommandRef("workers.commands.processes:work", "Take deliveries off the queues and run handlers."),
        "clock": CommandRef("workers.commands.processes:clock", "Put due and lost work back on its queue."),
        "dashboard": CommandRef("workers.commands.processes:dashboard", "Show the queues in a browser (rq-dashboard)."),
        "migrate": CommandRef("workers.commands.processes:migrate", "Bring the database to this version's tables."),
        "systemd": CommandRef(
            "workers.commands.systemd:systemd", "Write units that keep the door open over a restart."
        ),
        "openapi": CommandRef("workers.commands.openapi:openapi", "Print what `authorize` and `devices serve` answer."),
    },
    "Measure": {
        "bench": CommandRef("workers.commands.bench:bench", "Measure speed side by side with its rivals."),
    },
}
COMMANDS: dict[str, CommandRef] = {name: entry for section in SECTIONS.values() for name, entry in section.items()}


class LazyGroup(click.Group):
    """The group of all commands, which says in one sentence what went wrong and never shows a traceback for it."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """Name the commands in the order of `--help`."""
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command that is called."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        room, _, name = entry.home.partition(":")
        command = getattr(import_module(room), name)
        return command if isinstance(command, click.Command) else None

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections from the table above, so that `--help` imports nothing."""
        for title, entries in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, entry.sentence) for name, entry in entries.items()])

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; what is known to go wrong becomes a sentence and an exit code."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise click.exceptions.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            raise  # `| head` has seen enough; click ends quietly
        except expected_errors() as error:
            from workers.commands.errors import Failure  # noqa: PLC0415  only when something failed

            raise Failure.of(error) from error


def expected_errors() -> tuple[type[Exception], ...]:
    """Name what can go wrong outside this program; asked, and imported, only when something has."""
    from workers.commands.errors import EXPECTED  # noqa: PLC0415  it knows every store's driver

    return EXPECTED


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="plugsurfing-webhooks", prog_name="webhooks")
def main() -> None:
    """Receive Plugsurfing's webhooks: keep every event before answering, and act on it in time.

    New here? `webhooks dev --demo` shows everything working.
    """


if __name__ == "__main__":
    main()
