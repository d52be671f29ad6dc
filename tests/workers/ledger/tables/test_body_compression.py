"""Bodies of any bytes come back as they were, and those that Plugsurfing sends are nearly halved or better."""

import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import create_engine, select
from sqlalchemy.schema import Column, MetaData, Table

from workers.ledger.tables.body_compression import MARK, CompressedBytes, compress, decompress

STORED_BY_THE_FIRST_VERSION = (
    "01207f9501002302070a789e4b26d3e1765431ab28fd80925a8a64e16124d30e9d02a9580906fcd4416b6d1a29089825a5df0010cf660e07"
)
SAMPLES = sorted((Path(__file__).parents[3] / "events").glob("*.json"))


@given(st.binary(max_size=300) | st.binary(max_size=300).map(MARK.__add__))
def test_any_bytes_come_back(body):
    assert decompress(compress(body)) == body
    assert len(compress(body)) <= len(body) + (20 if body.startswith(MARK) else 0)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_what_plugsurfing_sends_is_short(sample):
    body = sample.read_bytes()
    assert len(compress(body)) < len(body) * 0.55
    assert decompress(compress(body)) == body


def test_a_dictionary_stays_for_good():
    """What was written with it cannot be read with another one."""
    stored = bytes.fromhex(STORED_BY_THE_FIRST_VERSION)
    assert decompress(stored) == SAMPLES[0].read_bytes()


def test_bytes_of_older_ledgers_are_read_as_they_are(tmp_path):
    table = Table("bodies", MetaData(), Column("body", CompressedBytes))
    engine = create_engine(f"sqlite:///{tmp_path / 'db'}")
    table.create(engine)
    with sqlite3.connect(tmp_path / "db") as raw:
        raw.executemany("INSERT INTO bodies VALUES (?)", [(b"{}",), (MARK + b"no frame",), (None,)])
    with engine.connect() as conn:
        assert list(conn.scalars(select(table.c.body))) == [b"{}", MARK + b"no frame", None]
