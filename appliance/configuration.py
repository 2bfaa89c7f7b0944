"""How the configuration file becomes settings: its YAML, its schema, and every check that needs the whole of it."""

from __future__ import annotations

import base64
import binascii
import json
import os
import stat
from collections.abc import Sequence
from functools import cache
from importlib.resources import files as package_files
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path as FilePath
from typing import Any, cast

from appliance.documents import Document, Path, join_words, read_checked, suggest
from appliance.errors import SettingError, SettingErrors
from appliance.parties import Endpoint, Phase
from appliance.settings import (
    AgentSettings,
    ApproverSettings,
    ClientTls,
    CredentialSettings,
    DashboardSettings,
    MetricsSettings,
    NetworkSettings,
    PhaseSettings,
    ResourceSettings,
    Settings,
    TargetTls,
    TlsSettings,
)

Network = IPv4Network | IPv6Network

CASES_SUFFIX = ".cases.yaml"
# A file a person writes; what is larger is another file given by mistake, and is not read into memory.
_FILE_BYTES_MAX = 1 << 20
# RFC 5802 leaves the count open; RFC 7677 asks for 4096 at least, and PostgreSQL writes that.
_SCRAM_ITERATIONS_MIN = 4096
_SHA256_BYTES = 32


def read_configuration(path: str, protocols: frozenset[str]) -> Settings:
    """The settings of a configuration file; `protocols` are the registered names a resource may have.

    Relative paths in it start at its own folder. Raises SettingErrors with every fault of it. Files that hold secrets
    are looked at from outside only (do they exist, who may read them).
    """
    return _read_with(_Reader, path, protocols)


def reread_configuration(path: str, protocols: frozenset[str]) -> Settings:
    """The same for a worker, which may not look at the files of the others and relies on who started it for them."""
    return _read_with(_Rereader, path, protocols)


def _read_with(kind: type[_Reader], path: str, protocols: frozenset[str]) -> Settings:
    try:
        text = read_text(path)
    except SettingError as error:
        raise SettingErrors((error,)) from None
    reader = kind(read_checked(path, text, configuration_schema()), protocols)
    settings = reader.settings()
    if reader.errors:
        raise SettingErrors(tuple(sorted(reader.errors, key=lambda error: (error.line, str(error)))))
    return settings


@cache
def configuration_schema() -> dict[str, Any]:
    """The published JSON Schema of the configuration."""
    text = package_files("appliance").joinpath("configuration.schema.json").read_text("utf-8")
    return cast("dict[str, Any]", json.loads(text))


def read_policy_files(paths: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """The policy files at `paths` (files, or folders of *.yaml) as (name, text), for policy.reading.read_policy.

    A folder's own files only, without test cases. A name is the file's with its folder's, or the whole path where two
    files would have the same. Raises SettingErrors.
    """
    return _read_all(paths, is_cases=False)


def read_case_files(paths: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """The test cases (*.cases.yaml) at `paths`, like `read_policy_files`. There may be none."""
    return _read_all(paths, is_cases=True)


def read_text(path: str) -> str:
    """The text of a file a person wrote. Raises SettingError where it cannot be read or is not UTF-8."""
    try:
        with FilePath(path).open("rb") as file:
            data = file.read(_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise SettingError(path, 0, (error.strerror or "an unreadable file").lower(), "a readable file") from None
    if len(data) > _FILE_BYTES_MAX:
        raise SettingError(path, 0, "a larger file", f"at most {_FILE_BYTES_MAX} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SettingError(path, line, "bytes that are not UTF-8", "a text in UTF-8") from None


def _read_all(paths: Sequence[str], *, is_cases: bool) -> tuple[tuple[str, str], ...]:
    found: list[FilePath] = []
    errors: list[SettingError] = []
    for text in paths:
        path = FilePath(text).absolute()
        try:
            found += _listed(path, is_cases=is_cases)
        except SettingError as error:
            errors.append(error)
    short = [f"{path.parent.name}/{path.name}" for path in found]
    named: list[tuple[str, str]] = []
    for path, name in zip(found, short, strict=True):
        try:
            named.append((name if short.count(name) == 1 else str(path), read_text(str(path))))
        except SettingError as error:
            errors.append(error)
    if errors:
        raise SettingErrors(tuple(errors))
    return tuple(named)


def _listed(path: FilePath, *, is_cases: bool) -> list[FilePath]:
    try:
        if not path.is_dir():
            return [path] if path.name.endswith(CASES_SUFFIX) == is_cases else []
        names = sorted(os.listdir(path))
    except OSError as error:
        raise SettingError(str(path), 0, (error.strerror or "an unreadable folder").lower(), "a readable folder") from None
    found = [path / name for name in names if name.endswith(".yaml") and name.endswith(CASES_SUFFIX) == is_cases]
    if not found and not is_cases:
        raise SettingError(str(path), 0, "no policy file", "a folder with at least one *.yaml that is not *.cases.yaml")
    return found


class _Reader:
    """Reads a document that keeps to the schema; what the schema cannot say is added to `errors`."""

    def __init__(self, document: Document, protocols: frozenset[str]) -> None:
        self._document = document
        self._data = cast("dict[str, Any]", document.data)
        self._protocols = protocols
        self._folder = FilePath(document.file).absolute().parent
        self.errors: list[SettingError] = []

    def settings(self) -> Settings:
        appliance = self._data.get("appliance", {})
        uids = appliance.get("uids", {})
        defaults = Settings((), (), (), NetworkSettings(()), ())
        settings = Settings(
            agents=self._agents(),
            resources=self._resources(),
            credentials=self._credentials(),
            networks=NetworkSettings(**_executors(self._data["networks"]["executors"])),
            policies=tuple(self._policy(text, ("policies", number)) for number, text in enumerate(self._data["policies"])),
            approvers=tuple(
                ApproverSettings(user, frozenset(raw["groups"])) for user, raw in self._data.get("approvers", {}).items()
            ),
            state=self._absolute(appliance.get("state", defaults.state)),
            run=self._absolute(appliance.get("run", defaults.run)),
            workers=appliance.get("workers", defaults.workers),
            hold_seconds=float(appliance.get("hold_seconds", defaults.hold_seconds)),
            worker_uid=uids.get("worker", defaults.worker_uid),
            control_uid=uids.get("control", defaults.control_uid),
            dashboard_uid=uids.get("dashboard", defaults.dashboard_uid),
            dashboard=self._dashboard(defaults.dashboard),
            metrics=self._metrics(defaults.metrics),
            log=appliance.get("log", defaults.log),
        )
        if settings.worker_uid == settings.control_uid:
            self._fault(
                ("appliance", "uids"),
                f"the user {settings.worker_uid} for workers and for control",
                "two users, so that a worker cannot read what control keeps",
            )
        if settings.dashboard_uid in (settings.worker_uid, settings.control_uid):
            self._fault(
                ("appliance", "uids"),
                f"the user {settings.dashboard_uid} for the dashboard and for another process",
                "a user of its own, so that the dashboard can act only as whoever is signed in",
            )
        return settings

    def _metrics(self, plain: MetricsSettings) -> MetricsSettings:
        raw = self._data.get("metrics", {})
        if "listen" not in raw:
            return plain
        return MetricsSettings(None if raw["listen"] is None else self._endpoint(raw["listen"], ("metrics", "listen")))

    def _dashboard(self, plain: DashboardSettings) -> DashboardSettings:
        raw = self._data.get("dashboard", {})
        path = ("dashboard",)
        listen = plain.listen
        if "listen" in raw:
            listen = None if raw["listen"] is None else self._endpoint(raw["listen"], (*path, "listen"))
        is_plain = raw.get("plain_http", plain.is_plain)
        if is_plain and listen is not None and not ip_address(listen.address).is_loopback:
            self._fault((*path, "plain_http"), f"plain HTTP at {listen}", "a loopback address, or HTTPS")
        if "certificate" in raw:
            self._check_readable(self._absolute(raw["certificate"]), (*path, "certificate"))
        if "key" in raw:
            self._check_secret(self._absolute(raw["key"]), (*path, "key"))
        return DashboardSettings(
            listen=listen,
            names=tuple(name.lower() for name in raw.get("names", ())),
            certificate=self._absolute(raw["certificate"]) if "certificate" in raw else None,
            key=self._absolute(raw["key"]) if "key" in raw else None,
            is_plain=is_plain,
        )

    def _agents(self) -> tuple[AgentSettings, ...]:
        known: list[tuple[Network, str, Path]] = []
        agents = []
        for name, raw in self._data["agents"].items():
            phases = []
            for word, phase in raw["phases"].items():
                path = ("agents", name, "phases", word, "sources")
                sources = [self._network(text, (*path, number)) for number, text in enumerate(phase["sources"])]
                phases.append(PhaseSettings(Phase(word), tuple(source for source in sources if source is not None)))
                for number, source in enumerate(sources):
                    if source is not None:
                        self._distinguish(source, f"{name}/{word}", (*path, number), known)
            if (placeholder := raw.get("placeholder")) is not None and (trouble := _verifier_trouble(placeholder)):
                self._fault(("agents", name, "placeholder"), trouble, _VERIFIER_SHAPE)
            agents.append(
                AgentSettings(
                    name, raw["owner"], raw.get("vendor"), frozenset(raw.get("groups", ())), tuple(phases), placeholder
                )
            )
        return tuple(agents)

    def _distinguish(self, source: Network, whose: str, path: Path, known: list[tuple[Network, str, Path]]) -> None:
        """Two principals need two origins that can be told apart."""
        for other, theirs, place in known:
            if theirs != whose and source.version == other.version and source.overlaps(cast("Any", other)):
                self._fault(
                    path,
                    f"{source}, which overlaps {other} of {theirs} on line {self._document.line(place)}",
                    "sources that belong to one agent and phase only",
                )
        known.append((source, whose, path))

    def _network(self, text: str, path: Path) -> Network | None:
        try:
            network = ip_network(text)
        except ValueError:
            try:
                wider = ip_network(text, strict=False)
            except ValueError:
                self._fault(path, f"the text '{text}'", "an address or a network, such as 10.0.0.7 or fd00:1::/64")
                return None
            self._fault(path, f"{text}, whose host part is not zero", f"{wider}, or the address alone")
            return None
        if isinstance(network, IPv6Network) and (
            network.network_address.ipv4_mapped is not None or network.network_address.scope_id is not None
        ):
            self._fault(path, f"the text '{text}'", "a plain IPv4 or IPv6 form, without a mapping or a scope")
            return None
        return network

    def _resources(self) -> tuple[ResourceSettings, ...]:
        known: dict[Endpoint, tuple[str, Path]] = {}
        credentials = self._data["credentials"]
        resources = []
        for name, raw in self._data["resources"].items():
            path = ("resources", name)
            if raw["protocol"] not in self._protocols:
                listed = sorted(self._protocols)
                self._fault(
                    (*path, "protocol"),
                    f"the protocol '{raw['protocol']}'",
                    f"one of {', '.join(listed)}{suggest(raw['protocol'], listed)}",
                )
            credential = raw.get("credential")
            if credential is not None and credential not in credentials:
                one_of = f"one of the credentials ({join_words(credentials)})" if credentials else "a name under credentials"
                self._fault(
                    (*path, "credential"), f"the credential '{credential}'", f"{one_of}{suggest(credential, credentials)}"
                )
            addresses = []
            for number, text in enumerate(raw["addresses"]):
                place = (*path, "addresses", number)
                endpoint = self._endpoint(text, place)
                if endpoint is None:
                    continue
                addresses.append(endpoint)
                if endpoint in known:
                    whose, other = known[endpoint]
                    self._fault(
                        place,
                        f"{endpoint}, which resource {whose} has on line {self._document.line(other)}",
                        "an address and port that belong to one resource, once",
                    )
                else:
                    known[endpoint] = (name, place)
            resources.append(
                ResourceSettings(name, raw["protocol"], tuple(addresses), credential, self._tls(raw.get("tls", {}), path))
            )
        return tuple(resources)

    def _endpoint(self, text: str, path: Path) -> Endpoint | None:
        expected = "an address and a port, such as 10.0.0.5:5432 or [fd00::5]:5432"
        host, colon, port = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        try:
            address = ip_address(host[1:-1] if bracketed else host)
        except ValueError:
            self._fault(path, f"the text '{text}'", expected)
            return None
        if not colon or bracketed != isinstance(address, IPv6Address):
            self._fault(path, f"the text '{text}'", expected)
            return None
        if isinstance(address, IPv6Address) and (address.ipv4_mapped is not None or address.scope_id is not None):
            self._fault(path, f"the text '{text}'", "a plain IPv4 or IPv6 form, without a mapping or a scope")
            return None
        if not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535):
            self._fault(path, f"the port '{port}'", "a port from 1 to 65535")
            return None
        return Endpoint(str(address), int(port))

    def _tls(self, raw: dict[str, Any], resource: Path) -> TlsSettings:
        path = (*resource, "tls")
        if raw.get("target") == TargetTls.DISABLE and "authorities" in raw:
            self._fault(
                (*path, "authorities"), "authorities beside target: disable", "authorities with a target that speaks TLS"
            )
        for name in ("authorities", "certificate"):
            if name in raw:
                self._check_readable(self._absolute(raw[name]), (*path, name))
        if "key" in raw:
            self._check_secret(self._absolute(raw["key"]), (*path, "key"))
        plain = TlsSettings()
        return TlsSettings(
            client=ClientTls(raw.get("client", plain.client)),
            target=TargetTls(raw.get("target", plain.target)),
            authorities=self._absolute(raw["authorities"]) if "authorities" in raw else None,
            server_names=tuple(raw.get("server_names", ())),
            certificate=self._absolute(raw["certificate"]) if "certificate" in raw else None,
            key=self._absolute(raw["key"]) if "key" in raw else None,
        )

    def _credentials(self) -> tuple[CredentialSettings, ...]:
        credentials = []
        for name, raw in self._data["credentials"].items():
            file = None
            if "password" in raw:
                file = self._absolute(raw["password"]["file"])
                self._check_secret(file, ("credentials", name, "password", "file"))
            credentials.append(CredentialSettings(name, raw["user"], file))
        return tuple(credentials)

    def _policy(self, text: str, path: Path) -> str:
        file = self._absolute(text)
        try:
            if FilePath(file).is_dir():
                _listed(FilePath(file), is_cases=False)
            elif file.endswith(CASES_SUFFIX):
                self._fault(path, f"the test cases {file}", "a policy file, or a folder of them")
            else:
                self._check_readable(file, path)
        except SettingError as error:
            self._fault(path, f"{file} with {error.found}", error.expected)
        except OSError as error:
            self._fault(
                path, f"{file}: {(error.strerror or 'unreadable').lower()}", "a folder or file this process may read"
            )
        return file

    def _check_readable(self, file: str, path: Path) -> None:
        if self._status(file, path) is not None and not os.access(file, os.R_OK):
            self._fault(path, f"{file}, which may not be read", "a file this process may read")

    def _check_secret(self, file: str, path: Path) -> None:
        status = self._status(file, path)
        if status is not None and status.st_mode & 0o077:
            self._fault(path, f"{file} with mode {stat.S_IMODE(status.st_mode):04o}", "mode 0600 or stricter")

    def _status(self, file: str, path: Path) -> os.stat_result | None:
        try:
            status = os.stat(file)
        except OSError as error:
            self._fault(path, f"{file}: {(error.strerror or 'unreadable').lower()}", "a file that is there")
            return None
        if not stat.S_ISREG(status.st_mode):
            self._fault(path, f"{file}, which is no plain file", "a plain file")
            return None
        return status

    def _absolute(self, text: str) -> str:
        return os.path.normpath(self._folder / text)

    def _fault(self, path: Path, found: str, expected: str) -> None:
        self.errors.append(self._document.error(path, found, expected))


class _Rereader(_Reader):
    """Reads what has been checked before, without a look at the files it names."""

    def _policy(self, text: str, path: Path) -> str:  # noqa: ARG002
        return self._absolute(text)

    def _status(self, file: str, path: Path) -> os.stat_result | None:  # noqa: ARG002
        return None


def _executors(raw: dict[str, Any]) -> dict[str, Any]:
    return {**raw, "interfaces": tuple(raw["interfaces"])}


_VERIFIER_SHAPE = "SCRAM-SHA-256$<iterations>:<salt>$<stored key>:<server key>, as PostgreSQL stores it"


def _verifier_trouble(text: str) -> str | None:
    """What is wrong with a verifier, without a part of it; None where its shape is right."""
    try:
        mechanism, middle, keys = text.split("$")
        iterations, salt = middle.split(":")
        stored, server = keys.split(":")
    except ValueError:
        return "a text of another shape"
    if mechanism != "SCRAM-SHA-256":
        return "another mechanism"
    if not (iterations.isascii() and iterations.isdigit()) or int(iterations[:9]) < _SCRAM_ITERATIONS_MIN:
        return f"fewer than {_SCRAM_ITERATIONS_MIN} iterations"
    try:
        decoded = [base64.b64decode(part, validate=True) for part in (salt, stored, server)]
    except binascii.Error:
        return "a part that is not base64"
    if not decoded[0] or any(len(key) != _SHA256_BYTES for key in decoded[1:]):
        return "a part of another length"
    return None
