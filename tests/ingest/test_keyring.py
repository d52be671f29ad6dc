import threading

import pytest
import structlog

from ingest.errors import SettingsError
from ingest.keyring import STANDS_STILL, Keyring, Keys
from ingest.settings import load_settings


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

    def refresh(self, after=STANDS_STILL):
        self.clock.now += after
        return self.keyring.refresh()


@pytest.fixture
def rotation(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Rotation(tmp_path)


OLD = Keys(b"key one", b"key two", (b"Bearer a", b"Bearer b"))


def test_keys_come_from_settings():
    settings = load_settings(
        plugsurfing_hmac_current="0a0b", plugsurfing_hmac_encoding="hex", plugsurfing_authorization="x"
    )
    keyring = Keyring(settings)
    assert keyring.keys == Keys(b"\x0a\x0b", None, (b"x",))
    assert keyring.refresh() is False


def test_keys_of_files_are_taken_without_their_last_newline(rotation):
    assert rotation.keyring.keys == OLD
    assert rotation.refresh() is False


def test_changed_files_are_used_once_they_stand_still(rotation):
    rotation.write(current="key two\n", next="key three\n", authorization="Bearer b\n")
    with structlog.testing.capture_logs() as logs:
        assert rotation.refresh() is False
        assert rotation.keyring.keys == OLD
        assert rotation.refresh() is True
    assert rotation.keyring.keys == Keys(b"key two", b"key three", (b"Bearer b",))
    assert rotation.refresh() is False
    assert [entry["event"] for entry in logs] == ["keys.reread"]
    assert "key t" not in str(logs)


def test_half_a_key_is_never_used(rotation):
    whole = "key three, which is long"
    for length in range(1, len(whole) + 1):
        rotation.write(next=whole[:length])
        assert rotation.refresh() is False
        assert rotation.refresh(STANDS_STILL / 2) is False
        assert rotation.keyring.keys == OLD
    assert rotation.refresh() is True
    assert rotation.keyring.keys.next == whole.encode()


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        ({"next": ""}, "PLUGSURFING_HMAC_NEXT is set, but empty."),
        ({"current": "key two"}, "PLUGSURFING_HMAC_CURRENT and PLUGSURFING_HMAC_NEXT are the same key."),
        ({"authorization": "\n"}, "PLUGSURFING_AUTHORIZATION is set, but empty."),
    ],
)
def test_while_files_are_no_good_the_old_keys_stay_and_one_warning_is_given(rotation, texts, reason):
    rotation.write(**texts)
    with structlog.testing.capture_logs() as logs:
        assert [rotation.refresh() for _ in range(5)] == [False] * 5
    assert rotation.keyring.keys == OLD
    assert logs == [{"event": "keys.kept_old", "log_level": "warning", "reason": reason}]


def test_a_file_that_is_gone_for_a_moment_changes_nothing(rotation):
    (rotation.folder / "next").unlink()
    with structlog.testing.capture_logs() as logs:
        assert rotation.refresh() is rotation.refresh() is False
        rotation.write(next="key two")
        assert rotation.refresh() is False
        (rotation.folder / "next").unlink()
        assert rotation.refresh() is False
    assert rotation.keyring.keys == OLD
    assert [entry["event"] for entry in logs] == ["keys.kept_old"] * 2


def test_a_rotation_in_several_steps_ends_with_the_new_keys(rotation):
    rotation.write(current="key two")  # equal to NEXT for a while
    assert not any(rotation.refresh() for _ in range(3))
    rotation.write(next="key three")
    assert [rotation.refresh() for _ in range(2)] == [False, True]
    assert rotation.keyring.keys == Keys(b"key two", b"key three", OLD.authorizations)


def test_a_key_that_is_not_in_its_encoding_is_not_taken(tmp_path):
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


def test_readers_see_all_the_old_keys_or_all_the_new_ones(rotation):
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
