"""Webhooks and mail servers with certificates: whom a sink trusts, and what becomes of what it does not send."""
import subprocess

from support import fermata, wait_until  # first: it sets the path for the others

from sink_case import Authority, MailServer, Web, well, with_mount
from test_sinks import SinkCase


class Certificates(SinkCase):
    def setUp(self):
        super().setUp()
        self.ours, self.theirs = Authority(self.directory, "ours"), Authority(self.directory, "theirs")

    def web(self, context=None):
        web = Web(well, context)
        self.addCleanup(web.close)
        return web

    def mail(self, *arguments, **options):
        server = MailServer(*arguments, **options)
        self.addCleanup(server.close)
        return server

    def system_that_trusts(self, authority):
        """Runs a command so that the system's authorities are this one alone."""
        trusted = self.directory / "trusted"
        trusted.mkdir()
        for name in ("ca-certificates.crt", "one.pem"):
            (trusted / name).write_text(authority.file.read_text())
        subprocess.run(["openssl", "rehash", trusted], check=True, capture_output=True, timeout=60)
        return with_mount(trusted, "/etc/ssl/certs")

    def test_webhooks(self):
        right = self.web(self.ours.context("127.0.0.1"))
        elsewhere = self.web(self.ours.context("other.example"))
        stranger = self.web(self.theirs.context("127.0.0.1"))
        plain = self.web()
        mine = self.write("mine.pem", self.ours.file.read_text())
        sinks = "sinks:\n" + "".join(f"""
  - name: {name}
    webhook: {{url: "{url}", {"" if name == "of-system" else f"caFile: {mine}"}}}
    retry: {{first: 10ms, longest: 20ms, attempts: 3}}
""" for name, url in (("right", right.url), ("elsewhere", elsewhere.url), ("stranger", stranger.url),
                      ("of-system", stranger.url), ("plain", plain.url.replace("http:", "https:"))))
        inside = self.system_that_trusts(self.theirs)
        self.start_notifier(sinks, inside=inside)
        self.hold(["db-0", "db-1"], "2")
        ids = sorted(a["annotationId"] for a in self.annotations(2))
        wait_until(lambda: sorted(right.keys) == ids, 60, "the one that is trusted")
        reasons = self.wait_dead(elsewhere=2, stranger=2, plain=2)
        self.assertRegex(reasons["elsewhere"][0], "(?i)certificate.*127.0.0.1|127.0.0.1.*certificate")
        self.assertRegex(reasons["stranger"][0], "(?i)certificate")
        self.assertRegex(reasons["plain"][0], "(?i)ssl|tls")
        self.assertEqual((elsewhere.keys, plain.keys), ([], []))
        # By the sink that names no authority, and not by the one that names another.
        wait_until(lambda: sorted(stranger.keys) == ids, 60, "the one that the system trusts")
        # An operator sees why and corrects it.
        mine.write_text(self.ours.file.read_text() + self.theirs.file.read_text())
        self.end_server(self.notifier)
        self.start_notifier(inside=inside)
        done = self.replay("stranger")
        self.assertEqual(done, "2 will be sent again\n")
        wait_until(lambda: sorted(stranger.keys) == sorted(ids * 2), 60, "it to be sent")

    def replay(self, sink):
        return fermata("notifier", "dead-letters", "replay", "--database", self.database, "--sink",
                       sink).out

    def test_mail(self):
        ours = self.ours.context("127.0.0.1")
        servers = {
            "starttls": self.mail((ours, "starttls"), password="right"),
            "tls": self.mail((ours, "tls"), password="right"),
            "other-password": self.mail((ours, "starttls"), password="other"),
            "stranger": self.mail((self.theirs.context("127.0.0.1"), "starttls"), password="right"),
            "stranger-tls": self.mail((self.theirs.context("127.0.0.1"), "tls"), password="right"),
            "plain": self.mail(),
            "busy": self.mail((ours, "starttls"), password="right",
                              replies=["451 not yet", "452 full"]),
            "never": self.mail((ours, "starttls"), password="right", replies=["554 never"] * 9)}
        password = self.write("password", "right\n")
        self.start_notifier("sinks:\n" + "".join(f"""
  - name: {name}
    mail:
      server: "{server.place}"
      security: {"tls" if name.endswith("tls") and name != "starttls" else "starttls"}
      from: fermata@example.org
      to: [ops@example.org]
      user: fermata
      passwordFile: {password}
      caFile: {self.ours.file}
    retry: {{first: 10ms, longest: 20ms, attempts: 3, refusals: 2}}
""" for name, server in servers.items()))
        self.hold(["db-0"], "2")
        (told,) = [a["annotationId"] for a in self.annotations(1)]
        for name in ("starttls", "tls", "busy"):
            wait_until(lambda s=servers[name]: s.ids == [told], 60, f"{name} to have the mail")
            for _, envelope, session in servers[name].mails:
                self.assertEqual((envelope.mail_from, session.authenticated),
                                 ("fermata@example.org", True))
            self.assertEqual({login[1:] for login in servers[name].logins}, {("fermata", "right")})
        self.assertEqual([answer for answer, _, _ in servers["busy"].mails],
                         ["451 not yet", "452 full", "250 taken"])
        reasons = self.wait_dead(**{"other-password": 1, "stranger": 1, "stranger-tls": 1, "plain": 1,
                                    "never": 1})
        self.assertIn("535", reasons["other-password"][0])
        self.assertIn("554", reasons["never"][0])
        self.assertEqual(len(servers["never"].mails), 2)
        for name in ("stranger", "stranger-tls"):
            self.assertRegex(reasons[name][0], "(?i)certificate")
        self.assertRegex(reasons["plain"][0], "(?i)starttls")
        for name in ("stranger", "stranger-tls", "plain"):
            self.assertEqual((servers[name].logins, servers[name].mails), ([], []),
                             "neither a password nor a mail goes there")
        self.assertNotIn("right", self.log())


del SinkCase
