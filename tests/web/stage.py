"""An appliance with its dashboard, the people who sign in there, agents at work, and a real Chromium to look with."""

from __future__ import annotations

import http.client
import re
import ssl
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, sync_playwright

from lab.laboratory import Lab
from tests.whole_machine.scene import Client, Scene

PASSWORD: Final = "a password of one's own"
ROLES: Final = {"vera": "viewer", "dana": "approver", "adam": "administrator"}
# How long a browser on a busy machine may take for anything.
PATIENCE_SECONDS: Final = 30.0
# Quietly: no sandbox as root, nothing that goes anywhere by itself.
BROWSER: Final = ("--no-sandbox", "--disable-quic", "--disable-background-networking", "--no-first-run")
# What tries to run wherever it gets to be markup, an attribute, a script's text or an address.
PAYLOAD: Final = """"'><img src=x onerror=window.pwned=1><script>window.pwned=1</script>{{7*7}}"""
POLICY: Final = f"""
rules:
  - id: session
    reason: everybody needs a session
    allow:
      - actions: [connect]
        kinds: [database, session, setting]
  - id: work
    reason: an executor carries out its plan
    allow:
      - actions: [read, insert, update]
        kinds: [table, setting]
  - id: payroll
    reason: >-
      payroll is nobody's business {PAYLOAD}
    advice: >-
      ask {PAYLOAD}
    deny:
      - actions: [read, insert, update, delete]
        kinds: [table]
        objects: [public.payroll]
  - id: deletions
    reason: >-
      what is deleted cannot be had back {PAYLOAD}
    hold:
      - actions: [delete]
        kinds: [table]
    approvers: [dba]
    seconds: 120
  - id: cards
    reason: card numbers are for nobody
    mask:
      - objects: [public.customers]
        fields: [card_number]
        with: {{kind: keep_last, keep: 4}}
"""


@dataclass(slots=True)
class Answer:
    """What a page answered."""

    status: int
    headers: Mapping[str, str]
    text: str

    def field(self, name: str) -> str:
        """The value of the first hidden field of that name."""
        found = re.search(rf'name="{name}" value="([^"]*)"', self.text)
        assert found is not None, f"no field {name}"
        return found[1]


@dataclass(slots=True)
class Caller:
    """A program at the dashboard, which can lie about everything a browser cannot."""

    port: int
    trust: ssl.SSLContext
    cookie: str = ""
    csrf: str = ""

    def ask(self, method: str, path: str, form: Mapping[str, str] | bytes | None = None, **changed: str | None) -> Answer:
        """One request, as a browser would send it but for the headers in `changed` (None leaves one out)."""
        headers: dict[str, str | None] = {"Host": f"127.0.0.1:{self.port}"}
        if self.cookie:
            headers["Cookie"] = f"__Host-sluicegate={self.cookie}"
        body = None
        if form is not None:
            body = form if isinstance(form, bytes) else urlencode(form).encode()
            headers |= {
                "Content-Type": "application/x-www-form-urlencoded",
                "Origin": f"https://127.0.0.1:{self.port}",
                "Sec-Fetch-Site": "same-origin",
            }
        headers |= {name.replace("_", "-"): value for name, value in changed.items()}
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=self.trust, timeout=15)
        try:
            connection.request(method, path, body, {name: value for name, value in headers.items() if value is not None})
            response = connection.getresponse()
            found = Answer(response.status, dict(response.headers.items()), response.read().decode())
        finally:
            connection.close()
        cookie = re.search(r"__Host-sluicegate=([^;]*)", found.headers.get("set-cookie", ""))
        if cookie is not None:
            self.cookie = cookie[1].strip('"')
        return found

    def begin(self, path: str) -> int:
        """The status of an answer that may have no end."""
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=self.trust, timeout=15)
        try:
            cookie = {"Cookie": f"__Host-sluicegate={self.cookie}"} if self.cookie else {}
            connection.request("GET", path, headers=cookie)
            return connection.getresponse().status
        finally:
            connection.close()

    def get(self, path: str, **changed: str | None) -> Answer:
        return self.ask("GET", path, None, **changed)

    def post(self, path: str, form: Mapping[str, str], **changed: str | None) -> Answer:
        return self.ask("POST", path, {"csrf": self.csrf, **form}, **changed)

    def sign_in(self, name: str, password: str) -> Answer:
        found = self.post("/sign-in", {"name": name, "password": password})
        if found.status == 303:
            page = self.get("/password")
            self.csrf = page.field("csrf")
        return found


class Aside(Scene):
    """A scene that asks control in a thread of its own: Playwright has a loop running in ours."""

    def ask(self, verb: str, **arguments: Any) -> Any:
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(super().ask, verb, **arguments).result()

    @property
    def clients(self) -> list[Client]:
        return list(self._clients)


@dataclass(slots=True)
class Stage:
    """Everything together. `reported` is what pages complained of: errors of scripts and refusals of the content policy."""

    scene: Scene
    port: int
    trust: ssl.SSLContext
    browser: Browser = field(init=False)
    states: dict[str, Any] = field(default_factory=dict)
    reported: list[str] = field(default_factory=list)
    contexts: list[BrowserContext] = field(default_factory=list)

    @property
    def lab(self) -> Lab:
        return self.scene.lab

    @property
    def address(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def caller(self, name: str | None = None) -> Caller:
        """A program that is signed in as that person, or nobody."""
        one = Caller(self.port, self.trust)
        if name is not None:
            one.cookie = self.states[name]
            one.csrf = one.get("/password").field("csrf")
        return one

    def page(self, name: str | None, path: str = "/approvals", **options: Any) -> Page:
        """A page in a browser of its own, signed in as that person."""
        context = self.browser.new_context(
            ignore_https_errors=True, **{"viewport": {"width": 1280, "height": 800}, **options}
        )
        self.contexts.append(context)
        if name is not None:
            context.add_cookies(
                [
                    {
                        "name": "__Host-sluicegate",
                        "value": self.states[name],
                        "domain": "127.0.0.1",
                        "path": "/",
                        "secure": True,
                        "httpOnly": True,
                        "sameSite": "Strict",
                    }
                ]
            )
        page = context.new_page()
        page.set_default_timeout(PATIENCE_SECONDS * 1000)
        page.on("console", lambda message: self._note(message))
        page.on("pageerror", lambda error: self.reported.append(f"script: {error}"))
        page.goto(self.address + path)
        return page

    def _note(self, message: ConsoleMessage) -> None:
        # An answer that is not 200 is told there as well; tests look at those themselves.
        if message.type == "error" and "status of" not in message.text and "net::ERR" not in message.text:
            self.reported.append(f"console: {message.text}")

    def hold(self, statement: str, **options: Any) -> Any:
        """A client whose command waits, and its approval."""
        client = self.scene.client(**options)
        client.begin(statement)
        return client, self.scene.held(statement[:30])

    def clean(self) -> None:
        """After a test: no client, no page, nothing that waits."""
        for context in self.contexts:
            context.close()
        self.contexts.clear()
        for client in self.scene.clients:
            # A connection must not be closed under the thread that waits on it.
            if client.is_waiting:
                client.break_off()
                client.outcome()
        self.scene.leave()
        deadline = time.monotonic() + 10
        while self.scene.ask("approvals.list")["approvals"]:
            assert time.monotonic() < deadline, "an approval of a client that left still waits"
            time.sleep(0.02)


@contextmanager
def play() -> Iterator[Stage]:
    """The stage, with one person of each role signed in."""
    with Lab("web") as lab, lab.open_dashboard() as listening:
        policies = lab.appliance_folder / "policies"
        policies.mkdir()
        policies.chmod(0o755)
        (policies / "shop.yaml").write_text(POLICY)
        port = listening.getsockname()[1]
        lab.configure(policies, dashboard={"listen": f"127.0.0.1:{port}"})
        lab.configuration.chmod(0o644)
        lab.start_appliance(dashboard=listening)
        scene = Aside(lab, policies)
        authority = lab.run_sluicegate("authority", "show").stdout
        stage = Stage(scene, port, ssl.create_default_context(cadata=authority))
        for name, role in ROLES.items():
            first = scene.ask("people.add", name=name, role=role, groups=["dba"] if role == "approver" else [])["password"]
            caller = stage.caller()
            assert caller.sign_in(name, first).headers["location"] == "/password"
            chosen = caller.post("/password", {"old": first, "new": PASSWORD, "again": PASSWORD})
            assert chosen.status == 303, chosen.text
            stage.states[name] = caller.cookie
        # A browser is started last and ended first: nothing of the lab is made or removed while its loop runs.
        with sync_playwright() as playwright:
            stage.browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=list(BROWSER))
            try:
                yield stage
            finally:
                scene.leave()
                stage.browser.close()


def first_password(stage: Stage) -> Path:
    """Where the first administrator's one-time password is kept."""
    return Path(stage.lab.appliance_folder, "state", "control", "first-password")
