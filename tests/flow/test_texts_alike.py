"""Statements that differ in values alone share a verdict and nothing else: each is shown, asked about and sent as it is."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from appliance.decisions import Hold, Verdict
from appliance.events import Command
from appliance.flow.gate import Gate, Question
from appliance.flow.verdicts import ActivePolicy
from appliance.parties import Phase, Principal, Scope, Side
from appliance.policy.reading import read_policy
from appliance.protocols.postgres import messages as wire
from appliance.recording.journal import Journal
from tests.protocols.postgres.driver import Driver, refuse
from tests.protocols.postgres.test_session import OUR_ERROR, READY, done, fields, query, session

POLICY = """
rules:
  - {id: read, reason: reading, allow: [{actions: [read, connect]}]}
  - {id: write, reason: a person looks, hold: [{actions: [delete, update]}], approvers: [dba]}
"""


class Asked:
    """A gate that says of each command what it would ask a person."""

    def __init__(self, folder: Path) -> None:
        self.active = ActivePolicy(read_policy([("p.yaml", POLICY)]))
        journal = Journal(folder, 0, X25519PrivateKey.generate().public_key().public_bytes_raw(), 1)
        who = Principal("bot", Phase.EXECUTE, frozenset(), "source address")
        self.gate = Gate("f", self.active, journal, who, Scope("shop", "postgres", "shop"), lambda command: command.shown)
        self.commands: list[Command] = []
        self.questions: list[Question] = []

    def judge(self, command: Command) -> Verdict:
        self.commands.append(command)
        verdict = self.gate.judge(command)
        if isinstance(verdict, Hold):
            self.questions.append(self.gate.question(command, verdict))
        return verdict


def held_and_refused(driver: Driver, text: str) -> None:
    driver.receive(Side.CLIENT, query(text))
    driver.settle(refuse())
    driver.receive(Side.TARGET, OUR_ERROR + READY)
    driver.taken_by_client()
    driver.taken_by_target()


def test_each_of_texts_alike_is_asked_about_as_it_is_written(tmp_path: Path) -> None:
    asked = Asked(tmp_path)
    driver = session(asked.judge)
    texts = [
        f"delete from customers where name = '{name}' and id < {at}" for at, name in enumerate(("ann", "bob", "cid", "dee"))
    ]
    for text in texts:
        held_and_refused(driver, text)
    requests = [question.request for question in asked.questions]
    assert [request.exact for request in requests] == texts
    assert [request.shown for request in requests] == texts
    assert [command.text for command in asked.commands] == texts
    assert len({request.bound for request in requests}) == len(texts)
    assert len({request.effects for request in requests}) == 1
    assert len({command.key for command in asked.commands}) == 1


def test_a_text_like_one_with_a_secret_shows_no_part_of_it(tmp_path: Path) -> None:
    asked = Asked(tmp_path)
    driver = session(asked.judge)
    for name in ("ann", "bob", "ada@corp.example", "cid"):
        held_and_refused(driver, f"update customers set name = '{name}' where id = 7")
    requests = [question.request for question in asked.questions]
    assert [name in each.shown for name, each in zip(("ann", "bob", " ****'", "cid"), requests, strict=True)] == [True] * 4
    assert ["corp.example" in each.shown for each in requests] == [False] * 4
    assert ["ada@corp.example" in each.exact for each in requests] == [False, False, True, False]


def test_each_of_texts_alike_is_sent_as_it_is_written(tmp_path: Path) -> None:
    asked = Asked(tmp_path)
    driver = session(asked.judge)
    before = len(asked.active)
    for number in range(20):
        text = f"select name from customers where id = {number}"
        driver.receive(Side.CLIENT, query(text))
        assert driver.taken_by_target() == wire.Query(text).build()
        driver.receive(Side.TARGET, fields("name") + done("SELECT 0") + READY)
        driver.taken_by_client()
    assert [command.shown for command in asked.commands] == [command.text for command in asked.commands]
    assert len(asked.active) == before + 1
