"""Write `workers/REFERENCE.md` and `.env.example` from the code: `python -m tests.project.reference`."""

import ast
import inspect
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

from handlers.kit.statuses import STATUSES, Anomaly
from ingest.config.describe import NOT_SET, SettingRow
from ingest.config.settings import Settings, load_settings
from tests.project.served_metrics import served_metrics
from workers.alerts.alerts import AlertKind
from workers.cli import SECTIONS
from workers.ledger.states import DeliveryState, Outcome, PushState

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "workers" / "REFERENCE.md"
ENV_EXAMPLE = ROOT / ".env.example"

FIRST = (
    "PLUGSURFING_HMAC_CURRENT",
    "PLUGSURFING_HMAC_NEXT",
    "AUTHORIZE_CREDENTIALS",
    "AUTHORIZE_ON_FAILURE",
    "DATA_DIR",
    "REDIS_URL",
    "DATABASE_URL",
    "HOST",
    "PUSH",
    "DRIVE_API_KEY",
    "ALERT_URLS",
    "DASHBOARD_PASSWORD",
)
"""The settings that a team must know first."""

STATES = {
    "States of a delivery": DeliveryState,
    "Outcomes of a run": Outcome,
    "States of a push": PushState,
    "Anomalies of a session": Anomaly,
    "Kinds of alerts": AlertKind,
}

INTRODUCTION = """\
# Reference

Generated from the code by `python -m tests.project.reference`; a test fails when it is out of date. The tasks behind it
are in the [manuals](README.md).

- [Settings](#settings): [the twelve to know first](#the-twelve-to-know-first), then by process
- [Commands](#commands) and [exit codes](#exit-codes)
- [Metrics](#metrics)
- States: [deliveries](#states-of-a-delivery), [runs](#outcomes-of-a-run), [pushes](#states-of-a-push),
  [sessions](#statuses-of-a-session) and [their anomalies](#anomalies-of-a-session), [alerts](#kinds-of-alerts)

## Settings

From the environment, or from `.env` in the current folder. `NAME_FILE` names a file with the value; files of keys and
credentials are read again when they change, without a restart. Durations are written as `250ms`, `5s`, `10m`, `3d` or
as a number of seconds, names such as `json` in any case. An invisible character around a secret or a URL is ignored;
around a key or a password a blank may be meant, and is refused. A `…_PORT` that Kubernetes or Docker has set to the
address of a service (`tcp://10.0.0.1:80`) counts as not set. In `.env`, as in a shell and in Docker Compose, a value in
single quotes is taken as it is; elsewhere `${NAME}` is replaced (a `$` without braces is not), and ` #` begins a
comment. `docker run --env-file` knows neither quotes nor comments. `webhooks check` tests the settings in force.
"""

METRICS = """\
## Metrics

In Prometheus' text format: how to scrape, alert and look at them is in [OBSERVABILITY.md](OBSERVABILITY.md). Names,
types and labels are public: a change is in the changelog. Beside these there are the usual ones of a process
(`process_cpu_seconds_total`, `process_resident_memory_bytes`, `process_open_fds`, …).
"""

METRICS_OF = {
    "serve": "`/metrics` of `serve`: what arrives; with several workers the sum over them",
    "authorize": "`/metrics` of `authorize`: what is decided",
    "clock": "`/metrics` of `clock` on `METRICS_PORT`, and of `dashboard`: workers, clocks, queues and the ledger",
}

EXIT_CODES = """\
## Exit codes

| code | meaning |
|---|---|
| 0 | done |
| 1 | failed, or something was found |
| 2 | wrong usage or wrong settings |
"""

ENV_HEADER = """\
# Copy this to .env and remove the # of what you set. `serve` needs PLUGSURFING_HMAC_CURRENT; `work`, `clock` and
# `dashboard` need REDIS_URL, without which `serve` keeps events and publishes none. compose.yaml also needs
# AUTHORIZE_CREDENTIALS, DASHBOARD_PASSWORD, ADMIN_TOKEN and a VALKEY_PASSWORD of letters and digits, and sets the URLs.
"""


@contextmanager
def default_settings() -> Iterator[dict[str, SettingRow]]:
    """Yield the rows of all settings by name, whatever the environment and the current folder hold."""
    names = {name.upper() for name in Settings.model_fields}
    before, folder = dict(os.environ), Path.cwd()
    with tempfile.TemporaryDirectory() as empty:
        os.chdir(empty)
        for name in names & os.environ.keys():
            del os.environ[name]
        try:
            yield {row.name: row for row in load_settings().describe_all()}
        finally:
            os.chdir(folder)
            os.environ.update(before)


def sections() -> Iterator[tuple[str, list[str]]]:
    """Yield the heading and the names of each section of settings, in the order of `describe_all`."""
    for section in reversed(Settings.__bases__):
        yield (section.__doc__ or "").removesuffix("."), [name.upper() for name in section.__annotations__]


def sentences_of(enum: type[StrEnum]) -> list[tuple[str, str]]:
    """Return the members of an enum, each with the sentence below it."""
    (tree,) = ast.parse(inspect.getsource(enum)).body
    found, value = [], ""
    assert isinstance(tree, ast.ClassDef)
    for node in tree.body:
        match node:
            case ast.Assign(value=ast.Constant(value=str(value))):
                pass
            case ast.Expr(value=ast.Constant(value=str(sentence))) if value:
                found.append((f"`{value}`", sentence.replace("\n", " ")))
                value = ""
    assert [name for name, _ in found] == [f"`{member.value}`" for member in enum], "a member without its sentence"
    return found


def table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Format a Markdown table."""
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" if line[0] != "---" else f"|{'|'.join(line)}|\n" for line in lines)


def setting_row(row: SettingRow) -> tuple[str, str, str]:
    """Format the row of a setting."""
    default = row.default if row.default == NOT_SET or "`" in row.default else f"`{row.default}`"
    return f"`{row.name}`", default, row.description


def status_rows() -> Iterator[tuple[str, str, str, str]]:
    """Yield the rows of the statuses of a session."""
    for name, status in STATUSES.items():
        sources = [*(f"`{event}`" for event in status.events), *["Drive API"] * status.in_drive]
        yield f"`{name}`", ", ".join(sources), "yes" if status.is_over else "no", status.meaning


def reference() -> str:
    """Return the text of the reference."""
    heads = ("setting", "default", "meaning")
    with default_settings() as rows:
        parts = [INTRODUCTION]
        for heading, names in [("The twelve to know first", list(FIRST)), *sections()]:
            parts += [f"### {heading}\n", table(heads, (setting_row(rows[name]) for name in names))]
    parts += ["## Commands\n\nEvery command has `--help`, every list `--json`, one object a line, and `--csv`.\n"]
    for title, entries in SECTIONS.items():
        rows_of_title = ((f"`{name}`", entry.sentence) for name, entry in entries.items())
        parts += [f"### {title}\n", table(("command", "what it does"), rows_of_title)]
    parts += [METRICS]
    for process, metrics in served_metrics().items():
        listed = (
            (f"`{each.name}`", each.type, ", ".join(f"`{label}`" for label in each.labels) or "–", each.documentation)
            for each in metrics
        )
        parts += [f"### {METRICS_OF[process]}\n", table(("metric", "type", "labels", "meaning"), listed)]
    parts += [EXIT_CODES, "## States\n"]
    for heading, enum in STATES.items():
        parts += [f"### {heading}\n", table(("name", "meaning"), sentences_of(enum))]
        if enum is PushState:
            parts += [
                "### Statuses of a session\n\nFrom the least to the most final, which decides when times are equal.\n",
                table(("status", "source", "over", "meaning"), status_rows()),
            ]
    return "\n".join(parts)


def env_example() -> str:
    """Return the text of `.env.example`."""
    parts = [ENV_HEADER]
    with default_settings() as rows:
        for heading, names in sections():
            parts.append(f"## {heading}\n")
            for name in names:
                default = rows[name].default
                parts.append(f"# {rows[name].description}\n#{name}={'' if re.search('[`<–]', default) else default}\n")
    return "\n".join(parts)


def main() -> None:
    """Write both files."""
    PAGE.write_text(reference(), "utf-8")
    ENV_EXAMPLE.write_text(env_example(), "utf-8")


if __name__ == "__main__":
    main()
