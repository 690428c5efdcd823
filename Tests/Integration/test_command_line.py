"""The command line without a cluster: help, wrong use, certificates, a server that is not there."""
import json

from support import (BAD_INPUT, CANNOT_CREATE, UNAVAILABLE, USAGE, Scratch, fermata, make_pki)

COMMANDS = ["server", "agent", "notifier", "pki", "status", "hosts", "guests", "sets", "locks",
            "release", "plan", "rollout", "annotations", "availability"]


class Help(Scratch):
    def test_help_names_every_command_and_exit_code(self):
        result = fermata("--help")
        self.assertEqual(result.code, 0, str(result))
        for command in COMMANDS:
            self.assertIn(f"\n  {command} ", result.out)
        for code in ("64", "65", "69", "73", "76", "77"):
            self.assertIn(code, result.out)

    def test_every_command_explains_itself(self):
        for command in COMMANDS:
            result = fermata(command, "--help")
            self.assertEqual(result.code, 0, str(result))
            self.assertIn("USAGE", result.out.upper(), command)

    def test_wrong_use_is_told_with_its_own_exit_code(self):
        for arguments in (["nonsense"], ["rollout", "start"], ["status", "--output", "xml"],
                          ["rollout", "show", "abc"],
                          ["plan", "--release", "r", "--deadline", "31s"],
                          ["plan", "--release", "r", "--deadline", "never"]):
            self.assertFails(fermata(*arguments), USAGE, "fermata:")


class Certificates(Scratch):
    def test_an_authority_issues_certificates_that_say_who_it_is_for(self):
        pki = make_pki(self.directory / "pki", "demo")
        shown = fermata("pki", "show", pki / "agent-a.pem", "--output", "json").json
        self.assertEqual(shown["uri"], "fermata://demo/agent/a")
        self.assertFalse(shown["isAuthority"])
        self.assertEqual((pki / "agent-a.key").stat().st_mode & 0o077, 0)

    def test_an_authority_is_never_overwritten(self):
        pki = make_pki(self.directory / "pki", certificates=())
        before = (pki / "ca.pem").read_bytes()
        result = fermata("pki", "init", "--directory", pki, "--cluster", "other")
        self.assertFails(result, CANNOT_CREATE, "ca.")
        self.assertEqual((pki / "ca.pem").read_bytes(), before)

    def test_an_unknown_role_is_refused(self):
        pki = make_pki(self.directory / "pki", certificates=())
        self.assertFails(fermata("pki", "issue", "king", "x", "--directory", pki), USAGE, "role")

    def test_no_authority_is_told_with_what_to_do(self):
        result = fermata("pki", "issue", "agent", "a", "--directory", self.directory)
        self.assertFails(result, BAD_INPUT, "pki init")


class NoServer(Scratch):
    def test_a_server_that_is_not_there(self):
        pki = make_pki(self.directory / "pki", certificates=("operator-alice",))
        result = fermata("status", "--server", "127.0.0.1:9", "--timeout", "3",
                         "--credentials", pki / "operator-alice")
        self.assertFails(result, UNAVAILABLE, "127.0.0.1:9")
        self.assertEqual(result.out, "")

    def test_missing_credentials_are_told_with_how_to_make_them(self):
        self.assertFails(fermata("status"), USAGE, "--credentials", "pki issue operator")

    def test_annotations_of_a_database_that_is_not_there(self):
        result = fermata("annotations", "--database", self.directory / "none.db")
        self.assertFails(result, BAD_INPUT, "none.db")
        self.assertFalse((self.directory / "none.db").exists())
