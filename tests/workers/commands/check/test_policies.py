from datetime import UTC, datetime, timedelta

from ingest.config.settings import load_settings
from workers.commands.check.policies import check_policies
from workers.ledger import sync_state
from workers.policies.cache import KEYS


def policies(node, valkey_url, **environment):
    rows = node.rows("check", REDIS_URL=valkey_url, **environment)
    return [(row["standing"], row["sentence"]) for row in rows if row.get("check") == "policies"]


def test_the_policies_are_listed_in_their_order(node, valkey_url):
    none, off = policies(node, valkey_url)
    assert none == ("ok", "None is asked: every key may charge.")
    assert off[0] == "ok"

    asked, missing, unread = policies(node, valkey_url, AUTHORIZE_KEY_LIST="true", AUTHORIZE_ONE_SESSION="true")
    assert asked == ("ok", "Asked in this order: key_list, one_session.")
    assert (missing[0], unread[0]) == ("warn", "warn")
    assert "AUTHORIZE_CREDENTIALS" in missing[1]
    assert "DRIVE_API_KEY" in unread[1]


def test_a_list_of_keys_that_is_missing_failing_or_too_old_is_a_warning(any_node):
    given = {"authorize_key_list": True, "drive_api_key": "a key", "authorize_credentials": "short"}
    settings = load_settings(data_dir=any_node.folder, database_url=any_node.environment["DATABASE_URL"], **given)

    def results():
        return [(found.status.value, found.sentence) for found in check_policies(settings)][1:]

    now = datetime.now(UTC)
    short, unread = results()
    assert "easy to guess" in short[1]
    assert unread == ("warn", "The list of keys has not been read yet: `webhooks clock` reads it.")
    with any_node.engine.begin() as conn:
        sync_state.claim(conn, KEYS, now, timedelta(1))
        sync_state.mark_complete(conn, KEYS, now, now, 7)
    assert results()[1][0] == "ok"
    assert "7 keys" in results()[1][1]
    with any_node.engine.begin() as conn:
        sync_state.mark_failed(conn, KEYS, now, now, "The Drive API is away.")
    assert results()[1][0] == "warn"
    assert results()[1][1].endswith("Reading it has failed since: The Drive API is away.")
    with any_node.engine.begin() as conn:
        sync_state.mark_complete(conn, KEYS, now - timedelta(days=2), now, 7)
    assert "policies do not use it any more" in results()[1][1]
