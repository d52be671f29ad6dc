"""Settings as text, for the reference and for `check`, with secrets masked."""

import re
from datetime import timedelta
from typing import NamedTuple

from pydantic import SecretStr

from ingest.config.durations import format_duration

NOT_SET = "\N{EN DASH}"
MASK = "***"
# Defaults that depend on another setting or on the machine.
DEFAULTS = {
    "data_dir": "./var",
    "redis_url": "embedded Valkey in `dev`, else required",
    "queue_namespace": "the ledger's id",
    "database_url": "sqlite:///<DATA_DIR>/ledger.db",
    "authorize_timeout": "2.5 s",
    "log_format": "`console` on a terminal, else `json`",
}


class SettingRow(NamedTuple):
    """One row of the table of settings."""

    name: str
    default: str
    effective: str
    description: str


def describe(field: str, default: object, effective: object, description: str | None) -> SettingRow:
    """Return the row of one setting."""
    return SettingRow(field.upper(), DEFAULTS.get(field) or _text(default), _text(effective), description or "")


def _text(value: object) -> str:
    match value:
        case None | ():
            return NOT_SET
        case SecretStr():
            return MASK
        case bool():
            return str(value).lower()
        case timedelta():
            return format_duration(value)
        case tuple():
            return ",".join(map(str, value))
        case _:
            without_user = re.sub(r"://.*@", f"://{MASK}@", str(value))
            return re.sub(r"(?i)([?&][^=&]*pass[^=&]*=)[^&]*", rf"\1{MASK}", without_user)
