"""Where the passwords of targets are kept, and what is answered to a target's challenge in their place.

Only the control process has a vault. A worker gets the answer to one challenge, never the password, save for "cleartext",
where the protocol has no challenge; that is answered under TLS alone.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from appliance.credentials.scram import Derivation, ScramClient, salted_password, verifier
from appliance.errors import PeerError, SettingError, SettingErrors, UnavailableError
from appliance.ipc.messages import ChallengeSet
from appliance.settings import CredentialSettings, Settings, TargetTls

EXCHANGE_SECONDS = 60.0
"""A login that takes longer has been given up by any server (PostgreSQL's authentication_timeout)."""

EXCHANGES_MAX = 10_000
"""As many logins as a machine's connections could be at at once."""

DERIVED_MAX = 64
"""Salted passwords kept, so that a thousand connections do not cost a thousand derivations."""

PASSWORD_BYTES_MAX = 1024

NONCE_BYTES = 18
"""What libpq takes (SCRAM_RAW_NONCE_LEN)."""

PLACEHOLDER_BYTES = 24
PLACEHOLDER_SALT_BYTES = 16
PLACEHOLDER_ITERATIONS = 4096
"""PostgreSQL's own default; a placeholder is random, so guessing gains nothing from more."""


class Secret:
    """A password that does not show itself."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = value

    def reveal(self) -> bytes:
        """The password's bytes; not to be kept."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(…)"

    def __reduce__(self) -> str:
        raise TypeError("a secret is not copied out of its process")


class Vault:
    """The secrets of one configuration. `clock` gives seconds that only go forward; `nonce` a fresh SCRAM nonce."""

    def __init__(self, settings: Settings, clock: Callable[[], float], nonce: Callable[[], str] | None = None) -> None:
        self._clock = clock
        self._nonce = nonce or _random_nonce
        self._credentials: dict[str, CredentialSettings] = {}
        self._account_of_resource: dict[str, str] = {}
        self._without_tls: frozenset[str] = frozenset()
        self._secrets: dict[str, Secret] = {}
        self._exchanges: OrderedDict[tuple[int, str], tuple[float, str, ScramClient]] = OrderedDict()
        self._derived: OrderedDict[tuple[str, Derivation], Secret] = OrderedDict()
        self.load(settings)

    def load(self, settings: Settings) -> None:
        """Read every password file anew. Raises SettingErrors, and keeps what it had, where one can't be read."""
        found: dict[str, Secret] = {}
        errors: list[SettingError] = []
        for credential in settings.credentials:
            if credential.password_file is None:
                continue
            try:
                found[credential.name] = _read_password(credential.password_file)
            except SettingError as error:
                errors.append(error)
        if errors:
            raise SettingErrors(tuple(errors))
        self._secrets = found
        self._credentials = {credential.name: credential for credential in settings.credentials}
        self._account_of_resource = {
            resource.name: resource.credential for resource in settings.resources if resource.credential is not None
        }
        self._without_tls = frozenset(
            resource.name for resource in settings.resources if resource.tls.target is TargetTls.DISABLE
        )
        self._derived.clear()

    def user_of(self, resource: str) -> str:
        """The user to log in as. Raises UnavailableError where the resource has no account."""
        return self._credential_of(resource).user

    def password_of(self, resource: str) -> Secret | None:
        """For the control process's own connections; None: the account logs in without a password."""
        return self._secrets.get(self._credential_of(resource).name)

    async def answer(self, owner: int, challenge: ChallengeSet) -> bytes:
        """The bytes to send for a login step that the worker `owner` asks about, b"" after a good "verify".

        Raises UnavailableError where there is nothing to answer with, PeerError where the target broke its mechanism.
        """
        credential = self._credential_of(challenge.resource)
        match challenge.mechanism:
            case "cleartext":
                # The worker's word alone is not enough: it reads hostile bytes.
                if not challenge.over_tls or challenge.resource in self._without_tls:
                    raise UnavailableError("the target asks for a password in clear without TLS; it does not get one")
                return self._secret_of(credential).reveal()
            case "md5":
                if len(challenge.challenge) != 4:
                    raise PeerError("an md5 salt that is not of four bytes")
                return _md5_answer(self._secret_of(credential), credential.user, challenge.challenge)
            case "SCRAM-SHA-256":
                return await self._scram(owner, challenge, credential, None)
            case "SCRAM-SHA-256-PLUS":
                if not challenge.binding or not challenge.over_tls:
                    raise UnavailableError("SCRAM-SHA-256-PLUS needs TLS and its channel binding")
                return await self._scram(owner, challenge, credential, challenge.binding)
            case _:
                raise UnavailableError("the target asks for a login of a kind that is not supported")

    def forget(self, owner: int) -> None:
        """Drop the open logins of a worker that is gone."""
        for key in [key for key in self._exchanges if key[0] == owner]:
            del self._exchanges[key]

    async def _scram(
        self, owner: int, challenge: ChallengeSet, credential: CredentialSettings, binding: bytes | None
    ) -> bytes:
        key = (owner, challenge.exchange)
        if challenge.step == "first":
            self._make_room()
            client = ScramClient(self._nonce(), binding)
            self._exchanges.pop(key, None)
            self._exchanges[key] = (self._clock() + EXCHANGE_SECONDS, challenge.resource, client)
            return client.first()
        if (exchange := self._exchanges.get(key)) is None:
            raise UnavailableError("no such login is under way")
        until, resource, client = exchange
        if until <= self._clock() or resource != challenge.resource or client.binding != binding:
            self._exchanges.pop(key, None)
            raise UnavailableError("no such login is under way")
        try:
            if challenge.step == "final":
                derivation = client.derivation(challenge.challenge)
                return client.final((await self._derive(credential, derivation)).reveal())
            if challenge.step == "verify":
                client.verify(challenge.challenge)
                self._exchanges.pop(key, None)
                return b""
        except PeerError:
            self._exchanges.pop(key, None)
            raise
        raise UnavailableError("no such step of a login")

    async def _derive(self, credential: CredentialSettings, derivation: Derivation) -> Secret:
        place = (credential.name, derivation)
        if (known := self._derived.get(place)) is not None:
            self._derived.move_to_end(place)
            return known
        password = self._secret_of(credential)
        # In a thread: at a million iterations the desk and every other login would stand still for half a second.
        derived = Secret(await asyncio.to_thread(salted_password, password.reveal(), derivation))
        if self._secrets.get(credential.name) is password:
            self._derived[place] = derived
            while len(self._derived) > DERIVED_MAX:
                self._derived.popitem(last=False)
        return derived

    def _make_room(self) -> None:
        now = self._clock()
        while self._exchanges and next(iter(self._exchanges.values()))[0] <= now:
            self._exchanges.popitem(last=False)
        if len(self._exchanges) >= EXCHANGES_MAX:
            raise UnavailableError("too many logins are under way at once")

    def _credential_of(self, resource: str) -> CredentialSettings:
        credential = self._credentials.get(self._account_of_resource.get(resource, ""))
        if credential is None:
            raise UnavailableError(f"no account is configured for {resource}")
        return credential

    def _secret_of(self, credential: CredentialSettings) -> Secret:
        secret = self._secrets.get(credential.name)
        if secret is None:
            raise UnavailableError(f"the target asks for a password, and credential {credential.name} has none")
        return secret


def placeholder() -> tuple[str, str]:
    """A random password for clients that insist on proving one, and its verifier for the configuration."""
    password = secrets.token_urlsafe(PLACEHOLDER_BYTES)
    derivation = Derivation(secrets.token_bytes(PLACEHOLDER_SALT_BYTES), PLACEHOLDER_ITERATIONS)
    return password, verifier(password.encode(), derivation)


def _read_password(file: str) -> Secret:
    expected = "a readable file whose first line is the password"
    try:
        with Path(file).open("rb") as opened:
            line = opened.readline(PASSWORD_BYTES_MAX + 2)
    except OSError as error:
        raise SettingError(file, 0, error.strerror or "an unreadable file", expected) from None
    password = line.rstrip(b"\r\n")
    if not password:
        raise SettingError(file, 1, "an empty first line", expected)
    if len(password) > PASSWORD_BYTES_MAX:
        raise SettingError(file, 1, "a longer line", f"at most {PASSWORD_BYTES_MAX} bytes of password")
    if b"\0" in password:
        raise SettingError(file, 1, "a NUL byte", expected)
    return Secret(password)


def _md5_answer(password: Secret, user: str, salt: bytes) -> bytes:
    inner = hashlib.md5(password.reveal() + user.encode(), usedforsecurity=False).hexdigest()
    return b"md5" + hashlib.md5(inner.encode() + salt, usedforsecurity=False).hexdigest().encode()


def _random_nonce() -> str:
    return base64.b64encode(secrets.token_bytes(NONCE_BYTES)).decode()
