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


def rendered(locale, kind="BLOCKING", *, starts_at=SOON, operator=None, zone="Europe/Berlin", **given):
    values = {"starts_at": starts_at, "operator": operator}
    return given.pop("template", WARNING).render(Recipient(locale, zone), values, now=NOW, kind=kind, **given)


def module_with(*templates):
    module = ModuleType("a_plugin")
    for number, template in enumerate(templates):
        setattr(module, f"TEMPLATE_{number}", template)
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
def test_all_texts_are_short(name, locale, kind, starts_at, operator):
    text = rendered(locale, kind, starts_at=starts_at, operator=operator, template=NotificationTemplate(name))
    assert len(text.title) <= 40, text.title
    assert len(text.body) <= 120, text.body
    assert "None" not in text.body
    assert "  " not in text.body
    if operator == "Stadtwerke":
        assert f" {operator} " in text.body


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
def test_a_text_is_in_the_drivers_language_and_time_format(locale, title):
    # The soon start is at 20:52 there: ten minutes to.
    assert rendered(locale, starts_at=NOW).title == title


@pytest.mark.parametrize(
    ("zone", "time"), [("Europe/Helsinki", "22:02"), ("Nowhere/At_All", "19:02"), ("../x", "19:02")]
)
def test_a_time_is_in_the_drivers_time_zone(zone, time):
    assert rendered("en", zone=zone).title.endswith(time)


def test_a_time_that_is_not_soon_has_its_weekday():
    assert rendered("de", starts_at=NOW + timedelta(hours=12)).title == "Blockiergebühr droht ab Do. 08:52 Uhr"


def test_a_time_at_the_end_of_the_calendar_is_in_utc():
    last = datetime(9999, 12, 31, 23, 59, tzinfo=UTC)
    assert rendered("de", zone="Pacific/Auckland", starts_at=last).title.endswith("23:59 Uhr")


def test_a_language_without_templates_falls_back_to_the_default():
    assert rendered("pl", default_locale="nl").title == "Voorkom blokkeertarief vanaf 21:02"


@pytest.mark.parametrize("kind", ["MOONLIGHT", "", "../../../../etc/passwd", "{{ 7 * 7 }}", "x" * 200])
def test_an_unknown_kind_has_the_general_text(kind):
    assert rendered("en", kind).title == "Avoid an extra fee from 21:02"


def test_a_file_of_the_team_replaces_the_packaged_one_and_others_stay(tmp_path):
    write(tmp_path, "de/fee_warning.blocking.txt", "Achtung\n\nAb {{ starts_at.time }}\nwird es teuer & <eng>.\n")
    write(tmp_path, "da/fee_warning.txt", "Gebyr\nFra kl. {{ starts_at }}.\n")
    write(tmp_path, "de-at/_end.txt", "Servus")
    write(tmp_path, "de-at/fee_warning.txt", "Obacht\n{% include 'de-at/_end.txt' %}, {{ starts_at.day }}")
    assert rendered("de", folder=tmp_path) == NotificationText("Achtung", "Ab 21:02 wird es teuer & <eng>.")
    assert rendered("de", "CONGESTION", folder=tmp_path).title.startswith("Überlastgebühr")
    assert rendered("da", folder=tmp_path) == NotificationText("Gebyr", "Fra kl. 21.02.")
    assert rendered("de-AT", folder=tmp_path) == NotificationText("Obacht", "Servus, Mi.")
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
def test_an_invalid_template_is_reported_when_plugins_are_loaded(tmp_path, text, complaint):
    file = write(tmp_path, "sv/fee_warning.blocking.txt", text)
    with pytest.raises(TemplateError, match=complaint) as raised:
        WARNING.check(tmp_path)
    assert str(file) in str(raised.value)


def test_a_template_that_is_not_text_is_reported(tmp_path):
    write(tmp_path, "sv/fee_warning.txt", "").write_bytes(b"\xff\xfe")
    with pytest.raises(TemplateError, match=r"sv/fee_warning\.txt"):
        WARNING.check(tmp_path)


def test_an_unused_template_is_an_error(tmp_path):
    file = write(tmp_path, "de/fee_waring.txt", "Titel\nText")
    with pytest.raises(TemplateError, match="the templates are fee_reminder, fee_warning") as raised:
        check_templates([module_with(WARNING, NotificationTemplate("fee_reminder", SAMPLE))], tmp_path)
    assert str(file) in str(raised.value)


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(TemplateError, match="TEMPLATES_DIR"):
        rendered("de", folder=tmp_path / "nowhere")
