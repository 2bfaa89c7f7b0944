"""What browsers are shown, and that it is renewed without a start."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path

from cryptography import x509

from appliance.parties import Endpoint
from appliance.settings import DashboardSettings
from appliance.tls.authority import Leaves, open_authority
from appliance.tls.contexts import client_identity
from ui.web.process import show_anew


def shown(context: ssl.SSLContext, trusted: str, name: str) -> x509.Certificate:
    """The certificate that a client which verifies it meets there."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(to_server, to_client, server_side=True)
    client = ssl.create_default_context(cadata=trusted).wrap_bio(to_client, to_server, server_hostname=name)
    done = 0
    while done < 2:
        done = 0
        for side in (client, server):
            try:
                side.do_handshake()
                done += 1
            except ssl.SSLWantReadError:
                continue
    return x509.load_der_x509_certificate(client.getpeercert(binary_form=True) or b"")


def test_a_renewed_certificate_is_shown_to_whoever_connects_next(tmp_path: Path) -> None:
    clock = [datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=5)]
    authority = open_authority(tmp_path / "authority", lambda: clock[0])
    settings = DashboardSettings(Endpoint("10.0.0.7", 8443), ("gate.example",))
    first = Leaves(authority).leaf_of_dashboard(settings)
    context = client_identity(first.chain, first.key, ("http/1.1",)).context
    trusted = authority.certificate_pem.decode()
    before = shown(context, trusted, "gate.example")
    clock[0] += datetime.timedelta(days=5)
    second = Leaves(authority).leaf_of_dashboard(settings)
    show_anew(context, {"chain": second.chain.decode(), "key": second.key.decode()})
    # By address no name is sent, and by either way the new one is seen.
    for name in ("gate.example", "10.0.0.7", "localhost", "127.0.0.1"):
        after = shown(context, trusted, name)
        assert after.serial_number != before.serial_number
        assert after.not_valid_after_utc > before.not_valid_after_utc
