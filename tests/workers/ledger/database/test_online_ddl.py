"""Steps of migrations let events flow on PostgreSQL, and are repeated after a crash."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Engine, event

from workers.ledger.database import online_ddl
from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.database.migrate import migrate
from workers.ledger.database.migrations import VERSION_TABLE
from workers.ledger.database.schema_state import known_migrations
from workers.ledger.tables import metadata

pytestmark = pytest.mark.filterwarnings("ignore:.*expression-based index")

CHANGES = re.compile(r"\s*(CREATE|ALTER|DROP|INSERT|UPDATE)", re.IGNORECASE)
#: The ones whose steps depend on each other.
INTRICATE = {"0006", "0014"}
CDR = """INSERT INTO cdrs (delivery_id, request_id, notes, document, received_at, recorded_at)
    SELECT 'cdr-' || n, 'request-' || n, '[]', '{}', now(), now() FROM generate_series(1, 2500) AS n"""


@pytest.fixture
def engine(postgres_url: str) -> Iterator[Engine]:
    engine = create_ledger_engine(postgres_url)
    with engine.begin() as conn:
        conn.exec_driver_sql("CREATE TABLE parcels (id TEXT PRIMARY KEY, size INTEGER)")
        conn.exec_driver_sql("INSERT INTO parcels SELECT 'p' || n, n FROM generate_series(1, 3000) AS n")
    yield engine
    engine.dispose()


def run(engine: Engine, step: Callable[[], object]) -> None:
    """Run a step as `migrate` does."""
    autocommit = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    with autocommit as conn, Operations.context(MigrationContext.configure(conn)):
        step()


@contextmanager
def running(engine: Engine, step: Callable[[], object]) -> Iterator[threading.Thread]:
    """Run a step in a thread, and wait for its end."""
    failures: list[BaseException] = []

    def target() -> None:
        try:
            run(engine, step)
        except BaseException as failure:  # noqa: BLE001 - it is raised below
            failures.append(failure)

    thread = threading.Thread(target=target)
    thread.start()
    yield thread
    thread.join(60)
    assert not thread.is_alive()
    assert failures == []


def insert(engine: Engine, parcel: str) -> float:
    """Insert a row, and return how many seconds that took."""
    started = time.monotonic()
    with engine.begin() as conn:
        conn.exec_driver_sql("SET LOCAL lock_timeout = '10s'")
        conn.execute(sa.text("INSERT INTO parcels VALUES (:id, 1)"), {"id": parcel})
    return time.monotonic() - started


def waits_for_lock(engine: Engine) -> bool:
    with engine.connect() as conn:
        query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        return bool(conn.scalar(sa.text(query)))


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def columns(engine: Engine) -> set[str]:
    return {column["name"] for column in sa.inspect(engine).get_columns("parcels")}


def indexes(engine: Engine) -> dict[str, bool]:
    """Return whether each index is valid."""
    query = "SELECT indexrelid::regclass::text, indisvalid FROM pg_index WHERE indrelid = 'parcels'::regclass"
    with engine.connect() as conn:
        return {name: valid for name, valid in conn.execute(sa.text(query)) if name != "parcels_pkey"}


def test_nobody_waits_long_behind_a_column_that_waits_for_a_reader(engine: Engine) -> None:
    def step() -> None:
        online_ddl.add_column("parcels", sa.Column("colour", sa.String))

    with engine.connect() as reader, running(engine, step) as adding:
        reader.exec_driver_sql("SELECT count(*) FROM parcels")  # it holds a lock until its transaction ends
        until(lambda: waits_for_lock(engine))
        slowest = max(insert(engine, f"during-{number}") for number in range(3))
        assert adding.is_alive()
        reader.rollback()
    assert slowest < 5
    assert "colour" in columns(engine)


def test_inserts_go_on_while_an_index_is_created(engine: Engine) -> None:
    def step() -> None:
        online_ddl.create_index("parcels_size", "parcels", ["size"], where="size > 5")

    with engine.connect() as writer:
        writer.exec_driver_sql("INSERT INTO parcels VALUES ('open', 1)")  # an index waits for its end
        with running(engine, step) as creating:
            until(lambda: waits_for_lock(engine))
            insert(engine, "during")
            assert creating.is_alive()
            writer.rollback()
    assert indexes(engine) == {"parcels_size": True}


def test_an_index_that_a_crash_left_invalid_is_made_again(engine: Engine) -> None:
    def step() -> None:
        online_ddl.create_index("parcels_size", "parcels", ["size"], unique=True)

    insert(engine, "twice")
    with pytest.raises(sa.exc.IntegrityError):
        run(engine, step)
    assert indexes(engine) == {"parcels_size": False}
    with engine.begin() as conn:
        conn.exec_driver_sql("DELETE FROM parcels WHERE id = 'twice'")
    run(engine, step)
    assert indexes(engine) == {"parcels_size": True}


def test_an_index_that_the_server_still_makes_for_a_killed_client_is_waited_for(
    engine: Engine, postgres_url: str
) -> None:
    def step() -> None:
        online_ddl.create_index("parcels_size", "parcels", ["size"])

    def made_by_another() -> None:
        with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as conn:
            conn.execute("CREATE INDEX CONCURRENTLY parcels_size ON parcels (size)")

    with engine.connect() as writer:
        writer.exec_driver_sql("INSERT INTO parcels VALUES ('open', 1)")
        other = threading.Thread(target=made_by_another)
        other.start()
        until(lambda: indexes(engine) == {"parcels_size": False})
        with statements(engine) as seen, running(engine, step):
            writer.rollback()
        other.join()
    assert indexes(engine) == {"parcels_size": True}
    assert [statement for statement in seen if CHANGES.match(statement)] == []


def test_a_back_fill_commits_slice_by_slice_and_passes_over_what_is_done(engine: Engine) -> None:
    def step() -> None:
        online_ddl.backfill("parcels", "id", "size = -size", "size > 0")

    with statements(engine) as seen:
        run(engine, step)
        run(engine, step)
    assert len([each for each in seen if each.startswith("UPDATE")]) == 2 * 3
    with engine.connect() as conn:
        assert conn.scalar(sa.text("SELECT count(*) FROM parcels WHERE size < 0")) == 3000


@pytest.mark.parametrize(
    "step",
    [
        lambda: online_ddl.add_column("parcels", sa.Column("colour", sa.String, nullable=False)),
        lambda: online_ddl.alter_table("parcels", "ALTER COLUMN size TYPE BIGINT"),
        lambda: online_ddl.alter_table("parcels", "ADD CONSTRAINT positive CHECK (size > 0)"),
        lambda: online_ddl.alter_table("parcels", "ALTER COLUMN size SET NOT NULL", "DROP CONSTRAINT sized"),
    ],
)
def test_what_would_lock_the_table_for_long_is_refused(engine: Engine, step: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"parcels"):
        run(engine, step)


def test_migrations_that_died_anywhere_are_run_again(postgres_url: str) -> None:
    """Each dies before it is recorded, the intricate ones before each of their statements; rows are as they were."""
    migrate(postgres_url, until="0003")
    engine = create_ledger_engine(postgres_url)
    with engine.begin() as conn:
        conn.exec_driver_sql(CDR)
    for number in known_migrations()[3:]:
        assert dies(postgres_url, number, lambda statement, _count: VERSION_TABLE in statement)
        if number in INTRICATE:
            deaths = 0
            while dies(postgres_url, number, lambda _statement, count, allowed=deaths: count > allowed):
                deaths += 1
            assert deaths > 3
        else:
            migrate(postgres_url, until=number)
    with engine.connect() as conn:
        assert conn.scalar(sa.text("SELECT count(*) FROM cdrs WHERE identity = request_id AND position = 0")) == 2500
        context = MigrationContext.configure(
            conn, opts={"version_table": VERSION_TABLE, "compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, metadata) == []
        assert conn.scalars(sa.text("SELECT indexrelid::regclass FROM pg_index WHERE NOT indisvalid")).all() == []
    engine.dispose()


class Killed(BaseException):
    """Plays the death of the process."""


def dies(url: str, number: str, is_last: Callable[[str, int], bool]) -> bool:
    """Migrate, but die before the statement for which the condition holds; return whether there was one."""
    count = 0

    def die(_conn, _cursor, statement, *_rest) -> None:
        nonlocal count
        if CHANGES.match(statement):
            count += 1
            if is_last(statement, count):
                raise Killed

    event.listen(Engine, "before_cursor_execute", die)
    try:
        migrate(url, until=number)
    except Killed:
        return True
    finally:
        event.remove(Engine, "before_cursor_execute", die)
    return False


@contextmanager
def statements(engine: Engine) -> Iterator[list[str]]:
    """Collect the statements of an engine."""
    seen: list[str] = []

    def collect(_conn, _cursor, statement, *_rest) -> None:
        seen.append(statement.strip())

    event.listen(engine, "before_cursor_execute", collect)
    yield seen
    event.remove(engine, "before_cursor_execute", collect)


def test_no_migration_rewrites_a_table_or_creates_an_index_that_inserts_wait_for(postgres_url: str) -> None:
    migrate(postgres_url, until="0001")
    engine = create_ledger_engine(postgres_url)
    for number in known_migrations()[1:]:
        before = files(engine)
        seen: list[str] = []
        dies(postgres_url, number, lambda statement, _count, seen=seen: bool(seen.append(statement)))
        after = files(engine)
        assert {table: file for table, file in before.items() if after.get(table) != file} == {}, number
        creations = [each for each in seen if re.match(r"\s*CREATE (UNIQUE )?INDEX", each)]
        assert [each for each in creations if "CONCURRENTLY" not in each] == [], number
    engine.dispose()


def files(engine: Engine) -> dict[str, int]:
    """Return the file of each table: a table that is rewritten gets another one."""
    query = "SELECT relname, relfilenode FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    with engine.connect() as conn:
        return dict(map(tuple, conn.execute(sa.text(query))))
