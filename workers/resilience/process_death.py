"""Ties the life of a child process to its parent's, by Linux's parent-death signal."""

import ctypes
import os
import signal

# From Linux's <sys/prctl.h>. The library is loaded here since as little as possible may happen between fork and exec.
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)


def set_parent_death_signal(parent: int, number: signal.Signals = signal.SIGTERM) -> None:
    """Make the kernel send this process, just forked, a signal when its parent dies, even by kill -9.

    Linux only: elsewhere the children of a killed parent have to be ended by hand.
    """
    LIBC.prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it died before the kernel was asked
        os._exit(1)
