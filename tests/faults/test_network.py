"""Links between network namespaces: each cut stops what it says, and nothing is left afterwards."""

import errno
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.faults import network
from tests.faults.cluster import wait_until
from tests.faults.network import OWN_NAMESPACE, Cut, Link, Namespace, Network
from tests.faults.trials import Impossible

PORT = 6379


@pytest.fixture
def joined() -> Iterator[Network]:
    try:
        made = Network(2, ("redis", "postgres"))
    except Impossible as reason:
        pytest.skip(str(reason))
    yield made
    made.end()


@pytest.mark.parametrize("how", [Link.down, Link.silent, Link.one_way])
def test_a_cut_link_carries_nothing_and_the_other_links_go_on(joined: Network, how: Cut) -> None:
    cut, other = joined.links[0]["redis"], joined.links[1]["redis"]
    with joined.hub.entered():
        servers = [socket.create_server((link.hub_address, PORT)) for link in (cut, other)]
    assert cut.carries(PORT)
    with how(cut):
        assert not cut.carries(PORT)
        assert other.carries(PORT)
    # An address that did not answer is asked for again a second later.
    wait_until(lambda: cut.carries(PORT), "the link is back")
    for server in servers:
        server.close()


def test_a_thread_returns_to_its_own_namespace_and_nothing_holds_one_that_was_ended(joined: Network) -> None:
    own, hub = Path(OWN_NAMESPACE).readlink(), Path(joined.hub.path).readlink()
    entered = set()
    with suppress(RuntimeError), joined.hub.entered():
        entered.add(Path(OWN_NAMESPACE).readlink())
        raise RuntimeError
    assert (entered, Path(OWN_NAMESPACE).readlink()) == ({hub}, own)
    joined.end()
    assert hub not in {each.readlink() for each in Path("/proc/self/fd").iterdir() if each.is_symlink()}


def test_where_no_namespace_may_be_made_a_trial_is_impossible(monkeypatch: pytest.MonkeyPatch) -> None:
    refusing = SimpleNamespace(unshare=lambda _flags: -1, setns=lambda *_: 0)
    monkeypatch.setattr(network, "LIBC", refusing)
    monkeypatch.setattr(network.ctypes, "get_errno", lambda: errno.EPERM)
    with pytest.raises(Impossible, match="no network namespace may be made: Operation not permitted"):
        Namespace()
