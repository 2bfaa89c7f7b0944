"""How shells complete: their scripts, and the ids and names that control or the configuration know just now."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a shell's completion script.

    \b
    Example, in ~/.bashrc:
      eval "$(sluicegate completion bash)"
    """
    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(context.find_root().command, {}, "sluicegate", "_SLUICEGATE_COMPLETE").source())
