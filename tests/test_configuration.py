"""The configuration: what it means, and every fault with its file, its line, what was found and what was expected."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from jsonschema import Draft202012Validator

from appliance.configuration import configuration_schema, read_case_files, read_configuration, read_policy_files
from appliance.errors import SettingErrors
from appliance.parties import Endpoint, Phase
from appliance.settings import ClientTls, TargetTls

PROTOCOLS = frozenset({"postgres", "redis"})
_KEY = base64.b64encode(b"k" * 32).decode()
VERIFIER = f"SCRAM-SHA-256$4096:c2FsdA==${_KEY}:{_KEY}"
WHOLE = f"""\
agents:
  shopper:
    owner: shop@example.com
    vendor: Example
    groups: [shop-agents]
    placeholder: {VERIFIER}
    phases:
      plan: {{sources: [10.81.1.10, "fd81:1::10"]}}
      execute: {{sources: [10.81.1.16/28]}}
resources:
  shop:
    protocol: postgres
    addresses: ["10.81.2.2:5432", "[fd81:2::2]:5432"]
    credential: owner
    tls:
      client: require
      target: verify-full
      authorities: ca.pem
      server_names: [db.example]
      certificate: ca.pem
      key: key.pem
  cache:
    protocol: redis
    addresses: ["10.81.2.3:6379"]
credentials:
  owner: {{user: shop_owner, password: {{file: secrets/owner}}}}
networks:
  executors: {{interfaces: [eth1], port: 15002}}
policies: [rules, extra.yaml]
approvers:
  root: {{groups: [dba]}}
appliance:
  state: state
  run: /run/x
  workers: 2
  hold_seconds: 60
  uids: {{worker: 700, control: 701, dashboard: 702}}
dashboard:
  listen: "127.0.0.1:9443"
  names: [Gate.example]
  certificate: ca.pem
  key: key.pem
"""

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    for name in ("ca.pem", "extra.yaml", "rules/a.yaml", "rules/a.cases.yaml", "secrets/owner", "key.pem", "open"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("rules: []\n")
        path.chmod(0o644 if name == "open" else 0o600)

    def written(text: str) -> Path:
        path = tmp_path / "sluicegate.yaml"
        path.write_text(text)
        return path

    return written


def test_a_whole_configuration_reads_as_settings(write: Write, tmp_path: Path) -> None:
    settings = read_configuration(str(write(WHOLE)), PROTOCOLS)
    (agent,) = settings.agents
    assert (agent.name, agent.owner, agent.vendor, agent.groups) == (
        "shopper", "shop@example.com", "Example", frozenset({"shop-agents"}),
    )  # fmt: skip
    assert agent.placeholder == VERIFIER
    assert [(phase.phase, phase.sources) for phase in agent.phases] == [
        (Phase.PLAN, (ip_network("10.81.1.10/32"), ip_network("fd81:1::10/128"))),
        (Phase.EXECUTE, (ip_network("10.81.1.16/28"),)),
    ]
    shop, cache = settings.resources
    assert shop.addresses == (Endpoint("10.81.2.2", 5432), Endpoint("fd81:2::2", 5432))
    assert (shop.credential, cache.credential) == ("owner", None)
    assert (shop.tls.client, shop.tls.target) == (ClientTls.REQUIRE, TargetTls.VERIFY_FULL)
    assert shop.tls.authorities == str(tmp_path / "ca.pem")
    assert shop.tls.key == str(tmp_path / "key.pem")
    assert settings.credentials[0].password_file == str(tmp_path / "secrets/owner")
    assert (settings.networks.interfaces, settings.networks.port) == (("eth1",), 15002)
    assert settings.policies == (str(tmp_path / "rules"), str(tmp_path / "extra.yaml"))
    assert (settings.approvers[0].user, settings.approvers[0].groups) == ("root", frozenset({"dba"}))
    assert (settings.state, settings.run) == (str(tmp_path / "state"), "/run/x")
    assert (settings.workers, settings.hold_seconds, settings.worker_uid, settings.control_uid) == (2, 60.0, 700, 701)


def test_what_may_be_left_out_has_defaults(write: Write) -> None:
    text = """\
agents: {a: {owner: o, phases: {plan: {sources: [10.0.0.1]}}}}
resources: {}
credentials: {}
networks: {executors: {interfaces: [eth0]}}
policies: [extra.yaml]
"""
    with pytest.raises(SettingErrors, match="registered targets by name"):
        read_configuration(str(write(text)), PROTOCOLS)
    settings = read_configuration(
        str(write(text.replace("resources: {}", 'resources: {r: {protocol: redis, addresses: ["10.0.0.2:1"]}}'))), PROTOCOLS
    )
    assert (settings.workers, settings.hold_seconds, settings.networks.port) == (0, 300.0, 15001)
    assert settings.resources[0].tls.target is TargetTls.REQUIRE


@pytest.mark.parametrize(
    ("old", "new", "found", "expected"),
    [
        ("policies: [", "polcies: [", "the key 'polcies'", "did you mean policies?"),
        ("    owner: shop@", "    ownr: shop@", "the key 'ownr'", "did you mean owner?"),
        ("      execute:", "      run:", "the key 'run'", "one of plan, execute"),
        ("  shopper:", "  shop per:", "the key 'shop per'", "letters, digits"),
        (
            "protocol: postgres",
            "protocol: postgers",
            "the protocol 'postgers'",
            "one of postgres, redis (did you mean postgres?)",
        ),
        (
            "credential: owner",
            "credential: ownr",
            "the credential 'ownr'",
            "one of the credentials (owner) (did you mean owner?)",
        ),
        (
            "10.81.1.16/28",
            "10.81.1.17/28",
            "10.81.1.17/28, whose host part is not zero",
            "10.81.1.16/28, or the address alone",
        ),
        ("10.81.1.16/28", "10.81.1.300", "'10.81.1.300'", "an address or a network"),
        ("10.81.1.16/28", "10.81.1.0/28", "overlaps 10.81.1.10/32 of shopper/plan on line 8", "one agent and phase only"),
        ("10.81.1.16/28", '"::ffff:10.0.0.1"', "'::ffff:10.0.0.1'", "a plain IPv4 or IPv6 form"),
        ('"10.81.2.2:5432"', '"10.81.2.2"', "'10.81.2.2'", "an address and a port"),
        ('"10.81.2.2:5432"', '"10.81.2.2:0"', "the port '0'", "a port from 1 to 65535"),
        ('"10.81.2.2:5432"', '"10.81.2.2:65536"', "the port '65536'", "a port from 1 to 65535"),
        ('"10.81.2.2:5432"', '"db.example:5432"', "'db.example:5432'", "an address and a port"),
        ('"[fd81:2::2]:5432"', '"fd81:2::2:5432"', "'fd81:2::2:5432'", "[fd00::5]:5432"),
        ('"[fd81:2::2]:5432"', '"[fe80::1%eth0]:5432"', "%eth0", "without a mapping or a scope"),
        (
            '"10.81.2.3:6379"',
            '"10.81.2.2:5432"',
            "10.81.2.2:5432, which resource shop has on line 13",
            "belong to one resource",
        ),
        ("target: verify-full", "target: verify", "'verify'", "did you mean verify-"),
        ("authorities: ca.pem", "authorities: none.pem", "none.pem: no such file or directory", "a file that is there"),
        ("authorities: ca.pem", "authorities: rules", "rules, which is no plain file", "a plain file"),
        (
            "certificate: ca.pem\n      key: key.pem",
            "certificate: ca.pem",
            "the key certificate without key",
            "certificate beside key only",
        ),
        ("key: key.pem", "key: open", "open with mode 0644", "mode 0600 or stricter"),
        ("file: secrets/owner", "file: open", "open with mode 0644", "mode 0600 or stricter"),
        ("file: secrets/owner", "file: gone", "gone: no such file or directory", "a file that is there"),
        ("password: {file: secrets/owner}", "password: hunter2", "a text", "never the password itself"),
        (
            "interfaces: [eth1]",
            "interfaces: [a-name-that-is-too-long]",
            "'a-name-that-is-too-long'",
            "at most 15 characters",
        ),
        ("port: 15002", "port: 70000", "70000", "65535 or less"),
        ("policies: [rules", "policies: [secrets", "secrets with no policy file", "a folder with at least one *.yaml"),
        ("policies: [rules", "policies: [rules/a.cases.yaml", "the test cases", "a policy file, or a folder"),
        ("policies: [rules", "policies: [nowhere", "nowhere: no such file or directory", "a file that is there"),
        ("workers: 2", "workers: -1", "-1", "0 or more"),
        ("workers: 2", "workers: two", "the text 'two'", "how many workers"),
        ("hold_seconds: 60", "hold_seconds: 0", "0", "more than 0"),
        ("control: 701", "control: 700", "the user 700 for workers and for control", "two users"),
        ("dashboard: 702", "dashboard: 701", "the user 701 for the dashboard and for another process", "a user of its own"),
        ('listen: "127.0.0.1:9443"', "listen: here", "'here'", "an address and a port"),
        ("names: [Gate.example]", 'names: ["a b"]', "'a b'", "a text of the form"),
        (
            'listen: "127.0.0.1:9443"\n  names: [Gate.example]',
            'plain_http: true\n  listen: "10.0.0.1:80"',
            "plain HTTP at 10.0.0.1:80",
            "a loopback address",
        ),
        ("certificate: ca.pem\n  key: key.pem", "certificate: ca.pem", "the key certificate without key", "beside key only"),
        (VERIFIER, "hunter2", "a text of another shape", "SCRAM-SHA-256$<iterations>"),
        (VERIFIER, VERIFIER.replace("4096", "100"), "fewer than 4096 iterations", "SCRAM-SHA-256$"),
        (VERIFIER, VERIFIER.replace("256", "1"), "another mechanism", "SCRAM-SHA-256$"),
        (VERIFIER, VERIFIER.replace(_KEY, "!!"), "a part that is not base64", "SCRAM-SHA-256$"),
        (VERIFIER, VERIFIER.replace(_KEY, "c2FsdA=="), "a part of another length", "SCRAM-SHA-256$"),
    ],
)
def test_each_fault_has_its_file_its_line_and_both_texts(
    write: Write, old: str, new: str, found: str, expected: str
) -> None:
    assert WHOLE.count(old) >= 1
    path = write(WHOLE.replace(old, new, 1))
    line = WHOLE.count("\n", 0, WHOLE.index(old)) + 1
    with pytest.raises(SettingErrors) as caught:
        read_configuration(str(path), PROTOCOLS)
    seen = [(error.file, error.line, error.found, error.expected) for error in caught.value.errors]
    assert any(
        file == str(path) and at == line and found in what and expected in wanted for file, at, what, wanted in seen
    ), seen
    assert "hunter2" not in str(caught.value)


def test_the_dashboard_listens_on_loopback_unless_told_otherwise_or_told_not_to(write: Write) -> None:
    section = WHOLE[WHOLE.index("dashboard:\n") :]
    whole = read_configuration(str(write(WHOLE)), PROTOCOLS).dashboard
    assert (whole.listen, whole.names) == (Endpoint("127.0.0.1", 9443), ("gate.example",))
    plain = read_configuration(str(write(WHOLE.replace(section, ""))), PROTOCOLS).dashboard
    assert (plain.listen, plain.is_plain, plain.certificate) == (Endpoint("127.0.0.1", 8443), False, None)
    assert (
        read_configuration(str(write(WHOLE.replace(section, "dashboard: {listen: null}"))), PROTOCOLS).dashboard.listen
        is None
    )


def test_two_agents_may_not_share_a_source(write: Write) -> None:
    second = '  other:\n    owner: o\n    phases:\n      plan: {sources: ["fd81:1::/64"]}\nresources:'
    with pytest.raises(SettingErrors) as caught:
        read_configuration(str(write(WHOLE.replace("resources:", second, 1))), PROTOCOLS)
    (error,) = caught.value.errors
    assert (error.line, error.found) == (13, "fd81:1::/64, which overlaps fd81:1::10/128 of shopper/plan on line 8")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingErrors) as caught:
        read_configuration(str(tmp_path / "none.yaml"), PROTOCOLS)
    (error,) = caught.value.errors
    assert (error.line, error.found, error.expected) == (0, "no such file or directory", "a readable file")
    (tmp_path / "bytes.yaml").write_bytes(b"agents:\n  \xff\n")
    with pytest.raises(SettingErrors) as caught:
        read_configuration(str(tmp_path / "bytes.yaml"), PROTOCOLS)
    (error,) = caught.value.errors
    assert (error.line, error.found) == (2, "bytes that are not UTF-8")


def test_all_faults_are_told_at_once(write: Write) -> None:
    text = WHOLE.replace("credential: owner", "credential: x").replace("port: 15002", "port: 0")
    with pytest.raises(SettingErrors) as caught:
        read_configuration(str(write(text)), PROTOCOLS)
    assert "0" in str(caught.value)
    text = WHOLE.replace("credential: owner", "credential: x").replace("control: 701", "control: 700")
    with pytest.raises(SettingErrors) as caught:
        read_configuration(str(write(text)), PROTOCOLS)
    assert [error.line for error in caught.value.errors] == [14, 37]


def test_policy_files_and_cases_are_told_apart_by_name(write: Write, tmp_path: Path) -> None:
    write(WHOLE)
    paths = [str(tmp_path / "rules"), str(tmp_path / "extra.yaml")]
    assert [name for name, _ in read_policy_files(paths)] == ["rules/a.yaml", f"{tmp_path.name}/extra.yaml"]
    assert [name for name, _ in read_case_files(paths)] == ["rules/a.cases.yaml"]
    other = tmp_path / "more" / "rules"
    other.mkdir(parents=True)
    (other / "a.yaml").write_text("rules: []\n")
    names = [name for name, _ in read_policy_files([str(tmp_path / "rules"), str(other)])]
    assert names == [str(tmp_path / "rules" / "a.yaml"), str(other / "a.yaml")]
    with pytest.raises(SettingErrors, match="no policy file"):
        read_policy_files([str(tmp_path / "secrets")])


def test_the_published_schema_is_one() -> None:
    Draft202012Validator.check_schema(configuration_schema())


@pytest.mark.real
def test_policy_behind_a_closed_door_is_a_fault_and_no_trace() -> None:
    # Not below tmp_path, whose parents let nobody else in.
    with TemporaryDirectory() as made:
        folder = Path(made)
        folder.chmod(0o755)
        closed = folder / "closed"
        (closed / "rules").mkdir(parents=True)
        closed.chmod(0)
        path = folder / "sluicegate.yaml"
        path.write_text(WHOLE.replace("policies: [rules, extra.yaml]", "policies: [closed/rules]"))
        said = _read_as_nobody(path)
    assert f"{closed / 'rules'}: permission denied; expected a folder or file this process may read" in said


def _read_as_nobody(path: Path) -> str:
    program = (
        "import sys; from appliance.configuration import read_configuration; from appliance.errors import SettingErrors\n"
        "try: read_configuration(sys.argv[1], frozenset({'postgres', 'redis'}))\n"
        "except SettingErrors as errors: print(errors)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        user=61001,
        group=61001,
        extra_groups=[],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(Path(__file__).resolve().parents[1]), "PATH": "/usr/bin:/bin"},
        cwd="/",
    )
    return done.stdout
