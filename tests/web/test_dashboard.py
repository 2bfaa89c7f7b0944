"""The dashboard as people meet it: real Chromium, the real appliance, a real PostgreSQL behind it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from playwright.sync_api import Page, expect

from lab.database import PORT
from lab.machines import TARGET
from tests.web.stage import PASSWORD, PATIENCE_SECONDS, PAYLOAD, Caller, Stage, first_password, play
from tests.whole_machine.scene import until

pytestmark = pytest.mark.real
expect.set_options(timeout=PATIENCE_SECONDS * 1000)

PAGES = ("/approvals", "/flows", "/flows?show=live", "/policy", "/health")


@pytest.fixture(scope="module")
def whole() -> Iterator[Stage]:
    with play() as stage:
        yield stage


@pytest.fixture
def stage(whole: Stage) -> Iterator[Stage]:
    yield whole
    whole.clean()
    reported, whole.reported[:] = list(whole.reported), []
    assert reported == []


def opened(stage: Stage, name: str, words: str) -> Page:
    """An inbox in which the approval with these words is open."""
    page = stage.page(name)
    page.locator("#rows .row", has_text=words).first.locator("a").click()
    expect(page.locator("#statement")).to_contain_text(words)
    return page


def test_the_first_sign_in_asks_for_a_password_of_ones_own(stage: Stage) -> None:
    once = first_password(stage).read_text().split()[-1]
    page = stage.page(None)
    assert page.url.endswith("/sign-in")
    page.fill("[name=name]", "admin")
    page.fill("[name=password]", once)
    page.keyboard.press("Enter")
    page.wait_for_url("**/password")
    page.goto(stage.address + "/approvals")
    assert page.url.endswith("/password"), "a one-time password opened a page"
    page.fill("[name=old]", once)
    page.fill("[name=new]", PASSWORD)
    page.fill("[name=again]", PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_url("**/approvals")
    assert not first_password(stage).exists()


def test_a_link_signs_in_once_and_by_a_button(stage: Stage) -> None:
    link = re.search(r"https://\S+/enter\?ticket=\S+", stage.lab.run_sluicegate("dashboard").stdout)
    assert link is not None
    path = link[0].removeprefix(stage.address)
    assert stage.caller().get(path).status == 200, "opening it is not using it"
    page = stage.page(None, path)
    page.keyboard.press("Enter")
    page.wait_for_url("**/approvals")
    again = stage.caller().post("/enter", {"ticket": path.partition("=")[2]})
    assert again.status == 401
    assert "used already" in again.text


def test_a_wrong_password_says_neither_which_half_was_wrong_nor_signs_in(stage: Stage) -> None:
    page = stage.page(None)
    page.fill("[name=name]", "nobody-here")
    page.fill("[name=password]", "wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("name or password are wrong")
    assert stage.browser.contexts[-1].cookies() == []


def test_a_hold_comes_up_on_an_open_inbox_by_itself(stage: Stage, record_property: pytest.RecordProperty) -> None:
    page = stage.page("dana")
    expect(page.locator("#rows")).to_contain_text("Nothing waits")
    page.wait_for_function("performance.getEntriesByName(location.origin + '/events').length >= 0")
    client = stage.scene.client()
    # Counted from before the agent sends it to when the browser has it on the page.
    page.evaluate(
        """() => { window.seen = new Promise((done) => {
            const look = () => { if (document.querySelector("#rows .row")) done(Date.now()); };
            new MutationObserver(look).observe(document.querySelector("#rows"), {childList: true}); }); }"""
    )
    began = time.time()
    client.begin("delete from staging where id = 1")
    took = page.evaluate("window.seen") / 1000 - began
    record_property("seconds_to_the_inbox", took)
    print(f"a hold was on an open inbox after {took * 1000:.0f} ms")
    expect(page.locator("#rows .row")).to_have_count(1)
    expect(page).to_have_title(re.compile(r"^\(1\) "))
    assert page.locator("#icon").get_attribute("href") == page.locator("#icon").get_attribute("data-waiting")


def test_approving_takes_the_keyboard_alone(stage: Stage) -> None:
    client, _ = stage.hold("delete from staging where id = 2")
    page = stage.page("dana")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    expect(page.locator("#statement")).to_contain_text("delete from staging where id = 2")
    page.keyboard.press("a")
    expect(page.get_by_role("button", name="Approve exactly this")).to_be_focused()
    assert client.is_waiting, "it ran before the second look"
    page.keyboard.press("Enter")
    expect(page.locator(".outcome")).to_contain_text("Approved by dana")
    assert client.outcome() == "DELETE 1"


def test_a_rejection_needs_a_reason_and_the_agent_reads_it(stage: Stage) -> None:
    client, _ = stage.hold("delete from staging where id = 3")
    page = opened(stage, "dana", "id = 3")
    page.keyboard.press("r")
    page.keyboard.press("Control+Enter")
    assert client.is_waiting, "it was rejected without a reason"
    page.keyboard.type("not on a Friday")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".outcome")).to_contain_text("Rejected by dana")
    error = client.outcome()
    assert isinstance(error, psycopg.Error)
    assert "not on a Friday" in str(error)


def test_a_changed_command_is_judged_while_one_types_and_runs_in_place(stage: Stage) -> None:
    client, _ = stage.hold("delete from staging where id > 3")
    before = stage.lab.admin("select count(*) from staging")[0][0]
    page = opened(stage, "dana", "id > 3")
    page.keyboard.press("m")
    editor = page.locator("#text")
    expect(editor).to_have_value("delete from staging where id > 3")
    expect(page.locator(".verdict .pill").first).to_have_text("unchanged")
    editor.fill("delete from payroll")
    expect(page.locator(".verdict .pill.danger").first).to_have_text("may not run")
    expect(page.locator(".verdict")).to_contain_text("payroll")
    editor.fill("delete from staging where id = 4")
    expect(page.locator(".verdict .pill.good").first).to_have_text("may run")
    assert [page.locator(".difference del").inner_text().strip(), page.locator(".difference ins").inner_text().strip()] == [
        "> 3",
        "= 4",
    ]
    page.keyboard.press("Control+Enter")
    expect(page.locator(".outcome")).to_contain_text("Modified by dana")
    assert client.outcome() == "DELETE 1"
    assert stage.lab.admin("select count(*) from staging")[0][0] == before - 1


def test_a_change_that_may_not_run_is_refused_and_the_question_stays_open(stage: Stage) -> None:
    client, _ = stage.hold("delete from staging where id = 5")
    page = opened(stage, "dana", "id = 5")
    page.keyboard.press("m")
    page.locator("#text").fill("delete from payroll")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("alert")).to_contain_text("Not taken")
    expect(page.locator("#text")).to_have_value("delete from payroll")
    assert client.is_waiting


def test_only_what_was_shown_is_answered(stage: Stage) -> None:
    client, case = stage.hold("delete from staging where id = 6")
    dana = stage.caller("dana")
    for verb, more in (("approve", {}), ("reject", {"reason": "no"}), ("edit", {"text": "select 1"})):
        found = dana.post(f"/approvals/{case['id']}/{verb}", {"seen": "0" * 64, **more})
        assert found.status == 409
        assert "not what you were shown" in found.text
    assert client.is_waiting


def test_who_comes_second_sees_how_it_stands(stage: Stage) -> None:
    client, case = stage.hold("delete from staging where id = 7")
    page = opened(stage, "dana", "id = 7")
    page.keyboard.press("a")
    page.locator("#approve [name=reason]").fill("half written")
    stage.scene.answer("reject", case, reason="somebody was faster")
    expect(page.locator(".outcome")).to_contain_text("Rejected by root")
    expect(page.locator("#rows .row")).to_have_count(0)
    assert isinstance(client.outcome(), psycopg.Error)
    found = stage.caller("dana").post(f"/approvals/{case['id']}/approve", {"seen": case["bound"]})
    assert found.status == 409
    assert "was rejected by root" in found.text


def test_the_blast_radius_arrives_on_the_open_page(stage: Stage) -> None:
    stage.hold("delete from staging where id > 40")
    page = opened(stage, "dana", "id > 40")
    expect(page.locator(".figures")).to_contain_text(re.compile(r"\d+ rows deleted"))


FORGED = [
    ({"Origin": "https://evil.example"}, 403),
    ({"Origin": "null"}, 403),
    ({"Origin": None, "Sec-Fetch-Site": None}, 403),
    ({"Sec-Fetch-Site": "cross-site"}, 403),
    ({"Sec-Fetch-Site": "same-site"}, 403),
    ({"Host": "evil.example"}, 421),
]


@pytest.mark.parametrize(("changed", "status"), FORGED, ids=lambda value: str(value))
def test_an_answer_from_elsewhere_is_none(stage: Stage, changed: dict[str, str | None], status: int) -> None:
    client, case = stage.hold("delete from staging where id = 8")
    dana = stage.caller("dana")
    found = dana.post(f"/approvals/{case['id']}/approve", {"seen": case["bound"]}, **changed)
    assert found.status == status
    assert client.is_waiting


@pytest.mark.parametrize("proof", ["", "wrong", "of-another"])
def test_an_answer_without_the_sessions_proof_is_none(stage: Stage, proof: str) -> None:
    client, case = stage.hold("delete from staging where id = 8")
    dana = stage.caller("dana")
    given = stage.caller("adam").csrf if proof == "of-another" else proof
    form = {"seen": case["bound"], "csrf": given}
    assert dana.post(f"/approvals/{case['id']}/approve", form).status == 403
    assert dana.post("/sign-out", {"csrf": given}).status == 403
    found = dana.ask(
        "POST",
        f"/api/approvals/{case['id']}/approve",
        b'{"seen": "%s"}' % case["bound"].encode(),
        **{"Content-Type": "application/json", "X-CSRF-Token": given},
    )
    assert found.status == 403
    assert client.is_waiting


def test_nobody_sees_anything_without_signing_in(stage: Stage) -> None:
    for path in (*PAGES, "/people", "/flows/x", "/approvals/a-22222"):
        assert stage.caller().get(path).headers["location"].startswith("/sign-in"), path
    for path in ("/api/approvals", "/api/openapi.json", "/api/health", "/events"):
        assert stage.caller().get(path).status == 401, path


@pytest.mark.parametrize(
    ("name", "verb", "status"),
    [
        ("vera", "approve", 403),
        ("vera", "reject", 403),
        ("vera", "edit", 403),
        ("vera", "modify", 403),
        ("dana", "approve", 303),
        ("adam", "approve", 303),
    ],
)
def test_who_may_answer(stage: Stage, name: str, verb: str, status: int) -> None:
    client, case = stage.hold("delete from staging where id = 9")
    form = {"seen": case["bound"], "reason": "because", "text": "select 1"}
    if verb == "modify":
        del form["text"]
    assert stage.caller(name).post(f"/approvals/{case['id']}/{verb}", form).status == status
    assert client.is_waiting if status == 403 else str(client.outcome()).startswith("DELETE")


def test_a_viewer_is_offered_nothing_to_answer_with(stage: Stage) -> None:
    stage.hold("delete from staging where id = 10")
    page = opened(stage, "vera", "id = 10")
    expect(page.locator(".decide")).to_contain_text("You are a viewer")
    assert page.locator(".decide button, .decide summary").count() == 0
    assert page.get_by_role("link", name="People").count() == 0
    page.keyboard.press("a")
    assert page.locator("#approve").count() == 0


def test_an_approver_of_another_group_is_offered_nothing_and_refused(stage: Stage) -> None:
    once = stage.scene.ask("people.add", name="sam", role="approver", groups=["security"])["password"]
    sam = stage.caller()
    sam.sign_in("sam", once)
    sam.post("/password", {"old": once, "new": PASSWORD, "again": PASSWORD})
    sam.csrf = sam.get("/password").field("csrf")
    stage.states["sam"] = sam.cookie
    client, case = stage.hold("delete from staging where id = 11")
    page = opened(stage, "sam", "id = 11")
    expect(page.locator(".decide")).to_contain_text("in dba answers this")
    found = sam.post(f"/approvals/{case['id']}/approve", {"seen": case["bound"]})
    assert found.status == 409
    assert "sam may not answer" in found.text
    assert client.is_waiting


def test_people_are_for_administrators(stage: Stage) -> None:
    for name, status in (("vera", 403), ("dana", 403), ("adam", 200)):
        assert stage.caller(name).get("/people").status == status
        assert stage.caller(name).post("/people", {"name": name + "2", "role": "viewer"}).status == status
    page = stage.page("adam", "/people")
    page.locator("form[action='/people'] [name=name]").fill("kim")
    page.get_by_role("button", name="Add", exact=True).click()
    once = page.locator(".secret").inner_text()
    kim = stage.caller()
    assert kim.sign_in("kim", once).headers["location"] == "/password"
    assert stage.caller("adam").post("/people/kim/remove", {}).status == 303
    assert kim.get("/password").headers["location"].startswith("/sign-in")


def test_what_agents_send_stays_text_on_every_page(stage: Stage) -> None:
    statement = f"delete from staging /* {PAYLOAD} */ where v = '{PAYLOAD.replace(chr(39), chr(39) * 2)}'"
    client, case = stage.hold(statement, application_name=PAYLOAD)
    assert stage.lab.psql("select 1", database=PAYLOAD).returncode
    with pytest.raises(psycopg.Error):
        stage.scene.client().run(f'select "{PAYLOAD.replace(chr(34), chr(34) * 2)}" from payroll')
    page = stage.page("adam")
    pages = [*PAGES, "/people", f"/approvals/{case['id']}", f"/flows/{case['flow']}", f"/flows?agent={'%3Cscript%3E'}"]
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    for path in pages:
        page.goto(stage.address + path)
        page.wait_for_load_state()
        assert page.evaluate("window.pwned") is None, path
        assert page.locator("img, main script").count() == 0, path
    page.goto(f"{stage.address}/approvals/{case['id']}")
    assert "<script>window.pwned=1</script>" in page.locator("#statement").inner_text()
    page.keyboard.press("r")
    page.keyboard.type(PAYLOAD)
    page.keyboard.press("Control+Enter")
    expect(page.locator(".outcome q")).to_have_text(PAYLOAD)
    assert isinstance(client.outcome(), psycopg.Error)
    assert page.evaluate("window.pwned") is None
    assert dialogs == []


def test_a_statement_reads_as_what_it_is(stage: Stage) -> None:
    # Right-to-left override, zero-width space, a Cyrillic letter in a name: Trojan Source.
    stage.hold("delete from staging where v = 'a\u202eb\u200bc' -- \u2066")
    page = opened(stage, "dana", "delete from staging")
    assert page.locator("#statement .unseen").all_inner_texts() == ["U+202E", "U+200B", "U+2066"]
    assert "\u202e" not in page.content()


def test_every_page_fits_a_phone(stage: Stage) -> None:
    long = "delete from staging where v in (" + ", ".join(f"'{'x' * 60}{number}'" for number in range(9)) + ")"
    _, case = stage.hold(long)
    page = stage.page("adam", viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    for path in (*PAGES, "/people", f"/approvals/{case['id']}", f"/flows/{case['flow']}"):
        page.goto(stage.address + path)
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, path
    page.goto(stage.address + "/approvals")
    page.locator("#rows .row a").click()
    expect(page.locator("#statement")).to_be_visible()
    expect(page.locator("#rows")).to_be_hidden()
    page.locator(".back").first.click()
    expect(page.locator("#rows")).to_be_visible()


# The least contrast of any text on the page with what is behind it (WCAG 2.2, 1.4.3), and whose it is.
FAINTEST = """() => {
  const parse = (text) => { const m = text.match(/[\\d.]+/g).map(Number); const s = text.startsWith("color(") ? 255 : 1;
    return [m[0] * s, m[1] * s, m[2] * s, m.length > 3 ? m[3] : 1]; };
  const light = ([r, g, b]) => { const f = (v) => { v /= 255;
      return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
    return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b); };
  let least = [99, ""];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.checkVisibility({checkOpacity: true, checkVisibilityCSS: true})) continue;
    const box = element.getBoundingClientRect();
    if (box.width < 2 || element.closest("textarea, option")) continue;
    let behind = element;
    while (behind && parse(getComputedStyle(behind).backgroundColor)[3] < 0.99) behind = behind.parentElement;
    const back = light(parse(behind ? getComputedStyle(behind).backgroundColor : "rgb(255, 255, 255)"));
    const front = light(parse(getComputedStyle(element).color));
    const ratio = (Math.max(back, front) + 0.05) / (Math.min(back, front) + 0.05);
    if (ratio < least[0]) least = [ratio, element.className + " " + element.textContent.slice(0, 40)];
  }
  return least; }"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_in_both_schemes(stage: Stage, scheme: str) -> None:
    _, case = stage.hold("delete from staging where id = 12 and v <> 'x' -- a remark")
    page = stage.page("adam", color_scheme=scheme)
    for path in (*PAGES, "/people", f"/approvals/{case['id']}", f"/flows/{case['flow']}"):
        page.goto(stage.address + path)
        ratio, whose = page.evaluate(FAINTEST)
        assert ratio >= 4.5, (path, whose)
    is_dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(246, 247, 248)"
    assert is_dark == (scheme == "dark")
    page.locator("#theme").click()
    assert (page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(246, 247, 248)") != is_dark


def test_an_open_page_goes_to_sign_in_when_its_session_ends(stage: Stage) -> None:
    stage.scene.ask("people.add", name="temp", role="viewer", groups=[])
    once = stage.scene.ask("people.reset", name="temp")["password"]
    temp = stage.caller()
    temp.sign_in("temp", once)
    temp.post("/password", {"old": once, "new": PASSWORD, "again": PASSWORD})
    stage.states["temp"] = temp.cookie
    page = stage.page("temp")
    expect(page.locator("#rows")).to_be_visible()
    stage.scene.ask("people.remove", name="temp")
    stage.hold("delete from staging where id = 13")
    page.wait_for_url("**/sign-in*")


def test_a_dead_dashboard_comes_back_and_stops_nobody(stage: Stage) -> None:
    client = stage.scene.client()
    page = stage.page("dana")
    (process,) = stage.scene.children("web")
    os.kill(process, signal.SIGKILL)
    assert client.run("select 1") == [(1,)]
    until(lambda: stage.scene.children("web") not in ([], [process]))
    client.begin("delete from staging where id = 14")
    expect(page.locator("#rows")).to_contain_text("id = 14", timeout=15_000)


def test_its_process_is_a_user_of_its_own_without_any_power(stage: Stage) -> None:
    (process,) = stage.scene.children("web")
    status = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    assert status["Uid"].split() == ["61003"] * 4
    assert status["Groups"].split() == []
    assert {int(status[f"Cap{which}"], 16) for which in ("Prm", "Eff", "Amb")} == {0}
    assert status["NoNewPrivs"].strip() == "1"


# As the dashboard's user, and where it is: what of the appliance, and of what is behind it, can be had.
INTRUDER = """
import json, os, socket, sys
run, state, pids, addresses = json.loads(sys.argv[1])
had = []
def attempt(name, act):
    try:
        act()
    except OSError:
        return
    had.append(name)
def talk(path):
    with socket.socket(socket.AF_UNIX) as one:
        one.settimeout(5)
        one.connect(path)
        one.sendall(b"\\0\\0\\0\\1x")
        one.recv(1)
for address, port in addresses:
    attempt(f"{address} {port}", lambda: socket.create_connection((address, port), timeout=2))
for name in os.listdir(run):
    path = os.path.join(run, name)
    attempt(f"write {name}", lambda: open(path, "ab"))
    if name.endswith(".sock"):
        attempt(f"talk {name}", lambda: talk(path))
attempt("a file in run", lambda: open(os.path.join(run, "mine"), "w"))
for name in os.listdir(state):
    attempt(f"list {name}", lambda: os.listdir(os.path.join(state, name)))
    attempt(f"a file in {name}", lambda: open(os.path.join(state, name, "mine"), "w"))
for pid in pids:
    attempt(f"signal {pid}", lambda: os.kill(pid, 0))
    attempt(f"memory of {pid}", lambda: open(f"/proc/{pid}/mem", "rb"))
    attempt(f"descriptors of {pid}", lambda: os.listdir(f"/proc/{pid}/fd"))
print(json.dumps(had))
"""


def test_whoever_takes_its_process_over_reaches_control_alone(stage: Stage) -> None:
    (process,) = stage.scene.children("web")
    folder = stage.lab.appliance_folder
    others = [*stage.scene.children("control"), *stage.scene.children("worker")]
    assert len(others) == 3
    asked = [
        f"{folder}/run",
        f"{folder}/state",
        others,
        [[TARGET.ipv4, PORT], [TARGET.ipv6, PORT], ["127.0.0.1", stage.port]],
    ]
    user = ("setpriv", "--reuid", "61003", "--regid", "61003", "--clear-groups", "--no-new-privs")
    found = subprocess.run(
        ["nsenter", "-t", str(process), "-m", "-n", "-r", *user, sys.executable, "-c", INTRUDER, json.dumps(asked)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert json.loads(found.stdout or "null") == ["talk control-people.sock"], found


def test_a_session_cookie_is_for_this_host_alone_and_for_no_script(stage: Stage) -> None:
    found = stage.caller().sign_in("dana", PASSWORD).headers["set-cookie"]
    words = {word.strip().lower() for word in found.split(";")[1:]}
    assert found.startswith("__Host-sluicegate=")
    assert {"secure", "httponly", "path=/", "samesite=strict"} <= words
    assert not any(word.startswith("domain") for word in words)


def test_signing_in_never_keeps_a_session_that_was_there_before(stage: Stage) -> None:
    caller = stage.caller()
    caller.sign_in("dana", PASSWORD)
    earlier = Caller(stage.port, stage.trust, caller.cookie)
    caller.sign_in("dana", PASSWORD)
    assert caller.cookie != earlier.cookie
    assert earlier.get("/approvals").status == 303


def test_what_is_too_much_is_refused(stage: Stage) -> None:
    dana = stage.caller("dana")
    many = {f"X-{number}": "1" for number in range(80)}
    assert dana.get("/approvals", **many).status == 431
    assert dana.ask("POST", "/sign-in", b"x=" + b"a" * (11 << 20)).status == 413


def test_a_request_with_two_lengths_is_the_last_of_its_connection(stage: Stage) -> None:
    head = (
        f"POST /sign-in HTTP/1.1\r\nHost: 127.0.0.1:{stage.port}\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    within = f"GET /sign-in HTTP/1.1\r\nHost: 127.0.0.1:{stage.port}\r\n\r\n"
    with stage.trust.wrap_socket(_connect(stage.port), server_hostname="127.0.0.1") as one:
        one.sendall(f"{head}0\r\n\r\n{within}".encode())
        said = b""
        while part := one.recv(65536):
            said += part
    assert said.startswith(b"HTTP/1.1 400")
    assert said.count(b"HTTP/1.1 ") == 1


def test_open_pages_have_a_bound(stage: Stage) -> None:
    dana = stage.caller("dana")
    pages = [stage.trust.wrap_socket(_connect(stage.port), server_hostname="127.0.0.1") for _ in range(14)]
    head = f"GET /events HTTP/1.1\r\nHost: 127.0.0.1:{stage.port}\r\nCookie: __Host-sluicegate={dana.cookie}\r\n\r\n"
    with ThreadPoolExecutor(14) as threads:
        for one in pages:
            one.sendall(head.encode())
        answers = list(threads.map(lambda one: one.recv(12), pages))
    for one in pages:
        one.close()
    assert answers.count(b"HTTP/1.1 200") == 12
    assert answers.count(b"HTTP/1.1 429") == 2


def _connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def test_what_is_asked_as_json_is_what_pages_show(stage: Stage) -> None:
    client, case = stage.hold("delete from staging where id = 15")
    dana = stage.caller("dana")
    assert case["id"] in dana.get("/api/approvals").text
    assert '"/api/approvals/{approval}/approve"' in dana.get("/api/openapi.json").text
    found = dana.ask(
        "POST",
        f"/api/approvals/{case['id']}/approve",
        b'{"seen": "%s"}' % case["bound"].encode(),
        **{"Content-Type": "application/json", "X-CSRF-Token": dana.csrf},
    )
    assert found.status == 200, found.text
    assert client.outcome() == "DELETE 1"


def test_many_pages_of_one_browser_share_what_they_hear(stage: Stage) -> None:
    first = stage.page("dana")
    pages = [first]
    for _ in range(8):  # more than a browser has connections to one host
        pages.append(first.context.new_page())
        pages[-1].goto(stage.address + "/approvals")
    stage.hold("delete from staging where id = 16")
    for page in pages:
        expect(page.locator("#rows")).to_contain_text("id = 16")
    # Whoever listens for all may go at any time.
    first.close()
    stage.hold("delete from staging where id = 17")
    for page in pages[1:]:
        expect(page.locator("#rows")).to_contain_text("id = 17")


def test_what_answers_a_form_is_renewed_at_its_own_address(stage: Stage) -> None:
    page = stage.page("adam", "/policy")
    page.locator(".try summary").click()
    page.fill("[name=database]", "shop")
    page.fill("[name=command]", "delete from payroll")
    page.get_by_role("button", name="Explain").click()
    expect(page.locator("#answer")).to_contain_text("payroll")
    assert page.url == stage.address + "/policy"
    _, case = stage.hold("delete from staging where id = 18")
    page = opened(stage, "dana", "id = 18")
    page.evaluate("document.querySelector('#approve [name=seen]').value = '0'.repeat(64)")
    page.keyboard.press("a")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("not what you were shown")
    assert page.url == f"{stage.address}/approvals/{case['id']}"
    stage.scene.answer("reject", case, reason="enough")
    expect(page.locator(".outcome")).to_contain_text("Rejected by root")
