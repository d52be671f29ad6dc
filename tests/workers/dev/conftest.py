"""Tests of `webhooks dev` in an empty folder, where nothing is set."""

import pytest

from ingest.config.settings import Settings


@pytest.fixture(autouse=True)
def nothing_set(tmp_path, monkeypatch):
    """A folder without `.env`, and an environment without our settings."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)
