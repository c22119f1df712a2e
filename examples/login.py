"""How the examples log in: with options, or with the variables that ``slixmpp-mls server`` prints.

A bot of your own needs less: see the README.
"""

from __future__ import annotations

import argparse
import os
import ssl
import sys

from slixmpp import ClientXMPP

import slixmpp_mls  # noqa: F401  # makes the plugin known to slixmpp


def options(description: str | None) -> argparse.ArgumentParser:
    """The options that all examples have."""
    variables = os.environ
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jid", default=variables.get("XMPP_JID"), help="the bot's account, or XMPP_JID")
    parser.add_argument("--password", default=variables.get("XMPP_PASSWORD"), help="better in XMPP_PASSWORD")
    parser.add_argument("--host", default=variables.get("XMPP_HOST"), help="if DNS does not know the server")
    parser.add_argument("--port", default=variables.get("XMPP_PORT", "5222"), help="with --host; 5222")
    parser.add_argument("--ca", help="file (PEM) of the authority to trust; or SSL_CERT_FILE")
    parser.add_argument("--store", default="bot.db", help="file for keys and groups; bot.db")
    return parser


def client(given: argparse.Namespace) -> ClientXMPP:
    """A client with the plugin, not connected yet."""
    if not given.jid or not given.password:
        sys.exit("Which account? Give --jid, and XMPP_PASSWORD in the environment.")
    xmpp = ClientXMPP(given.jid, given.password, ssl_context=ssl.create_default_context(cafile=given.ca))
    # slixmpp tries TLS from the first octet too; an address by hand is that of the port that wants STARTTLS.
    xmpp.enable_direct_tls = given.host is None
    xmpp.register_plugin("mls", {"store": given.store})
    # Without presence the server keeps messages back, and invitations are messages.
    xmpp.add_event_handler("session_start", lambda _: xmpp.send_presence())
    xmpp.add_event_handler("failed_all_auth", lambda _: sys.exit("The server refuses the password."))
    return xmpp


def connect(xmpp: ClientXMPP, given: argparse.Namespace) -> None:
    """Connect, or connect again."""
    xmpp.connect(*((given.host, int(given.port)) if given.host else ()))


def stay_connected(xmpp: ClientXMPP, given: argparse.Namespace) -> None:
    """Connect, and whenever the connection is lost do it again: slixmpp leaves that to us.

    The plugin then returns to its rooms, reads what it has missed and sends what has not arrived.
    """
    xmpp.add_event_handler("disconnected", lambda _: connect(xmpp, given))
    connect(xmpp, given)
