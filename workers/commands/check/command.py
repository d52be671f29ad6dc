"""`webhooks check`: the settings that are in effect, and what works or would fail."""

from itertools import chain

import click

from ingest.config.settings import Settings
from ingest.errors import SettingsError
from workers.commands import options
from workers.commands.check.basics import CheckResult, CheckStatus, run_checks
from workers.commands.check.consistency import check_consistency
from workers.commands.check.drive_api import check_drive_api
from workers.commands.check.policies import check_policies
from workers.commands.output import console, json_line, key_values, printable, styled_state
from workers.dev.env_file import settings_with_dev_defaults


@click.command()
@click.option("--deep", is_flag=True, help="Only look whether anything in the stores contradicts itself, or is stuck.")
@options.as_json
@click.pass_context
def check(ctx: click.Context, *, deep: bool, as_json: bool) -> None:
    """Say what works here and what would fail: settings, inbox, keys, Redis, database, plugins, clocks, Drive API.

    Changes nothing. Exit code 1 if anything would fail.
    """
    try:
        settings = settings_with_dev_defaults()
    except SettingsError as wrong:
        _print(CheckResult("settings", CheckStatus.FAIL, str(wrong)), as_json=as_json)
        ctx.exit(1)
    if not deep:
        _describe(settings, as_json=as_json)
    standings = set()
    examined = chain(run_checks(settings), check_policies(settings), check_drive_api(settings))
    for finding in check_consistency(settings) if deep else examined:
        _print(finding, as_json=as_json)
        standings.add(finding.standing)
    ctx.exit(1 if CheckStatus.FAIL in standings else 0)


def _describe(settings: Settings, *, as_json: bool) -> None:
    described = settings.describe_all()
    if as_json:
        for each in described:
            json_line({"setting": each.name, "value": each.effective, "default": each.default})
        return
    key_values([(each.name, each.effective) for each in described])
    click.echo()


def _print(finding: CheckResult, *, as_json: bool) -> None:
    if as_json:
        json_line({"check": finding.subject, "standing": finding.standing, "sentence": finding.sentence})
    else:
        line = (
            styled_state(finding.standing, width=6).append(f"{finding.subject:<10}").append(printable(finding.sentence))
        )
        console().print(line)
