"""Notification templates by locale, which a team may replace.

A template is a Jinja2 text file `<locale>/<name>.txt`, or `<locale>/<name>.<kind>.txt` for one kind only; its first
line is the title, the rest the body. A file in `TEMPLATES_DIR` replaces the one of the same name in this package. For a
driver with `de-AT` templates are searched in `de-at`, `de`, the default locale and `en`, in each first by kind.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from pathlib import Path
from types import ModuleType

from jinja2 import BaseLoader, ChoiceLoader, FileSystemLoader, StrictUndefined, Template, TemplateSyntaxError
from jinja2.exceptions import TemplateError as JinjaError
from jinja2.sandbox import SandboxedEnvironment

from handlers.kit.localtime import LocalTime
from ingest.errors import WebhooksError

PACKAGED_TEMPLATES = Path(__file__).parents[1] / "templates"
FALLBACK_LOCALE = "en"
SUFFIX = ".txt"


class TemplateError(WebhooksError):
    """Raised when a template cannot be used; one sentence that names its file."""


@dataclass(frozen=True, slots=True)
class Recipient:
    """The language and region, and the time zone, of a driver."""

    locale: str
    """`de`, `nl-BE`, in any spelling that an app uses."""
    time_zone: str
    """A name of the IANA time zone database, `Europe/Berlin`."""


@dataclass(frozen=True, slots=True)
class NotificationText:
    """A title and a body, without line breaks."""

    title: str
    body: str


@dataclass(frozen=True, slots=True)
class NotificationTemplate:
    """The name of a plugin's templates, and a sample of their values.

    As a constant of a plugin's module, all its templates are checked with the sample when plugins are loaded. Times
    among the values become `LocalTime`, which is formatted for the driver.
    """

    name: str
    sample: Mapping[str, object] = field(default_factory=dict)

    def render(  # noqa: PLR0913 - what the text depends on, by name
        self,
        recipient: Recipient,
        values: Mapping[str, object],
        *,
        now: datetime,
        kind: str = "",
        default_locale: str = FALLBACK_LOCALE,
        folder: Path | None = None,
    ) -> NotificationText:
        """Render the text for a recipient; `folder` is TEMPLATES_DIR. Raise TemplateError."""
        templates = open_templates(folder)
        locales = [*locale_fallbacks(recipient.locale), *locale_fallbacks(default_locale), FALLBACK_LOCALE]
        stems = [f"{self.name}.{_safe_kind(kind)}", self.name]
        for locale in locales:
            for stem in stems:
                if (locale, stem) in templates.files:
                    # A text in another language has times in that language's convention: no Polish weekday in English.
                    is_theirs = locale_fallbacks(locale)[-1] == locale_fallbacks(recipient.locale)[-1]
                    formatted_for = Recipient(recipient.locale if is_theirs else locale, recipient.time_zone)
                    return templates.render((locale, stem), values, formatted_for, now)
        raise TemplateError(f"There is no template named {self.name} in {FALLBACK_LOCALE}.")

    def check(self, folder: Path | None) -> None:
        """Render every template of this name with the sample. Raise TemplateError for the first that fails."""
        templates = open_templates(folder)
        now = datetime.fromisoformat("2025-10-15T08:52:48Z")
        for locale, stem in sorted(templates.files):
            if stem.split(".")[0] == self.name:
                templates.render((locale, stem), self.sample, Recipient(locale, "UTC"), now)


def check_templates(modules: Iterable[ModuleType], folder: Path | None) -> None:
    """Check all NotificationTemplates of these modules.

    Raise TemplateError for the first that fails, or for a file in TEMPLATES_DIR that none of them uses.
    """
    templates = {
        value.name: value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, NotificationTemplate)
    }
    for template in templates.values():
        template.check(folder)
    for (_, stem), name in open_templates(folder).files.items():
        if not stem.startswith("_") and stem.split(".")[0] not in templates:  # _ is for files that others include
            path = (folder or PACKAGED_TEMPLATES) / name
            raise TemplateError(f"{path} would never be used: the templates are {', '.join(sorted(templates))}.")


@dataclass(frozen=True, slots=True)
class Templates:
    """All template files by locale and stem; those of a team replace the packaged ones."""

    environment: SandboxedEnvironment
    files: Mapping[tuple[str, str], str]

    def render(
        self, key: tuple[str, str], values: Mapping[str, object], recipient: Recipient, now: datetime
    ) -> NotificationText:
        """Render one file. Raise TemplateError, which names the file and never a value."""
        template = self._open(self.files[key])
        localized = {name: _localize(value, recipient, now) for name, value in values.items()}
        try:
            title, _, body = template.render(localized).strip().partition("\n")
        except JinjaError as error:  # an undefined name, say: the sentence is about the template, and quotes no value
            raise TemplateError(f"{template.filename} cannot be used: {_sentence(error)}.") from None
        except Exception as error:  # noqa: BLE001 - a template may do anything that the sandbox allows, 1/0 for instance
            raise TemplateError(f"{template.filename} cannot be used: {type(error).__name__}.") from None
        if not title.strip() or not body.strip():
            raise TemplateError(f"{template.filename} needs a title in its first line, and a body below it.")
        return NotificationText(" ".join(title.split()), " ".join(body.split()))

    def _open(self, name: str) -> Template:
        try:
            return self.environment.get_template(name)
        except TemplateSyntaxError as error:
            raise TemplateError(f"{error.filename}, line {error.lineno}, cannot be used: {_sentence(error)}.") from None
        except (JinjaError, OSError, UnicodeDecodeError) as error:
            raise TemplateError(f"The template {name} cannot be read ({type(error).__name__}).") from None


@cache
def open_templates(folder: Path | None) -> Templates:
    """Return all templates, with those in the folder first. Raise TemplateError if there is no such folder."""
    if folder is not None and not folder.is_dir():
        raise TemplateError(f"TEMPLATES_DIR names {folder}, which is not a folder.")
    loaders: list[BaseLoader] = [FileSystemLoader(each) for each in (folder, PACKAGED_TEMPLATES) if each is not None]
    # Plain text: nothing is escaped. An edited template takes effect with a restart, like a plugin.
    environment = SandboxedEnvironment(
        loader=ChoiceLoader(loaders),
        autoescape=False,
        undefined=StrictUndefined,
        auto_reload=False,
    )
    files: dict[tuple[str, str], str] = {}
    for loader in reversed(loaders):
        files |= dict(_files(loader))
    return Templates(environment, files)


def locale_fallbacks(locale: str) -> tuple[str, ...]:
    """Return the locales to search, from the narrowest: `de_AT.UTF-8` is de-at, then de."""
    parts = re.split(r"[.@]", locale)[0].replace("_", "-").lower().split("-")
    return tuple("-".join(parts[:count]) for count in range(len(parts), 0, -1))


def _files(loader: BaseLoader) -> Iterator[tuple[tuple[str, str], str]]:
    for name in loader.list_templates():
        locale, _, file = name.partition("/")
        if file.endswith(SUFFIX) and "/" not in file:
            yield (locale_fallbacks(locale)[0], file.removesuffix(SUFFIX).lower()), name


def _localize(value: object, recipient: Recipient, now: datetime) -> object:
    return LocalTime.of(value, recipient.locale, recipient.time_zone, now) if isinstance(value, datetime) else value


def _safe_kind(kind: str) -> str:
    """Return a kind, which may come from the wire, in the characters of a file's name."""
    return re.sub(r"[^a-z0-9]+", "_", kind.lower())


def _sentence(error: Exception) -> str:
    return str(error).rstrip(".")
