"""Migrations are made of steps that let events flow, and never take away what the version before uses."""

import ast
import re
from pathlib import Path

import pytest

from workers.ledger.database.schema_state import MIGRATIONS

FILES = sorted((MIGRATIONS / "versions").glob("v*.py"))
STEPS = "workers.ledger.database.online_ddl"
#: It copies a table on SQLite, which cannot change a primary key.
MAY_USE_ALEMBIC = {"v0006_cdr_identity.py"}
#: Only where versions that are older than COMPATIBLE_FROM can do without what they take away.
CONTRACTING = {"drop_column"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_migration_consists_of_online_steps(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    allowed = {STEPS, "sqlalchemy", "uuid", *({"alembic"} if path.name in MAY_USE_ALEMBIC else ())}
    assert imported <= allowed, "it would lock tables for as long as it takes: see workers/UPGRADES.md"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_migration_that_takes_something_away_says_which_versions_are_too_old(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    if names & CONTRACTING:
        assert "COMPATIBLE_FROM" in names


def test_the_numbers_of_migrations_follow_each_other() -> None:
    assert [path.name[:6] for path in FILES] == [f"v{number:04}_" for number in range(1, len(FILES) + 1)]


def test_the_number_in_the_example_is_of_no_migration(root: Path) -> None:
    guide = (root / "workers" / "UPGRADES.md").read_text("utf-8")
    named = re.findall(r'^(?:down_)?revision = "(\d{4})"|COMPATIBLE_FROM = "(\d{4})"', guide, re.MULTILINE)
    numbers = {number for pair in named for number in pair if number}
    assert len(numbers) == 2
    assert not numbers & {path.name[1:5] for path in FILES}
