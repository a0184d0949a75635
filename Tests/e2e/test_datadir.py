"""The data directory is private, held by one process, and believed only when its bytes are whole.

Method: start, kill, damage files on disk, start again; what must be refused ends with a status other than zero and a
message that says what and where.
"""

import os
import shutil
import stat
import subprocess
import time

import grpc
import pytest

from harness import Server, compare, put_op, run, run_to_end

pytestmark = pytest.mark.moonraft


def filled(directory, writes=200, flags=()):
    """A member with some writes in it, killed; what it acknowledged."""
    member = Server(directory, flags=flags).start()
    with member.client() as client:
        known = {b"d/%d" % n: client.put(b"d/%d" % n, b"value %d" % n).header.revision for n in range(writes)}
    member.kill()
    return member, known


def check(member, known):
    with member.client() as client:
        pairs = {kv.key: kv.mod_revision for kv in client.prefix(b"d/").kvs}
    assert pairs == known


def segments(member):
    return sorted((member.data / "member" / "wal").glob("*.wal"))


def used(path):
    """Bytes of a preallocated file up to the last that is not zero."""
    content = path.read_bytes()
    return len(content.rstrip(b"\x00"))


# -- Access


def test_directory_is_made_private(tmp_path, binary):
    member = Server(tmp_path).start()
    try:
        for path in (member.data, member.data / "member"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o700
        for path in member.data.rglob("*"):
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    finally:
        member.stop()


@pytest.mark.parametrize("mode", [0o777, 0o755, 0o750])
def test_directory_open_to_others_is_refused(tmp_path, binary, mode):
    member = Server(tmp_path)
    member.data.mkdir(mode=0o700)
    member.data.chmod(mode)
    status, output = run_to_end(member)
    assert status not in (0, None), output
    assert str(member.data) in output and "%o" % mode in output, output


def test_second_process_on_the_same_directory_is_refused(tmp_path, binary):
    first = Server(tmp_path).start()
    try:
        second = Server(tmp_path / "other")
        second.directory.mkdir()
        second.data = first.data
        started = time.monotonic()
        status, output = run_to_end(second)
        assert status not in (0, None) and time.monotonic() - started < 10, output
        assert str(first.data) in output and "lock" in output, output
        with first.client() as client:
            assert client.put(b"still", b"here")
    finally:
        first.stop()


def test_port_in_use_is_refused_with_its_address(tmp_path, binary):
    first = Server(tmp_path / "a")
    first.directory.mkdir()
    first.start()
    try:
        second = Server(tmp_path / "b")
        second.directory.mkdir()
        second.client_port, second.url = first.client_port, first.url
        status, output = run_to_end(second)
        assert status not in (0, None) and str(first.client_port) in output, output
    finally:
        first.stop()


def test_a_lock_file_left_behind_does_not_matter(tmp_path, binary):
    member, known = filled(tmp_path, writes=5)
    assert (member.data / "member" / "lock").exists()
    member.start()
    check(member, known)
    member.stop()


# -- Damage in the log


def test_damage_in_the_middle_of_the_log_is_refused(tmp_path, binary):
    member, known = filled(tmp_path)
    segment = segments(member)[0]
    original = segment.read_bytes()
    for place in (used(segment) // 4, used(segment) // 2):
        damaged = bytearray(original)
        damaged[place] ^= 0x40
        segment.write_bytes(damaged)
        status, output = run_to_end(member)
        assert status not in (0, None), output
        assert segment.name in output and "damaged" in output, output
    segment.write_bytes(original)
    member.start()
    check(member, known)
    member.stop()


def test_damaged_segment_header_is_refused(tmp_path, binary):
    member, _ = filled(tmp_path, writes=20)
    segment = segments(member)[0]
    damaged = bytearray(segment.read_bytes())
    damaged[20] ^= 1
    segment.write_bytes(damaged)
    status, output = run_to_end(member)
    assert status not in (0, None) and segment.name in output, output


def test_log_of_a_newer_format_is_refused(tmp_path, binary):
    member, _ = filled(tmp_path, writes=5)
    segment = segments(member)[0]
    damaged = bytearray(segment.read_bytes())
    damaged[8] = 200
    segment.write_bytes(damaged)
    status, output = run_to_end(member)
    assert status not in (0, None) and segment.name in output, output


def test_missing_middle_segment_is_refused(tmp_path, binary):
    flags = ["--storage.wal-segment-size", "2MiB"]
    member = Server(tmp_path, flags=flags).start()
    with member.client() as client:
        for number in range(60):
            client.put(b"d/%d" % number, b"x" * 100_000)
    member.kill()
    files = segments(member)
    assert len(files) >= 3, files
    files[len(files) // 2].unlink()
    status, output = run_to_end(member)
    assert status not in (0, None) and "log" in output, output


# -- Torn tails


@pytest.mark.parametrize("tail", [b"\xff" * 37, b"\x00" * 8 + b"garbage" * 9, b"\x01"], ids=["ones", "garbage", "byte"])
def test_bytes_after_the_last_record_are_cut(tmp_path, binary, tail):
    """What a crash in the middle of an append leaves behind."""
    member, known = filled(tmp_path, writes=50)
    segment = segments(member)[-1]
    end = (used(segment) + 7) // 8 * 8
    with open(segment, "r+b") as file:
        file.seek(end)
        file.write(tail)
    member.start()
    check(member, known)
    with member.client() as client:
        known[b"d/after"] = client.put(b"d/after", b"v").header.revision
    member.kill()
    member.start()
    check(member, known)
    member.stop()


def test_torn_last_record_is_cut(tmp_path, binary):
    """The last record was not written whole; everything before it is there."""
    member = Server(tmp_path).start()
    with member.client() as client:
        known = {b"d/%d" % n: client.put(b"d/%d" % n, b"v").header.revision for n in range(20)}
        time.sleep(0.4)   # the backend has committed all this; the next write is in the log alone
        client.put(b"d/last", b"torn" * 100)
        member.kill()
    segment = segments(member)[-1]
    with open(segment, "r+b") as file:
        file.seek(used(segment) - 150)
        file.write(b"\x00" * 150)
    member.start()
    with member.client() as client:
        pairs = {kv.key: kv.mod_revision for kv in client.prefix(b"d/").kvs}
    assert {k: v for k, v in pairs.items() if k != b"d/last"} == known
    member.stop()


# -- Damage in the backend


def test_etcd20271_a_damaged_database_is_refused_with_a_message(tmp_path, binary):
    """Torn, overwritten and cut pages by which everything else is found: never a signal, never a guess."""
    member, known = filled(tmp_path, writes=60)
    database = member.data / "member/db/data.mdb"
    original = database.read_bytes()

    def changed(at, content):
        return original[:at] + content + original[at + len(content):]
    damages = {
        "first meta page zero": changed(0, b"\x00" * 4096),
        "second meta page zero": changed(4096, b"\x00" * 4096),
        "half a meta page of ones": changed(16, b"\xff" * 64),
        "roots elsewhere": changed(4096 + 16 + 24 + 40, b"\x33" * 8)[:16 + 72 + 40] + b"\x33" * 8
        + changed(4096 + 16 + 24 + 40, b"\x33" * 8)[16 + 72 + 48:],
        "cut to two pages": original[:8192],
        "cut to the half": original[:len(original) // 2 // 4096 * 4096],
        "garbage": b"garbage! " * 1000,
    }
    for what, content in damages.items():
        database.write_bytes(content)
        status, output = run_to_end(member)
        assert status is not None and status > 0, "%s: %s\n%s" % (what, status, output)
        assert "member/db" in output and ("damaged" in output or "cannot open" in output), "%s: %s" % (what, output)
    database.write_bytes(original)
    member.start()
    check(member, known)
    member.stop()


@pytest.mark.parametrize("use", ["watch", "put", "txn"])
def test_a_record_that_changes_under_the_running_process(tmp_path, binary, use):
    """The file is mapped, so rot shows at once. What cannot go on without the record ends the process with the reason."""
    member, _ = filled(tmp_path, writes=30)
    # After a clean stop all records are in the file, and none in memory.
    member.start()
    assert member.terminate() == 0
    member.start()
    database = member.data / "member/db/data.mdb"
    with member.client() as client:
        start = client.get(b"d/7").mod_revision - 1
        content, record = database.read_bytes(), b"\x0a\x03d/7"
        assert record in content
        with open(database, "r+b") as file:
            place = content.find(record)
            while place >= 0:
                file.seek(place)
                file.write(b"\xff")
                place = content.find(record, place + 1)
        if use == "watch":
            with client.watch() as stream:
                stream.create(b"d/", b"d0", start_revision=start)
                status = member.process.wait(10)
        else:
            future = client.future("KV.Put", key=b"d/7", ignore_value=True) if use == "put" else client.future(
                "KV.Txn", compare=[compare(b"d/7", "VALUE", "EQUAL", b"x")], success=[put_op(b"d/7")])
            status = member.process.wait(10)
            assert future.exception().code().name == "UNAVAILABLE"
    assert status == 70, member.tail()
    assert "backend" in member.tail() and "ecord" in member.tail(), member.tail()


# -- The backend behind the log


def test_backend_older_than_the_log_is_brought_up_by_replay(tmp_path, binary):
    """An old copy of the database with the newer log, as after a restored disk snapshot."""
    member, known = filled(tmp_path, writes=30)
    old = tmp_path / "old-db"
    shutil.copytree(member.data / "member" / "db", old)
    member.start()
    with member.client() as client:
        for number in range(30, 60):
            known[b"d/%d" % number] = client.put(b"d/%d" % number, b"v").header.revision
        time.sleep(0.3)
    member.kill()
    shutil.rmtree(member.data / "member" / "db")
    shutil.copytree(old, member.data / "member" / "db")
    (member.data / "member" / "db").chmod(0o700)
    member.start()
    check(member, known)
    member.stop()


def test_copied_directory_serves_the_same_data(tmp_path, binary):
    member, known = filled(tmp_path, writes=30)
    copied = tmp_path / "copy"
    shutil.copytree(member.data, copied)
    copied.chmod(0o700)
    member.data = copied
    member.start()
    check(member, known)
    member.stop()


def test_full_disk_stops_the_process_and_loses_nothing(tmp_path, binary):
    """On a file system of 40 MB: the write that does not fit is never acknowledged, the process says why it ends, and
    with room again everything acknowledged is there."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m,mode=0700", "tmpfs", str(disk)], capture_output=True)
    if mount.returncode != 0:
        pytest.skip("cannot mount a small file system here")
    member = Server(tmp_path, flags=["--storage.wal-segment-size", "4MiB", "--snapshot-count", "1000000"])
    member.data = disk / "data"
    known = {}
    try:
        member.start()
        with member.client() as client:
            for number in range(200):
                key = b"d/%d" % number
                try:
                    known[key] = client.put(key, b"x" * 500_000, timeout=10).header.revision
                except grpc.RpcError:
                    break
        assert 5 < len(known) < 100
        assert member.process.wait(15) != 0
        assert "space" in member.tail().lower(), member.tail()
        member.log.close()
        run(["mount", "-o", "remount,size=200m", str(disk)])
        member.start()
        with member.client() as client:
            pairs = {kv.key: kv.mod_revision for kv in client.prefix(b"d/").kvs}
        assert {k: v for k, v in pairs.items() if k in known} == known
    finally:
        member.stop()
        subprocess.run(["umount", "-l", str(disk)], check=False)


def test_other_cluster_s_name_and_urls_do_not_change_identity(tmp_path, binary):
    """Cluster flags count at the first start only."""
    member, known = filled(tmp_path, writes=5)
    with member.start().client() as client:
        header = client.call("Maintenance.Status").header
    member.stop()
    member.flags = ["--initial-cluster-token", "another"]
    member.start()
    with member.client() as client:
        again = client.call("Maintenance.Status").header
    assert (again.member_id, again.cluster_id) == (header.member_id, header.cluster_id)
    check(member, known)
    member.stop()
    assert os.path.isdir(member.data)
