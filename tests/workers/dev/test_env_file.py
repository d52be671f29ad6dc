"""The file of generated settings, and commands that use it."""

import stat

from ingest.config.settings import load_settings
from workers.dev.env_file import FILE_NAME, read_devfile, settings_with_dev_defaults, write_devfile
from workers.dev.environment import build_environment


def test_only_the_owner_can_read_the_file(tmp_path):
    write_devfile(tmp_path, {"PLUGSURFING_HMAC_CURRENT": "secret="})
    assert stat.S_IMODE((tmp_path / FILE_NAME).stat().st_mode) == 0o600
    assert read_devfile(tmp_path) == {"PLUGSURFING_HMAC_CURRENT": "secret="}


def test_a_command_beside_dev_uses_the_generated_settings():
    env = build_environment(9000)
    write_devfile(env.settings.data_dir, env.generated)
    beside = settings_with_dev_defaults()
    assert (beside.port, beside.redis_url) == (9000, env.settings.redis_url)
    assert beside.plugsurfing_hmac_current == env.settings.plugsurfing_hmac_current


def test_what_is_set_overrides_what_was_generated(monkeypatch):
    env = build_environment(9000)
    write_devfile(env.settings.data_dir, env.generated)
    monkeypatch.setenv("PLUGSURFING_HMAC_CURRENT", "a key of our own")
    monkeypatch.setenv("PORT", "7000")
    beside = settings_with_dev_defaults()
    assert beside.port == 7000
    assert beside.plugsurfing_hmac_current.get_secret_value() == "a key of our own"
    assert beside.plugsurfing_hmac_next is None


def test_without_a_dev_a_command_has_its_own_settings_alone():
    assert settings_with_dev_defaults() == load_settings()
