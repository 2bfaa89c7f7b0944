"""What the running appliance says of itself, in metrics and in its log, and that nothing secret is in either."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Iterator
from contextlib import suppress

import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from lab.machines import TARGET, Place
from tests.whole_machine.scene import Scene, play, until

pytestmark = pytest.mark.real

CARD = "4539578763621486"
PASSWORD = "correct-horse-battery"
NAME = "Planted Q. Example"
EMAIL = "q@planted.example"


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with play(f"test-{secrets.token_hex(4)}", dashboard={"listen": "127.0.0.1:8443"}) as scene:
        yield scene


# Python's own: a bare machine has no curl.
FETCH = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode())"


def fetched(scene: Scene, place: Place, address: str) -> str:
    """What is answered at an address, to somebody in that machine; nothing where that is refused."""
    return scene.lab.run_in(place, [sys.executable, "-c", FETCH, address]).stdout


def scraped(scene: Scene) -> str:
    return fetched(scene, Place.APPLIANCE, "http://127.0.0.1:9464/metrics")


def counted(text: str, name: str) -> float:
    families = text_string_to_metric_families(text)
    return sum(sample.value for family in families for sample in family.samples if sample.name == name)


def test_what_is_done_shows_in_metrics_and_nothing_secret_in_them_or_in_the_log(scene: Scene) -> None:
    client = scene.client()
    for statement in (
        f"insert into customers (id, name, email, ssn, card_number) values (990, '{NAME}', '{EMAIL}', '1', '{CARD}')",
        f"alter role shop_owner password '{PASSWORD}'",
        f"select name from customers where card_number = '{CARD}'",
        f"select '{CARD}'::{PASSWORD.replace('-', '_')}",
        f"select no_such_{PASSWORD.replace('-', '_')} from customers",
        f"\x01 not sql {CARD} {PASSWORD}",
        "select 1",
    ):
        with suppress(psycopg.Error):
            client.run(statement)
    text = until(lambda: page if counted(page := scraped(scene), "sluicegate_verdicts_total") >= 7 else None)
    assert counted(text, "sluicegate_flows_opened_total") >= 1
    assert counted(text, "sluicegate_added_seconds_count") >= 1
    assert counted(text, "sluicegate_workers") == 2
    log = scene.log()
    for said in (text, log):
        for secret in (CARD, PASSWORD, PASSWORD.replace("-", "_"), NAME, EMAIL, "shop_owner", "select"):
            assert secret not in said


def test_every_line_of_every_process_is_one_object_that_says_who_and_what(scene: Scene) -> None:
    lines = [json.loads(line) for line in scene.log().splitlines()]
    assert {"supervisor", "control", "dashboard"} <= {line["process"] for line in lines}
    assert all(list(line)[:4] == ["time", "process", "level", "event"] for line in lines)


def test_who_is_nobodys_agent_is_counted_and_logged(scene: Scene) -> None:
    before = counted(scraped(scene), "sluicegate_flows_refused_total")
    assert fetched(scene, Place.EXECUTOR, f"http://{TARGET.ipv4}:9/") == ""
    until(lambda: counted(scraped(scene), "sluicegate_flows_refused_total") > before)
    assert any(line["event"] == "flow refused" for line in map(json.loads, scene.log().splitlines()))
