"""How a command reports what fails outside it: one sentence and an exit code, never a traceback or a secret."""

import re
import sqlite3
import sys
from typing import IO

import click
from sqlalchemy.exc import ArgumentError, DBAPIError

from ingest.errors import SettingsError, WebhooksError
from workers.ledger.database.engine import LedgerMissing
from workers.lists.formatting import printable

WRONG_USAGE = 2

NOT_MIGRATED = re.compile(r"no such (table|column)|relation .* does not exist|column .* does not exist", re.IGNORECASE)
PASSWORD_IN_URL = re.compile(r"(?<=://)[^@/\s]*@")


class Failure(click.ClickException):
    """Raised when a command cannot do what it was asked; prints one sentence on stderr."""

    @classmethod
    def of(cls, error: Exception) -> "Failure":
        """Return the failure that reports an expected error."""
        return (UsageFailure if isinstance(error, SettingsError) else Failure)(error_text(error))

    def show(self, file: IO[str] | None = None) -> None:
        """Print `webhooks: <sentence>`."""
        click.echo(f"webhooks: {self.format_message()}", file=file or sys.stderr)


class UsageFailure(Failure):
    """Raised when a command cannot begin, because of how it was called or of a setting."""

    exit_code = WRONG_USAGE


def is_expected(error: Exception) -> bool:
    """Return whether an error comes from outside the program: a setting, a store, a file or the network."""
    from redis.exceptions import RedisError  # noqa: PLC0415  a command that lists needs no Redis, and it takes long

    return isinstance(error, (WebhooksError, RedisError, DBAPIError, ArgumentError, sqlite3.Error, OSError))


def error_text(error: Exception) -> str:
    """Return what failed in one line, without a password and without a statement's parameters."""
    from redis.exceptions import RedisError  # noqa: PLC0415  as above

    match error:
        case DBAPIError(orig=LedgerMissing()):
            text = str(error.orig)
        case DBAPIError() if NOT_MIGRATED.search(str(error.orig)):
            text = "The database does not have this version's tables: run `webhooks migrate` first."
        case DBAPIError():
            text = f"The database cannot be used: {error.orig or error}"
        case ArgumentError():
            text = "DATABASE_URL is not a URL that SQLAlchemy understands."
        case RedisError():
            text = f"Redis cannot be used: {error}"
        case sqlite3.Error():
            text = f"The inbox file cannot be used: {error}"
        case OSError(strerror=str(strerror), filename=str(filename)):
            text = f"{filename}: {strerror}"
        case _:
            text = str(error)
    first = next(iter(text.strip().splitlines()), "") or type(error).__name__
    return PASSWORD_IN_URL.sub("***@", printable(first))
