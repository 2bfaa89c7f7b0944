"""`sluicegate doctor`: every precondition in a sentence with what to do, from this machine to the targets."""

from __future__ import annotations

import errno
import json
import os
import pwd
import shutil
import socket
import stat
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Final

import click
from cryptography import x509
from rich.padding import Padding
from rich.text import Text

from appliance.configuration import read_case_files, read_configuration, read_policy_files
from appliance.errors import SettingError, SettingErrors
from appliance.recording.places import Places
from appliance.settings import Settings
from appliance.tls.authority import imported
from kernel.doctor import Finding, State, look_at_machine, look_at_networks
from ui.conversation import NoAnswer, Refused, ask_control
from ui.targets import expiry, try_targets
from ui.terminal import console, print_json, printable
from ui.wiring import Given

_FREE_BYTES_MIN: Final = 1 << 30
# What a `durable` rule adds to a command; a disk that takes longer is broken or is not one.
_FSYNC_SECONDS_MAX: Final = 0.05
_FSYNC_TRIES: Final = 12
_PROGRAM_SECONDS_MAX: Final = 30.0
_STYLES: Final = {
    State.GOOD: ("ok", "green"),
    State.BAD: ("BAD", "bold red"),
    State.UNKNOWN: ("?", "yellow"),
    State.NOT_NEEDED: ("-", "dim"),
}
# What a process of another user is asked to do: be a Python with this product in it, and say which files it may read.
_MAY_READ: Final = (
    "import json, os, sys; import ui.cli; json.dump([os.access(one, os.R_OK) for one in json.load(sys.stdin)], sys.stdout)"
)


@click.command()
@click.option("--no-targets", is_flag=True, help="Leave the targets alone: no connection, no login.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
@click.pass_context
def doctor(context: click.Context, given: Given, no_targets: bool, as_json: bool) -> None:
    """Look at every precondition of the appliance and say what to do.

    Nothing of the machine is changed: diverting is tried between two machines made for it, which are gone afterwards. Run
    it as root. Ends with 1 where something is bad.

    \b
    Example:
      sluicegate doctor
      sluicegate doctor --json | jq '.[] | select(.state == "bad")'
    """
    found: list[Finding] = []
    terminal = console()

    def tell(finding: Finding) -> None:
        if not as_json and (not found or found[-1].area != finding.area):
            terminal.print(Text(finding.area, "bold"))
        found.append(finding)
        if not as_json:
            terminal.print(Padding(_line(finding), (0, 0, 0, 2), expand=False))

    # By itself and first: the trial of diverting forks, and a sign of life is a thread.
    for finding in look_at_machine():
        tell(finding)
    # On the console that also prints the findings where both are the terminal: it knows to keep them apart.
    people = terminal if sys.stdout.isatty() else console(to_errors=True)
    with people.status("looking …") if people.is_terminal and not as_json else nullcontext():
        for finding in _looks(given, with_targets=not no_targets):
            tell(finding)
    if as_json:
        print_json(
            [
                {
                    "area": one.area,
                    "name": one.name,
                    "state": one.state.value,
                    "sentence": one.sentence,
                    "advice": one.advice,
                }
                for one in found
            ]
        )
    counts = Counter(one.state for one in found)
    if not as_json:
        told = ", ".join(f"{counts[state]} {state.value}" for state in State if counts[state])
        terminal.print(Text(told, "bold red" if counts[State.BAD] else "bold green"))
    if counts[State.BAD]:
        context.exit(1)


def _line(finding: Finding) -> Text:
    word, style = _STYLES[finding.state]
    line = Text.assemble((f"{word:<4}", style), (printable(f"{finding.name}: "), "bold"), printable(finding.sentence))
    if finding.advice:
        line.append(printable(f" → {finding.advice}"), "cyan" if finding.state is State.BAD else "dim")
    return line


def _looks(given: Given, *, with_targets: bool) -> Iterator[Finding]:
    """Everything that the configuration names."""
    try:
        settings = read_configuration(str(given.configuration), given.programs.protocols)
    except SettingErrors as errors:
        for error in errors.errors:
            advice = "Mend it; `sluicegate check` looks again." if error.line else "`sluicegate init` writes a first one."
            yield Finding("configuration", "file", State.BAD, f"{error}.", advice)
        yield Finding(
            "configuration",
            "the rest",
            State.UNKNOWN,
            "Interfaces, folders, policy and targets were not looked at, because the configuration names them.",
        )
        return
    yield Finding(
        "configuration",
        "file",
        State.GOOD,
        f"{given.configuration} is sound: {len(settings.agents)} agents, {len(settings.resources)} resources.",
    )
    running = _ask(given)
    yield from _look_at_users(settings, given.configuration)
    yield from _look_at_policy(settings)
    yield from _look_at_certificates(settings)
    yield from look_at_networks(settings.networks, is_running=running is not None)
    yield from _look_at_folders(settings)
    yield from _look_at_appliance(given, settings, running)
    if with_targets:
        yield from try_targets(settings)


# Users and what they may read.


def _look_at_users(settings: Settings, configuration: Path) -> Iterator[Finding]:
    public = [str(configuration), *(one.tls.authorities for one in settings.resources if one.tls.authorities)]
    secret = [one.password_file for one in settings.credentials if one.password_file]
    secret += [file for one in settings.resources for file in (one.tls.certificate, one.tls.key) if file]
    secret += [file for file in (settings.dashboard.certificate, settings.dashboard.key) if file]
    policies = [str(file) for path in settings.policies for file in _policy_files(Path(path))]
    parties = [("workers", settings.worker_uid, public), ("control", settings.control_uid, [*public, *policies, *secret])]
    if settings.dashboard.listen is not None:
        parties.append(("dashboard", settings.dashboard_uid, [str(configuration)]))
    for name, uid, files in parties:
        yield _user(name, uid)
        yield _access(name, uid, files)
    for approver in settings.approvers:
        if not approver.user.isdecimal() and not _is_user(approver.user):
            yield Finding(
                "users",
                f"approver {approver.user}",
                State.BAD,
                f"This machine has no user {approver.user}, so nobody can answer as that approver.",
                "Add the user, or name another under approvers.",
            )


def _policy_files(path: Path) -> list[Path]:
    return [path, *sorted(path.glob("*.yaml"))] if path.is_dir() else [path]


def _is_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _user(name: str, uid: int) -> Finding:
    try:
        owner = pwd.getpwuid(uid).pw_name
    except KeyError:
        return Finding("users", name, State.GOOD, f"User {uid} of {name} belongs to nobody else.")
    if owner.startswith("sluicegate"):
        return Finding("users", name, State.GOOD, f"User {uid} of {name} is {owner}.")
    return Finding(
        "users",
        name,
        State.BAD,
        f"User {uid}, meant for {name}, is {owner} of this machine.",
        "Set appliance.uids to numbers that nobody has: whoever shares a user with a process can read and stop it.",
    )


def _access(name: str, uid: int, files: list[str]) -> Finding:
    about = f"files of {name}"
    if os.geteuid() != 0:
        return Finding("users", about, State.UNKNOWN, f"Only root can try what user {uid} may read.", "Run this as root.")
    environment = {key: os.environ[key] for key in ("PATH", "PYTHONPATH", "LANG") if key in os.environ}
    try:
        done = subprocess.run(
            [sys.executable, "-c", _MAY_READ],
            input=json.dumps(files),
            capture_output=True,
            text=True,
            check=False,
            timeout=_PROGRAM_SECONDS_MAX,
            cwd="/",
            env=environment,
            user=uid,
            group=uid,
            extra_groups=(),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = getattr(error, "strerror", None) or f"it took longer than {_PROGRAM_SECONDS_MAX:g} seconds"
        return _no_program(about, uid, str(reason))
    if done.returncode:
        return _no_program(about, uid, (done.stderr.strip().splitlines() or ["no reason given"])[-1])
    closed = [file for file, is_open in zip(files, json.loads(done.stdout), strict=True) if not is_open]
    if closed:
        return Finding(
            "users",
            about,
            State.BAD,
            f"User {uid} ({name}) may not read {', '.join(closed)}.",
            f"Let it: chown {uid} for a file with a secret (mode 0600), chmod a+r for others, chmod a+x for folders above.",
        )
    return Finding("users", about, State.GOOD, f"User {uid} ({name}) may run the program and read its {len(files)} files.")


def _no_program(about: str, uid: int, reason: str) -> Finding:
    return Finding(
        "users",
        about,
        State.BAD,
        f"User {uid} can't run {sys.executable} with this product in it: {reason}.",
        "Install where everybody may read and enter, such as /opt; a home folder of root's is closed to other users.",
    )


# Policy and certificates.


def _look_at_policy(settings: Settings) -> Iterator[Finding]:
    # Here alone: parsing SQL takes some time to import.
    from appliance.policy.cases import read_cases, run_cases
    from appliance.policy.reading import read_policy
    from appliance.sql.analysis import read

    try:
        files = read_policy_files(settings.policies)
        policy = read_policy(files)
        cases = read_cases(read_case_files(settings.policies), read)
        results = run_cases(policy, cases, read)
    except SettingErrors as errors:
        for error in errors.errors:
            yield Finding("policy", "files", State.BAD, f"{error}.", "Mend it; `sluicegate policy check` looks again.")
        return
    yield Finding("policy", "files", State.GOOD, f"{len(policy.rules)} rules in {len(files)} files are sound.")
    failed = [result for result in results if not result.passed]
    if failed:
        first = f"{failed[0].case.file}:{failed[0].case.line}"
        yield Finding(
            "policy",
            "tests",
            State.BAD,
            f"{len(failed)} of {len(results)} test cases fail, the first at {first}.",
            "`sluicegate policy test` says what was expected and what came.",
        )
    elif results:
        yield Finding("policy", "tests", State.GOOD, f"All {len(results)} test cases pass.")
    else:
        yield Finding(
            "policy",
            "tests",
            State.UNKNOWN,
            "The policy has no test cases, so nothing says that it does what is meant.",
            "Write some as *.cases.yaml beside it; docs/policy.md has the form.",
        )


def _look_at_certificates(settings: Settings) -> Iterator[Finding]:
    pairs = [(one.name, one.tls.certificate, one.tls.key) for one in settings.resources]
    pairs.append(("the dashboard", settings.dashboard.certificate, settings.dashboard.key))
    for name, certificate, key in pairs:
        if certificate is None or key is None:
            continue
        try:
            chain = imported(certificate, key).chain
        except SettingError as error:
            advice = "Give an unencrypted key in PEM and the certificate that belongs to it."
            yield Finding("certificates", name, State.BAD, f"{error}.", advice)
            continue
        yield _certificate(name, x509.load_pem_x509_certificates(chain)[0], certificate)
    for resource in settings.resources:
        if resource.tls.authorities is not None:
            yield from _authorities(f"{resource.name}'s authorities", Path(resource.tls.authorities))
    own = Path(settings.state) / "control" / "authority" / "authority.pem"
    if own.is_file():
        yield from _authorities("our authority", own)


def _authorities(name: str, file: Path) -> Iterator[Finding]:
    try:
        found = x509.load_pem_x509_certificates(file.read_bytes())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no certificate in PEM"
        yield Finding("certificates", name, State.BAD, f"{file}: {reason}.", "Give a PEM file with certificates.")
        return
    # One that still holds is enough; of an old one beside it nobody needs to hear.
    yield _certificate(name, max(found, key=lambda one: one.not_valid_after_utc), str(file))


def _certificate(name: str, certificate: x509.Certificate, file: str) -> Finding:
    state, sentence, advice = expiry(certificate, f"The certificate in {file}")
    return Finding("certificates", name, state, sentence, advice)


# Folders and disk.


def _look_at_folders(settings: Settings) -> Iterator[Finding]:
    state, run, control = Path(settings.state), Path(settings.run), settings.control_uid
    places = Places(state)
    expected = [
        (places.journals, settings.worker_uid, 0o2770),
        (places.recording, control, 0o750),
        (places.keys, control, 0o700),
        (state / "control", control, 0o700),
        (run, control, 0o755),
    ]
    problems = []
    for folder, uid, mode in expected:
        try:
            found = folder.lstat()
        except FileNotFoundError:
            continue
        except OSError as error:
            problems.append(f"{folder} can't be looked at ({error.strerror})")
            continue
        if not stat.S_ISDIR(found.st_mode):
            problems.append(f"{folder} is no folder")
        elif (found.st_uid, stat.S_IMODE(found.st_mode)) != (uid, mode):
            problems.append(
                f"{folder} belongs to user {found.st_uid} with mode {stat.S_IMODE(found.st_mode):04o},"
                f" expected user {uid} and mode {mode:04o}"
            )
    if problems:
        yield Finding(
            "folders", "owners", State.BAD, f"{'; '.join(problems)}.", "`sluicegate up` sets owners and modes anew."
        )
    elif not state.exists():
        yield Finding("folders", "owners", State.GOOD, f"{state} is not there yet; the first start makes it.")
    else:
        yield Finding("folders", "owners", State.GOOD, f"The folders in {state} have their owners and modes.")
    here = _nearest(state)
    yield _lasting(state, here)
    yield _space(here)
    yield _fsync(here)


def _nearest(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(one for one in (folder.absolute(), *folder.absolute().parents) if one.is_dir())


def _lasting(state: Path, here: Path) -> Finding:
    kind = ""
    longest = -1
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        mounted = before.split()[4]
        if here.is_relative_to(mounted) and len(mounted) >= longest:
            longest, kind = len(mounted), after.split()[0]
    if kind in ("tmpfs", "ramfs"):
        return Finding(
            "folders",
            "kind",
            State.UNKNOWN,
            f"{state} lies in memory ({kind}), so the recording is gone after a restart of the machine.",
            "Set appliance.state to a folder on a disk, unless this is a trial.",
        )
    return Finding("folders", "kind", State.GOOD, f"{state} lies on {kind}.")


def _space(here: Path) -> Finding:
    free = shutil.disk_usage(here).free
    said = f"{free / (1 << 30):.1f} GiB are free for the recording"
    if free >= _FREE_BYTES_MIN:
        return Finding("folders", "space", State.GOOD, f"{said}.")
    return Finding(
        "folders",
        "space",
        State.BAD,
        f"{said}; with none left, commands are refused because they can't be recorded.",
        "Make room, or move appliance.state.",
    )


def _fsync(here: Path) -> Finding:
    try:
        # Without a name from the start: nothing is left behind, however this ends.
        with tempfile.TemporaryFile(dir=here) as file:
            took = []
            for _ in range(_FSYNC_TRIES):
                began = time.monotonic()
                file.write(bytes(4096))
                file.flush()
                os.fdatasync(file.fileno())
                took.append(time.monotonic() - began)
    except OSError as error:
        return Finding("folders", "disk", State.UNKNOWN, f"Nothing can be written in {here}: {error.strerror}.", "Use root.")
    typical = statistics.median(took)
    said = f"A write is on the disk after {typical * 1000:.2f} ms"
    if typical <= _FSYNC_SECONDS_MAX:
        return Finding("folders", "disk", State.GOOD, f"{said}, which is what a rule that says durable adds.")
    return Finding(
        "folders",
        "disk",
        State.BAD,
        f"{said}, and rules that say durable wait for it.",
        "Use a faster disk for appliance.state.",
    )


# The appliance itself.


def _ask(given: Given) -> dict[str, object] | None:
    try:
        found = ask_control(given.run, "status")
    except (NoAnswer, Refused):
        return None
    return found if isinstance(found, dict) else None


def _look_at_appliance(given: Given, settings: Settings, running: dict[str, object] | None) -> Iterator[Finding]:
    if running is None:
        yield Finding(
            "appliance",
            "processes",
            State.NOT_NEEDED,
            "The appliance does not run, or does not answer you.",
            "`sluicegate up`",
        )
    else:
        try:
            health = ask_control(given.run, "health.show")
        except (NoAnswer, Refused) as error:
            yield Finding("appliance", "health", State.UNKNOWN, f"Control does not say how it is: {error.message}.")
        else:
            for one in health["checks"]:
                yield Finding("appliance", one["name"], State(one["state"]), one["sentence"], one.get("advice") or "")
    listen = settings.dashboard.listen
    if listen is None:
        yield Finding("appliance", "dashboard", State.NOT_NEEDED, "The dashboard is switched off.")
        return
    family = socket.AF_INET6 if ":" in listen.address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as one_socket:
            one_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one_socket.bind((listen.address, listen.port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE and running is not None:
            yield Finding("appliance", "dashboard", State.GOOD, f"{listen} is held by the appliance that runs.")
            return
        yield Finding(
            "appliance",
            "dashboard",
            State.BAD,
            f"The dashboard's {listen} can't be had: {error.strerror}.",
            "Set dashboard.listen to an address of this machine and a port that is free.",
        )
    else:
        yield Finding("appliance", "dashboard", State.GOOD, f"{listen} is free for the dashboard.")
