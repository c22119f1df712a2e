"""The directory of KeyPackages: one PEP item for each, its KeyPackageRef in hex as the item's id.

A KeyPackage is meant to be used once, but PEP cannot hand an item to one reader and then delete it: two readers may
fetch the same.  The owner retracts a KeyPackage that has been used, and readers pick at random among several.
"""

from __future__ import annotations

from slixmpp import ClientXMPP

from .pep import PEPNode

NODE = "urn:xmpp:mls:0:key-packages"


class KeyPackageDirectory(PEPNode):
    """Our KeyPackages (to publish and retract) and everybody's (to read, see `PEPNode.items`)."""

    def __init__(self, xmpp: ClientXMPP) -> None:
        # Never pushed: only a client that is about to add the owner needs a KeyPackage.
        super().__init__(xmpp, NODE, send_last="never")
