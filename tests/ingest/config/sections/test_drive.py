"""The settings of the Drive API: what is assumed, and what is refused with a sentence that names the setting."""

import pytest

from ingest.config.settings import load_settings
from ingest.errors import SettingsError


def test_without_a_key_the_drive_api_is_off(tmp_path):
    empty = tmp_path / "key"
    empty.write_text("\n")
    assert not load_settings().has_drive
    assert not load_settings(drive_api_key=" ").has_drive
    assert not load_settings(drive_api_key_file=empty).has_drive
    empty.write_text("a-key\n")
    assert load_settings(drive_api_key_file=empty).has_drive


def test_the_default_is_the_stage():
    settings = load_settings()
    assert settings.drive_api_url == "https://drive-api-stage.plugsurfing.com/drive"
    assert settings.drive_per_minute < 3000
    assert settings.drive_per_day < 1_000_000
    assert settings.drive_balance_path is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("drive_api_url", "ftp://drive.example"),
        ("drive_per_minute", "3000"),
        ("drive_per_minute", "0"),
        ("drive_per_day", "1000000"),
        ("drive_attempts", "0"),
        ("drive_timeout", "0"),
        ("drive_session_id", "sessionId"),
        ("drive_balance_path", "/v1/users/balance"),
        ("drive_balance_path", "v1/users/{user_id}/balance"),
        ("drive_location_path", "/v1/locations"),
        ("drive_rename_body", "{fleet_name}"),
        ("drive_rename_body", '{"fleetName": "Vans"}'),
        ("drive_rename_body", '["{fleet_name}"]'),
        ("roam_ocpi_url", "roam"),
    ],
)
def test_an_invalid_value_is_refused_by_name(name, value):
    with pytest.raises(SettingsError, match=f"^{name.upper()} "):
        load_settings(**{name: value})


def test_keys_are_never_shown():
    settings = load_settings(drive_api_key="a-secret", roam_ocpi_token="another-secret")
    shown = {one.name: one.effective for one in settings.describe_all()}
    assert (shown["DRIVE_API_KEY"], shown["ROAM_OCPI_TOKEN"]) == ("***", "***")
    assert "secret" not in repr(settings)
