"""The server's proto files agree with the table these tests are written against.

Method: protoc turns proto/*.proto into descriptors, which are compared field by field with wire.txt. Neither side was made
from the other.
"""

import shutil
import subprocess

import pytest
from google.protobuf import descriptor_pb2

import wire
from harness import ROOT

pytestmark = [pytest.mark.moonraft,
              pytest.mark.skipif(not shutil.which("protoc"), reason="protoc is not installed"),
              pytest.mark.skipif(not list((ROOT / "proto").glob("*.proto")), reason="no proto files")]

SCALARS = {number: name for name, number in wire._SCALARS.items()}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    out = tmp_path_factory.mktemp("wire") / "set"
    sources = sorted(path.name for path in (ROOT / "proto").glob("*.proto"))
    subprocess.run(["protoc", "-I", str(ROOT / "proto"), "--descriptor_set_out", str(out), "--include_imports", *sources],
                   check=True)
    return descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file


def described(message, package):
    fields = {}
    for field in message.field:
        kind = SCALARS.get(field.type) or field.type_name.rsplit(".", 1)[-1]
        fields[field.number] = (field.name, kind, field.label == 3)
    return fields


def test_messages(files):
    found = {}
    for file in files:
        for message in file.message_type:
            found[file.package, message.name] = described(message, file.package)
    tables, _ = wire._parse()
    missing = []
    for package, content in tables.items():
        for name, fields in content["messages"].items():
            expected = {}
            for text in fields:
                number, field, kind, repeated, _ = wire._FIELD.match(text).groups()
                expected[int(number)] = (field, kind.rsplit(".", 1)[-1], bool(repeated))
            if (package, name) not in found:
                missing.append(name)
                continue
            assert found[package, name] == expected, name
    # Messages that never cross the client port may be left out.
    assert set(missing) <= {"DowngradeVersionTestRequest", "User", "Role", "LeaseCheckpointResponse"}, missing


def test_services(files):
    found = {}
    for file in files:
        for service in file.service:
            for method in service.method:
                found["/%s.%s/%s" % (file.package, service.name, method.name)] = (
                    method.input_type.rsplit(".", 1)[-1], method.output_type.rsplit(".", 1)[-1],
                    method.client_streaming, method.server_streaming)
    expected = {m.path: (m.request.DESCRIPTOR.name, m.response.DESCRIPTOR.name, m.client_streams, m.server_streams)
                for m in wire.METHODS.values()}
    if not found:
        pytest.skip("the proto files define no services")
    assert found == expected
