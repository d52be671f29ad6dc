from dataclasses import replace

import pytest

from ingest.queue.installations import (
    ALIVE_FOR,
    FORGOTTEN_AFTER,
    KEY,
    Installation,
    announce,
    is_conflict,
    list_installations,
    withdraw,
)

OWN = Installation("a1", "a1", "storage-1")


@pytest.fixture
def age(valkey, monkeypatch):
    """Move the clock of Redis on."""
    moved, real = [0], valkey.plain.time
    monkeypatch.setattr(valkey.plain, "time", lambda: (real()[0] + moved[0], 0))

    def move(seconds):
        moved[0] += seconds

    return move


def test_an_announced_installation_is_listed_until_it_falls_silent(valkey, age):
    assert announce(valkey.plain, OWN) is None
    (listed,) = list_installations(valkey.plain)
    assert replace(listed, since=0, seen_at=0) == replace(OWN, is_alive=True)
    age(ALIVE_FOR + 1)
    assert [each.is_alive for each in list_installations(valkey.plain)] == [False]


def test_an_installation_keeps_its_age_while_it_is_announced(valkey, age):
    announce(valkey.plain, OWN)
    (first,) = list_installations(valkey.plain)
    age(10)
    announce(valkey.plain, OWN)
    (again,) = list_installations(valkey.plain)
    assert (again.since, again.seen_at - first.seen_at >= 10) == (first.since, True)


@pytest.mark.parametrize(
    ("other", "conflicts"),
    [
        (replace(OWN, ledger="b2"), True),
        (replace(OWN, storage="storage-2"), True),
        (replace(OWN, storage=""), False),
        (replace(OWN, namespace="b2", ledger="b2"), False),
        (OWN, False),
    ],
)
def test_two_in_one_namespace_conflict_unless_they_have_one_ledger(valkey, other, conflicts):
    assert is_conflict(OWN, other) is is_conflict(other, OWN) is conflicts
    assert announce(valkey.plain, OWN) is None
    found = announce(valkey.plain, other)
    assert (found is not None and found.field == OWN.field) is conflicts


def test_of_two_that_conflict_only_the_later_one_gives_way(valkey, age):
    announce(valkey.plain, OWN)
    age(5)
    assert announce(valkey.plain, replace(OWN, ledger="b2")) is not None
    assert announce(valkey.plain, OWN) is None


def test_an_installation_that_is_gone_is_no_conflict(valkey, age):
    announce(valkey.plain, OWN)
    age(ALIVE_FOR + 1)
    assert announce(valkey.plain, replace(OWN, ledger="b2")) is None
    age(FORGOTTEN_AFTER)
    announce(valkey.plain, replace(OWN, ledger="b2"))
    assert [each.ledger for each in list_installations(valkey.plain)] == ["b2"]


def test_a_withdrawn_installation_is_not_listed(valkey):
    announce(valkey.plain, OWN)
    withdraw(valkey.plain, OWN)
    assert list_installations(valkey.plain) == []


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"namespace": "x", "unknown": 1}'])
def test_what_another_version_has_written_is_skipped(valkey, text):
    valkey.plain.hset(KEY, "x", text)
    assert list_installations(valkey.plain) == []
