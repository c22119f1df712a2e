"""The addresses from which we fetch what another member names.

A reference comes from the member that adds us to a group.  To fetch it, our machine contacts a web server that this
member has chosen.  The member thereby learns our network address (as the XEP says), and must not reach into networks
that only we can reach.  Therefore a host name is resolved first, and only these addresses are used:

* those of the public internet,
* loopback ones if the XMPP server that we are connected to is at a loopback address, too,
* private ones (RFC 1918, RFC 4193) if it is at a private one.

The check happens at connection time: the socket is created for the checked address, so a name whose address changes
cannot evade it.  IPv6 addresses that embed IPv4 addresses (IPv4-mapped, NAT64) are checked by the embedded address.
Obsolete tunnels (6to4, Teredo, ISATAP) and site-local addresses are refused.  An application with another rule passes
`allow_url`: the function gets the URL and decides alone, for instance by a list of hosts.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

from ..errors import NotPermitted

__all__ = ["check_host", "host_of", "network_of"]


_PRIVATE = tuple(map(ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")))  # RFC 1918, RFC 4193
_UNICAST = ip_network("2000::/3")  # the allocated global unicast range of IPv6 (RFC 4291 2.4)
_NAT64 = ip_network("64:ff9b::/96")  # RFC 6052: the last 32 bits are the IPv4 address
_TUNNELS = tuple(
    map(
        ip_network,
        # 6to4 (RFC 3056) and its relays (RFC 7526), Teredo (RFC 4380): anybody can choose the inner one.
        ("2002::/16", "192.88.99.0/24", "2001::/32"),
    )
)
_DOCUMENTATION = ip_network("3fff::/20")  # RFC 9637, missing in older standard libraries
_ISATAP = (0x00005EFE, 0x02005EFE)  # RFC 5214 6.1: the third quarter of an address whose last one is an IPv4 address


def host_of(url: str) -> str:
    """The host of a URL; empty if it has none."""
    return urlsplit(url).hostname or ""


def network_of(address: str) -> str:
    """The kind of network of an IP address: "public", "loopback", "private" or "other".

    An address that embeds an IPv4 address is classified by that one if the embedding is in use (IPv4-mapped, NAT64),
    and is "other" if the embedding is obsolete.
    """
    parsed = ip_address(address.partition("%")[0])
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped
        elif parsed in _NAT64:
            inner = IPv4Address(int(parsed) & 0xFFFFFFFF)
            # RFC 6052 3.1: this prefix does not represent addresses that are not global.
            return "public" if network_of(str(inner)) == "public" else "other"
    if parsed.is_loopback:
        return "loopback"
    if any(parsed in network for network in _PRIVATE):
        return "private"
    if parsed.is_link_local or parsed.is_multicast or parsed.is_unspecified or parsed.is_reserved:
        return "other"
    if any(parsed in network for network in (*_TUNNELS, _DOCUMENTATION)):
        return "other"
    if isinstance(parsed, IPv6Address) and (parsed not in _UNICAST or int(parsed) >> 32 & 0xFFFFFFFF in _ISATAP):
        return "other"
    return "public" if parsed.is_global else "other"


def check_host(url: str, networks: frozenset[str]) -> None:
    """Check a host that is an IP address literal before a connection is opened.

    :raises NotPermitted: the address is not one that may be fetched from
    """
    host = host_of(url)
    try:
        network = network_of(host)
    except ValueError:
        # Some resolvers accept short and octal forms of addresses.  No host name ends in a number.
        last = host.rstrip(".").rpartition(".")[2]
        if not re.fullmatch("[0-9]+|0x[0-9a-f]*", last):
            return
        network = "other"
    if network not in networks:
        raise NotPermitted(f"nothing is to be fetched from the address {host}")
