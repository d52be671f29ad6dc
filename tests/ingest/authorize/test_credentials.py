from base64 import b64encode

import pytest
from structlog.testing import capture_logs

from ingest.authorize.credentials import Credentials
from ingest.config.settings import load_settings
from ingest.errors import NotAuthentic, SettingsError
from ingest.wire.authorization.request import WireFormat


def credentials(text="one\nTwö\nToken three", **settings):
    return Credentials(load_settings(authorize_credentials=text, **settings))


def is_accepted(value, form=WireFormat.OCPI, **given):
    try:
        credentials(**given).check([(b"Authorization", value)], form)
    except NotAuthentic:
        return False
    return True


@pytest.mark.parametrize("value", ["one", "Twö", "Token three", " one\t"])
@pytest.mark.parametrize("form", WireFormat)
def test_each_of_the_values_is_valid_in_either_format(value, form):
    assert is_accepted(value.encode(), form)


@pytest.mark.parametrize("value", [b"", b"one ne", b"On", b"ONE", b"one\nTw\xc3\xb6", b"three", b"Bearer one", b"\xff"])
def test_any_other_value_is_refused(value):
    assert not is_accepted(value)


@pytest.mark.parametrize("credential", [b"one", "Twö".encode(), b"three"])
def test_ocpi_credentials_may_be_in_base64_or_plain(credential):
    for value in (b"Token " + b64encode(credential), b"token  " + b64encode(credential), b"Token " + credential):
        assert is_accepted(value)
        assert is_accepted(value, WireFormat.PLUGSURFING) is (value == b"Token three")


def test_two_headers_are_refused_even_if_both_are_right():
    with pytest.raises(NotAuthentic):
        credentials().check([(b"authorization", b"one")] * 2, WireFormat.OCPI)
    with pytest.raises(NotAuthentic):
        credentials().check([], WireFormat.OCPI)


def test_missing_credentials_are_refused():
    with pytest.raises(SettingsError, match="AUTHORIZE_CREDENTIALS is not set"):
        load_settings().require_credentials()
    with pytest.raises(SettingsError, match="AUTHORIZE_CREDENTIALS is set, but empty"):
        load_settings(authorize_credentials=" \n ")


def test_a_file_that_is_half_written_or_deleted_changes_nothing(tmp_path):
    file, now = tmp_path / "secret", [0.0]
    file.write_text("old")
    current = Credentials(load_settings(authorize_credentials_file=file), monotonic=lambda: now[0])
    file.write_text("ne")
    assert not current.refresh()
    now[0] += 0.3
    file.write_text("new")
    assert not current.refresh()
    now[0] += 0.4
    assert not current.refresh()
    now[0] += 0.2
    assert current.refresh()
    current.check([(b"authorization", b"new")], WireFormat.OCPI)
    file.unlink()
    with capture_logs() as logs:
        assert not current.refresh()
        assert not current.refresh()
    assert [line["event"] for line in logs] == ["keys.kept_old"]
    current.check([(b"authorization", b"new")], WireFormat.OCPI)


def test_each_loss_of_the_file_is_logged(tmp_path):
    file = tmp_path / "secret"
    file.write_text("old")
    current = Credentials(load_settings(authorize_credentials_file=file))
    with capture_logs() as logs:
        for _ in range(2):
            file.unlink()
            assert not current.refresh()
            file.write_text("old")
            assert not current.refresh()
    assert [line["event"] for line in logs] == ["keys.kept_old"] * 2
