"""The entry script and what it installs from."""

from __future__ import annotations

import os
import subprocess
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]


def locked() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return {name.lower(): number for name, _, number in (line.partition("==") for line in lines if not line.startswith("#"))}


def test_the_lock_pins_what_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [Requirement(line) for line in (*project["dependencies"], *project["optional-dependencies"]["development"])]
    pins = locked()
    assert [str(one) for one in asked if not one.specifier.contains(pins.get(one.name.lower(), "0"))] == []


def test_the_lock_is_what_runs() -> None:
    pins = locked()
    asked = ("msgspec", "pglast", "pyroute2", "uvloop", "cryptography")
    assert {name: version(name) for name in asked} == {name: pins[name] for name in asked}


@pytest.mark.real
def test_a_second_setup_has_nothing_to_do() -> None:
    run = [str(ROOT / "run"), "setup"]
    subprocess.run(run, check=True, capture_output=True)
    # As a fresh login would have it: nothing is remembered in the environment but where the cache is.
    bare = {name: os.environ[name] for name in ("PATH", "SLUICEGATE_CACHE") if name in os.environ}
    second = subprocess.run(run, check=True, capture_output=True, text=True, env=bare)
    (line,) = second.stderr.splitlines()
    assert line.startswith("run: ready: ")


@pytest.mark.parametrize("words", [["nonsense"], ["bench"], ["bench", "nonsense"]])
def test_a_command_that_is_none_is_an_error(words: list[str]) -> None:
    done = subprocess.run([str(ROOT / "run"), *words], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "run: " in done.stderr


def test_help_names_every_command() -> None:
    done = subprocess.run([str(ROOT / "run"), "--help"], check=True, capture_output=True, text=True)
    for command in ("setup", "sluicegate", "demo", "test", "check", "bench", "bypasses", "lab"):
        assert f"\n  {command} " in done.stdout
