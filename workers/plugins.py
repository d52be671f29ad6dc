"""Collect the plugins: what handles what, known before the first delivery is touched."""

import importlib
import pkgutil
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib.machinery import PathFinder
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from handlers.kit.channel import ChannelPlugin, DeviceRegistryPlugin, channel_plugins_of
from handlers.kit.policies import Policy, policies_of
from handlers.kit.subscriptions import Subscription, subscriptions_of
from handlers.kit.templates import TemplateError, check_templates
from ingest.config.settings import Settings
from ingest.errors import WebhooksError
from ingest.events import Event
from ingest.queue.queues import QUEUES

ENTRY_POINTS = "plugsurfing_webhooks.handlers"
LONGEST_CAUSE = 300


class PluginError(WebhooksError):
    """Raised when the plugins cannot be loaded; one sentence that names the file."""


@dataclass(frozen=True)
class Plugins:
    """What all plugins together want, in the order in which they were found."""

    subscriptions: tuple[Subscription, ...]
    channels: tuple[ChannelPlugin, ...] = ()
    devices: DeviceRegistryPlugin | None = None
    idle: tuple[Subscription, ...] = ()
    """Those that the settings do not ask for; runs that they have from before are still made."""
    policies: tuple[Policy, ...] = ()
    """Those that decide at the charger, in the order in which they are asked."""

    def handlers_for(self, event: Event) -> tuple[Subscription, ...]:
        """Find the handlers of an event."""
        return tuple(each for each in self.subscriptions if not each.records and each.matches(event))

    def records_for(self, event: Event) -> tuple[Subscription, ...]:
        """Find the functions that add an event to its session's record."""
        return tuple(each for each in self.subscriptions if each.records and each.matches(event))

    @cached_property
    def by_name(self) -> dict[str, Subscription]:
        """All of them by their names, which are unique."""
        return {each.name: each for each in (*self.subscriptions, *self.idle)}


def load_plugins(settings: Settings) -> Plugins:
    """Import every plugin: the files in `handlers/`, installed packages that offer some, and HANDLER_MODULES.

    Raise PluginError if one of them is broken, two handlers or two policies have the same name, a queue is not one of
    ours, or words to drivers cannot be said.
    """
    plugins = _load(tuple(settings.handler_modules))
    try:
        check_templates(
            [sys.modules[name] for name in dict.fromkeys(each.plugin for each in plugins.subscriptions)],
            settings.templates_dir,
        )
    except TemplateError as error:
        raise PluginError(str(error)) from error
    idle = tuple(each for each in plugins.subscriptions if each.when is not None and not each.when(settings))
    return replace(
        plugins,
        subscriptions=tuple(each for each in plugins.subscriptions if each not in idle),
        idle=idle,
        policies=tuple(each for each in plugins.policies if each.when is None or each.when(settings)),
    )


@cache  # so that a process that loads before it forks has paid for its children
def _load(named: tuple[str, ...]) -> Plugins:
    modules = [*_modules("handlers", "the house"), *_from_entry_points(), *_from_settings(named)]
    modules = list(dict.fromkeys(modules))
    plugins = _checked([each for module in modules for each in _subscriptions(module)])
    plugins = _add_channels(plugins, [offer for module in modules for offer in _offers(module)])
    return replace(plugins, policies=_in_order([policy for module in modules for policy in _policies(module)]))


def _from_entry_points() -> Iterator[ModuleType]:
    for entry_point in sorted(entry_points(group=ENTRY_POINTS), key=lambda each: (each.module, each.name)):
        yield from _modules(entry_point.module, f"The entry point {entry_point.name} of {ENTRY_POINTS}")


def _from_settings(names: Sequence[str]) -> Iterator[ModuleType]:
    here = str(Path.cwd())
    if names and not {"", here} & set(sys.path):
        # A team keeps its plugins beside its .env. Last on the path, where they cannot hide an installed module.
        sys.path.append(here)
    for name in names:
        yield from _modules(name, "HANDLER_MODULES")


def _modules(name: str, named_by: str) -> Iterator[ModuleType]:
    """Import a module; a package stands also for the files that lie flat in it, but for those that begin with _."""
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
    """Say in which file, if possible on which line, the import of a plugin went wrong."""
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename not in {__file__, importlib.__file__} and not frame.filename.startswith("<frozen "):
            return f"{frame.filename}, line {frame.lineno},"
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno},"
    return _file_of(name)


def _file_of(name: str) -> str:
    """Find the file of a module that did not get as far as being run, or else of the package that holds it."""
    package, _, _ = name.rpartition(".")
    if package and package not in sys.modules:
        return _file_of(package)
    found = PathFinder.find_spec(name, sys.modules[package].__path__ if package else None)
    return found.origin if found and found.origin else name


def _error_text(error: BaseException) -> str:
    cause = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".: ")
    return cause if len(cause) <= LONGEST_CAUSE else f"{cause[: LONGEST_CAUSE - 1]}…"


def _subscriptions(module: ModuleType) -> list[Subscription]:
    try:
        return subscriptions_of(module)
    except TypeError as error:
        raise PluginError(f"{module.__file__} cannot be used: {error}.") from error


def _offers(module: ModuleType) -> list[ChannelPlugin | DeviceRegistryPlugin]:
    try:
        return channel_plugins_of(module)
    except TypeError as error:
        raise PluginError(f"{module.__file__} cannot be used: {error}.") from error


def _policies(module: ModuleType) -> list[Policy]:
    try:
        return policies_of(module)
    except TypeError as error:
        raise PluginError(f"{module.__file__} cannot be used: {error}.") from error


def _in_order(policies: Sequence[Policy]) -> tuple[Policy, ...]:
    names: dict[str, Policy] = {}
    for each in policies:
        first = names.setdefault(each.name, each)
        if first is not each:
            raise PluginError(
                f"{first.file} and {each.file} both have a policy named {each.name}: give one of them another name."
            )
    return tuple(sorted(policies, key=lambda each: (each.order, each.name)))


def _checked(subscriptions: Sequence[Subscription]) -> Plugins:
    names: dict[str, Subscription] = {}
    for each in subscriptions:
        if each.queue is not None and each.queue not in QUEUES:
            raise PluginError(f"{each.file}: {each.name} wants the queue {each.queue}; there are {', '.join(QUEUES)}.")
        first = names.setdefault(each.name, each)
        if first is not each:
            raise PluginError(
                f"{first.file} and {each.file} both have a handler named {each.name}: give one of them another name."
            )
    return Plugins(tuple(subscriptions))


def _add_channels(plugins: Plugins, offers: Sequence[ChannelPlugin | DeviceRegistryPlugin]) -> Plugins:
    channels: dict[str, ChannelPlugin] = {}
    devices: DeviceRegistryPlugin | None = None
    for offer in offers:
        if isinstance(offer, DeviceRegistryPlugin):
            if devices is not None:
                raise PluginError(f"{devices.file} and {offer.file} both have @devices: only one can know them.")
            devices = offer
            continue
        first = channels.setdefault(offer.name, offer)
        if first is not offer:
            raise PluginError(f"{first.file} and {offer.file} both offer a channel {offer.name}: rename one of them.")
    return replace(plugins, channels=tuple(channels.values()), devices=devices)
