from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from ingest.config.describe import MASK, NOT_SET, SettingRow, describe


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, NOT_SET),
        ((), NOT_SET),
        (SecretStr("secret"), MASK),
        (True, "true"),
        (5, "5"),
        (timedelta(minutes=10), "10 m"),
        (("a", "b"), "a,b"),
        (Path("/var"), "/var"),
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://:secret@host", "redis://***@host"),
        ("redis://user:se/cr@et@host:6379/0?PASSWORD=secret&db=1", "redis://***@host:6379/0?PASSWORD=***&db=1"),
        ("unix:///run/valkey.sock?db=1&password=secret", "unix:///run/valkey.sock?db=1&password=***"),
    ],
)
def test_a_value_is_described_without_its_secrets(value, text):
    assert describe("port", None, value, None) == SettingRow("PORT", NOT_SET, text, "")


def test_a_default_that_depends_on_another_setting_is_described_in_words():
    assert describe("data_dir", Path("var"), Path("/srv/var"), "x") == SettingRow("DATA_DIR", "./var", "/srv/var", "x")
