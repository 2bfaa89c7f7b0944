"""Exports: whole or not at all, harmless in spreadsheets and terminals, and a bundle that proves itself elsewhere."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import select
import sqlite3
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.ui.conftest import EVIL, ROOT, run_sluicegate


def export(state: Path, *words: str, code: int = 0) -> str:
    done = run_sluicegate("export", *words, "--state", str(state))
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr


def test_a_file_holds_what_the_output_would_and_is_its_owners_alone(state: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    assert export(state, "--all", "--to", str(target)) == ""
    assert target.read_text() == export(state, "--all")
    assert target.stat().st_mode & 0o777 == 0o600


def test_nothing_is_overwritten_and_nothing_unfinished_is_left(state: Path, tmp_path: Path) -> None:
    folder = tmp_path / "exports"
    folder.mkdir()
    (folder / "out").write_text("precious")
    assert "exists" in export(state, "--all", "--to", str(folder / "out"), code=2)
    assert (folder / "out").read_text() == "precious"
    # A record that cannot be read stops the export half-way.
    connection = sqlite3.connect(state / "recording" / "segment-000001.sqlite")
    connection.execute("UPDATE records SET payload = x'00' WHERE seq = (SELECT max(seq) FROM records)")
    connection.commit()
    connection.close()
    for words in (("--format", "lines"), ("--format", "sqlite"), ("--format", "proof")):
        export(state, "--all", *words, "--to", str(folder / "new"), code=1)
    assert [path.name for path in folder.iterdir()] == ["out"]


def test_flows_as_csv_have_a_header_and_no_formula_and_no_escape_sequence(state: Path) -> None:
    printed = export(state, "--all", "--format", "csv")
    assert "\x1b" not in printed
    assert "\u202e" not in printed
    rows = list(csv.DictReader(io.StringIO(printed)))
    assert {row["flow"] for row in rows} == {"a1b2c3", "d4e5f6"}
    (evil,) = (row for row in rows if row["flow"] == "d4e5f6")
    assert evil["agent"].startswith("'=cmd()")
    assert evil["denied"] == "1"
    (only,) = csv.DictReader(io.StringIO(export(state, "a1b2c3", "--format", "csv")))
    assert only["agent"] == "shop"


def test_a_proof_verifies_without_the_appliance_and_a_changed_one_does_not(state: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "proof.tar"
    export(state, "--all", "--format", "proof", "--to", str(bundle))
    key = tmp_path / "kept.pub"
    key.write_bytes((state / "recording" / "recording.pub").read_bytes())
    for words in ((), ("--public-key", str(key))):
        done = run_sluicegate("verify", "--bundle", str(bundle), *words, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        assert json.loads(done.stdout)["records"] >= 8
    with tarfile.open(bundle) as packed:
        names = packed.getnames()
        packed.extractall(tmp_path / "unpacked")
    assert not [name for name in names if name.endswith(".key")]
    segment = tmp_path / "unpacked" / "recording" / "segment-000001.sqlite"
    connection = sqlite3.connect(segment)
    connection.execute("DELETE FROM records WHERE seq = 3")
    connection.commit()
    connection.close()
    changed = tmp_path / "changed.tar"
    with tarfile.open(changed, "w") as packed:
        for path in sorted((tmp_path / "unpacked" / "recording").iterdir()):
            packed.add(path, f"recording/{path.name}")
    assert run_sluicegate("verify", "--bundle", str(changed)).returncode == 1


@pytest.mark.parametrize("name", ["../escaped", "/tmp/escaped", "recording/../escaped", "recording/segment-1.sqlite"])
def test_a_bundle_writes_nowhere_but_where_it_is_unpacked(tmp_path: Path, name: str) -> None:
    bundle = tmp_path / "evil.tar"
    with tarfile.open(bundle, "w") as packed:
        member = tarfile.TarInfo(name)
        member.size = 3
        packed.addfile(member, io.BytesIO(b"abc"))
    done = run_sluicegate("verify", "--bundle", str(bundle))
    assert done.returncode == 1
    assert "recording's files alone" in done.stderr
    assert not (tmp_path.parent / "escaped").exists()


def test_a_link_in_a_bundle_is_not_followed(tmp_path: Path) -> None:
    bundle = tmp_path / "evil.tar"
    with tarfile.open(bundle, "w") as packed:
        member = tarfile.TarInfo("recording/head.json")
        member.type = tarfile.SYMTYPE
        member.linkname = "/etc/passwd"
        packed.addfile(member)
    assert run_sluicegate("verify", "--bundle", str(bundle)).returncode == 1


def test_progress_is_for_terminals_alone(state: Path, tmp_path: Path) -> None:
    done = run_sluicegate("export", "--all", "--to", str(tmp_path / "quiet"), "--state", str(state))
    assert done.stderr == f"wrote {tmp_path / 'quiet'}\n"
    shown = on_terminal("export", "--all", "--to", str(tmp_path / "shown"), "--state", str(state))
    assert "exporting" in shown


def on_terminal(*words: str) -> str:
    """What a command prints where its output is a terminal."""
    ours, theirs = pty.openpty()
    environment = {"PATH": os.environ.get("PATH", ""), "PYTHONPATH": str(ROOT), "TERM": "xterm", "LANG": "C.UTF-8"}
    with subprocess.Popen(
        [sys.executable, "-m", "appliance", *words], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        said = b""
        while select.select([ours], [], [], 30)[0]:
            try:
                part = os.read(ours, 65536)
            except OSError:
                break  # Linux says EIO once nobody has the other end open.
            if not part:
                break
            said += part
        os.close(ours)
        assert process.wait(30) == 0, said
    return said.decode()


def test_what_agents_wrote_reaches_no_terminal_as_it_is(state: Path) -> None:
    for words in (("flows",), ("replay", "d4e5f6"), ("export", "d4e5f6"), ("export", "--all", "--format", "csv")):
        shown = on_terminal(*words, "--state", str(state))
        assert "\x1b]" not in shown, words
        assert "\x07" not in shown, words
        assert "\u202e" not in shown, words
    assert EVIL not in on_terminal("replay", "d4e5f6", "--json", "--state", str(state))
