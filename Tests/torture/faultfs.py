"""The driver's side of faultfs.c: builds it, steers what the disk of one member does, and undoes what a power failure loses."""

import atexit
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
_LAYOUT = struct.Struct("<iiiiqQQq64s")
_built = None


def library():
    """The path of the compiled shim, built once a run; None where there is no C compiler."""
    global _built
    if _built is None:
        # Swift's toolchain brings clang where there is no other.
        compiler = next(filter(None, map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))), None)
        if compiler is None:
            return None
        directory = tempfile.mkdtemp(prefix="faultfs-")
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
        target = Path(directory) / "faultfs.so"
        subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-o", str(target),
                        str(HERE / "faultfs.c"), "-ldl", "-lpthread"], check=True)
        _built = target
    return _built


class Control:
    """What a member's shim does: the control file that both map, and the undo journal of what is not yet synced."""

    def __init__(self, path):
        self.path, self.journal = Path(path), Path(str(path) + ".journal")
        #: Without the journal, which costs time, power cannot be lost.
        self.journals = True
        self.path.write_bytes(b"\0" * mmap.PAGESIZE)
        with open(self.path, "r+b") as file:
            self.memory = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        self.clear()

    def environment(self):
        shim = {"LD_PRELOAD": str(library()), "FAULTFS_CONTROL": str(self.path)}
        return dict(shim, FAULTFS_JOURNAL=str(self.journal)) if self.journals else shim

    def _set(self, mask=0, error=0, delay=0, lie=0, after=0, clock=0, place=""):
        _LAYOUT.pack_into(self.memory, 0, 0, error, delay, lie, after, 0, 0, clock, place.encode())
        struct.pack_into("<i", self.memory, 0, mask)

    def clear(self):
        self._set()

    def forget(self):
        """Before a start: what an earlier process left behind in the page cache counts as written."""
        for path in self.journal.parent.glob(self.journal.name + "*"):
            path.unlink()

    def fail(self, mask, error=errno.EIO, after=0, place=""):
        """After `after` matching calls, calls of these kinds on files with `place` in their path fail with `error`."""
        self._set(mask=mask, error=error, after=after, place=place)

    def slow(self, seconds):
        """Every fsync and fdatasync takes this much longer."""
        self._set(delay=int(seconds * 1000))

    def lie(self):
        """Syncs say that they are done and do nothing."""
        self._set(lie=1)

    def jump(self, seconds):
        """Shifts the wall clock."""
        self._set(clock=int(seconds * 1000))

    def counts(self):
        """(matching calls seen, calls failed) since the last change."""
        return _LAYOUT.unpack_from(self.memory, 0)[5:7]

    def lose_power(self, directory, chance):
        """After a kill: takes back what was not synced, of each file and directory from a random operation on.

        Returns how many operations were taken back, None when the journal had ended before.
        """
        if not self.journal.exists():
            return 0
        journal = self.journal.read_bytes()
        if len(journal) > JOURNAL_LIMIT:
            return None
        pending = unsynced(journal)
        places = {entry.stat().st_ino: entry for root in (Path(directory), self.journal.parent)
                  for entry in root.rglob("*") if entry.is_file() and entry != self.journal}
        report = []
        # Contents first: names are put back last, in their own order.
        for kinds, undo in (((WROTE, RESIZED), _undo_content), ((CREATED, RENAMED, REMOVED), _undo_name)):
            for inode, operations in pending.items():
                operations = [o for o in operations if o[0] in kinds]
                kept = chance.choice((0, chance.randint(0, len(operations))))
                for place in reversed(range(kept, len(operations))):
                    report.append("%s %s" % (places.get(inode, inode), _told(operations[place])))
                    # Of the first one lost, whole sectors may have got through.
                    undo(operations[place], places.get(inode), chance.random() if place == kept else 0)
        with open(self.path.with_suffix(".lost"), "a") as file:
            file.write("".join(line + "\n" for line in report + ["--- %d operations lost" % len(report)]))
        return len(report)


WROTE, RESIZED, SYNCED, CREATED, RENAMED, REMOVED = range(1, 7)
_RECORD = struct.Struct("<IIQqq")
#: As in faultfs.c.
JOURNAL_LIMIT, SECTOR = 256 << 20, 512


def unsynced(journal):
    """The operations that no sync has made durable, in order, by inode: (kind, offset, size before, bytes)."""
    operations, at = {}, 0
    while at + _RECORD.size <= len(journal):
        kind, length, inode, offset, size = _RECORD.unpack_from(journal, at)
        payload = journal[at + _RECORD.size:at + _RECORD.size + length]
        pending = operations.setdefault(inode, [])
        if kind == SYNCED:
            pending[:] = [o for o in pending if o[4] >= offset]
        else:
            pending.append((kind, offset, size, payload, at))
        at += _RECORD.size + length
    return operations


def _told(operation):
    """One operation in words, for the report beside the control file (faultfs.lost)."""
    kind, offset, size, payload, _ = operation
    name = ("", "wrote", "resized", "", "created", "renamed", "removed")[kind]
    if kind in (WROTE, RESIZED):
        return "%s at %d over %d bytes, size before %d" % (name, offset, len(payload), size)
    return name + " " + " ".join(part.decode() for part in payload.split(b"\0") if part)


def _undo_content(operation, path, share):
    kind, offset, size, old, _ = operation
    if path is None:
        return
    with open(path, "r+b") as file:
        now = os.fstat(file.fileno()).st_size
        through = int(share * max(0, now - offset)) // SECTOR * SECTOR if kind == WROTE and offset % SECTOR == 0 else 0
        through = min(through, len(old)) if size >= offset + len(old) and old else 0
        file.seek(offset + through)
        file.write(old[through:])
        file.truncate(size)


def _undo_name(operation, _, __):
    kind, names = operation[0], [n.decode() for n in operation[3].split(b"\0")]
    if kind == CREATED:
        Path(names[0]).unlink(missing_ok=True)
    elif kind == RENAMED:
        os.rename(names[1], names[0])
        if names[2]:
            os.rename(names[2], names[1])
    else:
        os.rename(names[1], names[0])
