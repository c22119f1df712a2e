"""Decides whether a group's policy allows a Commit: one pure function, and the table that it implements.

:func:`check` returns the same verdict on every member, because it reads the Commit and the group state alone.  It
reads no clock, no network and no trust decision of this client.  All members ignore a Commit that breaks a rule.

*A name is not a proof.*  Each change needs a signature by a key in the ratchet tree; the name in a credential never
suffices.  A new leaf needs one of the grounds of :mod:`.admission`.

*The proposer is judged.*  The sender of a proposal needs the right to make the change.  The committer of another
member's proposal needs no right: members may, and should, commit valid proposals of others.  A proposal from outside
the group (a new member's Add, an external sender's proposal) carries no right; the committer is judged instead, as if
the proposal were its own.

*Rights belong to accounts.*  All clients of an account have its rights.  The policy and the members *before* the
Commit determine them.  A newcomer that no account with `may_add` has confirmed has no right.  A right belongs to
nobody, to administrators, or to members (all accounts with a confirmed client in the group).

==========================  =================================================================  ========================
change                      allowed                                                            rule in the error
==========================  =================================================================  ========================
an empty Commit, an         every member; the leaf remains the same client's (its keys may     ``same-client``
Update, a path              change)
a PSK                       the committer, whoever proposed it, is an administrator with       ``psk``
                            `may_remove`: a member that lacks the secret is out
any leaf                    an Update or a path neither adds nor drops the Newcomer            ``newcomer``
                            extension; a new leaf has it exactly if its ground is `NEWCOMER`,
                            or `RETURN` of a newcomer
add a client                `RIGHT`: accounts with `may_add`; unless they are administrators,  ``add``
                            only with proof if the client's account is established, and all
                            clients of another account by the Adds of one account;
                            `OWN_DEVICE`: with `own_devices`, a leaf of the account, if
                            others have not removed the client;
                            `VOUCHER`: with `own_devices`, a new member's Add with a voucher
                            by a leaf of the account, if the client has not been removed;
                            `RETURN`: a new member's Add with proof by the return key of
                            the leaf that the same Commit replaces
any new leaf                a client has at most one leaf                                      ``one-leaf``
                            in a conversation: of one of the accounts that the policy names    ``conversation``
leave                       everybody, by a Remove of the proposer's own leaf or a SelfRemove
                            that another member commits
remove a client             accounts with `may_remove`;                                        ``remove``
                            with `own_devices`, an account its own clients;
                            a newcomer: every member;
                            the committer, if the client returns by the same Commit
remove an administrator's   as above, if the proposer is an administrator or a client of the   ``remove-administrator``
client                      same account
join by external Commit     `external_joins` for devices: `RETURN` or `VOUCHER`;               ``external-join``
                            for anybody: `NEWCOMER` as well
remove by external Commit   the old leaf of a `RETURN`                                         ``external-remove``
change the extensions of    accounts with `may_change_policy`; everybody, if only the list of  ``change-policy``
the GroupContext            removed clients changes
their new content           has a policy of this version that can be parsed,                   ``policy-missing``
                            for the same room,                                                 ``room``
                            of the same conversation, if it is one,                            ``conversation``
                            with an administrator who is a member after the Commit,            ``administrator``
                            neither it nor the policy before demands a post-quantum cipher     ``post-quantum``
                            suite, or the group that will have it has one
the list of removed         equals, after each Commit, the list that follows from its changes  ``removed-clients``
clients
ReInit                      like a change of the extensions, with the committer judged (a
                            ReInit is the only proposal in its Commit); its extensions are
                            those of the new group
any new leaf content        with `x509_only` in the policy after the Commit, an X.509          ``x509``
                            credential, with a chain to a root of the policy if it names any;
                            at most 4 KiB (16 KiB with X.509) without keys and signatures;     ``leaf-size``
                            extensions of this protocol that can be parsed                     ``leaf-extensions``
any Commit                  an account that gains a client has at most `max_devices`, a        ``too-many``
                            group that grows at most `max_members`; at most 1,024 changes
change the subject          accounts with `may_change_subject`; a message, not a Commit:
                            receivers call :meth:`.RoomPolicy.permits`
==========================  =================================================================  ========================

With `external_joins` for anybody, the room decides which outsiders may join: it carries only the Commits of its
occupants.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..errors import MalformedError, PeerError, PolicyViolation, suite_name
from ..mls.group.commit_effects import Effects, ExtensionsChange, MemberChange
from ..mls.structures.credential import X509Credential
from ..mls.structures.extensions import Extensions
from ..mls.structures.framing import AnySender, MemberSender, NewMemberCommitSender
from ..mls.structures.leaf_node import LeafNode
from ..stanza.code_points import REMOVED_CLIENTS
from .admission import Arrival, Ground, JudgedCommit
from .proofs import LEAF_EXTENSIONS, ReturnKey, is_newcomer
from .removed_clients import RemovedAs, RemovedClients, Standing
from .room_policy import RoomPolicy
from .roster import Roster
from .view import GroupView

__all__ = ["MAX_CHANGES", "MAX_LEAF", "MAX_X509_LEAF", "Verdict", "check", "is_bookkeeping", "judge", "may_commit_psks"]

MAX_LEAF = 4096
"""Octets of a leaf, without its encryption key and without `SIGNATURES` keys and signatures of the suite's size."""
MAX_X509_LEAF = 16384
"""As `MAX_LEAF`, for a leaf with an X.509 credential."""
SIGNATURES = 8
"""Keys and signatures, each, that `MAX_LEAF` does not count: as many as a leaf with all proofs has.  Those of
post-quantum schemes are large."""
MAX_CHANGES = 1024
"""Number of proposals in a Commit."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of a permitted Commit.

    :ivar roster: the roster after the Commit
    :ivar removed: the list of removed clients that the GroupContext must contain after the Commit
    :ivar arrivals: the new leaves, each with its ground
    """

    roster: Roster
    removed: RemovedClients
    arrivals: tuple[Arrival, ...]


def check(view: GroupView, effects: Effects) -> Verdict:
    """Check a Commit against the table above.

    Every member calls this for every Commit, after the checks of RFC 9420 and before any change is applied.  A
    committer calls it for its own Commit before sending.  The cost depends on the number of changes, not on the
    size of the group.

    :param view: the group before the Commit
    :param effects: the changes that the Commit makes
    :raises PolicyViolation: the policy does not allow the Commit
    :raises InvalidError: a new credential names no client, or is of a type that is not supported
    :raises UsageError: `view` is not that of the epoch that the Commit ends
    """
    verdict = judge(view, effects)
    after = view.extensions if effects.extensions is None else effects.extensions.after
    if not _is_listed(verdict.removed, view, after):
        raise PolicyViolation("removed-clients", "not the list of removed clients that follows from the Commit")
    return verdict


def judge(view: GroupView, effects: Effects) -> Verdict:
    """Check a Commit as :func:`check` does, except its list of removed clients.

    A committer calls this to learn which list the Commit needs.

    :raises PolicyViolation: the Commit is not allowed, whatever list it contains
    :raises InvalidError: see :func:`check`
    :raises UsageError: see :func:`check`
    """
    roster = view.roster.after(effects)
    if len(effects.changes) + len(effects.psks) > MAX_CHANGES:
        raise PolicyViolation("too-many", f"more than {MAX_CHANGES} changes in a Commit")
    for change in (*effects.updated, *effects.added):
        _check_extensions_of(_new_leaf(change))
    judged = JudgedCommit.of(view, effects)
    if effects.psks and not may_commit_psks(view, committer := judged.wisher(effects.committer)):
        raise PolicyViolation("psk", "no right to commit a pre-shared key", judged.name(committer))
    arrivals = tuple(judged.admit(change) for change in effects.added)
    returning = {arrival.replaces for arrival in arrivals if arrival.replaces is not None}
    for change in effects.removed:
        _check_removed(judged, change, returning)
    for change in effects.updated:
        if is_newcomer(_new_leaf(change)) != view.roster.is_newcomer(change.index):
            raise PolicyViolation("newcomer", "a leaf gains or loses the mark of a newcomer", judged.name(change.index))
    policy = view.policy
    if effects.extensions is not None:
        suite = int(view.suite.id)
        policy = _check_context(judged, effects.extensions.proposer, effects.extensions.after, roster, suite)
    if effects.reinit is not None:
        suite = effects.reinit.cipher_suite
        _check_context(judged, effects.committer, effects.reinit.extensions, roster, suite)
        if not _is_listed(view.removed or RemovedClients(), view, effects.reinit.extensions):
            raise PolicyViolation("removed-clients", "a ReInit that forgets who has been removed")
    for change in (*effects.updated, *effects.added):
        _check_content(policy, _new_leaf(change), str(roster.at(change.index)))
    _check_numbers(policy, view.roster, roster, arrivals)
    for arrival in arrivals:
        if policy.conversation and arrival.client.account not in policy.administrators:
            raise PolicyViolation("conversation", f"{arrival.client} would come into a conversation of others")
    return Verdict(roster, _removed_after(judged, arrivals, returning, roster, policy), arrivals)


def may_commit_psks(view: GroupView, leaf: int | None) -> bool:
    """Whether the client at a leaf may commit a pre-shared key (RFC 9420 8.4, 12.1.4).

    Whoever lacks the key cannot follow the Commit.  Such a Commit removes people, administrators among them, and no
    list of removed clients says whom.  The committer is judged, because it has selected the proposal.

    PSKs of a ReInit or a branch are no exception: they are in the first Commit of a new group, which its members join
    by a Welcome (RFC 9420 11.2, 11.3).
    """
    roster, policy = view.roster, view.policy
    if leaf is None or not roster.counts(leaf):
        return False
    account = roster.at(leaf).account
    return policy.permits(policy.may_remove, account, roster) and policy.is_administrator(account, roster)


def _check_removed(judged: JudgedCommit, change: MemberChange, returning: Iterable[int]) -> None:
    roster, policy = judged.view.roster, judged.view.policy
    who = roster.at(change.index)
    if _is_wanted(change, returning):
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


def _is_wanted(change: MemberChange, returning: Iterable[int]) -> bool:
    """Whether a client leaves by its own proposal, or returns and so replaces its leaf."""
    return change.proposer == MemberSender(change.index) or change.index in returning


def _check_context(
    judged: JudgedCommit, proposer: AnySender, extensions: Extensions, after: Roster, suite: int
) -> RoomPolicy:
    """Check the extensions that replace those of the GroupContext, and return the policy in them.

    :param suite: number of the cipher suite of the group that will have them
    :raises PolicyViolation: they are not allowed
    """
    view = judged.view
    wisher = judged.wisher(proposer)
    bookkeeping = judged.effects.reinit is None and _without_list(extensions) == _without_list(view.extensions)
    if not bookkeeping and not judged.may(view.policy.may_change_policy, wisher):
        raise PolicyViolation("change-policy", "no right to change the group's extensions", judged.name(wisher))
    if bookkeeping:
        return view.policy  # not checked for administrators: they may have left, and the policy does not change
    try:
        new = RoomPolicy.required_in(extensions)
    except PeerError as error:
        raise PolicyViolation("policy-missing", f"extensions without a policy: {error}", judged.name(wisher)) from error
    if new.room != view.policy.room:
        raise PolicyViolation("room", "the policy would name another room", judged.name(wisher))
    old = view.policy
    if new.conversation != old.conversation or (old.conversation and new.administrators != old.administrators):
        raise PolicyViolation("conversation", "a conversation would become another one", judged.name(wisher))
    if not (new.allows_suite(suite) and old.allows_suite(suite)):  # dropping the demand and using that are two steps
        raise PolicyViolation(
            "post-quantum", f"cipher suite {suite_name(suite)} is not post-quantum", judged.name(wisher)
        )
    if not any(map(after.has_say, new.administrators)):
        raise PolicyViolation(
            "administrator", "the policy would leave no administrator in the group", judged.name(wisher)
        )
    return new


def _check_extensions_of(leaf: LeafNode) -> None:
    """Check that the extensions of this protocol in a leaf can be parsed and that a return key has a key's length.

    :raises PolicyViolation: an extension is malformed
    """
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
    """Check the limits of the policy for what grows.  A policy that lowers a limit removes no member.

    :raises PolicyViolation: an account or the group grows beyond its limit
    """
    for account in {arrival.client.account for arrival in arrivals}:
        if after.clients_of(account) > max(policy.max_devices, before.clients_of(account)):
            raise PolicyViolation("too-many", f"more than {policy.max_devices} clients of {account}")
    if len(after) > max(policy.max_members, len(before)):
        raise PolicyViolation("too-many", f"more than {policy.max_members} clients in the group")


def _removed_after(
    judged: JudgedCommit, arrivals: Sequence[Arrival], returning: Iterable[int], after: Roster, policy: RoomPolicy
) -> RemovedClients:
    """The list after a Commit.

    :param after: the roster after it
    :param policy: the policy after it
    """
    roster, administrators = judged.view.roster, frozenset(policy.administrators)

    def standing(account: str) -> Standing:
        if account in administrators:
            return Standing.ADMINISTRATOR
        return Standing.MEMBER if after.has_say(account) else Standing.ABSENT

    removals = []
    for change in judged.effects.removed:
        if _is_wanted(change, returning):
            continue
        who, wisher = roster.at(change.index), judged.wisher(change.proposer)
        removed_as = RemovedAs.MEMBER
        if roster.is_newcomer(change.index):
            removed_as = RemovedAs.NEWCOMER
        elif wisher is not None and roster.at(wisher).account == who.account:
            removed_as = RemovedAs.OWN_DEVICE
        removals.append((who, removed_as))
    removed = (judged.view.removed or RemovedClients()).with_removed(removals, standing)
    for arrival in arrivals:
        if arrival.ground in (Ground.RIGHT, Ground.OWN_DEVICE):
            removed = removed.with_added(arrival.client)
    return removed


def _is_listed(removed: RemovedClients, view: GroupView, extensions: Extensions) -> bool:
    """Whether extensions contain this list.  A group without a list may continue without one."""
    try:
        found = RemovedClients.found_in(extensions)
    except MalformedError:
        return False
    return found == removed or (found is None and view.removed is None)


def is_bookkeeping(change: ExtensionsChange) -> bool:
    """Whether a change of extensions changes only the list of removed clients."""
    return _without_list(change.before) == _without_list(change.after)


def _without_list(extensions: Extensions) -> Extensions:
    return tuple(entry for entry in extensions if entry.extension_type != REMOVED_CLIENTS)


def _new_leaf(change: MemberChange) -> LeafNode:
    assert change.after is not None, "a Remove brings no leaf"
    return change.after
