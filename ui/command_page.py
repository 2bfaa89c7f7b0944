"""The documentation's page of the command line, written from the commands themselves: `python -m ui.command_page`.

docs/cli.md is its output; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Iterator
from inspect import cleandoc

import click

from ui.cli import COMMANDS, build_cli

_INTRODUCTION = """# The command line

`sluicegate COMMAND --help` says what each command takes, with an example. This page is generated from the same texts
(`python -m ui.command_page`).

All commands know `--configuration FILE` (before the command), or the variable `SLUICEGATE_CONFIGURATION`; without either
it is `/etc/sluicegate/sluicegate.yaml`. `--json` prints JSON on one line (`flows`, `replay` and `watch`: a line for each;
`export` prints such lines by itself). Colours are left out where `NO_COLOR` is set or the output is no terminal. What
agents, targets and people wrote never acts on your terminal: control characters, escape sequences and marks that turn the
direction of writing are printed as `\\x1b`, `\\u202e`.

## Exit codes

| code | means |
|---|---|
| 0 | done |
| 1 | a negative result: refused, unfit, a failed test, something bad found, a broken recording, a state that needs people |
| 2 | wrong usage |
| 3 | the appliance does not answer, or does not answer you |

`up` ends with 0 after an orderly end.

## Who may ask

The appliance knows who asks from the kernel (the user behind the socket's other end), not from what is said. Root may ask
everything. Users named under `approvers` may look at approvals, flows and status, and answer holds whose rule names one of
their groups, or none. Nobody else is answered. Where root answers a hold without being in one of its groups, the ledger, the
recording and the agent read `root (as administrator)`.

## From nothing to the first approval

```
sluicegate init                    a configuration and a policy, from questions
sluicegate doctor                  is this machine fit, are the targets in reach
sluicegate up                      as root
sluicegate watch                   in a second terminal: what happens
sluicegate approvals list          what waits for you
```

An answer is bound to what was shown: the command line fetches the approval first and sends the hash it saw along, or the one
given by `--if HASH` (`bound` in `show --json`), and another command under the same id is refused. The first of two answers
counts; the second is told who was first. `edit` ends when the changed command was judged: with 0 it runs, with 1 the reason
is printed and the original is held as before.

## Completion

`eval "$(sluicegate completion bash)"` in `~/.bashrc` (or `zsh`, `fish`) completes commands, options, ids of approvals and
flows, and names of agents, resources, rules and people, as they are at that moment.

## Commands
"""


def page() -> str:
    """The whole page in Markdown."""
    return _INTRODUCTION + "".join(_told(name) for name in COMMANDS)


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command people may use, with its words ("policy check"), groups among them."""
    root = _root()
    context = click.Context(root, info_name="sluicegate")
    for name in COMMANDS:
        command = root.get_command(context, name)
        assert command is not None
        yield name, command
        if isinstance(command, click.Group):
            for inner, one in command.commands.items():
                yield f"{name} {inner}", one


def _told(name: str) -> str:
    mine = [(words, command) for words, command in commands() if words.split()[0] == name]
    lines = []
    for words, command in mine:
        mark = "###" if words == name else "####"
        lines += [f"\n{mark} sluicegate {words}\n"]
        if not isinstance(command, click.Group):
            pieces = command.collect_usage_pieces(click.Context(command))
            lines += ["```", " ".join(["sluicegate", words, *pieces]), "```", ""]
        lines += [_help(command)]
        options = [one for one in command.params if isinstance(one, click.Option) and not one.hidden]
        if options:
            lines += ["", "| option | |", "|---|---|", *(_row(option, command) for option in options)]
    return "\n".join(lines) + "\n"


def _help(command: click.Command) -> str:
    """The command's own words; what click keeps as it is (after \\b) becomes a block."""
    found = []
    for paragraph in cleandoc(command.help or "").split("\n\n"):
        if not paragraph.startswith("\b"):
            found.append(paragraph)
            continue
        title, *rest = paragraph.splitlines()[1:]
        found.append("\n".join([title, "", "```", *(line.removeprefix("  ") for line in rest), "```"]))
    return "\n\n".join(found)


def _row(option: click.Option, command: click.Command) -> str:
    written, about = option.get_help_record(click.Context(command)) or ("", "")
    # In a table a bar ends the cell, also inside code.
    cells = [cell.replace("|", "\\|").replace("  [", " [") for cell in (f"`{written}`", about)]
    return f"| {' | '.join(cells)} |"


def _root() -> click.Group:
    def none(*_: object) -> int:
        return 0

    return build_cli(up=none, control=none, worker=none, web=none, protocols=frozenset(), placeholder=lambda: ("", ""))


if __name__ == "__main__":
    print(page(), end="")
