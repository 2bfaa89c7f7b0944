"""The command line as a whole: helped, documented, quick, plain where it must be, and ended by a code that says how."""

from __future__ import annotations

import os
import pty
import re
import resource
import select
import subprocess
import sys
from pathlib import Path

import click
import pytest

from tests.ui.conftest import ROOT, run_sluicegate
from ui.cli import COMMANDS
from ui.command_page import commands, page

ALL = dict(commands())
# What prints no data, or is in a form of its own: JSON lines, PEM, a script, a JSON Schema, the log.
WITHOUT_JSON = {"up", "release", "completion", "export", "authority show", "policy schema"}
CPU_SECONDS_MAX = 0.2


def test_the_commands_page_is_what_the_commands_say() -> None:
    assert (ROOT / "docs" / "cli.md").read_text() == page(), "python -m ui.command_page > docs/cli.md"


@pytest.mark.parametrize("words", ALL)
def test_every_command_and_option_is_documented(words: str) -> None:
    text = (ROOT / "docs" / "cli.md").read_text()
    assert f" sluicegate {words}\n" in text
    section = text.split(f" sluicegate {words}\n", 1)[1].split("\n#", 1)[0]
    for option in ALL[words].params:
        if isinstance(option, click.Option) and not option.hidden:
            assert option.help, f"{words} {option.opts}"
            assert all(name in section for name in option.opts), option.opts


@pytest.mark.parametrize("words", [words for words, command in ALL.items() if not isinstance(command, click.Group)])
def test_every_command_has_an_example_and_json_where_it_prints_data(words: str) -> None:
    command = ALL[words]
    assert "Example" in (command.help or "")
    assert f"sluicegate {words}" in (command.help or "") or words in ("up", "completion")
    has_json = any("--json" in option.opts for option in command.params)
    assert has_json == (words not in WITHOUT_JSON)


def test_the_table_of_commands_says_what_they_say_themselves() -> None:
    for name, (_, text) in COMMANDS.items():
        assert (ALL[name].help or "").startswith(text), name


@pytest.mark.parametrize("words", ["", *ALL])
def test_help_is_there(words: str) -> None:
    done = run_sluicegate(*words.split(), "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"Usage: sluicegate {words}".rstrip())


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("nonsense",), 2),
        (("flows", "--nonsense"), 2),
        (("status",), 3),
        (("approvals", "list"), 3),
        (("people", "list"), 3),
        (("metrics",), 3),
        (("watch", "--json"), 3),
        (("flows", "--live"), 3),
        (("check",), 1),
        (("agents", "list"), 1),
        (("dashboard",), 1),
        (("policy", "check"), 1),
        (("policy", "check", "policies/example"), 0),
        (("policy", "test", "policies/example"), 0),
        (("--version",), 0),
        (("completion", "bash"), 0),
    ],
)
def test_exit_codes_say_how_it_ended(tmp_path: Path, words: tuple[str, ...], code: int) -> None:
    file = tmp_path / "absent.yaml"
    if code == 3:
        file.write_text(f"appliance: {{run: {tmp_path}, state: {tmp_path}}}\n")
    done = run_sluicegate("--configuration", str(file), *words)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def cpu_seconds(*words: str, environment: dict[str, str]) -> float:
    """The least of three runs, in time of the processor: how long others keep it busy says nothing of us."""
    found = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run_sluicegate(*words, environment=environment)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(found)


def completing(text: str, configuration: Path | None = None) -> dict[str, str]:
    words = {"COMP_WORDS": text, "COMP_CWORD": str(text.count(" ")), "_SLUICEGATE_COMPLETE": "bash_complete"}
    return words | ({"SLUICEGATE_CONFIGURATION": str(configuration)} if configuration is not None else {})


def completed(text: str, configuration: Path | None = None) -> list[str]:
    done = run_sluicegate(environment=completing(text, configuration))
    assert done.stderr == ""
    assert done.returncode == 0
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_commands_and_options_are_completed() -> None:
    assert completed("sluicegate app") == ["approvals"]
    assert "edit" in completed("sluicegate approvals ")
    assert "--denied" in completed("sluicegate flows --den")
    assert "worker" not in completed("sluicegate w")


def test_configured_names_are_completed_while_nothing_runs(tmp_path: Path) -> None:
    file = tmp_path / "sluicegate.yaml"
    file.write_text("agents:\n  shop-bot: {owner: a}\n  other-bot: {owner: b}\nresources:\n  shop: {protocol: postgres}\n")
    assert completed("sluicegate agents show ", file) == ["shop-bot", "other-bot"]
    assert completed("sluicegate agents show sh", file) == ["shop-bot"]
    assert completed("sluicegate resources test ", file) == ["shop"]
    assert completed("sluicegate flows --agent o", file) == ["other-bot"]


@pytest.mark.parametrize("text", ["approvals show ", "replay ", "policy show ", "people reset ", "agents show "])
def test_completion_is_silent_where_nothing_can_be_known(tmp_path: Path, text: str) -> None:
    assert completed(f"sluicegate {text}", tmp_path / "absent.yaml") == []
    broken = tmp_path / "broken.yaml"
    broken.write_text("agents: [\n")
    assert completed(f"sluicegate {text}", broken) == []


@pytest.mark.parametrize("text", ["app", "approvals show ", "replay ", "flows --agent ", "policy show ", "resources test "])
def test_completion_comes_before_people_notice(tmp_path: Path, text: str) -> None:
    file = tmp_path / "sluicegate.yaml"
    file.write_text("agents:\n  shop-bot: {owner: a}\n")
    assert cpu_seconds(environment=completing(f"sluicegate {text}", file)) < CPU_SECONDS_MAX


def test_help_comes_before_people_notice() -> None:
    assert cpu_seconds("--help", environment={}) < CPU_SECONDS_MAX


def test_help_imports_nothing_that_only_processes_need() -> None:
    program = (
        "import sys, runpy; sys.argv = ['sluicegate', '--help']\ntry: runpy.run_module('appliance', run_name='__main__')\n"
    )
    program += "except SystemExit: print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(done.stderr.split())
    assert loaded.isdisjoint({"asyncio", "uvloop", "pglast", "rich", "cryptography", "jsonschema", "psycopg", "pyroute2"})


def on_terminal(columns: int, environment: dict[str, str], *words: str) -> str:
    """What a command prints on a terminal so wide."""
    ours, theirs = pty.openpty()
    paths = {"PATH": os.environ.get("PATH", ""), "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "LANG": "C.UTF-8"}
    with subprocess.Popen(
        [sys.executable, "-m", "appliance", *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=paths | {"COLUMNS": str(columns)} | environment,
    ):
        os.close(theirs)
        said = b""
        while select.select([ours], [], [], 60)[0]:
            try:
                part = os.read(ours, 65536)
            except OSError:
                break  # Linux says EIO once nobody has the other end open.
            if not part:
                break
            said += part
        os.close(ours)
    return said.decode()


def test_colours_are_left_out_where_people_say_so(tmp_path: Path) -> None:
    words = ("policy", "check", str(tmp_path))
    assert "\x1b[31m" in on_terminal(80, {}, *words)
    assert "\x1b[3" not in on_terminal(80, {"NO_COLOR": "1"}, *words)


def test_narrow_terminals_get_narrow_tables(state: Path) -> None:
    told = on_terminal(40, {"NO_COLOR": "1"}, "flows", "--state", str(state))
    assert "a1b2c3" in told
    told = re.sub(r"\x1b\[[0-9;]*m", "", told)
    assert max(len(line.rstrip("\r")) for line in told.split("\n")) <= 40
