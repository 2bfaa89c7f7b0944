"""How policy is checked, tested and explained from the command line: `sluicegate policy …`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import click

from appliance.errors import SettingErrors
from ui.completion import complete_agent, complete_resource, complete_rule
from ui.conversation import ask_control
from ui.terminal import clock_time, console, print_json, printable, say, table
from ui.wiring import Given

# What reads policies and SQL is imported by the commands that do: a shell that completes a word must not wait for it.
_PHASES: Final = ("plan", "execute")

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_paths = click.argument("paths", nargs=-1, type=click.Path(exists=True))


@click.group()
def policy() -> None:
    """Check, test and explain policies, and put a changed one in force."""


@policy.command()
@_paths
@_json
@click.pass_obj
def check(given: Given, paths: tuple[str, ...], as_json: bool) -> None:
    """Read policy files (or folders of them) and say everything that is wrong with them.

    Without PATHS those of the configuration are read.

    \b
    Example:
      sluicegate policy check policies/
    """
    from appliance.configuration import read_case_files, read_policy_files
    from appliance.policy.cases import read_cases
    from appliance.policy.reading import read_policy
    from appliance.sql.analysis import read

    paths = paths or _configured(given)
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
@click.pass_obj
def test(given: Given, paths: tuple[str, ...], as_json: bool) -> None:
    """Run the test cases (*.cases.yaml) that stand beside policy files.

    Without PATHS those of the configuration are run. Ends with 1 where one fails or there is none.

    \b
    Example:
      sluicegate policy test policies/
    """
    from appliance.configuration import read_case_files, read_policy_files
    from appliance.policy.cases import read_cases, run_cases
    from appliance.policy.reading import read_policy
    from appliance.sql.analysis import read

    paths = paths or _configured(given)
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
            say(result.text(), "" if result.passed else "red")
        click.echo(f"{len(results) - len(failed)} of {len(results)} cases passed")
    if failed or not results:
        raise click.exceptions.Exit(1)


@policy.command("explain")
@click.option("--agent", required=True, help="A configured agent.", shell_complete=complete_agent)
@click.option("--phase", type=click.Choice(_PHASES), required=True, help="What it does.")
@click.option("--resource", required=True, help="A registered target.", shell_complete=complete_resource)
@click.option("--database", required=True, help="The database there.")
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

    \b
    Example:
      sluicegate policy explain --agent shop-bot --phase execute --resource shop --database shop \\
          --command "delete from orders"
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
@click.option(
    "--of",
    "what",
    type=click.Choice(["policy", "cases", "configuration"]),
    default="policy",
    show_default=True,
    help="Of which kind of file.",
)
def schema(what: str) -> None:
    """Print the published JSON Schema, for editors and CI.

    \b
    Example:
      sluicegate policy schema --of cases > cases.schema.json
    """
    from appliance.configuration import configuration_schema
    from appliance.policy.cases import cases_schema
    from appliance.policy.reading import policy_schema

    schemas = {"policy": policy_schema, "cases": cases_schema, "configuration": configuration_schema}
    click.echo(json.dumps(schemas[what](), indent=2, ensure_ascii=False))


@policy.command("reload")
@_json
@click.pass_obj
def reload_(given: Given, as_json: bool) -> None:
    """Read the policy files anew now.

    Changed files are noticed within seconds without it. Ends with 1 where they are unfit and the old policy stays.

    \b
    Example:
      sluicegate policy reload
    """
    state = ask_control(given.run, "policy.reload")
    if as_json:
        print_json(state)
    elif state["fault"]:
        say(f"the old policy stays in force, because the new one is unfit:\n{state['fault']}", "red", to_errors=True)
    else:
        word = "is in force now" if state["changed"] else "was in force already"
        click.echo(f"policy {state['version']} with {state['rules']} rules {word}")
    if state["fault"]:
        raise click.exceptions.Exit(1)


@policy.command()
@click.argument("rule", required=False, shell_complete=complete_rule)
@_json
@click.pass_obj
def show(given: Given, rule: str | None, as_json: bool) -> None:
    """Show the policy in force with how often each rule was used, or one RULE with its text.

    \b
    Example:
      sluicegate policy show
      sluicegate policy show losses-need-approval
    """
    found = ask_control(given.run, "policy.show")
    if rule is not None:
        chosen = [(file["name"], one) for file in found["files"] for one in file["rules"] if one["id"] == rule]
        if not chosen:
            raise click.ClickException(printable(f"found no rule {rule!r} in force; `sluicegate policy show` lists them"))
        for name, one in chosen:
            if as_json:
                print_json({"file": name, **one})
            else:
                say(f"{name}:{one['line']}  used {one['hits']} times", "bold")
                say(one["source"])
        return
    if as_json:
        print_json(found)
        return
    told = table("rule", "does", "used", "last", "reason")
    for file in found["files"]:
        for one in file["rules"]:
            last = "never" if one["last"] is None else clock_time(int(one["last"] * 1e9))
            words = (one["id"], ", ".join(one["kinds"]), str(one["hits"]), last, one["reason"])
            told.add_row(*map(printable, words))
    console().print(told)
    if found["fault"]:
        say(f"POLICY UNFIT, the one above stays in force:\n{found['fault']}", "red")


def _configured(given: Given) -> tuple[str, ...]:
    """The policies of the configuration."""
    from appliance.configuration import reread_configuration

    try:
        return reread_configuration(str(given.configuration), given.programs.protocols).policies
    except SettingErrors as errors:
        raise click.ClickException(printable(f"no PATHS are given, and the configuration names none: {errors}")) from None


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
    from appliance.configuration import read_policy_files
    from appliance.parties import Phase, Principal, Scope
    from appliance.policy.cases import command_effects, read_cases
    from appliance.policy.explanation import explain
    from appliance.policy.reading import read_policy
    from appliance.sql.analysis import read

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
        say(str(errors), "red", to_errors=True)
    raise click.exceptions.Exit(1)
