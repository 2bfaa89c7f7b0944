"""What every request must pass and every answer carries, told by the whole application with nobody behind it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import pytest
from starlette.types import Message

from appliance.log import Log
from appliance.parties import Endpoint
from appliance.settings import DashboardSettings
from ui.web.application import build_application
from ui.web.control import Control
from ui.web.doors import allowed_hosts, host_name
from ui.web.visits import way_back

OWN = {"host": "127.0.0.1:8443", "origin": "https://127.0.0.1:8443", "sec-fetch-site": "same-origin"}
FORM = {**OWN, "content-type": "application/x-www-form-urlencoded"}


@dataclass
class Said:
    status: int
    headers: dict[str, str]
    body: str


def ask(tmp_path: Path, method: str, path: str, headers: dict[str, str], body: bytes = b"", *, plain: bool = False) -> Said:
    """What the application says while control is away."""
    settings = DashboardSettings(Endpoint("127.0.0.1", 8443), ("gate.example",), is_plain=plain)
    sent: list[Message] = []

    async def run() -> None:
        application, _ = build_application(Control(str(tmp_path / "none.sock")), settings, Log("dashboard"))
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Message:
            return messages.pop(0) if messages else {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            sent.append(message)

        place, _, query = path.partition("?")
        await application(
            {
                "type": "http",
                "asgi": {"version": "3.0"},
                "http_version": "1.1",
                "method": method,
                "scheme": "https",
                "path": place,
                "raw_path": place.encode(),
                "query_string": query.encode(),
                "root_path": "",
                "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
                "client": ("127.0.0.1", 5),
                "server": ("127.0.0.1", 8443),
            },
            receive,
            send,
        )

    asyncio.run(run())
    start = sent[0]
    return Said(
        start["status"],
        {name.decode(): value.decode() for name, value in start["headers"]},
        b"".join(one.get("body", b"") for one in sent[1:]).decode(),
    )


@pytest.mark.parametrize("path", ["/sign-in", "/nowhere", "/api/health", "/static/none.js", "/approvals"])
def test_every_answer_confines_its_page(tmp_path: Path, path: str) -> None:
    found = ask(tmp_path, "GET", path, {"host": "127.0.0.1:8443"})
    policy = found.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    for words in ("frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'", "require-trusted-types-for 'script'"):
        assert words in policy
    assert found.headers["x-content-type-options"] == "nosniff"
    assert found.headers["x-frame-options"] == "DENY"
    assert found.headers["cache-control"] == "no-store"
    assert "server" not in found.headers


@pytest.mark.parametrize(
    ("host", "plain", "is_told"), [("gate.example", False, True), ("localhost", False, False), ("gate.example", True, False)]
)
def test_browsers_insist_on_tls_for_a_name_that_is_ours_alone(tmp_path: Path, host: str, plain: bool, is_told: bool) -> None:
    found = ask(tmp_path, "GET", "/sign-in", {"host": host}, plain=plain)
    assert ("strict-transport-security" in found.headers) == is_told


@pytest.mark.parametrize("host", ["127.0.0.1:8443", "localhost:9999", "[::1]:8443", "gate.example", "GATE.example.:8443"])
def test_it_answers_by_its_names(tmp_path: Path, host: str) -> None:
    assert ask(tmp_path, "GET", "/nowhere", {"host": host}).status == 404


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "gate.example@evil.example", "evil.example/127.0.0.1", "", "a:b", "10.0.0.1"],
)
def test_it_answers_by_no_other_name(tmp_path: Path, host: str) -> None:
    assert ask(tmp_path, "GET", "/nowhere", {"host": host}).status == 421


@pytest.mark.parametrize(
    "changed",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "https://127.0.0.1:8444"},
        {"origin": "https://127.0.0.1"},
        {"origin": ""},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
    ],
    ids=str,
)
@pytest.mark.parametrize("path", ["/sign-in", "/sign-out", "/approvals/a-1/approve", "/people", "/api/policy/explain"])
def test_what_changes_something_comes_from_our_own_pages(tmp_path: Path, path: str, changed: dict[str, str]) -> None:
    assert ask(tmp_path, "POST", path, {**FORM, **changed}, b"a=b").status == 403


def test_a_request_that_names_no_origin_changes_nothing(tmp_path: Path) -> None:
    found = ask(tmp_path, "POST", "/sign-in", {"host": "127.0.0.1:8443", "content-type": FORM["content-type"]}, b"a=b")
    assert found.status == 403


def test_other_sites_may_lead_here_and_embed_nothing(tmp_path: Path) -> None:
    other = {"host": "127.0.0.1:8443", "sec-fetch-site": "cross-site"}
    assert ask(tmp_path, "GET", "/static/page.js", {**other, "sec-fetch-mode": "no-cors"}).status == 403
    assert ask(tmp_path, "GET", "/api/approvals", {**other, "sec-fetch-mode": "cors"}).status == 403
    # The cookie comes only with what our own page asks for, so the page asks once more by itself.
    led = ask(tmp_path, "GET", "/approvals/a-1", {**other, "sec-fetch-mode": "navigate"})
    assert (led.status, 'http-equiv="refresh"' in led.body) == (200, True)
    again = ask(tmp_path, "GET", "/approvals/a-1", {**other, "sec-fetch-site": "same-origin", "sec-fetch-mode": "navigate"})
    assert (again.status, again.headers["location"]) == (303, "/sign-in?next=%2Fapprovals%2Fa-1")


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "TRACE", "OPTIONS"])
def test_no_other_method_does_anything(tmp_path: Path, method: str) -> None:
    assert ask(tmp_path, method, "/approvals", OWN).status == 405


def test_while_control_is_away_a_page_says_so_and_no_more(tmp_path: Path) -> None:
    found = ask(tmp_path, "GET", "/approvals", {"host": "127.0.0.1:8443", "cookie": "__Host-sluicegate=x"})
    assert found.status == 503
    assert "does not answer" in found.body
    assert "Traceback" not in found.body
    assert "none.sock" not in found.body


def test_a_form_of_another_kind_is_no_form(tmp_path: Path) -> None:
    found = ask(tmp_path, "POST", "/sign-in", {**OWN, "content-type": "text/plain"}, b"name=a&password=b")
    assert found.status == 403


@pytest.mark.parametrize(
    ("wanted", "way"),
    [
        ("/flows?show=held", "/flows?show=held"),
        ("/approvals/a-1", "/approvals/a-1"),
        ("https://evil.example/", "/approvals"),
        ("//evil.example/", "/approvals"),
        ("/\\evil.example", "/approvals"),
        ("/%0d%0aSet-Cookie: a", "/approvals"),
        ("/a\r\nb", "/approvals"),
        ("javascript:alert(1)", "/approvals"),
        ("/sign-out", "/approvals"),
        ("", "/approvals"),
    ],
)
def test_signing_in_leads_to_our_own_pages_only(wanted: str, way: str) -> None:
    assert way_back(wanted) == way


def test_names_of_the_settings_are_its_names() -> None:
    found = allowed_hosts(DashboardSettings(Endpoint("10.0.0.7", 443), ("gate.example",)))
    assert found == {"10.0.0.7", "gate.example"}
    assert host_name("[fd00::5]:443") == "fd00::5"


@pytest.mark.parametrize("path", ["/sign-in", "/enter"])
def test_whoever_is_not_signed_in_sends_no_long_form(tmp_path: Path, path: str) -> None:
    # Taking "%28" apart takes a second for each few megabytes.
    assert ask(tmp_path, "POST", path, FORM, b"name=" + b"%28" * 30_000).status == 413


@pytest.mark.parametrize(("plain", "status"), [(False, 403), (True, 503)])
def test_a_page_without_tls_is_ours_behind_a_proxy_alone(tmp_path: Path, plain: bool, status: int) -> None:
    changed = {**FORM, "origin": "http://127.0.0.1:8443"}
    assert ask(tmp_path, "POST", "/sign-in", changed, b"name=a&password=b", plain=plain).status == status


@pytest.mark.parametrize(
    "name",
    [
        "a" * 300,
        "\u0661" * 300,
        "a" * 9000,
        "../pages.py",
        "..%2fpages.py",
        ".hidden",
        "style.css/../../pages.py",
        "style.css%00",
    ],
)
def test_files_of_the_pages_alone_are_served(tmp_path: Path, name: str) -> None:
    assert ask(tmp_path, "GET", f"/static/{name}", {"host": "127.0.0.1:8443"}).status == 404
