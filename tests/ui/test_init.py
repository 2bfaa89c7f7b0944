"""The first configuration: sound as it stands, whole or not there, and never telling a secret."""

from __future__ import annotations

import json
import os
import pty
import re
import secrets
import select
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from lab.database import OWNER, PORT
from lab.laboratory import Lab
from lab.machines import EXECUTOR, EXECUTORS_INTERFACE, PLANNER, TARGET
from tests.ui.conftest import ROOT, run_sluicegate

PASSWORD = "s3cret-of-the-shop"
WORDS = (
    "--yes",
    *("--agent", "shop-bot", "--source", "10.81.1.3", "--plan-source", "10.81.1.2"),
    *("--resource", "shop", "--address", "127.0.0.1:5432", "--interface", "lo"),
)


def init(folder: Path, *words: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    return run_sluicegate("--configuration", str(folder / "sluicegate.yaml"), "init", *words, text=text)


def test_what_is_written_passes_check_and_its_policy_its_tests(tmp_path: Path) -> None:
    folder = tmp_path / "etc" / "sluicegate"
    password = tmp_path / "password"
    password.write_text(f"{PASSWORD}\nignored\n")
    done = init(folder, *WORDS, "--user", "shop_owner", "--password-file", str(password))
    assert done.returncode == 0, done.stderr
    assert PASSWORD not in done.stdout + done.stderr
    secret = folder / "secrets" / "shop"
    assert secret.read_text() == f"{PASSWORD}\n"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert PASSWORD not in (folder / "sluicegate.yaml").read_text()
    checked = run_sluicegate("--configuration", str(folder / "sluicegate.yaml"), "check", "--json")
    assert json.loads(checked.stdout) == {"sound": True, "agents": 1, "resources": 1}
    assert run_sluicegate("policy", "test", str(folder / "policies")).returncode == 0
    following = re.findall(r"sluicegate .*?(?= {2,}#| #)", done.stdout)
    assert [line.split()[-1] for line in following] == ["doctor", str(folder / "policies"), "up"]


@pytest.mark.parametrize("protocol", ["postgres", "redis"])
def test_every_protocol_has_a_first_policy(tmp_path: Path, protocol: str) -> None:
    done = init(tmp_path / "etc", *WORDS, "--protocol", protocol, "--json")
    assert done.returncode == 0, done.stderr
    assert run_sluicegate("policy", "test", str(tmp_path / "etc" / "policies")).returncode == 0


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    assert init(tmp_path, *WORDS).returncode == 0
    before = (tmp_path / "sluicegate.yaml").read_text()
    again = init(tmp_path, *WORDS, "--owner", "somebody else")
    assert again.returncode == 1
    assert "overwrites nothing" in again.stderr
    assert (tmp_path / "sluicegate.yaml").read_text() == before


@pytest.mark.parametrize(
    "words",
    [
        ("--source", "10.81.1.3/8"),
        ("--source", "not-an-address"),
        ("--plan-source", "10.81.1.0/24"),
        ("--address", "127.0.0.1:99999"),
        ("--address", "no-such-host.invalid:5432"),
        ("--resource", "../../escaped"),
        ("--protocol", "gopher"),
        ("--password-file", "/nonexistent"),
    ],
)
def test_what_cannot_be_right_writes_nothing(tmp_path: Path, words: Sequence[str]) -> None:
    folder = tmp_path / "etc"
    # A repeated option adds to a list or replaces a text.
    done = init(folder, *WORDS, "--user", "shop_owner", *words)
    assert done.returncode in (1, 2), done.stdout
    assert "Traceback" not in done.stderr
    assert not folder.exists()
    assert list(tmp_path.iterdir()) == []


def test_without_a_terminal_what_is_missing_is_wrong_usage(tmp_path: Path) -> None:
    done = init(tmp_path / "etc", "--agent", "shop-bot")
    assert done.returncode == 2
    assert "--source" in done.stderr


def test_a_password_may_come_from_standard_input(tmp_path: Path) -> None:
    done = init(tmp_path, *WORDS, "--user", "shop_owner", "--password-file", "-", text=f"{PASSWORD}\n")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "secrets" / "shop").read_text() == f"{PASSWORD}\n"


def test_questions_are_answered_and_the_password_is_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "etc" / "sluicegate.yaml"
    answers = {
        "agent's name": "shop-bot",
        "Who answers for it": "",
        "executor's connections": "10.81.1.3, 10.81.1.4",
        "planner's": "",
        "name for the target": "shop",
        "What is spoken": "",
        "address and port": "127.0.0.1:5432",
        "account there": "shop_owner",
        "not shown": PASSWORD,
        "Its TLS": "",
        "come in by": "lo",
        "held commands": "",
    }
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["PYTHONPATH"] = str(ROOT)
        os.execv(sys.executable, [sys.executable, "-m", "appliance", "--configuration", str(file), "init"])
    said = ""
    for question, answer in answers.items():
        while question not in said:
            assert select.select([terminal], [], [], 30)[0], f"{question!r} was not asked: {said}"
            said += os.read(terminal, 65536).decode()
        said = said[said.index(question) + len(question) :]
        os.write(terminal, f"{answer}\n".encode())
    shown = said
    while select.select([terminal], [], [], 30)[0]:
        try:
            part = os.read(terminal, 65536).decode()
        except OSError:
            break
        if not part:
            break
        shown += part
    assert os.waitpid(pid, 0)[1] == 0, shown
    os.close(terminal)
    assert PASSWORD not in shown
    assert (tmp_path / "etc" / "secrets" / "shop").read_text() == f"{PASSWORD}\n"
    assert '["10.81.1.3", "10.81.1.4"]' in file.read_text()


@pytest.mark.real
def test_an_agent_works_under_what_was_written_and_its_losses_are_held() -> None:
    with Lab(f"init-{secrets.token_hex(4)}") as lab:
        folder = lab.appliance_folder / "etc"
        done = lab.run_sluicegate(
            *("--configuration", str(folder / "sluicegate.yaml"), "init", "--yes"),
            *("--agent", "shop-bot", "--source", EXECUTOR.ipv4, "--plan-source", PLANNER.ipv4),
            *("--resource", "shop", "--address", f"{TARGET.ipv4}:{PORT}", "--authorities", str(lab.database.authorities)),
            *("--user", OWNER, "--password-file", str(lab.folder / "secrets" / OWNER)),
            *("--interface", EXECUTORS_INTERFACE, "--approver", "root"),
            *("--state", str(lab.appliance_folder / "state"), "--run", str(lab.appliance_folder / "run")),
        )
        assert done.returncode == 0, done.stderr
        lab.configuration = folder / "sluicegate.yaml"
        examined = lab.run_sluicegate("doctor", "--json")
        assert examined.returncode == 0, [one for one in json.loads(examined.stdout) if one["state"] == "bad"]
        lab.start_appliance()
        assert "42" in lab.psql("select 42").stdout
        refused = lab.psql("delete from staging", as_="planner")
        assert refused.returncode == 0
        assert "ERROR" in refused.stderr
        client = lab.start_in("executor", ["psql", "--no-psqlrc", "-c", "delete from staging where id = 1"], "executor")
        for line in client.stderr or ():
            if "asked" in line or "approv" in line:
                break
        (held,) = json.loads(lab.run_sluicegate("approvals", "list", "--json").stdout)
        assert held["rule"].startswith("losses-need-approval")
        assert lab.run_sluicegate("approvals", "approve", held["id"]).returncode == 0
        assert client.communicate(timeout=30)[0].strip() == "DELETE 1"
