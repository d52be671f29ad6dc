"""What glibc's heap is told, as `malloc_info` shows it in a process of its own."""

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="there is no glibc")

MEASURE = """
import ctypes, re, sys, tempfile, threading
from ingest.server import limits

libc = ctypes.CDLL(None)
libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
libc.fopen.argtypes, libc.fopen.restype = [ctypes.c_char_p, ctypes.c_char_p], ctypes.c_void_p
libc.fclose.argtypes, libc.malloc_info.argtypes = [ctypes.c_void_p], [ctypes.c_int, ctypes.c_void_p]
for name in sys.argv[1:]:
    getattr(limits, name)()
together = threading.Barrier(6)

def allocate():
    together.wait()
    libc.malloc(1000)
    together.wait()

threads = [threading.Thread(target=allocate) for _ in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()

def info():
    with tempfile.NamedTemporaryFile("r") as file:
        stream = libc.fopen(file.name.encode(), b"w")
        libc.malloc_info(0, stream)
        libc.fclose(stream)
        return file.read()

def mapped():
    return int(re.search(r'type="mmap" count="(\\d+)"', info())[1])

heaps, before = info().count("<heap nr="), mapped()
for _ in range(200):  # the first ones fit into what the heap has free
    libc.malloc(50_000)
print(heaps, mapped() - before)
"""


def heaps_and_mapped(*functions: str) -> list[int]:
    """The heaps of a process with six threads after these functions, and how many of 200 blocks are apart from them."""
    ran = subprocess.run([sys.executable, "-c", MEASURE, *functions], check=True, capture_output=True, text=True)
    return [int(number) for number in ran.stdout.split()]


def test_the_threads_of_a_process_share_two_heaps():
    assert heaps_and_mapped()[0] > 2
    assert heaps_and_mapped("share_heaps")[0] == 2


def test_a_large_block_is_returned_to_the_system_when_it_is_free():
    assert heaps_and_mapped()[1] == 0
    assert heaps_and_mapped("return_memory")[1] > 100
