"""`webhooks check`: what works here and what would fail; with `--settings` also the settings in effect."""

from collections.abc import Iterator

import click

from ingest.config.settings import Settings
from ingest.errors import SettingsError
from workers.commands import options
from workers.commands.check.check_result import CheckResult, CheckStatus, fail
from workers.commands.check.probe import ProbedProcess, probe
from workers.commands.output import console, json_line, key_values
from workers.dev.env_file import settings_with_dev_defaults
from workers.lists.formatting import printable, styled_state


@click.command()
@click.option(
    "--settings",
    "with_settings",
    is_flag=True,
    help="Print the settings in effect, secrets as ***, and check them, not what runs.",
)
@click.option("--deep", is_flag=True, help="Only check that the stores are consistent and that nothing is stuck.")
@click.option(
    "--live",
    type=click.Choice([process.value for process in ProbedProcess]),
    help="Only check that a process of this type lives on this host: a probe, for instance of a container.",
)
@options.as_json
@click.pass_context
def check(ctx: click.Context, *, with_settings: bool, deep: bool, live: str | None, as_json: bool) -> None:
    """Check what works and what fails or would: settings, inbox, keys, Redis, database, plugins, Drive API, processes.

    Changes nothing. Exit code 1 if anything fails or would: also where no worker or no clock runs, handlers fail, or
    pushes were given up. With --settings only what the settings name is checked, as before anything runs.
    """
    try:
        settings = settings_with_dev_defaults()
    except SettingsError as error:
        _print(fail("settings", str(error)), as_json=as_json)
        ctx.exit(1)
    if with_settings:
        described = settings.describe_all()
        if as_json:
            for each in described:
                json_line({"setting": each.name, "value": each.effective, "default": each.default})
        else:
            key_values([(each.name, each.effective) for each in described])
            click.echo()
    failed = False
    for result in _results(settings, with_settings=with_settings, deep=deep, live=live):
        _print(result, as_json=as_json)
        failed |= result.status is CheckStatus.FAIL
    ctx.exit(1 if failed else 0)


def _results(settings: Settings, *, with_settings: bool, deep: bool, live: str | None) -> Iterator[CheckResult]:
    if live is not None:
        yield probe(settings, ProbedProcess(live))
        return
    # A probe runs every few seconds, and does without these: most of the program.
    from workers.commands.check.basics import run_checks  # noqa: PLC0415
    from workers.commands.check.consistency import check_consistency  # noqa: PLC0415
    from workers.commands.check.drive_api import check_drive_api  # noqa: PLC0415
    from workers.commands.check.policies import check_policies  # noqa: PLC0415
    from workers.commands.check.processes import check_processes  # noqa: PLC0415

    if deep:
        yield from check_consistency(settings)
        return
    for check in (run_checks, check_policies, check_drive_api, *(() if with_settings else (check_processes,))):
        yield from check(settings)


def _print(result: CheckResult, *, as_json: bool) -> None:
    if as_json:
        json_line({"check": result.subject, "standing": result.status, "sentence": result.sentence})
        return
    state = styled_state(result.status, width=6)
    console().print(state.append(f"{result.subject:<10} ").append(printable(result.sentence)))
