"""How shells complete: their scripts, and the ids and names that control or the configuration know just now.

A completed word must come at once and quietly: what can't be known in a moment is not offered, and nothing is ever said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import click
from click.shell_completion import CompletionItem, get_completion_class

from ui.wiring import CONFIGURATION, folders

_OFFERED_MAX: Final = 100


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a shell's completion script.

    It completes commands, options, and the ids and names that the appliance knows at that moment.

    \b
    Example, in ~/.bashrc:
      eval "$(sluicegate completion bash)"
    """
    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(context.find_root().command, {}, "sluicegate", "_SLUICEGATE_COMPLETE").source())


def complete_approval(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Ids of what waits for a person, with the command."""
    return _offer(_approvals, context, incomplete)


def complete_flow(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Ids of open flows, and of the newest recorded ones."""
    return _offer(_flows, context, incomplete)


def complete_agent(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Configured agents."""
    return _offer(lambda context: _configured(context, "agents"), context, incomplete)


def complete_resource(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Configured resources."""
    return _offer(lambda context: _configured(context, "resources"), context, incomplete)


def complete_rule(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Rules of the policy in force."""
    return _offer(_rules, context, incomplete)


def complete_person(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """People who may sign in at the dashboard."""
    return _offer(_people, context, incomplete)


def _offer(
    find: Callable[[click.Context], Iterator[tuple[str, str]]], context: click.Context, incomplete: str
) -> list[CompletionItem]:
    from appliance.errors import SluicegateError
    from ui.terminal import one_line

    found: list[CompletionItem] = []
    try:
        for word, about in find(context):
            # Shells split what they get at blanks and lines; ids and names have none.
            if word.startswith(incomplete) and word.isprintable() and " " not in word and len(found) < _OFFERED_MAX:
                found.append(CompletionItem(word, help=one_line(about, 60)))
    except (click.ClickException, SluicegateError, OSError, LookupError, TypeError):
        # Whatever is amiss, the person is in the middle of typing.
        return []
    return found


def _file(context: click.Context) -> Path:
    return Path(context.find_root().params.get("configuration") or CONFIGURATION)


def _asked(context: click.Context, verb: str, **arguments: object) -> Any:
    from ui.conversation import ask_quickly

    return ask_quickly(folders(_file(context))[1], verb, **arguments)


def _approvals(context: click.Context) -> Iterator[tuple[str, str]]:
    for one in _asked(context, "approvals.list")["approvals"]:
        yield one["id"], one["shown"]


def _flows(context: click.Context) -> Iterator[tuple[str, str]]:
    for one in _asked(context, "flows.list", before=None, limit=_OFFERED_MAX)["flows"]:
        yield one["flow"], f"{one['principal'] or 'nobody known'} to {one['resource'] or 'no resource'}"


def _rules(context: click.Context) -> Iterator[tuple[str, str]]:
    for file in _asked(context, "policy.show")["files"]:
        for rule in file["rules"]:
            yield rule["id"], rule["reason"]


def _people(context: click.Context) -> Iterator[tuple[str, str]]:
    for one in _asked(context, "people.list"):
        yield one["name"], one["role"]


def _configured(context: click.Context, section: str) -> Iterator[tuple[str, str]]:
    """From the file: it is quicker than asking, and answers while nothing runs."""
    from appliance.configuration import read_text
    from appliance.documents import read_document

    file = str(_file(context))
    data = read_document(file, read_text(file)).data
    named = data.get(section) if isinstance(data, dict) else None
    for name, one in named.items() if isinstance(named, dict) else ():
        about = one.get("owner") or one.get("protocol") if isinstance(one, dict) else None
        yield name, about if isinstance(about, str) else ""
