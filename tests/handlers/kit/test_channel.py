import functools
from types import ModuleType

import pytest

from handlers.kit.channel import ChannelPlugin, channel, channel_plugins_of, devices


def plugin(**functions):
    """A module that defines these functions."""
    module = ModuleType("plugin")
    vars(module).update(functions)
    return module


def send(module="plugin"):
    def by_pigeon(_push):
        return None

    by_pigeon.__module__ = module
    return by_pigeon


def yielding(_push):
    yield


async def yielding_later(_push):
    yield


async def waiting(_user_id):
    return []


@pytest.mark.parametrize(
    ("mark", "sentence"),
    [
        (lambda: channel("pigeon")(yielding), "yielding yields"),
        (lambda: channel("pigeon")(yielding_later), "yielding_later yields"),
        (lambda: devices(yielding), "yielding yields"),
        (lambda: devices(waiting), "must be a plain function"),
        (lambda: devices(functools.partial(send())), "@devices marks functions"),
        (lambda: channel("pigeon")(int), "@channel marks functions"),
        (lambda: devices(channel("pigeon")(send())), "by_pigeon is marked twice"),
        (lambda: channel("Not a name"), "cannot name a channel"),
    ],
)
def test_an_invalid_marker_is_refused_where_it_is_made(mark, sentence):
    with pytest.raises(TypeError, match=sentence):
        mark()


def test_a_marked_function_stays_unchanged_and_is_found_in_its_module():
    function = send()
    assert channel("pigeon", to_devices=True)(function) is function
    offered = ChannelPlugin(function, "pigeon", to_devices=True)
    assert channel_plugins_of(plugin(by_pigeon=function)) == [offered]


def test_imported_channels_belong_to_another_plugin():
    assert channel_plugins_of(plugin(lent=channel("pigeon")(send("another")))) == []


def test_a_marker_below_another_decorator_is_refused():
    marked = channel("pigeon")(send())

    @functools.wraps(marked)
    def wrapper(push):
        return marked(push)

    with pytest.raises(TypeError, match="pigeon must stand above its other decorators"):
        channel_plugins_of(plugin(by_pigeon=wrapper))
