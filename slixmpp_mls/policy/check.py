"""Whether a group's policy allows a Commit: one pure function, and the table that it follows.

Every member comes to the same verdict on a Commit from the same octets: :func:`check` looks at no clock, no
network and no trust of its own.  A Commit that breaks a rule is ignored by everybody.

*A name is no proof.*  What a change rests on is a signature by a key that is in the tree, never the name in a
credential: an arrival needs one of the grounds of :mod:`.admission`.

Each change in a Commit is judged by who *wished* it: the sender of the proposal.  Whose hand commits it
does not matter; members may, and should, commit what others have proposed rightly.  A wish from outside
(a client that asks to be added, an external sender) has no weight of its own: there the committer is
judged as if the wish were its own.  Rights are those of *accounts*, all of whose clients have them, by the
policy and the members *before* the Commit; a newcomer whom nobody has confirmed has none.

Rights: nobody; administrators; members (all accounts with a confirmed client in the group).

==========================  =================================================================  ========================
what                        allowed                                                            rule in the error
==========================  =================================================================  ========================
an empty Commit, an         every member; the leaf remains the same client (its keys may       ``same-client``
Update, a path, a PSK       change)
any leaf                    keeps the mark of a newcomer, or its absence, through Updates;     ``newcomer``
                            an arrival has it exactly if nothing proves it
add a client                `RIGHT`: accounts with `may_add`;                                  ``add``
                            `OWN_DEVICE`: with `own_devices`, a leaf of the account, if
                            others have not removed the client;
                            `VOUCHER`: with `own_devices`, whoever asks itself with a voucher
                            by a leaf of the account, if it has not been removed;
                            `RETURN`: whoever asks itself with proof by the return key of
                            the leaf that the same Commit replaces
any arrival                 a client has one leaf at most                                      ``one-leaf``
                            in a conversation: of one of the accounts that it names            ``conversation``
leave                       everybody, by a Remove of oneself or a SelfRemove that somebody
                            commits
remove a client             accounts with `may_remove`;                                        ``remove``
                            with `own_devices`, an account its own clients;
                            a newcomer: every member;
                            the committer, if the client returns by the same Commit
remove an administrator's   as above, if the wish is an administrator's or the account's own   ``remove-administrator``
client
join by external Commit     `external_joins` for devices: `RETURN` or `VOUCHER`;               ``external-join``
                            for anybody: `NEWCOMER` as well
remove by external Commit   the old leaf of a `RETURN`                                         ``external-remove``
change the extensions of    accounts with `may_change_policy`; everybody, if nothing changes   ``change-policy``
the GroupContext            but the list of removed clients
their new content           has a policy of this version that can be read,                     ``policy-missing``
                            for the same room,                                                 ``room``
                            of the same conversation, if it is one,                            ``conversation``
                            with an administrator who is a member after the Commit             ``administrator``
the list of removed         after each Commit the one that follows from its changes            ``removed-clients``
clients
ReInit                      like a change of the extensions, with the committer judged (a
                            ReInit stands alone in its Commit); its extensions are those of
                            the new group
any new leaf content        with `x509_only` in the policy after the Commit, an X.509          ``x509``
                            credential, with a chain to a root of the policy if it names any;
                            at most 4 KiB (16 KiB with X.509) beside keys and signatures;      ``leaf-size``
                            extensions of this protocol that can be read                       ``leaf-extensions``
any Commit                  an account that gains a client has at most `max_devices`, a        ``too-many``
                            group that grows at most `max_members`; at most 1,024 changes
change the subject          accounts with `may_change_subject`; a message, no Commit:
                            receivers ask :meth:`.RoomPolicy.permits`
==========================  =================================================================  ========================

Whether an outsider is "in the room" with `external_joins` for anybody is for the room to say: it carries
the Commits of those only whom it lets in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..errors import MalformedError, PeerError, PolicyViolation
from ..mls.group.commit_effects import Effects, ExtensionsChange, MemberChange
from ..mls.structures.credential import X509Credential
from ..mls.structures.extensions import Extensions
from ..mls.structures.framing import AnySender, MemberSender, NewMemberCommitSender
from ..mls.structures.leaf_node import LeafNode
from ..stanza.code_points import REMOVED_CLIENTS
from .admission import Arrival, Ground, JudgedCommit
from .proofs import LEAF_EXTENSIONS, ReturnKey, is_newcomer
from .removed_clients import RemovedAs, RemovedClients
from .room_policy import RoomPolicy
from .roster import Roster
from .view import GroupView

__all__ = ["MAX_CHANGES", "MAX_LEAF", "MAX_X509_LEAF", "Verdict", "check", "is_bookkeeping", "judge"]

MAX_LEAF = 4096
"""Octets of a leaf, but for its encryption key and `SIGNATURES` keys and signatures of the suite's size."""
MAX_X509_LEAF = 16384
"""Likewise, with an X.509 credential."""
SIGNATURES = 8
"""As many as a leaf has with all proofs; those of post-quantum schemes are large."""
MAX_CHANGES = 1024
"""Proposals in a Commit."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a permitted Commit leads to.

    :ivar roster: after it
    :ivar removed: the list that must be in the GroupContext after it
    :ivar arrivals: who comes, and by what right
    """

    roster: Roster
    removed: RemovedClients
    arrivals: tuple[Arrival, ...]


def check(view: GroupView, effects: Effects) -> Verdict:
    """Whether a group's policy allows a Commit: the table above.

    Every member asks this of every Commit, its own before sending included, after RFC 9420's rules are
    found kept and before anything is applied.  Its cost depends on the number of changes.

    :param view: the group before the Commit
    :raises PolicyViolation: it is not allowed
    :raises InvalidError: a new credential names no client, or is of a type that is not supported
    :raises UsageError: `view` is not that of the epoch that the Commit ends
    """
    verdict = judge(view, effects)
    after = view.extensions if effects.extensions is None else effects.extensions.after
    if not _is_listed(verdict.removed, view, after):
        raise PolicyViolation("removed-clients", "not the list of removed clients that follows from the Commit")
    return verdict


def judge(view: GroupView, effects: Effects) -> Verdict:
    """:func:`check`, but for the list of removed clients, which the committer still has to make.

    :raises PolicyViolation: no list would make it allowed
    :raises InvalidError: see :func:`check`
    :raises UsageError: see :func:`check`
    """
    roster = view.roster.after(effects)
    if len(effects.changes) + len(effects.psks) > MAX_CHANGES:
        raise PolicyViolation("too-many", f"more than {MAX_CHANGES} changes in a Commit")
    for change in (*effects.updated, *effects.added):
        _check_extensions_of(_new_leaf(change))
    judged = JudgedCommit.of(view, effects)
    arrivals = tuple(judged.admit(change) for change in effects.added)
    returning = {arrival.replaces for arrival in arrivals if arrival.replaces is not None}
    for change in effects.removed:
        _check_removed(judged, change, returning)
    for change in effects.updated:
        if is_newcomer(_new_leaf(change)) != view.roster.is_newcomer(change.index):
            raise PolicyViolation("newcomer", "a leaf gains or loses the mark of a newcomer", judged.name(change.index))
    policy = view.policy
    if effects.extensions is not None:
        policy = _check_context(judged, effects.extensions.proposer, effects.extensions.after, roster)
    if effects.reinit is not None:
        _check_context(judged, effects.committer, effects.reinit.extensions, roster)
        if not _is_listed(view.removed or RemovedClients(), view, effects.reinit.extensions):
            raise PolicyViolation("removed-clients", "a ReInit that forgets who has been removed")
    for change in (*effects.updated, *effects.added):
        _check_content(policy, _new_leaf(change), str(roster.at(change.index)))
    _check_numbers(policy, view.roster, roster, arrivals)
    for arrival in arrivals:
        if policy.conversation and arrival.client.account not in policy.administrators:
            raise PolicyViolation("conversation", f"{arrival.client} would come into a conversation of others")
    return Verdict(roster, _removed_after(judged, arrivals, returning), arrivals)


def _check_removed(judged: JudgedCommit, change: MemberChange, returning: Iterable[int]) -> None:
    roster, policy = judged.view.roster, judged.view.policy
    who = roster.at(change.index)
    if _is_wanted(judged, change, returning):
        return
    if isinstance(change.proposer, NewMemberCommitSender):
        raise PolicyViolation("external-remove", f"an external joiner removes {who} without proof of return")
    wisher = judged.wisher(change.proposer)
    if wisher is not None and roster.counts(wisher):
        if not roster.counts(change.index):
            return  # a newcomer: every member may
        if policy.own_devices and roster.at(wisher).account == who.account:
            return
    if not judged.may(policy.may_remove, wisher):
        raise PolicyViolation("remove", f"no right to remove {who}", judged.name(wisher))
    if policy.is_administrator(who.account, roster) and not (
        wisher is not None and policy.is_administrator(roster.at(wisher).account, roster)
    ):
        raise PolicyViolation(
            "remove-administrator", f"no right to remove the administrator {who}", judged.name(wisher)
        )


def _is_wanted(judged: JudgedCommit, change: MemberChange, returning: Iterable[int]) -> bool:
    """Whether a client leaves by itself, or its leaf goes because it returns."""
    return change.proposer == MemberSender(change.index) or change.index in returning


def _check_context(judged: JudgedCommit, proposer: AnySender, extensions: Extensions, after: Roster) -> RoomPolicy:
    """Extensions that are to replace the GroupContext's; the policy in them."""
    view = judged.view
    wisher = judged.wisher(proposer)
    bookkeeping = judged.effects.reinit is None and _without_list(extensions) == _without_list(view.extensions)
    if not bookkeeping and not judged.may(view.policy.may_change_policy, wisher):
        raise PolicyViolation("change-policy", "no right to change the group's extensions", judged.name(wisher))
    if bookkeeping:
        return view.policy  # also where its administrators have left: that is no change
    try:
        new = RoomPolicy.required_in(extensions)
    except PeerError as error:
        raise PolicyViolation("policy-missing", f"extensions without a policy: {error}", judged.name(wisher)) from error
    if new.room != view.policy.room:
        raise PolicyViolation("room", "the policy would name another room", judged.name(wisher))
    old = view.policy
    if new.conversation != old.conversation or (old.conversation and new.administrators != old.administrators):
        raise PolicyViolation("conversation", "a conversation would become another one", judged.name(wisher))
    if not any(map(after.has_say, new.administrators)):
        raise PolicyViolation(
            "administrator", "the policy would leave no administrator in the group", judged.name(wisher)
        )
    return new


def _check_extensions_of(leaf: LeafNode) -> None:
    """The extensions of this protocol in a leaf can be read; a return key is a key."""
    try:
        for kind in LEAF_EXTENSIONS:
            found = kind.found_in(leaf.extensions)
            if isinstance(found, ReturnKey) and len(found.return_key) != len(leaf.signature_key):
                raise MalformedError("a return key that is no key of the group's signature scheme")
    except PeerError as error:
        raise PolicyViolation("leaf-extensions", f"a leaf's extension: {error}") from error


def _check_content(policy: RoomPolicy, leaf: LeafNode, client: str) -> None:
    if not policy.accepts(leaf.credential):
        raise PolicyViolation("x509", "not the X.509 credential that the policy wants", client)
    size = len(leaf.encode()) - len(leaf.encryption_key)
    limit = MAX_X509_LEAF if isinstance(leaf.credential, X509Credential) else MAX_LEAF
    if size > limit + SIGNATURES * (len(leaf.signature_key) + len(leaf.signature)):
        raise PolicyViolation("leaf-size", f"a leaf of {size} octets beside its encryption key", client)


def _check_numbers(policy: RoomPolicy, before: Roster, after: Roster, arrivals: Sequence[Arrival]) -> None:
    """Limits hold for what grows: a policy that lowers one throws nobody out."""
    for account in {arrival.client.account for arrival in arrivals}:
        if after.clients_of(account) > max(policy.max_devices, before.clients_of(account)):
            raise PolicyViolation("too-many", f"more than {policy.max_devices} clients of {account}")
    if len(after) > max(policy.max_members, len(before)):
        raise PolicyViolation("too-many", f"more than {policy.max_members} clients in the group")


def _removed_after(judged: JudgedCommit, arrivals: Sequence[Arrival], returning: Iterable[int]) -> RemovedClients:
    roster = judged.view.roster
    removals = []
    for change in judged.effects.removed:
        if _is_wanted(judged, change, returning):
            continue
        who, wisher = roster.at(change.index), judged.wisher(change.proposer)
        removed_as = RemovedAs.MEMBER
        if roster.is_newcomer(change.index):
            removed_as = RemovedAs.NEWCOMER
        elif wisher is not None and roster.at(wisher).account == who.account:
            removed_as = RemovedAs.OWN_DEVICE
        removals.append((who, removed_as))
    removed = (judged.view.removed or RemovedClients()).with_removed(removals)
    for arrival in arrivals:
        if arrival.ground in (Ground.RIGHT, Ground.OWN_DEVICE):
            removed = removed.with_added(arrival.client)
    return removed


def _is_listed(removed: RemovedClients, view: GroupView, extensions: Extensions) -> bool:
    """Whether extensions hold this list; they need not, if the group has had none."""
    try:
        found = RemovedClients.found_in(extensions)
    except MalformedError:
        return False
    return found == removed or (found is None and view.removed is None)


def is_bookkeeping(change: ExtensionsChange) -> bool:
    """Whether nothing but the list of removed clients changes."""
    return _without_list(change.before) == _without_list(change.after)


def _without_list(extensions: Extensions) -> Extensions:
    return tuple(entry for entry in extensions if entry.extension_type != REMOVED_CLIENTS)


def _new_leaf(change: MemberChange) -> LeafNode:
    assert change.after is not None, "a Remove brings no leaf"
    return change.after
