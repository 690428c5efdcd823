#!/usr/bin/env python3
"""Checks who imports whom: the pure core, thin shells, and C in one place only.

The rules, for every Swift file below Sources/ and Tests/:
  1. A pure target depends on pure targets and pure libraries only.
  2. A pure target imports no system library, and uses no clock, random source, environment or
     output. Chance comes from an event loop that it is handed (`loop.random`).
  3. Only UvLoop (and its tests) imports a C module.
  4. Nothing imports an executable; only tests depend on one, to run it.
  5. Every import is a declared dependency of the target; none is re-exported.
  6. The targets that only say what is true (NO_LOG) do not log at all.

A target is pure unless it is named in SHELLS below, so that a new one is held to the rules from its
first file. Compilers do not check this: they find a module that any other target has built.

Usage: check-imports.py [--package DIRECTORY] [--dump FILE]
Exit status: 0 if all is well, 1 after printing FILE:LINE: MESSAGE for each breach.
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys
import tempfile

# They carry out what the pure targets decide.
SHELLS = {
    "UvLoop", "LogStore", "SessionShell", "LeaderShell", "AgentShell", "NotifierShell",
    "NoticeServer", "SimulationShell",
}
# The one target that sees C.
C_TARGET = "UvLoop"
# Libraries that only compute, as far as we use them. Logging is one since a `Logger` is handed in and
# only told things: what becomes of them is its owner's affair, and nothing is read back. Mustache turns
# a template and values into text; its reading of directories is left alone.
PURE_PRODUCTS = {"SwiftProtobuf", "OrderedCollections", "Yams", "Logging", "Mustache"}
# Pure targets whose values say all that there is to say: whoever uses them logs, if anybody does.
NO_LOG = {"Fleet", "Edges", "Wire", "Coordination", "AgentCore", "LogCore"}
# They come with the toolchain, so that no target declares them.
SYSTEM_MODULES = {
    "Swift", "Foundation", "FoundationEssentials", "FoundationNetworking", "Glibc", "Musl",
    "Dispatch", "Synchronization", "Testing", "XCTest", "os",
}
# What protoc writes; nobody can choose its imports.
GENERATED = re.compile(r"/Generated/")

IMPORT = re.compile(
    r"^\s*(?P<attributes>(?:@\w+(?:\([^)]*\))?\s+)*)"
    r"(?:(?:public|package|internal|private|fileprivate)\s+)?import\s+"
    r"(?:(?:typealias|struct|class|enum|protocol|let|var|func|actor)\s+)?"
    r"(?P<module>[A-Za-z_]\w*)"
)
# `loop.random` is an `EventLoop`'s, which is handed in.
IMPURE = re.compile(
    r"\b(?P<what>ContinuousClock|SuspendingClock|SystemRandomNumberGenerator|CommandLine(?=\.)"
    r"|getenv(?=\()|readLine(?=\())|(?<![\w.])(?P<print>print|debugPrint)(?=\()"
    r"|(?P<random>\.(?:shuffled|shuffle|randomElement)\(\)|(?<!\bloop)\.random\((?![^()]*\busing:))"
)
TOKEN = re.compile(
    r'//[^\n]*|/\*|\*/|(?P<hashes>#*)(?P<quotes>"""|")', re.DOTALL
)


def strip(text):
    """The code of `text` with comments and strings blanked, line by line as it was."""
    out = []
    index = 0

    def blank(piece):
        out.append(re.sub(r"[^\n]", " ", piece))

    while True:
        match = TOKEN.search(text, index)
        if not match:
            out.append(text[index:])
            return "".join(out)
        out.append(text[index:match.start()])
        end = match.end()
        if match.group() == "/*":
            depth = 1
            while depth and end < len(text):
                following = re.compile(r"/\*|\*/").search(text, end)
                if not following:
                    end = len(text)
                    break
                depth += 1 if following.group() == "/*" else -1
                end = following.end()
        elif match.group("quotes"):
            end = string_end(text, end, match.group("hashes"), match.group("quotes"))
        blank(text[match.start():end])
        index = end


def string_end(text, index, hashes, quotes):
    """Where the string that was opened before `index` ends."""
    closing = quotes + hashes
    escape = "\\" + hashes
    while index < len(text):
        if text.startswith(escape, index):
            index += len(escape) + 1
        elif text.startswith(closing, index):
            return index + len(closing)
        elif quotes == '"' and text[index] == "\n":
            # Not ours to complain about; the next line begins afresh.
            return index
        else:
            index += 1
    return len(text)


class Target:
    """One target of the package, from `swift package dump-package`."""

    def __init__(self, dump):
        self.name = dump["name"]
        self.kind = dump["type"]
        self.targets = set()
        self.products = set()
        for dependency in dump["dependencies"]:
            for key, value in dependency.items():
                if key == "product":
                    self.products.add(value[0])
                else:
                    self.targets.add(value[0])
        self.directory = dump.get("path") or (
            ("Tests/" if self.kind == "test" else "Sources/") + self.name)

    @property
    def is_pure(self):
        return self.kind == "regular" and self.name not in SHELLS

    @property
    def sees_c(self):
        return self.name in (C_TARGET, C_TARGET + "Tests")


def check(dump, root):
    """All breaches of the rules, each `FILE:LINE: MESSAGE`, in the order of targets and files."""
    targets = {target["name"]: Target(target) for target in dump["targets"]}
    breaches = []
    for target in targets.values():
        breaches += check_dependencies(target, targets)
        if target.kind == "system":
            continue
        directory = root / target.directory
        files = sorted(directory.rglob("*.swift"))
        if not files and target.kind != "test":
            breaches.append(f"{target.directory}:1: target {target.name} has no Swift file")
        for file in files:
            text = file.read_text(encoding="utf-8")
            breaches += check_file(target, targets, file.relative_to(root), text)
    return breaches


def check_dependencies(target, targets):
    breaches = []

    def breach(message):
        breaches.append(f"Package.swift:1: {target.name} {message}")

    # A dependency by name may be a target of ours or a product of the same name.
    for name in sorted(target.targets | target.products):
        other = targets.get(name)
        if other is None:
            if target.is_pure and name not in PURE_PRODUCTS:
                breach(f"is pure and depends on {name}, which is no pure library")
            elif name == "Logging" and target.name in NO_LOG:
                breach("depends on Logging; it must not log, whoever uses it may")
        elif other.kind == "system":
            if not target.sees_c:
                breach(f"depends on the C module {name}; only {C_TARGET} may")
        elif other.kind == "executable":
            # A test may have one built, to run it; importing it is a breach all the same.
            if target.kind == "test":
                continue
            breach(f"depends on the executable {name}; move what it needs to a library")
        elif other.kind == "test":
            breach(f"depends on the tests {name}")
        elif target.is_pure and not other.is_pure:
            breach(f"is pure and depends on the shell {name}")
    return breaches


def check_file(target, targets, path, text):
    breaches = []
    generated = bool(GENERATED.search("/" + path.as_posix()))
    for number, line in enumerate(strip(text).split("\n"), start=1):
        for statement in line.split(";"):
            match = IMPORT.match(statement)
            if match:
                for message in check_import(
                        target, targets, match.group("module"), match.group("attributes"),
                        generated):
                    breaches.append(f"{path}:{number}: {message}")
        if target.is_pure and not generated:
            match = IMPURE.search(line)
            if match:
                breaches.append(
                    f"{path}:{number}: {target.name} is pure and uses {match.group().strip('.')}; "
                    "let the shell pass the value in")
    return breaches


def check_import(target, targets, module, attributes, generated):
    messages = []
    if "@_exported" in attributes:
        messages.append(f"{module} is re-exported; import it where it is used")
    if module in SYSTEM_MODULES:
        is_test_library = module in ("Testing", "XCTest")
        if is_test_library and target.kind != "test":
            messages.append(f"{module} is imported outside of tests")
        elif target.is_pure and module != "Swift" and not generated and not is_test_library:
            messages.append(f"{target.name} is pure and imports {module}")
        return messages
    other = targets.get(module)
    if other is not None and other.kind == "system" and not target.sees_c:
        messages.append(f"the C module {module} is imported; only {C_TARGET} may")
    elif other is not None and other.kind == "executable":
        messages.append(f"the executable {module} is imported")
    elif module not in target.targets | target.products:
        messages.append(f"{module} is no declared dependency of {target.name}")
    elif target.is_pure:
        pure = other.is_pure if other is not None else module in PURE_PRODUCTS
        if not pure:
            messages.append(f"{target.name} is pure and imports {module}, which is not")
    return messages


def dump_package(root):
    # A scratch directory of its own: the usual one is locked while somebody builds.
    with tempfile.TemporaryDirectory() as scratch:
        result = subprocess.run(
            ["swift", "package", "--scratch-path", scratch, "dump-package"], cwd=root,
            stdout=subprocess.PIPE, check=True)
    return json.loads(result.stdout)


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--package", type=pathlib.Path,
                        default=pathlib.Path(__file__).resolve().parent.parent)
    parser.add_argument("--dump", type=pathlib.Path,
                        help="output of `swift package dump-package`, instead of running it")
    options = parser.parse_args(arguments)
    dump = json.loads(options.dump.read_text()) if options.dump else dump_package(options.package)
    breaches = check(dump, options.package)
    for breach in breaches:
        print(breach)
    if breaches:
        print(f"{len(breaches)} breaches of the import rule", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
