import os
from pathlib import Path

import pytest

from workers.commands.check.disk_type import MOUNTS, disk_problem, file_system

LINES = r"""
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
41 27 0:30 / /tmp rw,nosuid shared:9 master:2 - tmpfs tmpfs rw
42 27 0:31 / /with\040a\040blank rw - overlay overlay rw
43 27 0:32 / /mnt rw - nfs4 server:/x rw
44 27 0:33 / /twice rw - tmpfs tmpfs rw
45 27 0:34 / /twice rw - xfs /dev/vdb rw
"""


@pytest.fixture
def mounts(tmp_path: Path) -> Path:
    file = tmp_path / "mountinfo"
    file.write_text(LINES.lstrip())
    return file


@pytest.mark.parametrize(
    ("folder", "kind", "advice"),
    [
        ("/data", "ext4", None),
        ("/tmpx/var", "ext4", None),
        ("/tmp/var", "tmpfs", "Set DATA_DIR to a disk."),
        ("/with a blank/var", "overlay", "Mount a volume there"),
        ("/mnt/var", "nfs4", "Set DATA_DIR to a local disk."),
        ("/twice", "xfs", None),
    ],
)
def test_a_folder_that_does_not_last_is_told_from_one_that_does(
    mounts: Path, folder: str, kind: str, advice: str | None
) -> None:
    assert file_system(Path(folder), mounts) == kind
    problem = disk_problem(Path(folder), mounts)
    assert problem is None if advice is None else advice in str(problem)


def test_where_there_is_no_list_of_mounts_nothing_is_said(tmp_path: Path) -> None:
    assert disk_problem(tmp_path, tmp_path / "missing") is None


@pytest.mark.skipif(not MOUNTS.exists(), reason="Linux only")
def test_an_inbox_in_memory_is_a_warning_of_check(node, valkey_url) -> None:
    memory = Path("/dev/shm")
    if file_system(memory) != "tmpfs" or not os.access(memory, os.W_OK):
        pytest.skip("there is no folder in memory")
    rows = node.rows("check", REDIS_URL=valkey_url, DATA_DIR=str(memory / "webhooks"))
    found = [(row["standing"], "which is memory" in row["sentence"]) for row in rows if row["check"] == "inbox"]
    assert found == [("warn", True)]
