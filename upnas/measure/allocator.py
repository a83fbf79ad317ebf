"""What the C library does with the memory that a forward on the CPU frees.

By default glibc hands large blocks, and the top of its heap, back to the kernel, and the next
forward gets them again as zeroed pages: thousands of page faults per forward, which can be half of
its time, most of its noise, and depend on what the process did before. A server avoids that with an
allocator that keeps memory (PyTorch's tuning guide recommends jemalloc or tcmalloc), an exported
program with an arena of its own. ``keep_freed_memory`` does it for this process.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Final

# malloc.h of glibc.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_MAX: Final = -4
_LARGEST: Final = 2**31 - 1


@cache
def keep_freed_memory() -> bool:
    """Keep freed memory in the process from now on, for good: there is no way to read the defaults.

    Returns:
        Whether the C library can do that; glibc can, others (musl, macOS) are left as they are.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    no_blocks_of_their_own = library.mallopt(_M_MMAP_MAX, 0)
    never_shrink = library.mallopt(_M_TRIM_THRESHOLD, _LARGEST)
    return bool(no_blocks_of_their_own and never_shrink)
