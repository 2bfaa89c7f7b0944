"""Every address, asked by everybody: nobody signed in, somebody with a one-time password, and each role."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi.routing import APIRoute
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from appliance.log import Log
from appliance.parties import Endpoint
from appliance.settings import DashboardSettings
from tests.web.stage import Caller, Stage, play
from ui.web.application import build_application
from ui.web.control import Control

pytestmark = pytest.mark.real

WHO = ("nobody", "newcomer", "vera", "dana", "adam")
# What each of WHO is answered. A page leads to signing in, or to choosing a password, with 303.
READ = (303, 303, 200, 200, 200)
NONE = (303, 303, 404, 404, 404)
OPEN = (200, 200, 200, 200, 200)
ANSWER = (303, 303, 403, 409, 409)
MANAGE = (303, 303, 403, 403, 409)
API = (401, 403, 200, 200, 200)
API_NONE = (401, 403, 404, 404, 404)
API_ANSWER = (401, 403, 403, 409, 409)
SEEN = {"seen": "0" * 64, "reason": "because"}
COMMAND = {"agent": "no-one", "phase": "plan", "resource": "shop", "database": "shop", "command": "select 1"}
TABLE: dict[tuple[str, str], tuple[tuple[int, ...], dict[str, str] | None]] = {
    ("GET", "/"): ((303,) * 5, None),
    ("GET", "/sign-in"): ((200, 303, 303, 303, 303), None),
    ("GET", "/enter"): (OPEN, None),
    ("GET", "/password"): ((303, 200, 200, 200, 200), None),
    ("GET", "/events"): (API, None),
    ("GET", "/approvals"): (READ, None),
    ("GET", "/approvals/{approval}"): (NONE, None),
    ("GET", "/flows"): (READ, None),
    ("GET", "/flows/{flow}"): (NONE, None),
    ("GET", "/policy"): (READ, None),
    ("GET", "/health"): (READ, None),
    ("GET", "/people"): ((303, 303, 403, 403, 200), None),
    ("GET", "/static/{name}"): ((404,) * 5, None),
    ("POST", "/sign-in"): ((401,) * 5, {"name": "no-one", "password": "wrong"}),
    ("POST", "/enter"): ((401,) * 5, {"ticket": "wrong"}),
    ("POST", "/password"): ((303, 400, 400, 400, 400), {"old": "x", "new": "y", "again": "z"}),
    ("POST", "/sign-out"): ((303,) * 5, {}),
    ("POST", "/approvals/{approval}/approve"): (ANSWER, SEEN),
    ("POST", "/approvals/{approval}/reject"): (ANSWER, SEEN),
    ("POST", "/approvals/{approval}/edit"): (ANSWER, SEEN | {"text": "select 1"}),
    ("POST", "/approvals/{approval}/modify"): ((303, 303, 403, 404, 404), SEEN),
    ("POST", "/policy/explain"): ((303, 303, 403, 200, 200), COMMAND),
    ("POST", "/policy/reload"): ((303, 303, 403, 403, 200), {}),
    ("POST", "/people"): (MANAGE, {"name": "No Name", "role": "viewer"}),
    ("POST", "/people/{person}/change"): (MANAGE, {"role": "viewer"}),
    ("POST", "/people/{person}/reset"): (MANAGE, {}),
    ("POST", "/people/{person}/remove"): (MANAGE, {}),
    ("GET", "/api/openapi.json"): (API, None),
    ("GET", "/api/session"): (API, None),
    ("GET", "/api/approvals"): (API, None),
    ("GET", "/api/approvals/{approval}"): (API_NONE, None),
    ("GET", "/api/flows"): (API, None),
    ("GET", "/api/flows/live"): (API, None),
    ("GET", "/api/flows/{flow}"): (API_NONE, None),
    ("GET", "/api/policy"): (API, None),
    ("GET", "/api/health"): (API, None),
    ("POST", "/api/approvals/{approval}/approve"): (API_ANSWER, SEEN),
    ("POST", "/api/approvals/{approval}/reject"): (API_ANSWER, SEEN),
    ("POST", "/api/approvals/{approval}/edit"): (API_ANSWER, SEEN | {"text": "select 1"}),
    ("POST", "/api/approvals/{approval}/preview"): (API_ANSWER, {"text": "select 1"}),
    ("POST", "/api/policy/explain"): (API_ANSWER, COMMAND),
}
# Few enough for a suite; what they are made from differs at each run.
EXAMPLES = 6


def routes(router: Any, prefix: str = "") -> set[tuple[str, str]]:
    """All that the application answers to. Fails where something is neither an address nor a list of them."""
    found: set[tuple[str, str]] = set()
    for route in router.routes:
        if isinstance(route, APIRoute):
            found |= {(method, prefix + route.path) for method in route.methods - {"HEAD"}}
        else:
            found |= routes(route.original_router, prefix + route.include_context.prefix)
    return found


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with play() as one:
        yield one


def caller(stage: Stage, who: str) -> Caller:
    """A session of its own, so that it may be ended."""
    one = stage.caller()
    if who == "newcomer":
        name = f"new-{secrets.token_hex(4)}"
        once = stage.scene.ask("people.add", name=name, role="administrator", groups=[])["password"]
        assert one.sign_in(name, once).headers["location"] == "/password"
    elif who != "nobody":
        one.post("/enter", {"ticket": stage.scene.ask("session.ticket", name=who)["ticket"]})
        one.csrf = one.get("/password").field("csrf")
    return one


def ask(one: Caller, method: str, path: str, form: dict[str, str] | None) -> int:
    place = path.replace("{approval}", "a-none").replace("{flow}", "none").replace("{person}", "no-one")
    if path == "/events":
        return one.begin(place)
    if method == "GET":
        return one.get(place.replace("{name}", "none.js")).status
    if path.startswith("/api/"):
        body = json.dumps(form).encode()
        return one.ask(method, place, body, **{"Content-Type": "application/json", "X-CSRF-Token": one.csrf}).status
    return one.post(place, form or {}).status


def test_every_address_has_its_row(tmp_path: Path) -> None:
    settings_ = DashboardSettings(Endpoint("127.0.0.1", 8443))
    doors, _ = build_application(Control(str(tmp_path / "none.sock")), settings_, Log("dashboard"))
    assert routes(doors._inner) == set(TABLE)  # type: ignore[attr-defined]


@pytest.mark.parametrize("who", WHO)
def test_everybody_is_answered_as_the_table_says(stage: Stage, who: str) -> None:
    one = caller(stage, who)
    last = ("POST", "/sign-out")
    for method, path in [*(row for row in TABLE if row != last), last]:
        wanted, form = TABLE[method, path]
        assert ask(one, method, path, form) == wanted[WHO.index(who)], (method, path)
    if who != "nobody":
        assert one.get("/password").status == 303, "a session outlived its sign-out"


def test_what_changes_something_is_not_got(stage: Stage) -> None:
    one = caller(stage, "adam")
    for path in {path for method, path in TABLE if method == "POST"} - {path for method, path in TABLE if method == "GET"}:
        assert ask(one, "GET", path, None) == 405, path


@pytest.mark.parametrize("who", WHO)
def test_programs_find_the_api_as_it_is_described(stage: Stage, who: str, tmp_path: Path) -> None:
    described = json.loads(caller(stage, "vera").get("/api/openapi.json").text)
    trusted = tmp_path / "authority.pem"
    trusted.write_text(stage.lab.run_sluicegate("authority", "show").stdout)
    one = caller(stage, who)
    headers = {"Origin": stage.address, "Sec-Fetch-Site": "same-origin"}
    if one.cookie:
        headers |= {"Cookie": f"__Host-sluicegate={one.cookie}", "X-CSRF-Token": one.csrf}
    checks = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
    for found in schemathesis.openapi.from_dict(described).get_all_operations():
        operation = found.ok()

        @given(case=operation.as_strategy())
        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
        )
        def fits(case: schemathesis.Case) -> None:
            response = case.call(base_url=stage.address, headers=headers, verify=str(trusted))
            case.validate_response(response, checks=checks)
            assert response.status_code != 200 or who not in ("nobody", "newcomer")
            assert response.headers["content-security-policy"][0].startswith("default-src 'none'")

        fits()
