"""The driver's side of faultfs.c: builds it, and steers what the disk of one member does."""

import errno
import mmap
import os
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
WRITE, SYNC, RENAME, RESIZE = 1, 2, 4, 8
_LAYOUT = struct.Struct("<iiiiqQQ")
_built = None


def library():
    """The path of the compiled shim, built once a run; None where there is no C compiler."""
    global _built
    if _built is None:
        # Swift's toolchain brings clang where there is no other.
        compiler = next(filter(None, map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))), None)
        if compiler is None:
            return None
        target = Path(tempfile.mkdtemp(prefix="faultfs-")) / "faultfs.so"
        subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-o", str(target),
                        str(HERE / "faultfs.c"), "-ldl"], check=True)
        _built = target
    return _built


class Control:
    """The file that a member's shim maps: which calls fail, from when on, with what, and how slow syncs are."""

    def __init__(self, path):
        self.path = Path(path)
        self.path.write_bytes(b"\0" * mmap.PAGESIZE)
        with open(self.path, "r+b") as file:
            self.memory = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        self.clear()

    def environment(self):
        return {"LD_PRELOAD": str(library()), "FAULTFS_CONTROL": str(self.path)}

    def _set(self, mask=0, error=0, delay=0, after=0):
        _LAYOUT.pack_into(self.memory, 0, mask, error, delay, 0, after, 0, 0)

    def clear(self):
        self._set()

    def fail(self, mask, error=errno.EIO, after=0):
        """From the `after`-th matching call on, calls of these kinds fail with `error`."""
        self._set(mask=mask, error=error, after=after)

    def slow(self, seconds):
        """Every fsync and fdatasync takes this much longer."""
        self._set(delay=int(seconds * 1000))

    def counts(self):
        """(matching calls seen, calls failed) since the last change."""
        return _LAYOUT.unpack_from(self.memory, 0)[5:7]
