"""The ledger's engine: connections, locks and timeouts."""

import multiprocessing
import shutil
import socket
import sqlite3
import subprocess
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from select import select as select_ready

import pytest
from sqlalchemy import func, make_url, select, text
from sqlalchemy.exc import IntegrityError, InternalError, OperationalError, ProgrammingError

from tests.ports import reserve_port
from workers.ledger.database.engine import (
    CACHE_KIB,
    CHECKPOINT_PAGES,
    LIMITS,
    MAX_CONNECTION_AGE,
    POOL_TIMEOUT,
    chunks,
    create_ledger_engine,
    insert_into,
    read_only,
    write_in_bulk,
)
from workers.ledger.database.migrate import migrate
from workers.ledger.database.transaction import RETRY_FOR, is_transient, run_in_transaction
from workers.ledger.tables.core_tables import metadata, receipts

ROW = {"delivery_id": "d1", "inbox": "here", "receipts": 1}


class Proxy:
    """A proxy before PostgreSQL that can stop to read: then nothing that is sent is acknowledged."""

    def __init__(self, url):
        self._server = make_url(url)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._forward)
        port = self._listener.getsockname()[1]
        rest = self._server.set(host="127.0.0.1", port=port, query={"sslmode": "disable"})
        self.url = rest.render_as_string(hide_password=False)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._client.close()
        self._listener.close()

    def stop(self):
        self._stopped.set()
        self._thread.join()

    def _forward(self):
        self._client, _ = self._listener.accept()
        folder = self._server.query.get("host")
        if folder is None:
            server = socket.create_connection((self._server.host, self._server.port))
        else:
            server = socket.socket(socket.AF_UNIX)
            server.connect(f"{folder}/.s.PGSQL.{self._server.port or 5432}")
        with server:
            while not self._stopped.is_set():
                for source, target in ((self._client, server), (server, self._client)):
                    if select_ready([source], [], [], 0.005)[0]:
                        target.sendall(source.recv(65536))


def count(conn):
    return conn.scalar(select(func.count()).select_from(receipts))


@pytest.mark.parametrize("url", ["sqlite:///{missing}/ledger.db", "postgresql+psycopg://nobody@127.0.0.1:1/nowhere"])
def test_a_connection_is_opened_when_it_is_needed_and_not_before(tmp_path, url):
    engine = create_ledger_engine(url.format(missing=tmp_path / "missing"))
    with pytest.raises(OperationalError):
        engine.connect()


def test_the_connect_timeout_of_the_url_is_used():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"postgresql+psycopg://nobody@127.0.0.1:{listener.getsockname()[1]}/nowhere?connect_timeout=1"
        with pytest.raises(OperationalError), create_ledger_engine(url).connect():
            pass


def test_the_url_overrides_default_limits_one_by_one(postgres_url):
    def limits_of(url):
        engine = create_ledger_engine(url)
        with engine.connect() as conn:
            parameters = conn.connection.driver_connection.info.get_parameters()
        engine.dispose()
        return {name: parameters.get(name) for name in LIMITS}

    assert limits_of(postgres_url) == {name: str(value) for name, value in LIMITS.items()}
    mark = "&" if "?" in postgres_url else "?"
    assert limits_of(f"{postgres_url}{mark}tcp_user_timeout=1234")["tcp_user_timeout"] == "1234"
    assert max(LIMITS["connect_timeout"], LIMITS["tcp_user_timeout"] / 1000, POOL_TIMEOUT) < RETRY_FOR
    assert LIMITS["keepalives_idle"] + LIMITS["keepalives_interval"] * LIMITS["keepalives_count"] < RETRY_FOR


def test_a_connection_without_answers_is_given_up(postgres_url):
    with Proxy(postgres_url) as proxy:
        engine = create_ledger_engine(f"{proxy.url}&tcp_user_timeout=300")
        with engine.connect() as conn:
            assert conn.scalar(text("SELECT 1")) == 1
            proxy.stop()
            with pytest.raises(OperationalError) as cut:
                conn.execute(text("SELECT length(:much)"), {"much": "much" * 10_000_000})
        assert cut.value.connection_invalidated
        engine.dispose()


def test_a_failed_transaction_is_rolled_back(ledger):
    with pytest.raises(IntegrityError), ledger.begin() as conn:
        conn.execute(receipts.insert(), [ROW, ROW])
    with read_only(ledger.engine) as conn:
        assert count(conn) == 0


def test_an_error_has_no_values_of_its_statement(ledger):
    with pytest.raises(IntegrityError) as refused, ledger.begin() as conn:
        conn.execute(receipts.insert(), {**ROW, "inbox": "a secret value", "receipts": None})
    assert "a secret value" not in str(refused.value).partition("DETAIL")[0]


def test_a_savepoint_rolls_back_only_what_came_after_it(ledger):
    with ledger.begin() as conn:
        conn.execute(receipts.insert(), ROW)
        with pytest.raises(IntegrityError), conn.begin_nested():
            conn.execute(receipts.insert(), [{**ROW, "inbox": "there"}, ROW])
    with read_only(ledger.engine) as conn:
        assert count(conn) == 1


def test_a_reader_neither_waits_for_a_writer_nor_sees_half_of_its_work(ledger):
    with ledger.begin() as writer:
        writer.execute(receipts.insert(), ROW)
        with read_only(ledger.engine) as reader:
            assert count(reader) == 0


def test_an_insert_can_update_on_conflict(ledger):
    with ledger.begin() as conn:
        for _ in range(2):
            conn.execute(insert_into(conn, receipts).on_conflict_do_nothing(), [ROW])
        assert count(conn) == 1


def test_sqlite_syncs_every_commit_and_lets_readers_read(tmp_path):
    with create_ledger_engine(f"sqlite:///{tmp_path / 'ledger.db'}", creates_file=True).connect() as conn:
        assert conn.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert conn.exec_driver_sql("PRAGMA synchronous").scalar() == 2


def test_a_process_that_writes_batches_holds_their_pages_in_memory(tmp_path):
    engine = create_ledger_engine(f"sqlite:///{tmp_path / 'ledger.db'}", creates_file=True)
    write_in_bulk(engine)
    with engine.connect() as conn:
        assert conn.exec_driver_sql("PRAGMA cache_size").scalar() == -CACHE_KIB
        assert conn.exec_driver_sql("PRAGMA wal_autocheckpoint").scalar() == CHECKPOINT_PAGES
    engine.dispose()


def test_a_writer_on_sqlite_waits_for_another_one_and_then_gives_up(tmp_path):
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    engine = create_ledger_engine(url, creates_file=True)
    metadata.create_all(engine)
    with (
        engine.begin(),
        pytest.raises(OperationalError) as locked,
        create_ledger_engine(url, busy_timeout=timedelta()).begin(),
    ):
        pass
    assert isinstance(locked.value.orig, sqlite3.OperationalError)


def test_a_file_that_took_the_place_of_the_database_is_opened_at_once(tmp_path):
    path, other = tmp_path / "ledger.db", tmp_path / "restored.db"
    for number, file in enumerate((path, other)):
        with sqlite3.connect(file) as connection:
            connection.execute("CREATE TABLE which (number)")
            connection.execute("INSERT INTO which VALUES (?)", (number,))
    engine = create_ledger_engine(f"sqlite:///{path}")
    read_number = text("SELECT number FROM which")
    with engine.begin() as conn:
        assert conn.scalar(read_number) == 0
    other.replace(path)
    with engine.begin() as conn:
        assert conn.scalar(read_number) == 1
    engine.dispose()


def test_a_file_that_is_missing_is_not_created_and_is_used_once_a_migration_has_made_it(tmp_path):
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    engine = create_ledger_engine(url)
    for transaction in (engine.begin, partial(read_only, engine)):
        with pytest.raises(OperationalError, match=r"There is no ledger at .*ledger\.db yet"), transaction():
            pass
    assert list(tmp_path.iterdir()) == []
    migrate(url)
    with read_only(engine) as conn:
        assert count(conn) == 0
    engine.dispose()


def test_a_file_that_was_deleted_while_in_use_is_not_replaced_by_an_empty_one(tmp_path):
    path = tmp_path / "ledger.db"
    migrate(f"sqlite:///{path}")
    engine = create_ledger_engine(f"sqlite:///{path}")
    with read_only(engine) as conn:
        assert count(conn) == 0
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    with pytest.raises(OperationalError), engine.begin():
        pass
    assert not path.exists()
    engine.dispose()


def test_a_sequence_is_cut_into_chunks():
    assert [list(piece) for piece in chunks(range(5), 2)] == [[0, 1], [2, 3], [4]]
    assert list(chunks([])) == []


def test_a_child_opens_connections_of_its_own(ledger):
    with ledger.begin() as conn:
        conn.execute(receipts.insert(), ROW)
    forking = multiprocessing.get_context("fork")

    def write_and_see():
        with ledger.begin() as conn:
            conn.execute(receipts.insert(), {**ROW, "inbox": "child"})
            assert count(conn) == 2

    child = forking.Process(target=write_and_see)
    child.start()
    child.join()
    assert child.exitcode == 0
    with read_only(ledger.engine) as conn:
        assert count(conn) == 2


def test_a_server_that_became_a_standby_is_left_at_its_first_refusal(postgres_url):
    engine = create_ledger_engine(postgres_url)
    metadata.create_all(engine)
    with engine.connect() as conn:
        server = conn.connection.driver_connection.info.backend_pid
        conn.exec_driver_sql("SET default_transaction_read_only = on")  # as a demoted server refuses to write
        conn.commit()
    with engine.connect() as conn:
        assert conn.connection.driver_connection.info.backend_pid == server
        with pytest.raises(InternalError) as refused:
            conn.execute(receipts.insert(), ROW)
    assert refused.value.connection_invalidated
    run_in_transaction(engine, lambda conn: conn.execute(receipts.insert(), ROW))
    with read_only(engine) as conn:
        assert count(conn) == 1
    engine.dispose()


def test_an_old_connection_is_replaced_for_it_may_lead_to_a_server_that_nobody_writes_to(postgres_url):
    engine = create_ledger_engine(postgres_url)

    def server():
        with engine.connect() as conn:
            return conn.connection.driver_connection.info.backend_pid

    first = server()
    assert server() == first
    with engine.connect() as conn:
        conn.connection._connection_record.starttime -= MAX_CONNECTION_AGE.total_seconds() + 1  # noqa: SLF001 - its time of birth
    assert server() != first
    engine.dispose()


def test_dates_and_texts_are_read_whatever_the_database_was_set_to(postgres_url):
    engine = create_ledger_engine(postgres_url)
    name = engine.url.database
    with engine.begin() as conn:
        conn.exec_driver_sql(f"ALTER DATABASE {name} SET datestyle = 'SQL, DMY'")
        conn.exec_driver_sql(f"ALTER DATABASE {name} SET client_encoding = 'LATIN1'")
    engine.dispose()
    with engine.connect() as conn:
        found = conn.execute(text("SELECT CAST('2026-11-28T12:00:00Z' AS timestamptz), 'ł'")).one()
    assert tuple(found) == (datetime(2026, 11, 28, 12, tzinfo=UTC), "ł")
    engine.dispose()


def test_statements_are_not_prepared_behind_a_pooler_of_transactions(postgres_url, pgbouncer):
    direct, pooled = create_ledger_engine(postgres_url), create_ledger_engine(pgbouncer(postgres_url))
    metadata.create_all(direct)
    with direct.connect() as conn:
        assert conn.connection.driver_connection.prepare_threshold == 5
    with pooled.connect() as first, pooled.connect() as second:
        for number in range(20):  # psycopg prepares a statement that it has executed five times
            for conn in (first, second):
                with conn.begin():
                    conn.execute(receipts.insert(), {**ROW, "delivery_id": f"{id(conn)} {number}"})
        assert count(first) == 40
    direct.dispose()
    pooled.dispose()


def test_a_prepared_statement_that_is_gone_ends_its_connection(postgres_url):
    engine = create_ledger_engine(postgres_url)
    with engine.connect() as conn:
        with pytest.raises(ProgrammingError) as failed:
            conn.exec_driver_sql("EXECUTE missing")
        assert failed.value.connection_invalidated
        assert is_transient(failed.value)
    engine.dispose()


@pytest.fixture
def pgbouncer(tmp_path):
    """Start PgBouncer in transaction mode before a database, and return the URL through it."""
    program = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
    if not Path(program).exists():
        pytest.skip("pgbouncer is not installed")
    processes = []

    def start(url):
        server = make_url(url)
        port = reserve_port()
        host = server.query.get("host") or server.host
        settings = f"""
            [databases]
            * = host={host} port={server.port or 5432} user={server.username}
            [pgbouncer]
            listen_addr = 127.0.0.1
            listen_port = {port}
            unix_socket_dir =
            auth_type = any
            pool_mode = transaction
            default_pool_size = 2
        """
        (tmp_path / "pgbouncer.ini").write_text("\n".join(line.strip() for line in settings.splitlines()))
        # Neither server runs as root, and only its owner may connect to PostgreSQL's socket.
        owner = Path(host, f".s.PGSQL.{server.port or 5432}").stat().st_uid
        tmp_path.chmod(0o755)
        processes.append(subprocess.Popen([program, "-q", "pgbouncer.ini"], user=owner, cwd=tmp_path))
        while True:
            with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                break
        plain = server.set(host="127.0.0.1", port=port, query={})
        return plain.render_as_string(hide_password=False)

    yield start
    for process in processes:
        process.terminate()
        process.wait()


def test_the_log_of_sqlite_becomes_small_again_when_a_reader_ends(tmp_path, monkeypatch):
    monkeypatch.setattr("workers.ledger.database.engine.LOG_KEPT", 500_000)
    engine = create_ledger_engine(f"sqlite:///{tmp_path / 'ledger.db'}", creates_file=True)
    log = tmp_path / "ledger.db-wal"

    def rewrite(times):
        for _ in range(times):
            with engine.begin() as conn:
                conn.execute(text("DELETE FROM large"))
                conn.execute(text("INSERT INTO large VALUES (:filler)"), {"filler": "x" * 100_000})

    with engine.begin() as conn:
        conn.execute(text("CREATE TABLE large (filler TEXT)"))
    with read_only(engine) as reader:
        reader.execute(text("SELECT count(*) FROM large"))
        rewrite(60)
        assert log.stat().st_size > 6_000_000
    rewrite(3)  # the first of them empties it into the database, the next begins it anew
    assert log.stat().st_size < 1_000_000
    engine.dispose()
