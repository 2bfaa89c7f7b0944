"""How policy is checked, tested and explained from the command line: `sluicegate policy …`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from appliance.configuration import configuration_schema, read_case_files, read_policy_files
from appliance.errors import SettingErrors
from appliance.parties import Phase, Principal, Scope
from appliance.policy.cases import cases_schema, command_effects, read_cases, run_cases
from appliance.policy.explanation import explain
from appliance.policy.reading import policy_schema, read_policy
from appliance.sql.analysis import read
from ui.conversation import ask_control
from ui.terminal import print_json, printable
from ui.wiring import Given

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_paths = click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True))


@click.group()
def policy() -> None:
    """Check, test and explain policies, and put a changed one in force."""


@policy.command()
@_paths
@_json
def check(paths: tuple[str, ...], as_json: bool) -> None:
    """Read policy files (or folders of them) and say everything that is wrong with them."""
    try:
        files = read_policy_files(paths)
        found = read_policy(files)
        read_cases(read_case_files(paths), read)
    except SettingErrors as errors:
        _fail(errors, as_json)
    if as_json:
        print_json(
            {"sound": True, "rules": len(found.rules), "files": [name for name, _ in files], "version": found.version}
        )
    else:
        click.echo(f"{len(found.rules)} rules in {len(files)} files are sound")


@policy.command()
@_paths
@_json
def test(paths: tuple[str, ...], as_json: bool) -> None:
    """Run the test cases (*.cases.yaml) that stand beside policy files. Ends with 1 where one fails or there is none."""
    try:
        judged = read_policy(read_policy_files(paths))
        results = run_cases(judged, read_cases(read_case_files(paths), read), read)
    except SettingErrors as errors:
        _fail(errors, as_json)
    failed = [result for result in results if not result.passed]
    if as_json:
        print_json(
            [
                {
                    "file": result.case.file,
                    "line": result.case.line,
                    "name": result.case.name,
                    "passed": result.passed,
                    "differences": list(result.differences),
                    "explanation": result.explanation.data(),
                }
                for result in results
            ]
        )
    else:
        for result in results:
            click.secho(printable(result.text()), fg=None if result.passed else "red")
        click.echo(f"{len(results) - len(failed)} of {len(results)} cases passed")
    if failed or not results:
        raise click.exceptions.Exit(1)


@policy.command("explain")
@click.option("--agent", required=True)
@click.option("--phase", type=click.Choice([phase.value for phase in Phase]), required=True)
@click.option("--resource", required=True)
@click.option("--database", required=True)
@click.option("--command", "text", required=True, help="The SQL text.")
@click.option(
    "--tables", type=click.Path(exists=True, dir_okay=False), help="Take what exists from this *.cases.yaml, offline."
)
@click.option("--policy", "paths", multiple=True, type=click.Path(exists=True), help="With --tables: the policy's files.")
@click.option("--group", "groups", multiple=True, help="With --tables: groups the agent is in.")
@_json
@click.pass_obj
def explain_(
    given: Given,
    agent: str,
    phase: str,
    resource: str,
    database: str,
    text: str,
    tables: str | None,
    paths: tuple[str, ...],
    groups: tuple[str, ...],
    as_json: bool,
) -> None:
    """Say why a command would get its verdict, effect by effect.

    The running appliance is asked, with the policy in force and what exists in the target now; with --tables nothing runs.
    """
    if tables is None:
        if paths or groups:
            raise click.UsageError("--policy and --group go with --tables")
        answer = ask_control(
            given.run, "policy.explain", agent=agent, phase=phase, resource=resource, database=database, command=text
        )
        told, data = answer["text"], answer["explanation"]
    else:
        told, data = _explain_offline(agent, phase, resource, database, text, tables, paths, groups)
    if as_json:
        print_json(data)
    else:
        click.echo(printable(told))


@policy.command()
@click.option("--of", "what", type=click.Choice(["policy", "cases", "configuration"]), default="policy", show_default=True)
def schema(what: str) -> None:
    """Print the published JSON Schema, for editors and CI."""
    schemas = {"policy": policy_schema, "cases": cases_schema, "configuration": configuration_schema}
    click.echo(json.dumps(schemas[what](), indent=2, ensure_ascii=False))


@policy.command("reload")
@_json
@click.pass_obj
def reload_(given: Given, as_json: bool) -> None:
    """Read the policy files anew now. Changed files are noticed within seconds without it."""
    state = ask_control(given.run, "policy.reload")
    if as_json:
        print_json(state)
    elif state["fault"]:
        click.secho(
            printable(f"the old policy stays in force, because the new one is unfit:\n{state['fault']}"), fg="red", err=True
        )
    else:
        word = "is in force now" if state["changed"] else "was in force already"
        click.echo(f"policy {state['version']} with {state['rules']} rules {word}")
    if state["fault"]:
        raise click.exceptions.Exit(1)


def _explain_offline(
    agent: str,
    phase: str,
    resource: str,
    database: str,
    text: str,
    tables: str,
    paths: Sequence[str],
    groups: Sequence[str],
) -> tuple[str, dict[str, Any]]:
    if not paths:
        raise click.UsageError("--tables needs --policy")
    try:
        judged = read_policy(read_policy_files(paths))
        (described,) = read_cases(((tables, Path(tables).read_text(encoding="utf-8")),), read)
    except SettingErrors as errors:
        raise click.ClickException(printable(str(errors))) from None
    catalogue = described.catalogue
    principal = Principal(agent, Phase(phase), frozenset(groups), "source address")
    explanation = explain(judged, principal, Scope(resource, "postgres", database), command_effects(text, catalogue, read))
    return explanation.text(), explanation.data()


def _fail(errors: SettingErrors, as_json: bool) -> NoReturn:
    if as_json:
        print_json(
            {
                "sound": False,
                "errors": [
                    {"file": one.file, "line": one.line, "found": one.found, "expected": one.expected}
                    for one in errors.errors
                ],
            }
        )
    else:
        click.secho(printable(str(errors)), fg="red", err=True)
    raise click.exceptions.Exit(1)
