"""Shared memory that a process may read but not write."""

from __future__ import annotations

import ctypes
import mmap
import os

_libc = ctypes.CDLL(None, use_errno=True)


def make_read_only(memory: mmap.mmap) -> None:
    """Make the mapping read-only in this process from now on: a write kills it. Other processes are unaffected.

    Raises OSError if the system refuses.
    """
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    if _libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(len(memory)), mmap.PROT_READ):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
