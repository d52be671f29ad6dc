"""Resources: settings and plugins are loaded once, and connections are those of the process or of its job."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from workers import resources
from workers.resources import open_resources, preload, shared_engine


@pytest.fixture(autouse=True)
def _new_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Clear what a process loads once, before and after."""
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setenv("PUSH", "log")
    monkeypatch.chdir(tmp_path)
    for cached in (preload, shared_engine):
        cached.cache_clear()
    yield
    shared_engine().dispose()
    for cached in (preload, shared_engine):
        cached.cache_clear()


def test_a_process_passes_its_own_connection(valkey: redis.Redis, tmp_path: Path) -> None:
    opened = open_resources(valkey)
    assert opened.connection is valkey
    assert opened.settings.data_dir == tmp_path
    assert list(opened.channels) == ["log"]
    assert "warn_the_driver" in opened.plugins.by_name


def test_settings_plugins_and_engine_are_loaded_once(valkey: redis.Redis) -> None:
    first, second = open_resources(valkey), open_resources(valkey)
    assert first.settings is second.settings
    assert first.plugins is second.plugins
    assert first.engine is second.engine


def test_a_job_uses_its_connection(valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    class Job:
        connection = valkey

    monkeypatch.setattr(resources, "get_current_job", Job)
    assert open_resources().connection is valkey


def test_outside_of_a_job_a_connection_is_needed() -> None:
    with pytest.raises(RuntimeError, match="needs a connection"):
        open_resources()
