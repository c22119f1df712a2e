"""The extension types of this protocol, in one table: all of the range for private use (RFC 9420 17.3).

=================  ===========================  ==================================================================
type               name                         where, and what for
=================  ===========================  ==================================================================
0xF4D0 to 0xF4DF   `POLICY_TYPES`               GroupContext: the policy; version n has the n-th of them
0xF4E0             `RATCHET_TREE_LOCATION`      GroupInfo: where a large ratchet tree can be fetched
0xF4E1             `REMOVED_CLIENTS`            GroupContext: removed clients that cannot rejoin on their own
0xF4E2             `RETURN_KEY`                 LeafNode: the key that will prove the client's return
0xF4E3             `RETURN_PROOF`               LeafNode: signatures by return keys of the leaf that it replaces
0xF4E4             `DEVICE_VOUCHERS`            LeafNode: signatures by other devices of the account
0xF4E5             `NEWCOMER`                   LeafNode: nobody has confirmed this member yet
0xF4E6             `GROUP_INFO_KEY`             GroupInfo of a Welcome: the key of the GroupInfos in the room
0xF4E7             `MEMBERSHIP_PROOFS`          GroupInfo of a Welcome: the leaves of the inviter and of the joiners
=================  ===========================  ==================================================================
"""

__all__ = [
    "DEVICE_VOUCHERS", "GROUP_INFO_KEY", "MEMBERSHIP_PROOFS", "NEWCOMER", "POLICY_TYPES", "RATCHET_TREE_LOCATION",
    "REMOVED_CLIENTS", "RETURN_KEY", "RETURN_PROOF",
]  # fmt: skip

POLICY_TYPES = range(0xF4D0, 0xF4E0)
RATCHET_TREE_LOCATION = 0xF4E0
REMOVED_CLIENTS = 0xF4E1
RETURN_KEY = 0xF4E2
RETURN_PROOF = 0xF4E3
DEVICE_VOUCHERS = 0xF4E4
NEWCOMER = 0xF4E5
GROUP_INFO_KEY = 0xF4E6
MEMBERSHIP_PROOFS = 0xF4E7
