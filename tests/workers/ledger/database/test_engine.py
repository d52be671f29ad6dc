"""The ledger's engine: connections, locks and timeouts."""

import multiprocessing
import socket
import sqlite3
import threading
from datetime import timedelta
from select import select as select_ready

import pytest
from sqlalchemy import func, make_url, select, text
from sqlalchemy.exc import IntegrityError, OperationalError

from workers.ledger.database.engine import LIMITS, POOL_TIMEOUT, chunks, create_ledger_engine, insert_into, read_only
from workers.ledger.database.transaction import RETRY_FOR
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
    with create_ledger_engine(f"sqlite:///{tmp_path / 'ledger.db'}").connect() as conn:
        assert conn.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert conn.exec_driver_sql("PRAGMA synchronous").scalar() == 2


def test_a_writer_on_sqlite_waits_for_another_one_and_then_gives_up(tmp_path):
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    engine = create_ledger_engine(url)
    metadata.create_all(engine)
    with (
        engine.begin(),
        pytest.raises(OperationalError) as locked,
        create_ledger_engine(url, busy_timeout=timedelta()).begin(),
    ):
        pass
    assert isinstance(locked.value.orig, sqlite3.OperationalError)


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
