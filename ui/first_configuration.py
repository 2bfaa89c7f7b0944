"""`sluicegate init`: a first configuration with its policy, from questions or options, whole or not at all."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files as package_files
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import click

from appliance.errors import SettingErrors
from appliance.settings import NetworkSettings, Settings, TargetTls
from ui.terminal import print_json, printable, say
from ui.wiring import CONFIGURATION, Given

_DEFAULT_PORTS: Final = {"postgres": 5432, "redis": 6379}
_PASSWORD_BYTES_MAX: Final = 1000
# The names of configuration.schema.json.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# Kernel's own and virtual interfaces that no agent comes in by.
_NEVER_ASKED: Final = ("lo",)


@dataclass(frozen=True, slots=True)
class _Answers:
    """Everything that is written, as people gave it."""

    agent: str
    owner: str
    sources: tuple[str, ...]
    plan_sources: tuple[str, ...]
    resource: str
    protocol: str
    addresses: tuple[str, ...]
    server_name: str | None
    user: str | None
    password: bytes | None
    tls: str
    authorities: str | None
    interfaces: tuple[str, ...]
    approver: str
    state: str | None
    run: str | None


@click.command()
@click.option("--agent", help="The agent's name, such as shop-bot.")
@click.option("--owner", help="Who answers for it, such as an address of mail.")
@click.option("--source", "sources", multiple=True, metavar="CIDR", help="Where its executor's connections come from.")
@click.option("--plan-source", "plan_sources", multiple=True, metavar="CIDR", help="Where its planner's come from, if any.")
@click.option("--resource", help="A name for the target, such as shop.")
@click.option("--protocol", help="What is spoken there.  [default: postgres]")
@click.option("--address", "address", metavar="HOST:PORT", help="Where it is; a host name is looked up once, now.")
@click.option(
    "--user", help="The account that is used there, which agents never learn of. None: the client's login goes on."
)
@click.option("--password-file", metavar="FILE", help="Its password, on the first line; - is standard input. It is copied.")
@click.option("--tls", type=click.Choice([one.value for one in TargetTls]), help="How the target's TLS is checked.")
@click.option(
    "--authorities", type=click.Path(exists=True, dir_okay=False), help="A PEM file its certificate is held against."
)
@click.option("--interface", "interfaces", multiple=True, help="An interface by which agents' connections come in.")
@click.option("--approver", help="A user of this machine who may answer held commands.  [default: you]")
@click.option("--state", help="The folder for recordings.  [default: /var/lib/sluicegate]")
@click.option("--run", "run_folder", help="The folder for sockets.  [default: /run/sluicegate]")
@click.option("--yes", is_flag=True, help="Ask nothing; what is not given and has a default gets it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def init(
    given: Given,
    agent: str | None,
    owner: str | None,
    sources: tuple[str, ...],
    plan_sources: tuple[str, ...],
    resource: str | None,
    protocol: str | None,
    address: str | None,
    user: str | None,
    password_file: str | None,
    tls: str | None,
    authorities: str | None,
    interfaces: tuple[str, ...],
    approver: str | None,
    state: str | None,
    run_folder: str | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Write a first configuration and policy, from questions or options.

    They go to the file of --configuration and the folders policies and secrets beside it. Nothing that is there is
    overwritten, and what is written passes `sluicegate check`, or nothing is.

    \b
    Example:
      sluicegate init
      sluicegate init --yes --agent shop-bot --source 10.0.1.7 --resource shop --address db.example.com:5432 \\
          --user shop_owner --password-file /root/shop --interface eth1
    """
    folder = given.configuration.absolute().parent
    _refuse_to_overwrite([given.configuration, folder / "policies"])
    ask = _Asking(is_silent=yes)
    chosen_agent = ask.text("--agent", agent, "The agent's name", "shop-bot")
    chosen_owner = ask.text("--owner", owner, "Who answers for it", f"{_own_name()}@{socket.gethostname()}", is_default=True)
    chosen_sources = ask.texts("--source", sources, "Where its executor's connections come from (address or network)")
    if not plan_sources and not yes:
        plan_sources = ask.texts("--plan-source", (), "Where its planner's come from (empty: it has none)", may_be_none=True)
    chosen_resource = ask.text("--resource", resource, "A name for the target", "shop")
    kinds = sorted(given.programs.protocols)
    for name in (chosen_agent, chosen_resource):
        # The resource's name becomes a file's: it must be sound before anything is written.
        if not _NAME.fullmatch(name):
            raise click.UsageError(f"found the name {name!r}, expected letters, digits, dots, hyphens and underscores")
    chosen_protocol = ask.text(
        "--protocol", protocol, f"What is spoken there ({', '.join(kinds)})", "postgres", is_default=True
    )
    if chosen_protocol not in kinds:
        raise click.UsageError(f"found the protocol {chosen_protocol!r}, expected one of {', '.join(kinds)}")
    where = ask.text(
        "--address", address, "Its address and port", f"db.example.com:{_DEFAULT_PORTS.get(chosen_protocol, 0)}"
    )
    addresses, server_name = _resolve(where, _DEFAULT_PORTS.get(chosen_protocol))
    if user is None and not yes:
        user = ask.text("--user", None, "The account there (empty: none, the client's login goes on)", "", is_default=True)
    password = _password(password_file, chosen_resource, is_asked=bool(user) and not yes)
    if password is not None and not user:
        raise click.UsageError("--password-file goes with --user")
    default_tls = (
        TargetTls.VERIFY_FULL if authorities else (TargetTls.DISABLE if chosen_protocol == "redis" else TargetTls.REQUIRE)
    )
    chosen_tls = ask.text(
        "--tls", tls, f"Its TLS ({', '.join(one.value for one in TargetTls)})", default_tls.value, is_default=True
    )
    chosen_interfaces = ask.texts("--interface", interfaces, f"The interface agents come in by (here: {_interfaces()})")
    chosen_approver = ask.text(
        "--approver", approver, "Who answers held commands (a user here)", _own_name(), is_default=True
    )
    answers = _Answers(
        agent=chosen_agent,
        owner=chosen_owner,
        sources=chosen_sources,
        plan_sources=plan_sources,
        resource=chosen_resource,
        protocol=chosen_protocol,
        addresses=addresses,
        server_name=server_name,
        user=user or None,
        password=password,
        tls=chosen_tls,
        authorities=str(Path(authorities).absolute()) if authorities else None,
        interfaces=chosen_interfaces,
        approver=chosen_approver,
        state=state,
        run=run_folder,
    )
    written = _write(given, answers)
    base = "sluicegate" if str(given.configuration) == CONFIGURATION else f"sluicegate --configuration {given.configuration}"
    commands = [f"{base} doctor", f"sluicegate policy test {folder / 'policies'}", f"{base} up"]
    if as_json:
        print_json({"written": [str(file) for file in written], "next": commands})
        return
    for file in written:
        say(f"wrote {file}")
    say("Next:")
    for command, why in zip(
        commands, ("is this machine fit, is the target in reach", "does the policy do what it says", "run it"), strict=True
    ):
        say(f"  {command:<60} # {why}")


class _Asking:
    """Questions for what no option gave. Without a terminal, or with --yes, a missing answer is wrong usage."""

    def __init__(self, *, is_silent: bool) -> None:
        self._asks = not is_silent and sys.stdin.isatty()

    def text(self, option: str, given: str | None, question: str, example: str, *, is_default: bool = False) -> str:
        """`example` is the default where `is_default`, else it only shows the form."""
        if given is not None:
            return given
        if not self._asks:
            if is_default:
                return example
            raise click.UsageError(
                f"{option} is missing, such as {option} {example}; without a terminal nobody can be asked"
            )
        if is_default:
            return str(click.prompt(question, default=example, show_default=bool(example), err=True))
        return str(click.prompt(f"{question}, such as {example}", err=True))

    def texts(self, option: str, given: Sequence[str], question: str, *, may_be_none: bool = False) -> tuple[str, ...]:
        """Several, with spaces or commas between."""
        if given:
            return tuple(given)
        if not self._asks:
            if may_be_none:
                return ()
            raise click.UsageError(f"{option} is missing; without a terminal nobody can be asked")
        answer = str(click.prompt(question, default="" if may_be_none else None, show_default=False, err=True))
        return tuple(answer.replace(",", " ").split())


def _password(file: str | None, resource: str, *, is_asked: bool) -> bytes | None:
    """The password's bytes, without an echo where it is asked for."""
    if file is None:
        if not is_asked or not sys.stdin.isatty():
            return None
        asked = click.prompt(
            f"Its password at {resource} (not shown)", hide_input=True, default="", show_default=False, err=True
        )
        return str(asked).encode() or None
    try:
        if file == "-":
            line = sys.stdin.buffer.readline(_PASSWORD_BYTES_MAX + 2)
        else:
            with Path(file).open("rb") as opened:
                line = opened.readline(_PASSWORD_BYTES_MAX + 2)
    except OSError as error:
        raise click.UsageError(f"--password-file {file}: {(error.strerror or 'unreadable').lower()}") from None
    password = line.rstrip(b"\r\n")
    if not password or len(password) > _PASSWORD_BYTES_MAX:
        raise click.UsageError(f"found no password on the first line of {file}, expected 1 to {_PASSWORD_BYTES_MAX} bytes")
    return password


def _resolve(where: str, default_port: int | None) -> tuple[tuple[str, ...], str | None]:
    """Addresses with ports, as the configuration has them, and the host name if it was one."""
    host, colon, port = where.rpartition(":")
    if not colon or not port.isdecimal():
        host, port = where, str(default_port or "")
    host = host.removeprefix("[").removesuffix("]")
    if not port:
        raise click.UsageError(f"found {where!r} as the address, expected HOST:PORT")
    try:
        return (_with_port(str(ip_address(host)), port),), None
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no host name"
        raise click.UsageError(
            f"the host {host!r} is not found ({reason}); give its address, such as 10.0.0.5:{port}"
        ) from None
    addresses = dict.fromkeys(str(one[4][0]) for one in found)
    return tuple(_with_port(one, port) for one in addresses), host


def _with_port(address: str, port: str) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _refuse_to_overwrite(files: Sequence[Path]) -> None:
    there = [str(file) for file in files if file.exists() or file.is_symlink()]
    if there:
        raise click.ClickException(
            printable(f"found {', '.join(there)}; init writes a first configuration only and overwrites nothing")
        )


def _write(given: Given, answers: _Answers) -> list[Path]:
    """Write everything, read it as the appliance will, and take it all away again where that fails."""
    from appliance.configuration import read_configuration

    folder = given.configuration.absolute().parent
    secret = folder / "secrets" / answers.resource
    _refuse_to_overwrite([secret])
    made: list[Path] = []
    try:
        for one, mode in ((folder, 0o755), (folder / "policies", 0o755)):
            _make_folder(one, mode, made)
        if answers.password is not None:
            _make_folder(folder / "secrets", 0o711, made)
            _make_file(secret, answers.password + b"\n", 0o600, made)
            if os.geteuid() == 0:
                control = Settings((), (), (), NetworkSettings(()), ()).control_uid
                os.chown(secret, control, control)
        for suffix in ("yaml", "cases.yaml"):
            text = package_files("ui").joinpath(f"first_policy.{answers.protocol}.{suffix}")
            if text.is_file():
                _make_file(folder / "policies" / f"{answers.protocol}.{suffix}", text.read_bytes(), 0o644, made)
        _make_file(given.configuration.absolute(), _configuration(answers).encode(), 0o644, made)
        read_configuration(str(given.configuration), given.programs.protocols)
    except SettingErrors as errors:
        _take_away(made)
        told = "; ".join(f"found {one.found}, expected {one.expected}" for one in errors.errors)
        raise click.ClickException(printable(f"nothing was written: {told}")) from None
    except OSError as error:
        _take_away(made)
        raise click.ClickException(printable(f"nothing was written: {error.filename}: {error.strerror}")) from None
    except BaseException:
        _take_away(made)
        raise
    return [one for one in made if one.is_file()]


def _make_folder(folder: Path, mode: int, made: list[Path]) -> None:
    if folder.is_dir():
        return
    if not folder.parent.is_dir():
        _make_folder(folder.parent, 0o755, made)
    folder.mkdir()
    made.append(folder)
    folder.chmod(mode)


def _make_file(file: Path, content: bytes, mode: int, made: list[Path]) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    made.append(file)
    with os.fdopen(descriptor, "wb") as opened:
        opened.write(content)
        # Whatever the umask is: others of our processes have to read it, or must not.
        os.fchmod(descriptor, mode)


def _take_away(made: Sequence[Path]) -> None:
    for one in reversed(made):
        with suppress(OSError):
            one.rmdir() if one.is_dir() and not one.is_symlink() else one.unlink()


def _configuration(answers: _Answers) -> str:
    """The file, with a word on everything that people change first."""
    quoted = json.dumps
    phases = []
    if answers.plan_sources:
        phases += [
            "      plan:                    # thinks: reads, changes nothing",
            f"        sources: {_list(answers.plan_sources)}",
        ]
    phases += ["      execute:                 # carries out the plan", f"        sources: {_list(answers.sources)}"]
    tls = [f"      target: {answers.tls:<17}# disable, require, verify-ca or verify-full; the words are libpq's sslmode"]
    if answers.authorities:
        tls.append(f"      authorities: {quoted(answers.authorities)}")
    else:
        tls.append(
            "      # authorities: target-authority.pem    # what verify-ca and verify-full hold its certificate against"
        )
    if answers.server_name:
        tls.append(f"      server_names: {_list((answers.server_name,))}")
    else:
        tls.append("      # server_names: [db.example.com]       # the name in its certificate, if it is not the address")
    account = (
        f"    credential: {quoted(_credential(answers))}"
        if answers.user
        else "    # credential: NAME       # one of those below"
    )
    if answers.user:
        credentials = [
            "credentials:",
            f"  {quoted(_credential(answers))}:",
            f"    user: {quoted(answers.user)}",
        ]
        if answers.password is not None:
            credentials += [
                "    password:",
                f"      file: {quoted(f'secrets/{answers.resource}')}  # read by control alone; mode 0600",
            ]
        else:
            credentials += [
                "    # password:",
                "    #   file: secrets/NAME    # its first line; mode 0600, owned by user 61002",
            ]
    else:
        credentials = ["credentials: {}"]
    appliance = ["appliance:"]
    for name, value, default in (
        ("state", answers.state, "/var/lib/sluicegate"),
        ("run", answers.run, "/run/sluicegate"),
    ):
        appliance.append(f"  {name}: {quoted(str(Path(value).absolute()))}" if value else f"  # {name}: {default}")
    appliance.append("  hold_seconds: 300            # how long a held command waits where its rule does not say")
    lines = [
        "# Sluicegate's configuration. `sluicegate check` says what is wrong with it, `sluicegate doctor` whether this",
        "# machine and the targets are fit. It is read at the start; policies are read anew whenever they change.",
        "",
        "# Who is calling: an agent is known by where its connections come from. Two phases need two sources.",
        "agents:",
        f"  {quoted(answers.agent)}:",
        f"    owner: {quoted(answers.owner)}",
        "    groups: []                 # policies may speak of groups instead of agents",
        "    phases:",
        *phases,
        "",
        "# What they may reach. Every other destination is refused.",
        "resources:",
        f"  {quoted(answers.resource)}:",
        f"    protocol: {answers.protocol}",
        f"    addresses: {_list(answers.addresses)}",
        account,
        "    tls:",
        *tls,
        "",
        "# Accounts at targets. Agents never see them; a password stands in a file, never here.",
        *credentials,
        "",
        "# Where agents' connections come in. All their traffic ends here: what is not registered above is refused.",
        "networks:",
        "  executors:",
        f"    interfaces: {_list(answers.interfaces)}",
        "",
        "# Files, or folders of *.yaml. `sluicegate policy test policies` runs the cases beside them.",
        "policies: [policies]",
        "",
        "# Users of this machine who may answer held commands, and the groups that rules name as approvers.",
        "approvers:",
        f"  {quoted(answers.approver)}:",
        "    groups: [dba]",
        "",
        *appliance,
    ]
    return "\n".join(lines) + "\n"


def _credential(answers: _Answers) -> str:
    return f"{answers.resource}-account"


def _list(values: Sequence[str]) -> str:
    return json.dumps(list(values))


def _own_name() -> str:
    return os.environ.get("SUDO_USER") or os.environ.get("USER") or "root"


def _interfaces() -> str:
    return ", ".join(name for _, name in socket.if_nameindex() if name not in _NEVER_ASKED) or "none"
