"""A change of a plugin, a template or `.env` is seen, and no other."""

import asyncio
from pathlib import Path

import pytest
from watchfiles import Change

import handlers
from ingest.config.settings import load_settings
from workers.dev.plugin_reload import LOADING, is_of_plugin, plugin_folders, watch_plugins

TIMEOUT = 20


@pytest.mark.parametrize(
    ("name", "is_seen"),
    [
        ("thanks.py", True),
        ("fee_warning.txt", True),
        (".env", True),
        ("test_thanks.py", False),
        ("thanks.py~", False),
        (".thanks.py.swp", False),
        ("ledger.db", False),
        ("thanks.cpython-311.pyc", False),
    ],
)
def test_only_files_of_plugins_are_seen(name, is_seen):
    assert is_of_plugin(Change.modified, f"/somewhere/{name}") is is_seen


def test_the_folders_are_those_of_packages_with_plugins_and_of_templates(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("team", "texts"):
        (tmp_path / name).mkdir()
    settings = load_settings(handler_modules=("team.plugins", "thanks"), templates_dir=tmp_path / "texts")
    found = plugin_folders(settings)
    assert {tmp_path / "team", tmp_path / "texts", Path(handlers.__path__[0])} == set(found)


def test_each_change_reloads_once_more_here_and_in_the_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "team"
    (folder / "inner").mkdir(parents=True)

    async def change_files():
        reloaded = asyncio.Event()

        async def reload():
            reloaded.set()

        watching = asyncio.create_task(watch_plugins([folder], reload))
        try:
            for path in (tmp_path / "thanks.py", folder / "inner" / "text.txt", tmp_path / ".env"):
                async with asyncio.timeout(TIMEOUT):
                    number = 0
                    while not reloaded.is_set():  # until the watch has begun, a change is not seen
                        path.write_text(str(number := number + 1))
                        await asyncio.wait([asyncio.ensure_future(reloaded.wait())], timeout=0.5)
                reloaded.clear()
        finally:
            watching.cancel()
            await asyncio.wait([watching])

    asyncio.run(change_files())


def test_the_dashboard_is_loaded_anew_too_as_it_runs_failures_of_plugins_again_and_lists_them():
    assert set(LOADING) == {"work", "clock", "authorize", "dashboard"}
