"""This device's certificate: requested, used, and renewed in time."""

from __future__ import annotations

from typing import Any

import pytest

from slixmpp_mls.account.certificate_renewal import CertificateRenewal
from slixmpp_mls.errors import UsageError
from slixmpp_mls.key_packages.items import parse_key_package
from slixmpp_mls.key_packages.publication import Publication
from slixmpp_mls.mls.parameters import DAY
from slixmpp_mls.mls.structures.credential import BasicCredential, X509Credential
from slixmpp_mls.testing import World

from ..client.people import ALICE
from ..client.test_certificates import ROOT, START, certify
from ..services import Client
from ..x509 import pem
from .test_devices import NoRooms


def made() -> tuple[Client, CertificateRenewal]:
    client = Client(World().person(ALICE))
    rooms: Any = NoRooms()
    return client, CertificateRenewal(client.context, rooms, Publication(client.context))


def credentials(client: Client) -> set[type]:
    return {type(parse_key_package(each).leaf_node.credential) for each in client.key_packages.of[ALICE].values()}


async def test_key_packages_bear_it_at_once_and_no_more_when_it_is_dropped() -> None:
    from datetime import timedelta

    from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite

    client, renewal = made()
    key = client.device.signature_key(CipherSuite.get(1))
    await renewal.use(pem(ROOT.device(client.device.identity, key, start=START, lasts=timedelta(days=30))))
    assert credentials(client) == {X509Credential}
    await renewal.use(None)
    assert credentials(client) == {BasicCredential}


async def test_what_is_no_certificate_of_ours_changes_nothing() -> None:
    client, renewal = made()
    for chain in ("", b"nonsense", pem(ROOT.certificate)):
        with pytest.raises(UsageError):
            await renewal.use(chain)
    assert client.key_packages.of == {}
    with pytest.raises(UsageError, match="cipher suite 2 is not one of ours"):
        renewal.request(2)
    assert renewal.request(None) == renewal.request(1)


async def test_the_reminder_comes_once_a_day_in_the_last_third() -> None:
    client, renewal = made()
    client.device.certificates.use(certify(client.device), client.world.now)  # 29 days are left
    renewal.look()
    assert client.got("mls_certificate_expires") == []
    client.world.now += 20 * DAY
    for _ in range(2):
        renewal.look()
        assert len(client.got("mls_certificate_expires")) == 1
    client.world.now += DAY
    renewal.look()
    assert len(client.got("mls_certificate_expires")) == 2
    client.world.now -= 10 * DAY  # the clock was set back: better once too often
    client.world.now += 9 * DAY
    renewal.look()
    assert len(client.got("mls_certificate_expires")) == 3
