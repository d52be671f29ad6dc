import fcntl
import os
import socket
import subprocess
import sys

import pytest

from ingest.errors import SettingsError
from ingest.server.socket_activation import inherited_sockets, listening_sockets, sd_notify

INHERIT = """
import os, sys
from ingest.server.socket_activation import inherited_sockets
os.environ["LISTEN_PID"] = str(os.getpid() + int(sys.argv[1]))
print([each.getsockname() for each in inherited_sockets()], [name for name in os.environ if name.startswith("LISTEN_")])
"""


def inherit(*sockets, off=0):
    """Return what a process prints that inherits these sockets as files 3, 4, …."""
    with_files = "import os, sys; [os.dup2(int(n), 3 + i) for i, n in enumerate(sys.argv[3:])]; exec(sys.argv[1])"
    return subprocess.run(
        [sys.executable, "-c", with_files, INHERIT.replace("sys.argv[1]", "sys.argv[2]"), str(off)]
        + [str(each.fileno()) for each in sockets],
        env={**os.environ, "LISTEN_FDS": str(len(sockets)), "LISTEN_FDNAMES": "http"},
        pass_fds=[each.fileno() for each in sockets],
        capture_output=True,
        text=True,
        check=False,
    )


def high(opened):
    """Move a socket away from the file numbers that it is inherited at."""
    number = fcntl.fcntl(opened, fcntl.F_DUPFD_CLOEXEC, 100)
    opened.close()
    return socket.socket(fileno=number)


def test_inherited_sockets_are_returned_and_their_variables_cleared():
    with (
        high(socket.create_server(("127.0.0.1", 0))) as one,
        high(socket.create_server(("127.0.0.1", 0))) as two,
    ):
        inherited = inherit(one, two)
        assert inherited.stdout == f"{[one.getsockname(), two.getsockname()]} []\n"


def test_sockets_of_another_process_are_not_inherited():
    with high(socket.create_server(("127.0.0.1", 0))) as one:
        assert inherit(one, off=1).stdout == "[] []\n"


def test_an_inherited_socket_is_not_passed_on_to_child_processes(monkeypatch):
    opened = socket.create_server(("127.0.0.1", 0))
    os.set_inheritable(opened.fileno(), True)  # noqa: FBT003 - it takes no name
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setattr("ingest.server.socket_activation.FIRST_SOCKET", opened.fileno())
    (inherited,) = listening_sockets("127.0.0.1", 0)
    assert inherited.getsockname() == opened.getsockname()
    assert not os.get_inheritable(inherited.fileno())
    assert "LISTEN_PID" not in os.environ
    opened.detach()
    inherited.close()


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_socket_that_does_not_listen_is_refused(kind):
    with high(socket.socket(socket.AF_INET, kind)) as not_listening:
        assert "SettingsError: LISTEN_FDS names socket 3, which does not listen" in inherit(not_listening).stderr


def test_a_file_that_is_no_socket_is_refused(monkeypatch):
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setattr("ingest.server.socket_activation.FIRST_SOCKET", 987_654)
    with pytest.raises(SettingsError, match="file 987654, which is no socket"):
        inherited_sockets()


@pytest.mark.parametrize("count", ["", "many", "-1", "0"])
def test_an_invalid_count_means_that_nothing_is_inherited(monkeypatch, count):
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", count)
    assert inherited_sockets() == []
    assert "LISTEN_FDS" not in os.environ


def test_without_inherited_sockets_it_listens_itself():
    (opened,) = listening_sockets("127.0.0.1", 0)
    with opened:
        assert opened.getsockname()[1] > 0


def test_the_service_manager_is_notified(tmp_path, monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "ready"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "ready"))
        sd_notify("READY=1", "MAINPID=1")
        assert manager.recv(100) == b"READY=1\nMAINPID=1"
    sd_notify("READY=1")  # nobody listens any more


@pytest.mark.skipif(sys.platform != "linux", reason="abstract addresses are Linux's")
def test_an_abstract_address_is_written_with_an_at_sign(monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0webhooks-{os.getpid()}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@webhooks-{os.getpid()}")
        sd_notify("READY=1")
        assert manager.recv(100) == b"READY=1"


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_all_addresses_are_those_of_ipv4_too():
    (listening,) = listening_sockets("::", 0)
    with listening, socket.create_connection(("127.0.0.1", listening.getsockname()[1]), timeout=5):
        connection, address = listening.accept()
        connection.close()
    assert address[0] == "::ffff:127.0.0.1"
