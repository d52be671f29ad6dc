"""A reserved port is reserved once, and a server can listen on it."""

import socket
import subprocess
import sys

import pytest

from tests.ports import LOOPBACK, reserve_neighbours, reserve_port


def test_a_server_listens_on_a_reserved_port_and_does_so_again_after_its_end():
    port = reserve_port()
    for _ in range(2):
        with socket.create_server((LOOPBACK, port)) as listener, socket.create_connection((LOOPBACK, port)):
            listener.accept()[0].close()


def test_no_port_is_reserved_twice_even_by_another_process(root):
    code = "from tests.ports import reserve_port; print(*[reserve_port() for _ in range(200)])"
    commands = [
        subprocess.Popen([sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    ports = [port for command in commands for port in command.communicate()[0].split()]
    assert len(ports) == len(set(ports)) == 400


def test_a_wanted_port_that_is_reserved_or_in_use_is_an_error():
    with pytest.raises(OSError, match="in use"):
        reserve_port(reserve_port())
    with socket.create_server((LOOPBACK, 0)) as listener, pytest.raises(OSError, match="in use"):
        reserve_port(listener.getsockname()[1])


def test_neighbours_are_all_reserved():
    first = reserve_neighbours(4)
    for port in range(first, first + 4):
        with pytest.raises(OSError, match="in use"):
            reserve_port(port)
