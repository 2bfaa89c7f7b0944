"""The vault: files in, answers to challenges out, and never the password."""

from __future__ import annotations

import asyncio
import hashlib
import pickle
import traceback
from pathlib import Path

import pytest

from appliance.credentials.vault import EXCHANGE_SECONDS, EXCHANGES_MAX, Secret, Vault, placeholder
from appliance.errors import SettingErrors, SluicegateError, UnavailableError
from appliance.ipc.messages import ChallengeSet
from appliance.parties import Endpoint
from appliance.settings import CredentialSettings, NetworkSettings, ResourceSettings, Settings, TargetTls, TlsSettings

PASSWORD = "pencil"
NONCE = "rOprNGfwEbeRWgbNEkqO"
SERVER_FIRST = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def settings(file: Path | None, target: TargetTls = TargetTls.REQUIRE) -> Settings:
    return Settings(
        agents=(),
        resources=(
            ResourceSettings("shop", "postgres", (Endpoint("10.0.0.1", 5432),), "app", TlsSettings(target=target)),
            ResourceSettings("bare", "postgres", (Endpoint("10.0.0.2", 5432),), None),
        ),
        credentials=(CredentialSettings("app", "shopkeeper", str(file) if file else None),),
        networks=NetworkSettings(("eth0",)),
        policies=(),
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "password"
    made.write_text(PASSWORD + "\nsecond line\n")
    return made


def challenge(
    mechanism: str,
    step: str = "only",
    data: bytes = b"",
    resource: str = "shop",
    over_tls: bool = True,
    exchange: str = "f1",
    binding: bytes = b"",
) -> ChallengeSet:
    return ChallengeSet(1, resource, exchange, mechanism, step, data, binding, over_tls)


def ask(vault: Vault, *challenges: ChallengeSet, owner: int = 1) -> list[bytes]:
    async def body() -> list[bytes]:
        return [await vault.answer(owner, one) for one in challenges]

    return asyncio.run(body())


def test_md5_is_salted_over_password_and_user(file: Path) -> None:
    inner = hashlib.md5(b"pencilshopkeeper").hexdigest().encode()
    expected = b"md5" + hashlib.md5(inner + b"SALT").hexdigest().encode()
    assert ask(Vault(settings(file), Clock()), challenge("md5", data=b"SALT")) == [expected]


def test_the_password_itself_is_given_under_tls_alone(file: Path) -> None:
    vault = Vault(settings(file), Clock())
    assert ask(vault, challenge("cleartext")) == [b"pencil"]
    with pytest.raises(UnavailableError):
        ask(vault, challenge("cleartext", over_tls=False))


def test_a_worker_cannot_claim_tls_for_a_target_that_has_none(file: Path) -> None:
    with pytest.raises(UnavailableError):
        ask(Vault(settings(file, TargetTls.DISABLE), Clock()), challenge("cleartext", over_tls=True))


def test_scram_steps_are_kept_by_exchange_and_by_worker(file: Path) -> None:
    vault = Vault(settings(file), Clock(), lambda: NONCE)
    first, final = ask(vault, challenge("SCRAM-SHA-256", "first"), challenge("SCRAM-SHA-256", "final", SERVER_FIRST))
    assert first == b"n,,n=,r=" + NONCE.encode()
    assert final.startswith(b"c=biws,r=" + NONCE.encode())
    ask(vault, challenge("SCRAM-SHA-256", "first"))
    with pytest.raises(UnavailableError):
        ask(vault, challenge("SCRAM-SHA-256", "final", SERVER_FIRST), owner=2)
    with pytest.raises(UnavailableError):
        ask(vault, challenge("SCRAM-SHA-256", "final", SERVER_FIRST, exchange="f2"))


def test_a_login_that_takes_too_long_is_forgotten(file: Path) -> None:
    clock = Clock()
    vault = Vault(settings(file), clock, lambda: NONCE)
    ask(vault, challenge("SCRAM-SHA-256", "first"))
    clock.now += EXCHANGE_SECONDS
    with pytest.raises(UnavailableError):
        ask(vault, challenge("SCRAM-SHA-256", "final", SERVER_FIRST))


def test_logins_under_way_are_bounded_and_room_comes_back(file: Path) -> None:
    clock = Clock()
    vault = Vault(settings(file), clock)
    ask(vault, *(challenge("SCRAM-SHA-256", "first", exchange=f"f{one}") for one in range(EXCHANGES_MAX)))
    with pytest.raises(UnavailableError, match="too many"):
        ask(vault, challenge("SCRAM-SHA-256", "first", exchange="more"))
    clock.now += EXCHANGE_SECONDS
    assert ask(vault, challenge("SCRAM-SHA-256", "first", exchange="more"))


def test_a_dead_workers_logins_are_dropped(file: Path) -> None:
    vault = Vault(settings(file), Clock(), lambda: NONCE)
    ask(vault, challenge("SCRAM-SHA-256", "first"))
    vault.forget(1)
    with pytest.raises(UnavailableError):
        ask(vault, challenge("SCRAM-SHA-256", "final", SERVER_FIRST))


@pytest.mark.parametrize(
    "one",
    [
        challenge("SCRAM-SHA-256-PLUS", "first"),
        challenge("gss"),
        challenge("md5", resource="bare"),
        challenge("md5", resource="absent"),
        challenge("md5", data=b"toolong"),
        challenge("SCRAM-SHA-256", "only"),
    ],
)
def test_what_cannot_be_answered_is_refused(one: ChallengeSet, file: Path) -> None:
    with pytest.raises(SluicegateError):
        ask(Vault(settings(file), Clock()), one)


@pytest.mark.parametrize("content", [b"", b"\nsecond\n", b"nul\0\n", b"x" * 1025])
def test_an_unfit_password_file_is_named_without_its_content(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_bytes(content)
    with pytest.raises(SettingErrors) as caught:
        Vault(settings(file), Clock())
    assert str(file) in str(caught.value)
    assert "xxx" not in str(caught.value)


def test_a_reload_that_fails_keeps_the_old_password(file: Path, tmp_path: Path) -> None:
    vault = Vault(settings(file), Clock())
    with pytest.raises(SettingErrors):
        vault.load(settings(tmp_path / "absent"))
    assert ask(vault, challenge("cleartext")) == [b"pencil"]
    file.write_text("other\n")
    vault.load(settings(file))
    assert ask(vault, challenge("cleartext")) == [b"other"]


def test_a_secret_does_not_show_itself() -> None:
    secret = Secret(b"pencil")
    assert "pencil" not in f"{secret} {secret!r} {[secret]}"
    with pytest.raises(TypeError):
        pickle.dumps(secret)


def test_no_traceback_of_a_refused_login_holds_the_password(file: Path) -> None:
    vault = Vault(settings(file), Clock(), lambda: NONCE)
    with pytest.raises(SluicegateError) as caught:
        ask(vault, challenge("SCRAM-SHA-256", "first"), challenge("SCRAM-SHA-256", "final", b"r=evil,s=AA==,i=1"))
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))


def test_placeholders_are_random_and_come_with_their_verifier() -> None:
    (one, proof), (other, _) = placeholder(), placeholder()
    assert one != other
    assert len(one) >= 32
    assert proof.startswith("SCRAM-SHA-256$4096:")
    assert one not in proof
