"""Addresses and ports of this machine."""

import socket

import pytest

from workers.net import free_port, is_free, is_loopback, reachable


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_a_loopback_address_is_one_of_this_machine_alone(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", ""])
def test_any_other_address_is_no_loopback_address(host: str) -> None:
    assert not is_loopback(host)


def test_a_port_that_is_taken_is_replaced_by_another() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert not is_free("127.0.0.1", port)
        assert free_port(port) != port
    assert is_free("127.0.0.1", port)
    assert free_port(port) == port


def test_an_address_to_listen_on_becomes_one_to_call() -> None:
    assert [reachable(host) for host in ("127.0.0.1", "0.0.0.0", "::", "example.com")] == [
        "127.0.0.1",
        "127.0.0.1",
        "[::1]",
        "example.com",
    ]
