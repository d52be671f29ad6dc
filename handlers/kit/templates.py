"""Words to drivers: templates by locale, which a team may replace, rendered for whoever will read them.

A template is a text file for Jinja2, `<locale>/<name>.txt`, or `<locale>/<name>.<kind>.txt` for one kind of the thing
alone; its first line is the title, the rest the body. A file in `TEMPLATES_DIR` takes the place of ours. For a driver
who reads `de-AT` the words are looked for in `de-at`, `de`, the default locale and `en`, in each first by kind.
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

OUR_TEMPLATES = Path(__file__).parents[1] / "templates"
FALLBACK_LOCALE = "en"
SUFFIX = ".txt"


class TemplateError(WebhooksError):
    """Raised when a template cannot be used; one sentence that names its file."""


@dataclass(frozen=True, slots=True)
class Recipient:
    """Who will read words: their language and region, and where their clock hangs."""

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
    """What a plugin can say: the name of its templates, and a sample of the facts that they are given.

    Kept in a plugin's module, all its templates are tried with the sample when plugins are loaded. Times among the
    facts become `LocalTime`, which writes itself as the driver does.
    """

    name: str
    sample: Mapping[str, object] = field(default_factory=dict)

    def words(  # noqa: PLR0913 - what words depend on, by name
        self,
        audience: Recipient,
        facts: Mapping[str, object],
        *,
        now: datetime,
        kind: str = "",
        default_locale: str = FALLBACK_LOCALE,
        folder: Path | None = None,
    ) -> NotificationText:
        """Say it to an audience; `folder` is TEMPLATES_DIR. Raise WordsError if the template cannot be used."""
        templates = open_templates(folder)
        locales = [*locale_fallbacks(audience.locale), *locale_fallbacks(default_locale), FALLBACK_LOCALE]
        stems = [f"{self.name}.{_safe_kind(kind)}", self.name]
        for locale in locales:
            for stem in stems:
                if (locale, stem) in templates.files:
                    # Another language than the driver's is written in its own convention: no Polish day in English.
                    own = (
                        audience.locale
                        if locale_fallbacks(locale)[-1] == locale_fallbacks(audience.locale)[-1]
                        else locale
                    )
                    return templates.render((locale, stem), facts, Recipient(own, audience.time_zone), now)
        raise TemplateError(f"There are no words named {self.name} in {FALLBACK_LOCALE}.")

    def check(self, folder: Path | None) -> None:
        """Try every template of this wording with the sample. Raise WordsError for the first that cannot be used."""
        templates = open_templates(folder)
        now = datetime.fromisoformat("2025-10-15T08:52:48Z")
        for locale, stem in sorted(templates.files):
            if stem.split(".")[0] == self.name:
                templates.render((locale, stem), self.sample, Recipient(locale, "UTC"), now)


def check_templates(modules: Iterable[ModuleType], folder: Path | None) -> None:
    """Try the templates of all wordings that these modules keep.

    Raise WordsError for the first that cannot be used, or for a file in TEMPLATES_DIR that nobody would ever read.
    """
    wordings = {
        value.name: value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, NotificationTemplate)
    }
    for wording in wordings.values():
        wording.check(folder)
    for (_, stem), name in open_templates(folder).files.items():
        if not stem.startswith("_") and stem.split(".")[0] not in wordings:  # _ begins what other templates include
            place = (folder or OUR_TEMPLATES) / name
            raise TemplateError(f"{place} would never be read: words are named {', '.join(sorted(wordings))}.")


@dataclass(frozen=True, slots=True)
class Templates:
    """All templates by locale and stem, those of a team in the place of ours."""

    environment: SandboxedEnvironment
    files: Mapping[tuple[str, str], str]

    def render(
        self, key: tuple[str, str], facts: Mapping[str, object], audience: Recipient, now: datetime
    ) -> NotificationText:
        """Fill in a template. Raise WordsError, which names the file and never a fact, if that fails."""
        template = self._open(self.files[key])
        told = {name: _localize(fact, audience, now) for name, fact in facts.items()}
        try:
            title, _, body = template.render(told).strip().partition("\n")
        except JinjaError as error:  # an undefined name, say: the sentence is about the template, and quotes no fact
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
    """Find all templates, those in the folder in the place of ours. Raise WordsError if there is no such folder."""
    if folder is not None and not folder.is_dir():
        raise TemplateError(f"TEMPLATES_DIR names {folder}, which is not a folder.")
    loaders: list[BaseLoader] = [FileSystemLoader(each) for each in (folder, OUR_TEMPLATES) if each is not None]
    # Plain text: nothing is escaped. A template that is edited counts after a restart, like a plugin.
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
    """List the locales to look in, from the narrowest: `de_AT.UTF-8` is de-at, then de."""
    parts = re.split(r"[.@]", locale)[0].replace("_", "-").lower().split("-")
    return tuple("-".join(parts[:count]) for count in range(len(parts), 0, -1))


def _files(loader: BaseLoader) -> Iterator[tuple[tuple[str, str], str]]:
    for name in loader.list_templates():
        locale, _, file = name.partition("/")
        if file.endswith(SUFFIX) and "/" not in file:
            yield (locale_fallbacks(locale)[0], file.removesuffix(SUFFIX).lower()), name


def _localize(fact: object, audience: Recipient, now: datetime) -> object:
    return LocalTime.of(fact, audience.locale, audience.time_zone, now) if isinstance(fact, datetime) else fact


def _safe_kind(kind: str) -> str:
    """Make a kind, which may come from the wire, what a file can be named."""
    return re.sub(r"[^a-z0-9]+", "_", kind.lower())


def _sentence(error: Exception) -> str:
    return str(error).rstrip(".")
