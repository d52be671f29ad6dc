"""Recognizes file systems on which an inbox should not be: those that do not last, and those of a network."""

import re
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
# Octal in mountinfo: blanks, tabs, newlines and backslashes of a path.
ESCAPED = re.compile(r"\\([0-7]{3})")
IN_MEMORY, OF_CONTAINER = {"tmpfs", "ramfs"}, {"overlay", "aufs", "fuse-overlayfs"}
REMOTE = {"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs", "fuse.sshfs"}


def disk_problem(folder: Path, mounts: Path = MOUNTS) -> str | None:
    """Return why an inbox in a folder may be lost, and what to do; None if nothing speaks against it.

    Nothing does where there is no list of mounts, on macOS for instance.
    """
    kind = file_system(folder, mounts)
    where = f"{folder} is on {kind}"
    if kind in IN_MEMORY:
        return f"{where}, which is memory: a restart loses what was kept and is not settled. Set DATA_DIR to a disk."
    if kind in OF_CONTAINER:
        return (
            f"{where}, which goes with the container, and with it what was kept and is not settled. Mount a volume"
            " there, or set DATA_DIR to one; a platform without volumes is none for `serve`."
        )
    if kind in REMOTE:
        return f"{where}, a network file system, on which SQLite is not safe. Set DATA_DIR to a local disk."
    return None


def file_system(folder: Path, mounts: Path = MOUNTS) -> str:
    """Return the type of the file system of a folder, as `mount` prints it; empty if that cannot be known."""
    folder = folder.resolve()
    try:
        lines = mounts.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return ""
    found = ""
    deepest = 0
    for line in lines:  # "22 27 0:21 / /proc rw,relatime shared:1 - proc proc rw"; a later mount hides an earlier one
        before, _, after = line.partition(" - ")
        fields, types = before.split(" "), after.split(" ")
        point = Path(ESCAPED.sub(lambda octal: chr(int(octal[1], 8)), fields[4]))
        if folder.is_relative_to(point) and len(point.parts) >= deepest:
            deepest, found = len(point.parts), types[0]
    return found
