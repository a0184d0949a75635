"""Message classes for etcd's v3 API, built at import time from the table in wire.txt.

The table is independent of the server's proto files and of any client library, so every field, including those
newer than the python clients know, can be set and read exactly.
"""

import os
import re
from types import SimpleNamespace

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_TABLE = os.path.join(os.path.dirname(__file__), "wire.txt")
_SCALARS = {"bytes": 12, "string": 9, "int64": 3, "uint64": 4, "int32": 5, "uint32": 13, "bool": 8}
_FIELD = re.compile(r"(\d+) (\w+) ([\w.]+)(\*?)(?: \{(\w+)\})?$")
_IMPORTS = {
    "mvccpb": [], "authpb": [], "etcdserverpb": ["mvccpb", "authpb"],
    "v3lockpb": ["etcdserverpb"], "v3electionpb": ["etcdserverpb", "mvccpb"],
}


class Method:
    """One RPC: its gRPC path, its request and reply classes and which sides stream."""

    def __init__(self, path, request, response, client_streams, server_streams):
        self.path, self.request, self.response = path, request, response
        self.client_streams, self.server_streams = client_streams, server_streams


def _logical_lines():
    pending = ""
    with open(_TABLE, encoding="utf-8") as table:
        for raw in table:
            line = raw.rstrip()
            if not line or line.startswith("#"):
                continue
            if line.startswith("    "):
                pending += " " + line.strip()
                continue
            if pending:
                yield pending
            pending = line
    yield pending


def _parse():
    files, services, package, service = {}, [], None, None
    for line in _logical_lines():
        word, _, rest = line.strip().partition(" ")
        if line.startswith("  "):
            name, _, shape = line.strip().partition(": ")
            request, _, response = shape.partition(" -> ")
            services.append((package, service, name, request, response))
        elif word == "package":
            package = rest
            files[package] = {"messages": {}, "enums": {}}
        elif word == "service":
            service = rest
        elif word == "message":
            name, _, fields = rest.partition(":")
            files[package]["messages"][name] = [f for f in fields.strip().split(", ") if f]
        elif word == "enum":
            name, _, values = rest.partition(": ")
            files[package]["enums"][name] = [v.split(" ") for v in values.split(", ")]
    return files, services


def _add_enum(holder, name, values):
    enum = holder.enum_type.add(name=name)
    for number, label in values:
        enum.value.add(name=label, number=int(number))


def _resolve(package, message, name, files):
    """The full name and the kind of a field's type as seen from inside `message`."""
    if "." in name and name.split(".")[0] in files:
        other, _, inner = name.partition(".")
        return ".%s.%s" % (other, inner), inner in files[other]["enums"]
    for scope in (message + "." + name, name):
        if scope in files[package]["enums"]:
            return ".%s.%s" % (package, scope), True
        if scope in files[package]["messages"]:
            return ".%s.%s" % (package, scope), False
    raise KeyError(name)


def _build():
    files, services = _parse()
    pool = descriptor_pool.DescriptorPool()
    classes, methods = SimpleNamespace(), {}
    for package, imports in _IMPORTS.items():
        content = files[package]
        proto = descriptor_pb2.FileDescriptorProto(name=package + ".proto", package=package, syntax="proto3")
        proto.dependency.extend(other + ".proto" for other in imports)
        for name, values in content["enums"].items():
            if "." not in name:
                _add_enum(proto, name, values)
        for name, fields in content["messages"].items():
            message = proto.message_type.add(name=name)
            for enum_name, values in content["enums"].items():
                outer, _, inner = enum_name.partition(".")
                if inner and outer == name:
                    _add_enum(message, inner, values)
            oneofs = []
            for text in fields:
                number, field_name, kind, repeated, oneof = _FIELD.match(text).groups()
                field = message.field.add(name=field_name, number=int(number), label=3 if repeated else 1)
                if kind in _SCALARS:
                    field.type = _SCALARS[kind]
                else:
                    field.type_name, is_enum = _resolve(package, name, kind, files)
                    field.type = 14 if is_enum else 11
                if oneof:
                    if oneof not in oneofs:
                        oneofs.append(oneof)
                        message.oneof_decl.add(name=oneof)
                    field.oneof_index = oneofs.index(oneof)
        pool.Add(proto)
    factory = message_factory.MessageFactory(pool)
    for package in _IMPORTS:
        for name in files[package]["messages"]:
            setattr(classes, name, factory.GetPrototype(pool.FindMessageTypeByName(package + "." + name)))
    for package, service, name, request, response in services:
        streams = [side.startswith("stream ") for side in (request, response)]
        request, response = (side.replace("stream ", "") for side in (request, response))
        path = "/%s.%s/%s" % (package, service, name)
        methods[service + "." + name] = Method(path, getattr(classes, request), getattr(classes, response), *streams)
    return classes, methods


#: `M.PutRequest(...)`, `M.RangeResponse`, ...: one class per message.
M, METHODS = _build()


def _health():
    """grpc.health.v1.Health/Check, whose package is not etcd's."""
    pool = descriptor_pool.DescriptorPool()
    proto = descriptor_pb2.FileDescriptorProto(name="health.proto", package="grpc.health.v1", syntax="proto3")
    request = proto.message_type.add(name="HealthCheckRequest")
    request.field.add(name="service", number=1, label=1, type=9)
    response = proto.message_type.add(name="HealthCheckResponse")
    _add_enum(response, "ServingStatus", [(0, "UNKNOWN"), (1, "SERVING"), (2, "NOT_SERVING"), (3, "SERVICE_UNKNOWN")])
    response.field.add(name="status", number=1, label=1, type=14,
                       type_name=".grpc.health.v1.HealthCheckResponse.ServingStatus")
    pool.Add(proto)
    factory = message_factory.MessageFactory(pool)
    request, response = (factory.GetPrototype(pool.FindMessageTypeByName("grpc.health.v1." + n))
                         for n in ("HealthCheckRequest", "HealthCheckResponse"))
    M.HealthCheckRequest, M.HealthCheckResponse = request, response
    METHODS["Health.Check"] = Method("/grpc.health.v1.Health/Check", request, response, False, False)
    METHODS["Health.Watch"] = Method("/grpc.health.v1.Health/Watch", request, response, False, True)


_health()
