"""Shared memory that a process may read and not write."""

from __future__ import annotations

import ctypes
import mmap
import os

_libc = ctypes.CDLL(None, use_errno=True)


def make_read_only(memory: mmap.mmap) -> None:
    """Have this process only read the mapping from now on: a write kills it. Others go on as they were.

    Raises OSError if the system refuses.
    """
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    if _libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(len(memory)), mmap.PROT_READ):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
