"""`webhooks check`: what works here and what would fail; with `--settings` also the settings in effect."""

from itertools import chain

import click

from ingest.errors import SettingsError
from workers.commands import options
from workers.commands.check.basics import CheckResult, CheckStatus, fail, run_checks
from workers.commands.check.consistency import check_consistency
from workers.commands.check.drive_api import check_drive_api
from workers.commands.check.policies import check_policies
from workers.commands.output import console, json_line, key_values, printable, styled_state
from workers.dev.env_file import settings_with_dev_defaults


@click.command()
@click.option("--settings", "with_settings", is_flag=True, help="Print the settings in effect first, secrets as ***.")
@click.option("--deep", is_flag=True, help="Only check that the stores are consistent and that nothing is stuck.")
@options.as_json
@click.pass_context
def check(ctx: click.Context, *, with_settings: bool, deep: bool, as_json: bool) -> None:
    """Check what works here and what would fail: settings, inbox, keys, Redis, database, plugins, clocks, Drive API.

    Changes nothing. Exit code 1 if anything would fail.
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
    basics = chain(run_checks(settings), check_policies(settings), check_drive_api(settings))
    for result in check_consistency(settings) if deep else basics:
        _print(result, as_json=as_json)
        failed |= result.status is CheckStatus.FAIL
    ctx.exit(1 if failed else 0)


def _print(result: CheckResult, *, as_json: bool) -> None:
    if as_json:
        json_line({"check": result.subject, "standing": result.status, "sentence": result.sentence})
        return
    state = styled_state(result.status, width=6)
    console().print(state.append(f"{result.subject:<10}").append(printable(result.sentence)))
