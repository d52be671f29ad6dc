import pytest
from click.testing import CliRunner

from ingest.errors import SettingsError
from workers.cli import main
from workers.commands.dev import dev
from workers.dev import dev as house


@pytest.fixture
def asked(monkeypatch):
    """What the house was asked to do."""
    calls = []

    def answer(port, play, *, ends):
        calls.append((port, play is not None, ends))
        return 3

    monkeypatch.setattr(house, "dev", answer)
    return calls


@pytest.mark.parametrize(
    ("arguments", "call"),
    [
        ((), (None, False, False)),
        (("--port", "9000"), (9000, False, False)),
        (("--demo",), (None, True, False)),
        (("--demo", "--exit"), (None, True, True)),
    ],
)
def test_the_house_is_asked_for_what_was_typed_and_gives_the_exit_code(asked, arguments, call):
    assert CliRunner().invoke(dev, arguments).exit_code == 3
    assert asked == [call]


@pytest.mark.parametrize("arguments", [("--exit",), ("--port", "0"), ("--port", "65533")])
def test_what_cannot_be_meant_is_wrong_usage(asked, arguments):
    assert CliRunner().invoke(dev, arguments).exit_code == 2
    assert asked == []


@pytest.mark.parametrize(("error", "exit_code"), [(SettingsError("DATA_DIR is in use."), 2), (OSError("Taken."), 1)])
def test_what_stands_in_the_way_is_said_in_a_sentence(monkeypatch, error, exit_code):
    def refuse(_port, _play, *, ends):
        raise error

    monkeypatch.setattr(house, "dev", refuse)
    result = CliRunner().invoke(main, ["dev"])
    assert result.exit_code == exit_code
    assert result.output == f"webhooks: {error}\n"
