"""`webhooks authorize`: answer the question at the charger, or try the policies on one question."""
# ruff: noqa: PLC0415  the imports stand where they are needed: the process type has no use for the rooms of a trial

from typing import BinaryIO

import click

from ingest.wire.authorization.request import WireFormat
from workers.commands import options


@click.command()
@click.option("--try", "body", type=click.File("rb"), metavar="FILE", help="Serve nothing; - is standard input.")
@click.option(
    "--form", type=click.Choice([form.value for form in WireFormat]), help="How it is asked.  [default: plugsurfing]"
)
@click.option("--uid", metavar="KEY", help="The key, which OCPI's form has in its path.")
@options.as_json
@click.pass_context
def authorize(ctx: click.Context, *, body: BinaryIO | None, form: str | None, uid: str | None, as_json: bool) -> None:
    """Answer the question at the charger: may this key charge? Asks the policies of all plugins, in their order.

    Needs AUTHORIZE_CREDENTIALS. Listens on HOST and AUTHORIZE_PORT.

    With --try, ask them about the body in FILE, say what each says, and show what would be answered. Needs no
    credentials and no Redis, and a ledger only if the policies do. Exit code 1 if a policy fails.
    """
    if body is not None:
        _try(ctx, body.read(), _form(form, uid), uid, as_json=as_json)
        return
    if form or uid or as_json:
        raise click.UsageError("--form, --uid and --json go with --try.")
    from ingest.config.settings import load_settings
    from workers.policies.serve import authorize

    authorize(load_settings())


def _form(form: str | None, uid: str | None) -> WireFormat:
    chosen = WireFormat(form or WireFormat.PLUGSURFING)
    if (chosen is WireFormat.OCPI) is not (uid is not None):
        raise click.UsageError("--uid and --form ocpi go together.")
    return chosen


def _try(ctx: click.Context, body: bytes, form: WireFormat, uid: str | None, *, as_json: bool) -> None:
    from workers.commands.dry_run_output import one_shot_contexts, print_dry_run
    from workers.dev.env_file import settings_with_dev_defaults
    from workers.plugins import load_plugins
    from workers.policies.dry_run import dry_run

    settings = settings_with_dev_defaults()
    contexts, missing = one_shot_contexts(settings)
    policies = load_plugins(settings).policies
    trial = dry_run(form, uid, body, settings=settings, policies=policies, contexts=contexts)
    print_dry_run(trial, settings, missing, as_json=as_json)
    ctx.exit(1 if trial.record.failure else 0)
