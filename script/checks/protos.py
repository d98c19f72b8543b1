"""Protos: everything carries a comment, names follow the API guidelines, zero means unspecified.

Works on descriptors as protoc writes them, so that no second parser of the language is needed.
"""
import os
import re
import subprocess
import tempfile

from google.protobuf import descriptor_pb2

SNAKE = re.compile(r"^[a-z][a-z0-9]*(_[a-z0-9]+)*$")
PASCAL = re.compile(r"^[A-Z][A-Za-z0-9]*$")
UPPER = re.compile(r"^[A-Z][A-Z0-9]*(_[A-Z0-9]+)*$")
# Field numbers inside descriptor.proto: they make up the paths that source locations speak of.
MESSAGE, ENUM, SERVICE = 4, 5, 6
FIELD, NESTED, NESTED_ENUM, ONEOF = 2, 3, 4, 8
VALUE, METHOD = 2, 2


def upper_snake(name):
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).upper()


class File:
    def __init__(self, descriptor):
        self.path = "proto/" + descriptor.name
        self.descriptor = descriptor
        self.locations = {tuple(location.path): location for location in descriptor.source_code_info.location}
        self.complaints = []

    def say(self, path, message):
        location = self.locations.get(path)
        self.complaints.append((self.path, location.span[0] + 1 if location else 1, message))

    def expect_comment(self, path, what):
        location = self.locations.get(path)
        if not location or not (location.leading_comments.strip() or location.trailing_comments.strip()):
            self.say(path, f"{what} has no comment")

    def expect_name(self, path, pattern, name, what, style):
        if not pattern.match(name):
            self.say(path, f"{what} {name} is not {style}")

    def message(self, path, message):
        if message.options.map_entry:
            return
        self.expect_comment(path, f"message {message.name}")
        self.expect_name(path, PASCAL, message.name, "message", "PascalCase")
        for index, field in enumerate(message.field):
            place = path + (FIELD, index)
            self.expect_comment(place, f"field {message.name}.{field.name}")
            self.expect_name(place, SNAKE, field.name, "field", "lower_snake_case")
        for index, oneof in enumerate(message.oneof_decl):
            if not any(field.proto3_optional and field.oneof_index == index for field in message.field):
                self.expect_name(path + (ONEOF, index), SNAKE, oneof.name, "oneof", "lower_snake_case")
        for index, nested in enumerate(message.nested_type):
            self.message(path + (NESTED, index), nested)
        for index, enum in enumerate(message.enum_type):
            self.enum(path + (NESTED_ENUM, index), enum)

    def enum(self, path, enum):
        self.expect_comment(path, f"enum {enum.name}")
        self.expect_name(path, PASCAL, enum.name, "enum", "PascalCase")
        for index, value in enumerate(enum.value):
            place = path + (VALUE, index)
            self.expect_name(place, UPPER, value.name, "enum value", "UPPER_SNAKE_CASE")
            unspecified = f"{upper_snake(enum.name)}_UNSPECIFIED"
            if value.number == 0:
                if value.name != unspecified:
                    self.say(place, f"value 0 of enum {enum.name} is {value.name}, not {unspecified}")
            else:
                self.expect_comment(place, f"enum value {value.name}")
                if value.name.startswith(upper_snake(enum.name) + "_"):
                    self.say(place, f"enum value {value.name} repeats the name of its enum: nest the enum instead")

    def service(self, path, service):
        self.expect_comment(path, f"service {service.name}")
        self.expect_name(path, PASCAL, service.name, "service", "PascalCase")
        for index, method in enumerate(service.method):
            place = path + (METHOD, index)
            self.expect_comment(place, f"rpc {method.name}")
            self.expect_name(place, PASCAL, method.name, "rpc", "PascalCase")
            if method.input_type.rsplit(".", 1)[-1] != method.name + "Request":
                self.say(place, f"rpc {method.name} takes {method.input_type}, not {method.name}Request")

    def check(self):
        folder = os.path.dirname(self.descriptor.name).replace("/", ".")
        if self.descriptor.package != folder:
            self.say((), f"package {self.descriptor.package} does not match its folder {folder}")
        for index, message in enumerate(self.descriptor.message_type):
            self.message((MESSAGE, index), message)
        for index, enum in enumerate(self.descriptor.enum_type):
            self.enum((ENUM, index), enum)
        for index, service in enumerate(self.descriptor.service):
            self.service((SERVICE, index), service)
        return self.complaints


def check(root, names, imports):
    """names: protos relative to `root`; imports: more folders for protoc. Yields (path, line, message)."""
    with tempfile.NamedTemporaryFile() as output:
        subprocess.run(["protoc", f"-I{root}", *(f"-I{folder}" for folder in imports), "--include_source_info",
                        f"--descriptor_set_out={output.name}", *names], check=True)
        descriptors = descriptor_pb2.FileDescriptorSet.FromString(output.read())
    for descriptor in descriptors.file:
        yield from File(descriptor).check()
