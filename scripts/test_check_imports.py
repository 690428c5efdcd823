"""Tests of check-imports.py on small packages that break one rule each."""

import importlib.util
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

SCRIPT = pathlib.Path(__file__).resolve().parent / "check-imports.py"
spec = importlib.util.spec_from_file_location("check_imports", SCRIPT)
check_imports = importlib.util.module_from_spec(spec)
spec.loader.exec_module(check_imports)


def target(name, dependencies=(), kind="regular", products=()):
    return {
        "name": name,
        "type": kind,
        "dependencies": [{"byName": [dependency, None]} for dependency in dependencies]
        + [{"product": [product, "package", None, None]} for product in products],
    }


def sound_dump():
    return {"targets": [
        target("CUv", kind="system"),
        target("Fleet"),
        target("Wire", ["Fleet"], products=["SwiftProtobuf"]),
        target("UvLoop", ["CUv"]),
        target("AgentShell", ["Fleet", "UvLoop"], products=["Logging"]),
        target("fermata", ["AgentShell"], kind="executable"),
        target("FleetTests", ["Fleet"], kind="test"),
        target("UvLoopTests", ["UvLoop", "CUv"], kind="test"),
    ]}


SOUND_FILES = {
    "Sources/Fleet/A.swift": "public struct A {}\n",
    "Sources/Wire/B.swift": "public import Fleet\nimport SwiftProtobuf\n",
    "Sources/Wire/Generated/C.swift": "public import Foundation\nimport SwiftProtobuf\n",
    "Sources/UvLoop/D.swift": "import CUv\nimport Glibc\n",
    "Sources/AgentShell/E.swift":
        "internal import Fleet\nimport Logging\n@preconcurrency import UvLoop\nimport Foundation\n",
    "Sources/fermata/F.swift": "import AgentShell\n",
    "Tests/FleetTests/G.swift": "import Testing\nimport Foundation\n@testable import Fleet\n",
    "Tests/UvLoopTests/H.swift": "import CUv\nimport UvLoop\n",
}


class CheckImports(unittest.TestCase):
    def breaches(self, files=None, change=None):
        """Breaches of the sound package with `files` added and `change` made to its dump."""
        dump = sound_dump()
        if change:
            change({entry["name"]: entry for entry in dump["targets"]}, dump["targets"])
        with tempfile.TemporaryDirectory() as directory:
            root = pathlib.Path(directory)
            for path, text in {**SOUND_FILES, **(files or {})}.items():
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_text(text)
            return check_imports.check(dump, root)

    def expect(self, expected, files=None, change=None):
        found = self.breaches(files, change)
        self.assertEqual(len(found), 1, found)
        self.assertIn(expected, found[0])

    def test_a_sound_package_has_no_breach(self):
        self.assertEqual(self.breaches(), [])

    def test_a_pure_target_imports_no_system_library(self):
        for module in ["Foundation", "FoundationEssentials", "Glibc", "Dispatch",
                       "Synchronization"]:
            self.expect(
                f"Sources/Fleet/X.swift:2: Fleet is pure and imports {module}",
                {"Sources/Fleet/X.swift": f"\nimport {module}\n"})

    def test_every_way_of_writing_an_import_is_seen(self):
        for line in ["import Foundation", "  public import Foundation", "import struct Glibc.stat",
                     "@preconcurrency import Dispatch", "internal import Foundation // why",
                     "@_spi(X) public import Foundation.NSString", "import Swift; import Glibc",
                     "#if canImport(Glibc)\nimport Glibc\n#endif", "/* a */ import Foundation",
                     'let a = "/*"\nimport Foundation', "import\tFoundation",
                     'let a = #"\\"#; import Foundation', "/* /* */ */ import Glibc"]:
            with self.subTest(line):
                found = self.breaches({"Sources/Fleet/X.swift": line + "\n"})
                self.assertEqual(len(found), 1, found)

    def test_comments_and_strings_import_nothing(self):
        text = '''// import Foundation
        /* import Glibc
        import Dispatch /* nested */
        import Foundation */
        let a = """
        import Foundation
        print(1)
        """
        let b = "import Foundation"; let c = "\\\\"; let d = #"import "Glibc"#
        let e = "print(ContinuousClock.now)"
        '''
        self.assertEqual(self.breaches({"Sources/Fleet/X.swift": text}), [])

    def test_a_pure_target_uses_no_clock_random_environment_or_output(self):
        for code in ["ContinuousClock().now", "SuspendingClock()", "Int.random(in: 0..<3)",
                     "list.shuffled()", "list.randomElement()", "print(1)", "debugPrint(x)",
                     "CommandLine.arguments", "SystemRandomNumberGenerator()",
                     "Double.random(in: 0...1)", "backloop.random(in: 0...50)"]:
            with self.subTest(code):
                self.expect("is pure and uses", {"Sources/Wire/X.swift": f"let x = {code}\n"})
        for code in ["list.randomElement(using: &g)", "Int.random(in: 0..<3, using: &g)",
                     "loop.random(in: 0...50)", "struct GuestCommandLine {}", "blueprint(1)", "value.print(1)"]:
            with self.subTest(code):
                self.assertEqual(self.breaches({"Sources/Wire/X.swift": code + "\n"}), [])
        self.assertEqual(self.breaches({"Sources/AgentShell/X.swift": "print(1)\n"}), [])

    def test_a_pure_target_may_log_unless_it_only_says_what_is_true(self):
        def logs(name):
            def change(named, _):
                named[name]["dependencies"].append({"product": ["Logging", "package", None, None]})
            return change

        def sound(_, entries):
            entries.append(target("SessionCore", ["Wire"], products=["Logging"]))
        self.assertEqual(self.breaches(
            {"Sources/SessionCore/X.swift": "public import Logging\n"}, sound), [])
        for name in ["Fleet", "Wire"]:
            self.expect(f"{name} depends on Logging", change=logs(name))

    def test_a_pure_target_depends_on_pure_ones_only(self):
        def on_shell(named, _):
            named["Fleet"]["dependencies"].append({"byName": ["UvLoop", None]})
        self.expect("Fleet is pure and depends on the shell UvLoop", change=on_shell)

        def on_yarn(named, _):
            named["Wire"]["dependencies"].append({"product": ["Yarn", "yarn", None, None]})
        self.expect("depends on Yarn, which is no pure library", change=on_yarn)

    def test_a_new_target_is_pure_unless_named(self):
        def add(_, targets):
            targets.append(target("Fresh"))
        self.expect("Fresh is pure and imports Foundation",
                    {"Sources/Fresh/A.swift": "import Foundation\n"}, add)

    def test_only_uvloop_sees_c(self):
        self.expect("the C module CUv is imported",
                    {"Sources/AgentShell/X.swift": "import CUv\n"})

        def declare(named, _):
            named["AgentShell"]["dependencies"].append({"target": ["CUv", None]})
        self.expect("AgentShell depends on the C module CUv", change=declare)

    def test_nothing_imports_an_executable(self):
        def declare(named, _):
            named["UvLoop"]["dependencies"].append({"byName": ["fermata", None]})
        self.expect("depends on the executable fermata", change=declare)
        self.expect("the executable fermata is imported",
                    {"Tests/FleetTests/X.swift": "@testable import fermata\n"})

    def test_every_import_is_declared(self):
        self.expect("Tests/FleetTests/X.swift:1: Wire is no declared dependency of FleetTests",
                    {"Tests/FleetTests/X.swift": "import Wire\n"})
        self.expect("Unheard is no declared dependency",
                    {"Sources/AgentShell/X.swift": "import Unheard\n"})

    def test_nothing_is_exported_again(self):
        self.expect("Fleet is re-exported",
                    {"Sources/AgentShell/X.swift": "@_exported import Fleet\n"})

    def test_tests_libraries_stay_in_tests(self):
        self.expect("Testing is imported outside of tests",
                    {"Sources/AgentShell/X.swift": "import Testing\n"})

    def test_a_target_without_files_is_told(self):
        def add(_, targets):
            targets.append(target("Empty"))
        self.expect("target Empty has no Swift file", change=add)

    def test_the_exit_status_tells(self):
        with tempfile.TemporaryDirectory() as directory:
            root = pathlib.Path(directory)
            for path, text in SOUND_FILES.items():
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_text(text)
            (root / "dump.json").write_text(json.dumps(sound_dump()))
            command = [sys.executable, str(SCRIPT), "--package", directory,
                       "--dump", str(root / "dump.json")]
            self.assertEqual(subprocess.run(command, capture_output=True).returncode, 0)
            (root / "Sources/Fleet/X.swift").write_text("import Foundation\n")
            result = subprocess.run(command, capture_output=True, text=True)
            self.assertEqual(result.returncode, 1)
            self.assertEqual(
                result.stdout, "Sources/Fleet/X.swift:1: Fleet is pure and imports Foundation\n")


if __name__ == "__main__":
    unittest.main()
