"""Loads the plugins: which functions handle what, known before the first delivery is processed."""

import importlib
import inspect
import pkgutil
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib.machinery import PathFinder
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from pydantic import ValidationError

from handlers.kit.channel import ChannelPlugin, DeviceRegistryPlugin, channel_plugins_of
from handlers.kit.event_types import EventType, event_type_of, event_types_of
from handlers.kit.markers import Marker
from handlers.kit.plugin_tables import PluginTable, PluginTables, plugin_tables_of
from handlers.kit.policies import Policy, policies_of
from handlers.kit.subscriptions import Subscription, subscriptions_of
from handlers.kit.templates import TemplateError, check_templates
from ingest.config.settings import Settings
from ingest.errors import SettingsError
from ingest.events import WIRE_NAMES, ChargingRecord, Event, UnknownEvent, use_models, validation_text
from ingest.queue.queues import QUEUES

ENTRY_POINTS = "plugsurfing_webhooks.handlers"
MAX_ERROR_LENGTH = 300

T = TypeVar("T")
Named = TypeVar("Named", Subscription, Policy, ChannelPlugin)


class PluginError(SettingsError):
    """Raised when the plugins cannot be loaded; one sentence that names the file."""


@dataclass(frozen=True)
class Plugins:
    """The marked functions of all plugins, in the order in which they were found."""

    subscriptions: tuple[Subscription, ...]
    channels: tuple[ChannelPlugin, ...] = ()
    devices: DeviceRegistryPlugin | None = None
    idle: tuple[Subscription, ...] = ()
    """Handlers that the settings turn off; runs that they have from before are still made."""
    policies: tuple[Policy, ...] = ()
    """In the order in which they are called."""
    event_types: tuple[EventType, ...] = ()
    """Events of names that this version does not know."""
    tables: tuple[PluginTables, ...] = ()
    """Tables of plugins' own."""

    def handlers_for(self, event: Event) -> tuple[Subscription, ...]:
        """Return the handlers of an event."""
        return self._by_type(type(event))[0]

    def records_for(self, event: Event) -> tuple[Subscription, ...]:
        """Return the functions that add an event to its session's record."""
        return self._by_type(type(event))[1]

    @cached_property
    def _by_type(self) -> Callable[[type[Event]], tuple[tuple[Subscription, ...], tuple[Subscription, ...]]]:
        """Handlers and functions of records by the type of an event, found once for each of the few types."""

        @cache
        def find(kind: type[Event]) -> tuple[tuple[Subscription, ...], tuple[Subscription, ...]]:
            taking = [each for each in self.subscriptions if issubclass(kind, each.events)]
            return tuple(each for each in taking if not each.records), tuple(each for each in taking if each.records)

        return find

    @property
    def own_tables(self) -> tuple[PluginTable, ...]:
        """Each table of the plugins, with what erasure and retention know of it."""
        return tuple(table for each in self.tables for table in each.tables)

    @cached_property
    def followers(self) -> tuple[str, ...]:
        """The names of the handlers that follow the driver of a session, turned on or not."""
        return tuple(each.name for each in (*self.subscriptions, *self.idle) if each.follows_driver)

    @cached_property
    def by_name(self) -> dict[str, Subscription]:
        """All handlers by their names, which are unique."""
        return {each.name: each for each in (*self.subscriptions, *self.idle)}


def load_plugins(settings: Settings, *, renders: bool = True) -> Plugins:
    """Import every plugin: the files in `handlers/`, installed packages with an entry point, and HANDLER_MODULES.

    From then on this process decodes the events whose classes they mark. A process that renders no text for drivers
    does without the check of the templates, which reads 10 MiB of names of months and time zones.

    Raise PluginError if one cannot be imported or marks nothing, two functions share a name, no event is of the class
    that one handles, a queue does not exist, or a template cannot be rendered.
    """
    plugins = _load(tuple(settings.handler_modules))
    use_models({each.model.wire_name: each.model for each in plugins.event_types})
    if renders:
        _check_templates(plugins, settings.templates_dir)
    idle = tuple(each for each in plugins.subscriptions if each.when is not None and not each.when(settings))
    return replace(
        plugins,
        subscriptions=tuple(each for each in plugins.subscriptions if each not in idle),
        idle=idle,
        policies=tuple(each for each in plugins.policies if each.when is None or each.when(settings)),
    )


def learn_events(settings: Settings) -> None:
    """Decode from now on the events whose classes plugins mark, in a process that only shows them.

    If a plugin cannot be loaded, they stay unknown: what is shown does not depend on plugins otherwise.
    """
    with suppress(PluginError):
        load_plugins(settings, renders=False)


def _check_templates(plugins: Plugins, folder: Path | None) -> None:
    try:
        check_templates(
            [sys.modules[name] for name in dict.fromkeys(each.plugin for each in plugins.subscriptions)], folder
        )
    except TemplateError as error:
        raise PluginError(str(error)) from error


@cache  # so that a process that loads before it forks has done it for its children
def _load(names: tuple[str, ...]) -> Plugins:
    modules = list(dict.fromkeys([*_modules("handlers", "The package"), *_from_entry_points(), *_from_settings(names)]))
    subscriptions = _marked(modules, subscriptions_of)
    for each in subscriptions:
        if each.queue is not None and each.queue not in QUEUES:
            raise PluginError(f"{each.place} {each.name} wants the queue {each.queue}; there are {', '.join(QUEUES)}.")
    _check_names(subscriptions, "handler")
    event_types = _event_types(modules, subscriptions)
    _check_events(subscriptions, event_types)
    policies = _marked(modules, policies_of)
    _check_names(policies, "policy")
    found = _marked(modules, channel_plugins_of)
    channels = [each for each in found if isinstance(each, ChannelPlugin)]
    _check_names(channels, "channel")
    registries = [each for each in found if isinstance(each, DeviceRegistryPlugin)]
    if len(registries) > 1:
        first, second = registries[:2]
        raise PluginError(f"{first.file} and {second.file} both have @devices: remove one of them.")
    return Plugins(
        tuple(subscriptions),
        tuple(channels),
        registries[0] if registries else None,
        policies=tuple(sorted(policies, key=lambda each: (each.order, each.name))),
        event_types=event_types,
        tables=_tables(modules),
    )


def _from_entry_points() -> Iterator[ModuleType]:
    for entry_point in sorted(entry_points(group=ENTRY_POINTS), key=lambda each: (each.module, each.name)):
        yield from _marking(entry_point.module, f"The entry point {entry_point.name} of {ENTRY_POINTS}")


def _from_settings(names: Sequence[str]) -> Iterator[ModuleType]:
    here = str(Path.cwd())
    if names and not {"", here} & set(sys.path):
        # A team's plugins are beside its .env. Last on the path, where they cannot hide an installed module.
        sys.path.append(here)
    for name in names:
        yield from _marking(name, "HANDLER_MODULES")


def _marking(name: str, named_by: str) -> list[ModuleType]:
    """Return the modules of a name. Raise PluginError if nothing in them is marked: a decorator was forgotten."""
    modules = list(_modules(name, named_by))
    if not any(map(is_marked, (value for module in modules for value in vars(module).values()))):
        raise PluginError(
            f"{modules[0].__file__ or name}, which {named_by} names, marks nothing:"
            " write for instance @on(SessionComplete) above a handler."
        )
    return modules


def is_marked(value: object) -> bool:
    """Return whether a decorator of `handlers` has marked a function or a class."""
    if inspect.isclass(value):
        return event_type_of(value) is not None
    return inspect.isfunction(value) and any(isinstance(each, Marker) for each in vars(value).values())


def _event_types(modules: Sequence[ModuleType], subscriptions: Sequence[Subscription]) -> tuple[EventType, ...]:
    """Return the marked classes of events that the modules have and handle. Raise PluginError if two share a name."""
    found = [each for module in modules for each in event_types_of(module)]
    found += filter(None, (event_type_of(wanted) for each in subscriptions for wanted in each.events))
    by_name: dict[str, EventType] = {}
    for each in found:
        first, name = by_name.setdefault(each.model.wire_name, each), each.model.wire_name
        if first is not each:
            raise PluginError(
                f"{_class_place(first.model)} and {_class_place(each.model)} are both events of the name {name}:"
                " remove one of them."
            )
    for name, each in by_name.items():
        try:
            payload = {"sessionId": "S", "timestamp": "2025-06-12T10:56:51Z", **each.sample, "event": name}
            each.model.model_validate(payload, by_alias=True, by_name=False)
        except ValidationError as error:
            raise PluginError(
                f"{_class_place(each.model)} is no event of its own sample: {validation_text(error)}."
                f' Complete @event("{name}", sample={{…}}).'
            ) from error
    return tuple(by_name.values())


def _tables(modules: Sequence[ModuleType]) -> tuple[PluginTables, ...]:
    """Return the tables of plugins. Raise PluginError if two share a name, or migrations are not there."""
    found = dict.fromkeys(each for module in modules for each in plugin_tables_of(module))
    of_name: dict[str, PluginTables] = {}
    for each in found:
        if not each.migrations.is_dir():
            raise PluginError(f"The plugin {each.plugin} has tables, and no folder {each.migrations} with migrations.")
        if each.plugin in of_name:
            raise PluginError(f"Two plugins have tables as {each.plugin}: give one of them another name.")
        of_name[each.plugin] = each
    names = Counter(name for each in found for name in each.metadata.tables)
    for name, count in names.items():
        if count > 1:
            raise PluginError(f"Two plugins have a table {name}: give one of them another name.")
    return tuple(found)


def _check_events(subscriptions: Sequence[Subscription], event_types: Sequence[EventType]) -> None:
    """Raise PluginError if a handler would never be called: no event is decoded as the class that it handles."""
    decoded: list[type[Event]] = [*WIRE_NAMES.values(), UnknownEvent, ChargingRecord]
    decoded += [each.model for each in event_types]
    for each in subscriptions:
        for wanted in each.events:
            if not any(issubclass(model, wanted) for model in decoded):
                raise PluginError(
                    f"{each.place} {each.name} handles {wanted.__name__}, and no event is one:"
                    f' mark the class with @event("…"), the name that Plugsurfing sends.'
                )


def _class_place(model: type[Event]) -> str:
    try:
        return f"{inspect.getsourcefile(model)}, line {inspect.getsourcelines(model)[1]}, {model.__name__}"
    except (OSError, TypeError):
        return f"{model.__module__}.{model.__name__}"


def _modules(name: str, named_by: str) -> Iterator[ModuleType]:
    """Import a module, and for a package the files directly in it except those that begin with _."""
    module = _imported(name, named_by)
    yield module
    for found in pkgutil.iter_modules(getattr(module, "__path__", ())):
        if not found.ispkg and not found.name.startswith("_"):
            yield _imported(f"{name}.{found.name}", named_by)


def _imported(name: str, named_by: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # an import runs foreign code: whatever it raises is that plugin's own
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            sentence = f"{named_by} names {name}, which is neither installed nor a file in {Path.cwd()}."
        else:
            sentence = f"{_error_location(name, error)} cannot be loaded: {_error_text(error)}."
        raise PluginError(sentence) from error


def _error_location(name: str, error: BaseException) -> str:
    """Return the file, and the line if it is known, where the import of a plugin failed."""
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename not in {__file__, importlib.__file__} and not frame.filename.startswith("<frozen "):
            return f"{frame.filename}, line {frame.lineno},"
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno},"
    return _file_of(name)


def _file_of(name: str) -> str:
    """Return the file of a module that was not run, or of the package that contains it."""
    package, _, _ = name.rpartition(".")
    if package and package not in sys.modules:
        return _file_of(package)
    found = PathFinder.find_spec(name, sys.modules[package].__path__ if package else None)
    return found.origin if found and found.origin else name


def _error_text(error: BaseException) -> str:
    # Pydantic's own text has several lines; what is wrong are settings of the plugin.
    said = validation_text(error) if isinstance(error, ValidationError) else str(error)
    text = " ".join(f"{type(error).__name__}: {said}".split()).rstrip(".: ")
    return text if len(text) <= MAX_ERROR_LENGTH else f"{text[: MAX_ERROR_LENGTH - 1]}…"


def _marked(modules: Sequence[ModuleType], read: Callable[[ModuleType], Sequence[T]]) -> list[T]:
    found: list[T] = []
    for module in modules:
        try:
            found += read(module)
        except TypeError as error:
            raise PluginError(f"{module.__file__} cannot be used: {error}.") from error
    return found


def _check_names(functions: Sequence[Named], kind: str) -> None:
    names: dict[str, Named] = {}
    for each in functions:
        first = names.setdefault(each.name, each)
        if first is not each:
            raise PluginError(
                f"{first.file} and {each.file} both have a {kind} named {each.name}: give one of them another name."
            )
