#!/usr/bin/env python3
"""Generates proto-spec/messages.md: every message, field, enum and value, as tables.

    scripts/generate-reference.py            writes the file
    scripts/generate-reference.py --check    writes nothing; exits 1 if the committed file is not
                                             what the sources give

The words come from the comments of proto-spec/fermata.proto; kinds, directions and answers from the
table in section 6 of proto-spec/README.md. So each is written once.

Fails, with FILE: WHAT for each, if anything in the schema has no comment, if the table and the
schema do not fit, or if a comment of RefusalCode does not say what its asker should do.

Needs protoc (Debian: protobuf-compiler) and google.protobuf (Debian: python3-protobuf).
"""

import argparse
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

try:
    from google.protobuf import descriptor_pb2
except ImportError:
    sys.exit(
        f"generate-reference: {sys.executable} has no google.protobuf: run apt-get install "
        "python3-protobuf and use /usr/bin/python3")

SPEC = pathlib.Path(__file__).resolve().parent.parent / "proto-spec"
OUTPUT = SPEC / "messages.md"
PACKAGE = ".fermata.v1."

Field = descriptor_pb2.FieldDescriptorProto
TYPE_NAMES = {
    number: name[len("TYPE_"):].lower() for name, number in Field.Type.items()}

# Where descriptor.proto keeps the parts of a file, a message and an enum: paths of comments.
FILE_MESSAGE, FILE_ENUM, FILE_SYNTAX = 4, 5, 12
MESSAGE_FIELD, MESSAGE_NESTED, MESSAGE_ENUM, MESSAGE_ONEOF = 2, 3, 4, 8
ENUM_VALUE = 2


class Schema:
    """fermata.proto with its comments, and what is wrong with them."""

    def __init__(self, file):
        self.problems = []
        self.comments = {
            tuple(location.path): location.leading_comments
            for location in file.source_code_info.location}
        self.header = self.comments.get((FILE_SYNTAX,), "")
        if not self.header:
            self.problems.append("fermata.proto: no comment above its syntax")
        # By name without the package, in the order of the file; a nested one after its outer one.
        self.messages = {}
        self.enums = {}
        for index, message in enumerate(file.message_type):
            self._add(message, "", (FILE_MESSAGE, index))
        for index, enum in enumerate(file.enum_type):
            self._add_enum(enum, "", (FILE_ENUM, index))
        # In the order of the file, which the descriptor does not keep between messages and enums.
        lines = {tuple(location.path): location.span[0]
                 for location in file.source_code_info.location}
        everything = [*self.messages.values(), *self.enums.values()]
        self.order = sorted(everything, key=lambda each: lines[each.path])

    def comment(self, path, what):
        """The comment's lines, without the space before each."""
        text = self.comments.get(path, "")
        lines = [line.strip() for line in text.strip().split("\n")]
        if not any(lines):
            self.problems.append(f"fermata.proto: {what} has no comment")
        return lines

    def _add(self, message, prefix, path):
        name = prefix + message.name
        self.messages[name] = Message(self, message, name, path)
        for index, nested in enumerate(message.nested_type):
            self._add(nested, name + ".", path + (MESSAGE_NESTED, index))
        for index, enum in enumerate(message.enum_type):
            self._add_enum(enum, name + ".", path + (MESSAGE_ENUM, index))

    def _add_enum(self, enum, prefix, path):
        name = prefix + enum.name
        self.enums[name] = Enum(self, enum, name, path)


class Message:
    def __init__(self, schema, message, name, path):
        self.name, self.path = name, path
        self.comment = " ".join(schema.comment(path, f"message {name}"))
        self.oneofs = {}
        for index, oneof in enumerate(message.oneof_decl):
            # `optional` is a oneof of its own for protoc.
            members = [field for field in message.field
                       if field.HasField("oneof_index") and field.oneof_index == index]
            if not any(field.proto3_optional for field in members):
                self.oneofs[index] = (oneof.name, " ".join(
                    schema.comment(path + (MESSAGE_ONEOF, index), f"oneof {name}.{oneof.name}")))
        self.rows = [
            Row(schema, self, field, path + (MESSAGE_FIELD, index))
            for index, field in enumerate(message.field)]


class Row:
    """A field, as its table shows it."""

    def __init__(self, schema, message, field, path):
        self.number, self.name = field.number, field.name
        comment = " ".join(schema.comment(path, f"field {message.name}.{field.name}"))
        is_required = comment.startswith("Required.")
        self.meaning = comment.removeprefix("Required.").strip()
        self.type = (
            field.type_name.removeprefix(PACKAGE) if field.type_name else TYPE_NAMES[field.type])
        self.is_named_type = bool(field.type_name)
        self.is_list = field.label == Field.LABEL_REPEATED
        if self.is_list:
            self.presence = "not empty" if is_required else "may be empty"
        elif field.HasField("oneof_index") and not field.proto3_optional:
            self.presence = f"one of `{message.oneofs[field.oneof_index][0]}`"
        elif is_required:
            self.presence = "required"
        elif field.proto3_optional or field.type == Field.TYPE_MESSAGE:
            self.presence = "optional"
        else:
            self.presence = {
                Field.TYPE_STRING: "may be empty", Field.TYPE_BYTES: "may be empty",
                Field.TYPE_BOOL: "may be false",
            }.get(field.type, "may be 0")


class Enum:
    def __init__(self, schema, enum, name, path):
        self.name, self.path = name, path
        self.comment = " ".join(schema.comment(path, f"enum {name}"))
        self.prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", enum.name).upper() + "_"
        # (number, name without the prefix, lines of the comment)
        self.values = [
            (value.number, value.name.removeprefix(self.prefix),
             schema.comment(path + (ENUM_VALUE, index), f"value {value.name}"))
            for index, value in enumerate(enum.value)]


class Kind:
    def __init__(self, number, name, direction, answer):
        self.number, self.name, self.direction, self.answer = number, name, direction, answer


# ---- Reading ------------------------------------------------------------------------------------


def read_schema():
    if shutil.which("protoc") is None:
        sys.exit("generate-reference: protoc is not installed: run apt-get install "
                 "protobuf-compiler")
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory) / "fermata.bin"
        subprocess.run(
            ["protoc", f"--proto_path={SPEC}", f"--descriptor_set_out={path}",
             "--include_source_info", "fermata.proto"], check=True)
        files = descriptor_pb2.FileDescriptorSet.FromString(path.read_bytes())
    return Schema(files.file[0])


def read_kinds(schema):
    """The rows of README's table of kinds, in the order of numbers."""
    text = (SPEC / "README.md").read_text(encoding="utf-8")
    section = re.search(r"^## 6\. .*?(?=^## )", text, re.MULTILINE | re.DOTALL)
    rows = re.findall(
        r"^\| (\d+) \| (\w+) \| ([^|]+) \| ([^|]+) \|$", section.group(0) if section else "",
        re.MULTILINE)
    if not rows:
        schema.problems.append("README.md: no table of kinds in section 6")
    kinds = [Kind(int(number), *(cell.strip() for cell in rest)) for number, *rest in rows]
    kinds.sort(key=lambda kind: kind.number)
    for kind in kinds:
        if kind.name not in schema.messages:
            schema.problems.append(f"README.md: section 6 has {kind.name}, fermata.proto has not")
    known = {kind.name for kind in kinds}
    known |= {row.type for message in schema.messages.values() for row in message.rows}
    for name in schema.messages.keys() - known:
        schema.problems.append(
            f"README.md: section 6 has no {name}, and no message of fermata.proto contains it")
    return kinds


# ---- Writing ------------------------------------------------------------------------------------


def cell(text):
    return text.replace("|", "\\|")


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


class Writer:
    def __init__(self, schema, kinds):
        self.schema, self.kinds = schema, kinds
        self.kind_of = {kind.name: kind for kind in kinds}
        self.used_in = {}
        for message in schema.messages.values():
            for row in message.rows:
                if row.is_named_type:
                    self.used_in.setdefault(row.type, []).append((message.name, row.name))

    def heading(self, name):
        kind = self.kind_of.get(name)
        return f"{kind.number} {name}" if kind else name

    def link(self, name, text=None):
        # As GitHub makes an anchor of a heading.
        anchor = self.heading(name).lower().replace(" ", "-").replace(".", "")
        return f"[{text or name}](#{anchor})"

    def direction(self, text):
        """`agent →S` of README as a sentence's part."""
        if text == "both, all":
            return "both ways, between a server and any client"
        parts = []
        for part in text.split("; "):
            if part.endswith("→S"):
                parts.append(f"{part.removesuffix('→S').strip()} → server")
            else:
                roles = part.removeprefix("S→").strip()
                parts.append(f"server → {'any client' if roles == 'all' else roles}")
        return "; ".join(parts)

    def answer(self, text):
        if text == "–":
            return "none"
        return re.sub(
            r"[A-Z]\w+", lambda match: self.link(match.group(0))
            if match.group(0) in self.schema.messages else match.group(0), text)

    def fields(self, message):
        if not message.rows:
            return ["No fields."]
        lines = []
        for name, comment in message.oneofs.values():
            must = "exactly one" if comment.startswith("Required.") else "at most one"
            meaning = comment.removeprefix("Required.").strip()
            lines += [f"`{name}`, {must} of the fields marked with it: {meaning}", ""]
        rows = []
        for row in sorted(message.rows, key=lambda row: row.number):
            kind = self.link(row.type) if row.is_named_type else row.type
            rows.append([
                str(row.number), f"`{row.name}`", f"list of {kind}" if row.is_list else kind,
                row.presence, cell(row.meaning)])
        return lines + table(["No.", "Field", "Type", "Presence", "Meaning and bounds"], rows)

    def where(self, name):
        places = [
            f"{self.link(message)}.`{field}`" for message, field in self.used_in.get(name, [])]
        return [f"In {', '.join(places)}.", ""] if places else []

    def kind_section(self, kind):
        message = self.schema.messages[kind.name]
        return [
            f"### {self.heading(kind.name)}", "", message.comment, "",
            f"- Direction: {self.direction(kind.direction)}",
            f"- Answer: {self.answer(kind.answer)}", "", *self.fields(message), ""]

    def message_section(self, message):
        return [
            f"### {message.name}", "", message.comment, "", *self.where(message.name),
            *self.fields(message), ""]

    def enum_section(self, enum):
        lines = [
            f"### {enum.name}", "",
            f"{enum.comment} In the schema each name begins with `{enum.prefix}`.", "",
            *self.where(enum.name)]
        if enum.name == "RefusalCode":
            return lines + self.refusals(enum) + [""]
        rows = [[str(number), name, cell(" ".join(words))] for number, name, words in enum.values]
        return lines + table(["No.", "Value", "Meaning"], rows) + [""]

    def refusals(self, enum):
        rows = []
        for number, name, words in enum.values:
            match = re.fullmatch(r"(.*?)(?: Asker: (.*) Exit code (\d+)\.)?", " ".join(words))
            meaning, advice, code = match.groups()
            if number != 0 and advice is None:
                self.schema.problems.append(
                    f"fermata.proto: {name} does not end with 'Asker: … Exit code N.'")
            advice = advice[:1].upper() + advice[1:] if advice else "–"
            rows.append([str(number), name, cell(meaning), cell(advice), code or "–"])
        return table(
            ["No.", "Value", "Meaning", "What the asker should do", "Exit code of `fermata`"],
            rows)

    def conventions(self):
        """The second half of the schema's header: the words that all comments use."""
        lines = [line.strip() for line in self.schema.header.strip().split("\n")]
        start = next((index for index, line in enumerate(lines) if line.startswith("- ")), 0)
        out = []
        for line in lines[start:]:
            if line.startswith("- ") or not line or not out or not out[-1]:
                out.append(re.sub(r"^- ([^:]+):", r"- **\1**:", line))
            else:
                out[-1] += " " + line
        return out

    def page(self):
        lines = [
            "<!-- Made by scripts/generate-reference.py from fermata.proto and README.md: change "
            "those, then run it. -->",
            "",
            "# Every message of the Fermata protocol", "",
            "What travels in the frames of [README.md](README.md), field by field. This page is "
            "made from the comments of `fermata.proto` and from the table of kinds in README.md; "
            "the rules of frames, correlations and sessions are there.", "",
            "- [Words](#words)", "- [Frames by kind](#frames-by-kind)",
            "- [Refusals](#refusalcode)", "- [Vocabulary](#vocabulary)", "",
            "## Words", "", *self.conventions(), "",
            "The column *Presence* says: **required**, or for a list **not empty**, as above; "
            "**optional**: may be absent, and the meaning says what that means; **may be 0**, "
            "**false** or **empty**: a field that is left out has that value, which is a value "
            "like others; **one of**: which of those fields is there says what is meant.", "",
            "## Frames by kind", "",
        ]
        rows = [
            [str(kind.number), self.link(kind.name), self.direction(kind.direction),
             self.answer(kind.answer)] for kind in self.kinds]
        lines += table(["Kind", "Message", "Direction", "Answer"], rows) + [""]
        for kind in self.kinds:
            lines += self.kind_section(kind)
        lines += [
            "## Vocabulary", "",
            "Messages that are parts of others, and enums, in the order of the schema.", ""]
        for part in self.schema.order:
            if isinstance(part, Enum):
                lines += self.enum_section(part)
            elif part.name not in self.kind_of:
                lines += self.message_section(part)
        return "\n".join(lines).rstrip("\n") + "\n"


def main():
    parser = argparse.ArgumentParser(
        description="Generates proto-spec/messages.md from fermata.proto and README.md.")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 if the file is out of date")
    arguments = parser.parse_args()

    schema = read_schema()
    kinds = read_kinds(schema)
    page = "" if schema.problems else Writer(schema, kinds).page()
    if schema.problems:
        for problem in schema.problems:
            print(f"generate-reference: {problem}", file=sys.stderr)
        return 1
    if not arguments.check:
        OUTPUT.write_text(page, encoding="utf-8")
        return 0
    committed = OUTPUT.read_text(encoding="utf-8") if OUTPUT.exists() else ""
    if committed != page:
        print("generate-reference: proto-spec/messages.md is not what its sources give: run "
              "scripts/generate-reference.py and commit the result", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
