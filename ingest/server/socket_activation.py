"""Sockets that whoever started this process has opened for it, and the word to them that it is ready: systemd's way.

Both are environment variables only, so no library of systemd's is needed: sd_listen_fds(3) and sd_notify(3). The
supervisor of `serve` starts its workers in the same way, with `hand_over`.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from ingest.errors import SettingsError

FIRST_SOCKET = 3
BACKLOG = 2048
MAX_DATAGRAM = 4096


def listening_sockets(host: str, port: int) -> list[socket.socket]:
    """Take the sockets that were handed over, or else listen on that address. Raise SystemExit with one sentence."""
    return inherited_sockets() or [_listen(host, port)]


def inherited_sockets() -> list[socket.socket]:
    """Take the listening sockets that were opened for this process; its own children shall not think them theirs.

    Raise SettingsError if what was handed over does not listen.
    """
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    found = []
    for number in range(FIRST_SOCKET, FIRST_SOCKET + int(count)):
        try:
            os.set_inheritable(number, False)  # noqa: FBT003 - it takes no name
            given = socket.socket(fileno=number)
            is_listening = given.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError as error:
            raise SettingsError(f"LISTEN_FDS names file {number}, which is no socket.") from error
        if not is_listening or given.type != socket.SOCK_STREAM:
            raise SettingsError(f"LISTEN_FDS names socket {number}, which does not listen for connections.")
        given.setblocking(False)  # noqa: FBT003 - it takes no name
        found.append(given)
    return found


def sd_notify(*facts: str) -> None:
    """Tell whoever started this process how it is, if they want to know: `READY=1`, `STOPPING=1`."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    # Whoever asked may have gone; that is no reason not to serve.
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.sendto("\n".join(facts).encode(), address)


class NotifySocket:
    """Hears what programs say that were told its address: the other end of `tell_starter`, to be waited for as a file.

    Close it when nobody shall be heard any more.
    """

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="webhooks-"))
        self.address = self._folder / "ready"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)  # noqa: FBT003 - it takes no name
        self._socket.bind(str(self.address))

    def fileno(self) -> int:
        """Name the file that is ready to be read when something was said."""
        return self._socket.fileno()

    def messages(self) -> Iterator[dict[str, str]]:
        """Tell what has been said and not been told yet, a dictionary for each that spoke."""
        while words := _recv_nowait(self._socket):
            yield dict(word.partition("=")[::2] for word in words.decode("ascii", "replace").split("\n"))

    def close(self) -> None:
        """Leave nothing behind."""
        self._socket.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def _recv_nowait(source: socket.socket) -> bytes:
    """Read what is there, without waiting; nothing if nothing is."""
    try:
        return source.recv(MAX_DATAGRAM)
    except BlockingIOError:
        return b""


def spawn_with_sockets(
    command: Sequence[str], sockets: Sequence[socket.socket], *, notify: Path, signals: Collection[signal.Signals]
) -> int:
    """Start a program that takes these sockets and says at `notify` how it is; return the number of its process.

    None of the signals is lost on the way to it, and each finds it as a new program is: none is handled or ignored.
    Raise OSError if the machine has no room for another process.
    """
    environment = {**os.environ, "LISTEN_FDS": str(len(sockets)), "NOTIFY_SOCKET": str(notify)}
    # Not subprocess: LISTEN_PID has to be the number of the child, which is known between fork and exec only.
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        pid = os.fork()
        if pid == 0:
            _exec_child(command, sockets, environment, signals)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
    return pid


def _exec_child(
    command: Sequence[str],
    sockets: Sequence[socket.socket],
    environment: Mapping[str, str],
    signals: Collection[signal.Signals],
) -> None:
    try:
        for each in signals:
            signal.signal(each, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
        # First out of the way of each other, then to their places.
        places = range(FIRST_SOCKET, FIRST_SOCKET + len(sockets))
        away = [fcntl.fcntl(given, fcntl.F_DUPFD_CLOEXEC, places.stop) for given in sockets]
        for place, number in zip(places, away, strict=True):
            os.dup2(number, place, inheritable=True)
        os.execve(command[0], list(command), {**environment, "LISTEN_PID": str(os.getpid())})  # noqa: S606 - our own
    finally:
        os._exit(1)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        reason = str(error.strerror).partition(" (while")[0]  # the rest repeats the address
        raise SystemExit(f"Cannot listen on {host} port {port}: {reason}.") from error
