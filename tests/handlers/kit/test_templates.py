from datetime import UTC, datetime, timedelta
from types import ModuleType

import pytest

from handlers.kit.templates import (
    PACKAGED_TEMPLATES,
    NotificationTemplate,
    NotificationText,
    Recipient,
    TemplateError,
    check_templates,
)

NOW = datetime(2025, 10, 15, 18, 52, tzinfo=UTC)
SOON = NOW + timedelta(minutes=10)
SAMPLE = {"starts_at": SOON, "operator": None}
WARNING = NotificationTemplate("fee_warning", SAMPLE)
LOCALES = ["en", "en-US", "de", "de-AT", "fr", "fr-CA", "nl", "sv"]
KINDS = ["BLOCKING", "OCCUPANCY", "CONGESTION", "MOONLIGHT"]
OPERATORS = [None, "Stadtwerke", "Example Charging Company of Northern Europe"]


def said(locale, kind="BLOCKING", *, starts_at=SOON, operator=None, zone="Europe/Berlin", **given):
    facts = {"starts_at": starts_at, "operator": operator}
    return given.pop("wording", WARNING).render(Recipient(locale, zone), facts, now=NOW, kind=kind, **given)


def module_with(*wordings):
    module = ModuleType("a_plugin")
    for number, wording in enumerate(wordings):
        setattr(module, f"WORDING_{number}", wording)
    return module


def write(folder, name, text):
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("starts_at", [SOON, NOW + timedelta(days=1, hours=4)])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("locale", LOCALES)
@pytest.mark.parametrize("name", ["fee_warning", "fee_reminder"])
def test_all_words_are_short_enough_to_be_read_at_a_glance(name, locale, kind, starts_at, operator):
    words = said(locale, kind, starts_at=starts_at, operator=operator, wording=NotificationTemplate(name))
    assert len(words.title) <= 40, words.title
    assert len(words.body) <= 120, words.body
    assert "None" not in words.body
    assert "  " not in words.body
    if operator == "Stadtwerke":
        assert f" {operator} " in words.body


def test_every_language_has_the_same_templates():
    files = {folder.name: sorted(file.name for file in folder.iterdir()) for folder in PACKAGED_TEMPLATES.iterdir()}
    assert set(files) == {"en", "de", "fr", "nl", "sv"}
    assert len({tuple(names) for names in files.values()}) == 1


@pytest.mark.parametrize(
    ("locale", "title"),
    [
        ("en", "Avoid a blocking fee from 20:52"),
        ("en-US", "Avoid a blocking fee from 8:52 PM"),
        ("de_AT.UTF-8", "Blockiergebühr droht ab 20:52 Uhr"),
        ("FR-ca", "Frais de blocage dès 20 h 52"),
        ("nl-BE", "Voorkom blokkeertarief vanaf 20:52"),
        ("sv", "Undvik blockeringsavgift från 20:52"),
        ("tlh-Latn-KL", "Avoid a blocking fee from 20:52"),
        ("\N{ELECTRIC PLUG}", "Avoid a blocking fee from 20:52"),
        ("", "Avoid a blocking fee from 20:52"),
    ],
)
def test_a_driver_reads_their_language_and_their_way_to_write_a_time(locale, title):
    # The soon start is at 20:52 there: ten minutes to.
    assert said(locale, starts_at=NOW).title == title


@pytest.mark.parametrize(
    ("zone", "time"), [("Europe/Helsinki", "22:02"), ("Nowhere/At_All", "19:02"), ("../x", "19:02")]
)
def test_a_time_is_read_from_the_clock_where_the_driver_lives(zone, time):
    assert said("en", zone=zone).title.endswith(time)


def test_a_time_that_is_not_soon_has_its_day():
    assert said("de", starts_at=NOW + timedelta(hours=12)).title == "Blockiergebühr droht ab Do. 08:52 Uhr"


def test_a_time_at_the_end_of_the_calendar_is_read_in_utc():
    last = datetime(9999, 12, 31, 23, 59, tzinfo=UTC)
    assert said("de", zone="Pacific/Auckland", starts_at=last).title.endswith("23:59 Uhr")


def test_a_language_without_words_falls_back_to_the_default_one():
    assert said("pl", default_locale="nl").title == "Voorkom blokkeertarief vanaf 21:02"


@pytest.mark.parametrize("kind", ["MOONLIGHT", "", "../../../../etc/passwd", "{{ 7 * 7 }}", "x" * 200])
def test_an_unknown_kind_has_the_general_words(kind):
    assert said("en", kind).title == "Avoid an extra fee from 21:02"


def test_a_file_of_the_team_takes_the_place_of_ours_and_others_stay(tmp_path):
    write(tmp_path, "de/fee_warning.blocking.txt", "Achtung\n\nAb {{ starts_at.time }}\nwird es teuer & <eng>.\n")
    write(tmp_path, "da/fee_warning.txt", "Gebyr\nFra kl. {{ starts_at }}.\n")
    write(tmp_path, "de-at/_end.txt", "Servus")
    write(tmp_path, "de-at/fee_warning.txt", "Obacht\n{% include 'de-at/_end.txt' %}, {{ starts_at.day }}")
    assert said("de", folder=tmp_path) == NotificationText("Achtung", "Ab 21:02 wird es teuer & <eng>.")
    assert said("de", "CONGESTION", folder=tmp_path).title.startswith("Überlastgebühr")
    assert said("da", folder=tmp_path) == NotificationText("Gebyr", "Fra kl. 21.02.")
    assert said("de-AT", folder=tmp_path) == NotificationText("Obacht", "Servus, Mi.")
    check_templates([module_with(WARNING, NotificationTemplate("fee_reminder", SAMPLE))], tmp_path)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("Title\n{{ price }}", "'price' is undefined"),
        ("Title\n{% if %}", "line 2"),
        ("Title only", "needs a title"),
        ("", "needs a title"),
        ("Title\n{{ 1 / 0 }}", "ZeroDivisionError"),
        ("Title\n{{ ''.__class__.__mro__ }}", "unsafe"),
        ("Title\n{% include 'nowhere.txt' %}", "nowhere.txt"),
    ],
)
def test_a_template_that_cannot_be_used_is_named_before_anybody_waits_for_it(tmp_path, text, complaint):
    file = write(tmp_path, "sv/fee_warning.blocking.txt", text)
    with pytest.raises(TemplateError, match=complaint) as raised:
        WARNING.check(tmp_path)
    assert str(file) in str(raised.value)


def test_a_template_that_is_no_text_is_named(tmp_path):
    write(tmp_path, "sv/fee_warning.txt", "").write_bytes(b"\xff\xfe")
    with pytest.raises(TemplateError, match=r"sv/fee_warning\.txt"):
        WARNING.check(tmp_path)


def test_a_template_that_nobody_would_read_is_a_mistake(tmp_path):
    file = write(tmp_path, "de/fee_waring.txt", "Titel\nText")
    with pytest.raises(TemplateError, match="the templates are fee_reminder, fee_warning") as raised:
        check_templates([module_with(WARNING, NotificationTemplate("fee_reminder", SAMPLE))], tmp_path)
    assert str(file) in str(raised.value)


def test_a_folder_that_is_not_there_is_a_mistake(tmp_path):
    with pytest.raises(TemplateError, match="TEMPLATES_DIR"):
        said("de", folder=tmp_path / "nowhere")
