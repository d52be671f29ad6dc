import threading

import pytest
import structlog

from ingest.config.keyring import Keyring
from ingest.config.secret_reload import SETTLE_TIME
from ingest.config.settings import load_settings
from ingest.errors import SettingsError
from ingest.wire.signature import SigningKeys


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Rotation:
    """A keyring whose keys are files, and a hand on the clock."""

    def __init__(self, folder, **settings):
        self.folder = folder
        self.clock = Clock()
        self.write(current="key one", next="key two", authorization="Bearer a\nBearer b\n")
        self.keyring = Keyring(
            load_settings(
                data_dir=folder,
                plugsurfing_hmac_current_file=folder / "current",
                plugsurfing_hmac_next_file=folder / "next",
                plugsurfing_authorization_file=folder / "authorization",
                **settings,
            ),
            monotonic=self.clock,
        )

    def write(self, **texts):
        for name, text in texts.items():
            (self.folder / name).write_text(text)

    def refresh(self, after=SETTLE_TIME):
        self.clock.now += after
        return self.keyring.refresh()


@pytest.fixture
def rotation(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Rotation(tmp_path)


OLD = SigningKeys(b"key one", b"key two", (b"Bearer a", b"Bearer b"))


def test_keys_come_from_settings():
    settings = load_settings(
        plugsurfing_hmac_current="0a0b", plugsurfing_hmac_encoding="hex", plugsurfing_authorization="x"
    )
    keyring = Keyring(settings)
    assert keyring.keys == SigningKeys(b"\x0a\x0b", None, (b"x",))
    assert keyring.refresh() is False


def test_keys_of_files_are_read_without_their_last_newline(rotation):
    assert rotation.keyring.keys == OLD
    assert rotation.refresh() is False


def test_changed_files_are_used_once_they_are_stable(rotation):
    rotation.write(current="key two\n", next="key three\n", authorization="Bearer b\n")
    with structlog.testing.capture_logs() as logs:
        assert rotation.refresh() is False
        assert rotation.keyring.keys == OLD
        assert rotation.refresh() is True
    assert rotation.keyring.keys == SigningKeys(b"key two", b"key three", (b"Bearer b",))
    assert rotation.refresh() is False
    assert [entry["event"] for entry in logs] == ["keys.reread"]
    assert "key t" not in str(logs)


def test_half_a_key_is_never_used(rotation):
    whole = "key three, which is long"
    for length in range(1, len(whole) + 1):
        rotation.write(next=whole[:length])
        assert rotation.refresh() is False
        assert rotation.refresh(SETTLE_TIME / 2) is False
        assert rotation.keyring.keys == OLD
    assert rotation.refresh() is True
    assert rotation.keyring.keys.next == whole.encode()


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        ({"current": ""}, "PLUGSURFING_HMAC_CURRENT is set, but empty."),
        ({"current": "", "next": ""}, "PLUGSURFING_HMAC_CURRENT is set, but empty."),
        ({"authorization": "\n"}, "PLUGSURFING_AUTHORIZATION is set, but empty."),
    ],
)
def test_while_files_are_invalid_the_old_keys_stay_and_one_warning_is_logged(rotation, texts, reason):
    rotation.write(**texts)
    with structlog.testing.capture_logs() as logs:
        assert [rotation.refresh() for _ in range(5)] == [False] * 5
    assert rotation.keyring.keys == OLD
    assert logs == [{"event": "keys.kept_old", "log_level": "warning", "reason": reason}]


@pytest.mark.parametrize("name", ["current", "next"])
def test_a_file_that_is_missing_for_a_moment_changes_nothing(rotation, name):
    text = (rotation.folder / name).read_text()
    for _ in range(2):
        (rotation.folder / name).unlink()
        assert rotation.refresh() is False
        rotation.write(**{name: text})
        assert rotation.refresh() is False
    assert rotation.keyring.keys == OLD


def test_a_missing_file_of_current_leaves_the_old_keys_and_one_warning(rotation):
    (rotation.folder / "current").unlink()
    with structlog.testing.capture_logs() as logs:
        assert [rotation.refresh() for _ in range(5)] == [False] * 5
    assert rotation.keyring.keys == OLD
    assert [entry["event"] for entry in logs] == ["keys.kept_old"]


def empty(file):
    file.write_text("")


def blank(file):
    file.write_text(" \n")


def remove(file):
    file.unlink()


@pytest.mark.parametrize("end", [empty, blank, remove])
def test_a_rotation_ends_when_the_file_of_next_is_blank_or_missing(rotation, end):
    rotation.write(current="key two")
    end(rotation.folder / "next")
    with structlog.testing.capture_logs() as logs:
        assert [rotation.refresh() for _ in range(4)] == [False, True, False, False]
    assert rotation.keyring.keys == SigningKeys(b"key two", None, OLD.authorizations)
    names = ["PLUGSURFING_HMAC_CURRENT", "PLUGSURFING_HMAC_NEXT"]
    assert logs == [{"event": "keys.reread", "log_level": "info", "settings": names, "has_next": False}]


def test_a_next_key_may_be_withdrawn_alone_and_set_again(rotation):
    rotation.write(next="")
    assert [rotation.refresh() for _ in range(2)] == [False, True]
    assert rotation.keyring.keys == SigningKeys(b"key one", None, OLD.authorizations)
    rotation.write(next="key three")
    assert [rotation.refresh() for _ in range(2)] == [False, True]
    assert rotation.keyring.keys.next == b"key three"


def test_a_rotation_in_several_steps_ends_with_the_new_keys(rotation):
    rotation.write(current="key two")  # equal to NEXT: the old key is withdrawn
    assert [rotation.refresh() for _ in range(3)] == [False, True, False]
    assert rotation.keyring.keys == SigningKeys(b"key two", None, OLD.authorizations)
    rotation.write(next="key three")
    assert [rotation.refresh() for _ in range(2)] == [False, True]
    assert rotation.keyring.keys == SigningKeys(b"key two", b"key three", OLD.authorizations)


def test_a_next_key_without_a_current_one_cannot_be_withdrawn(tmp_path):
    (tmp_path / "next").write_text("key two")
    clock = Clock()
    keyring = Keyring(load_settings(plugsurfing_hmac_next_file=tmp_path / "next"), monotonic=clock)
    (tmp_path / "next").write_text("")
    for _ in range(3):
        clock.now += 1
        assert keyring.refresh() is False
    assert keyring.keys.next == b"key two"


@pytest.mark.parametrize("text", [None, "", "key one\n"])
def test_a_start_after_a_rotation_finds_the_same_keys(tmp_path, text):
    (tmp_path / "current").write_text("key one")
    if text is not None:
        (tmp_path / "next").write_text(text)
    clock = Clock()
    settings = load_settings(
        plugsurfing_hmac_current_file=tmp_path / "current", plugsurfing_hmac_next_file=tmp_path / "next"
    )
    assert settings.plugsurfing_hmac_next is None
    keyring = Keyring(settings, monotonic=clock)
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            clock.now += 1
            assert keyring.refresh() is False
    assert keyring.keys == SigningKeys(b"key one")
    assert logs == []


def test_a_key_that_is_not_in_its_encoding_is_not_used(tmp_path):
    (tmp_path / "key").write_text("0a0b")
    clock = Clock()
    settings = load_settings(plugsurfing_hmac_current_file=tmp_path / "key", plugsurfing_hmac_encoding="hex")
    keyring = Keyring(settings, monotonic=clock)
    (tmp_path / "key").write_text("0a0")
    keyring.refresh()
    clock.now += 1
    assert keyring.refresh() is False
    assert keyring.keys.current == b"\x0a\x0b"


def test_bad_keys_stop_the_start(tmp_path):
    (tmp_path / "key").write_text("")
    with pytest.raises(SettingsError, match="PLUGSURFING_HMAC_CURRENT"):
        load_settings(plugsurfing_hmac_current_file=tmp_path / "key")


def test_readers_see_either_all_old_keys_or_all_new_ones(rotation):
    seen = set()
    ended = threading.Event()

    def read():
        while not ended.is_set():
            keys = rotation.keyring.keys
            seen.add((keys.current, keys.next))

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(50):
        rotation.write(current=f"current {number}", next=f"next {number}")
        rotation.refresh()
        rotation.refresh()
    ended.set()
    reader.join()
    pairs = {(b"current %d" % number, b"next %d" % number) for number in range(50)}
    assert seen <= pairs | {(b"key one", b"key two")}


def test_a_rotation_is_logged_without_a_key(rotation):
    with structlog.testing.capture_logs() as lines:
        for number in range(3):
            rotation.write(current=f"secret {number}", next=f"secret {number + 1}")
            rotation.refresh()
            rotation.refresh()
    assert [line["event"] for line in lines] == ["keys.reread"] * 3
    assert "secret" not in str(lines)


def test_a_file_that_changes_to_a_key_with_an_invisible_end_is_trimmed_or_not_used(rotation):
    rotation.write(current="\ufeffkey three\r\n")
    rotation.refresh()
    assert rotation.refresh()
    assert rotation.keyring.keys.current == b"key three"
    rotation.write(current="key four\u00a0\n")
    with structlog.testing.capture_logs() as logs:
        assert not rotation.refresh()
        assert not rotation.refresh()
    assert rotation.keyring.keys.current == b"key three"
    assert "PLUGSURFING_HMAC_CURRENT" in str(logs)
