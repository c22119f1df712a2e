"""The options that the examples share.

Missing options come from the environment (the lines that ``slixmpp-mls server`` prints set it) or from
``~/.config/slixmpp-mls/config.toml``: see ``slixmpp_mls.runtime.login``.  A bot of your own needs no more than
``slixmpp_mls.Login.load().bot()``.
"""

from __future__ import annotations

import argparse
import sys

from slixmpp_mls import Login, UsageError


def options(description: str | None, store: str) -> argparse.ArgumentParser:
    """The options; each example has a store of its own, as each is a device of its own."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jid", help="the bot's account; or XMPP_JID")
    parser.add_argument("--password", help="better in XMPP_PASSWORD, XMPP_PASSWORD_FILE or the configuration file")
    parser.add_argument("--host", help="if DNS does not know the server; or XMPP_HOST")
    parser.add_argument("--port", help="with --host; or XMPP_PORT; 5222")
    parser.add_argument("--ca", help="file (PEM) of the authority to trust; or XMPP_CA_FILE")
    parser.add_argument("--store", default=store, help=f"file for keys and groups; {store}")
    return parser


def load(parser: argparse.ArgumentParser, given: argparse.Namespace | None = None) -> Login:
    """What was given, and what was found elsewhere."""
    known = given or parser.parse_args()
    names = ("jid", "password", "host", "port", "ca", "store")
    try:
        return Login.load(**{name: getattr(known, name) for name in names})
    except UsageError as error:
        sys.exit(f"{parser.prog}: {error}")
