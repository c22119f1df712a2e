"""Who may do what in a group: an extension of its GroupContext, and the check of every Commit against it.

The policy is part of what all members agree on cryptographically, so no server can change it, and every
member comes to the same verdict on a Commit from the same octets: :func:`check` looks at no clock, no
network and no trust of its own.  A Commit that breaks a rule is ignored by everybody.

Each change in a Commit is judged by who *wished* it: the sender of the proposal.  Whose hand commits it
does not matter; members may, and should, commit what others have proposed rightly.  A wish from outside
(a client that asks to be added, an external sender) has no weight of its own: there the committer is
judged as if the wish were its own.  Rights are those of *accounts*, all of whose clients have them, by the
policy and the members *before* the Commit.

Rights: nobody; administrators; members (all accounts with a client in the group, administrators among them).

=========================  ==================================================================  ========================
what                       allowed                                                             rule in the error
=========================  ==================================================================  ========================
an empty Commit, an        every member; the leaf remains the same client (its keys may        ``same-client``
Update, a path, a PSK      change)
add a client               accounts with the right `may_add`;                                  ``add``
                           with `own_devices`, a member account its own clients, and any
                           member a client of a member account that asks for it itself,
                           unless the same Commit removes the account's last client against
                           its will
any arrival                a client has one leaf at most                                       ``one-leaf``
leave                      everybody, by a Remove of oneself or a SelfRemove that somebody
                           commits
remove a client            accounts with the right `may_remove`;                               ``remove``
                           with `own_devices`, an account its own clients
remove an administrator's  as above, if the wish is an administrator's or the account's own    ``remove-administrator``
client
replace a client           whoever may add it, if the client itself asks to be added afresh:   ``add``
                           the committer's Remove of its old leaf needs no right
join by external Commit    `external_joins`: never; clients of member accounts; anybody        ``external-join``
remove by external Commit  the joiner's own old leaf                                           ``external-remove``
change the extensions of   accounts with the right `may_change_policy`                         ``change-policy``
the GroupContext
their new content          has a policy of this version that can be read,                      ``policy-missing``
                           for the same room,                                                  ``room``
                           with an administrator who is a member after the Commit              ``administrator``
ReInit                     like a change of the extensions, with the committer judged (a
                           ReInit stands alone in its Commit); its extensions are those of
                           the new group
any new leaf content       with `x509_only` in the policy after the Commit, an X.509           ``x509``
                           credential
change the subject         accounts with the right `may_change_subject`; a message, no
                           Commit: receivers ask :meth:`RoomPolicy.permits`
=========================  ==================================================================  ========================

*The last administrator.*  While no account of the list has a client in the group, every member account is
an administrator.  So a group can not be locked by leaving it (nor by an administrator's device that is
lost), and no single survivor, who may be a dead device, has to be waited for.  The first change of the
policy ends this state, for it must name an administrator who is a member.  What nobody may do stays so.

`x509_only` looks at leaves that arrive or are renewed.  Old ones get their certificate with their next
update, which `max_leaf_age` brings about.

`max_leaf_age` is not part of the check: the age of a key is a matter of clocks, on which members need not
agree.  Clients renew their own leaf in time, and those with the right to remove may remove who does not.
It is unlimited by default: a phone in a drawer does no harm to be thrown out for, unless somebody says so.

Whether an outsider is "in the room" with `external_joins` for anybody is for the room to say: it carries
the Commits of those only whom it lets in.

*Versions.*  A rule that some members do not know would split the group, so there are no optional rules and
each version of the policy has an extension type of its own, out of those reserved here.  Capabilities then
tell who knows which (RFC 9420 7.2), and no Commit can bring a group to a version that a member lacks (13.4).

A group without the extension is none of ours: nothing names its room.  See :meth:`RoomPolicy.required_in`.
"""

from __future__ import annotations

from ..errors import PeerError, PolicyViolation
from ..identity import ClientIdentity
from ..mls.group.commit_effects import Effects, MemberChange
from ..mls.structures.extensions import Extensions
from ..mls.structures.framing import AnySender, MemberSender, NewMemberCommitSender, NewMemberProposalSender
from ..mls.structures.leaf_node import LeafNode
from .room_policy import ExternalJoins, Right, RoomPolicy
from .roster import Roster

__all__ = ["check"]


def check(policy: RoomPolicy, effects: Effects, roster: Roster) -> Roster:
    """Whether a group's policy allows a Commit: the table above.

    Every member asks this of every Commit, its own before sending included, after RFC 9420's rules are
    found kept and before anything is applied.  Its cost depends on the number of changes.

    :param policy: that before the Commit
    :param roster: that before the Commit
    :return: the roster after it
    :raises PolicyViolation: it is not allowed
    :raises InvalidError: a new credential names no client, or is of a type that is not supported
    :raises UsageError: `roster` is not that of the epoch that the Commit ends
    """
    after = roster.after(effects)
    judged = _Judged(policy, effects, roster)
    for change in effects.removed:
        judged.check_removed(change)
    for change in effects.added:
        judged.check_added(change)
    if effects.extensions is not None:
        policy = judged.check_extensions(effects.extensions.proposer, effects.extensions.after, after)
    if effects.reinit is not None:
        judged.check_extensions(effects.committer, effects.reinit.extensions, after)
    for change in (*effects.updated, *effects.added):
        if not policy.accepts(_leaf(change).credential):
            raise PolicyViolation("x509", "a credential that is not X.509", str(after.at(change.index)))
    return after


class _Judged:
    """One Commit and what its changes are judged by."""

    def __init__(self, policy: RoomPolicy, effects: Effects, roster: Roster) -> None:
        self.policy = policy
        self.roster = roster
        self.committer = effects.committer
        self.arriving = {change.index: ClientIdentity.from_leaf(_leaf(change)) for change in effects.added}
        asking = [change for change in effects.added if isinstance(change.proposer, NewMemberProposalSender)]
        self.asking = {self.arriving[change.index] for change in asking}
        self.removals: dict[str, list[MemberChange]] = {}
        for change in effects.removed:
            self.removals.setdefault(roster.at(change.index).account, []).append(change)

    def check_removed(self, change: MemberChange) -> None:
        who = self.roster.at(change.index)
        if isinstance(change.proposer, NewMemberCommitSender):
            if who not in self.arriving.values():
                raise PolicyViolation("external-remove", f"an external joiner removes {who}", self._joiner())
            return
        if self._is_wanted(change):
            return
        judge = self._wisher(change.proposer)
        if self.policy.own_devices and judge is not None and judge.account == who.account:
            return
        if not self._permits(self.policy.may_remove, judge):
            raise PolicyViolation("remove", f"no right to remove {who}", _name(judge))
        if self._is_administrator(who) and not self._is_administrator(judge):
            raise PolicyViolation("remove-administrator", f"no right to remove the administrator {who}", _name(judge))

    def check_added(self, change: MemberChange) -> None:
        who = self.arriving[change.index]
        if isinstance(change.proposer, NewMemberCommitSender):
            allowed = self.policy.external_joins == ExternalJoins.ANYBODY or (
                self.policy.external_joins == ExternalJoins.DEVICES and self.roster.has(who.account)
            )
            if not allowed:
                raise PolicyViolation("external-join", "no right to join by an external Commit", str(who))
            return
        judge = self._wisher(change.proposer)
        own = who in self.asking or (judge is not None and judge.account == who.account)
        if own and self.policy.own_devices and self.roster.has(who.account) and not self._is_evicted(who.account):
            return
        if not self._permits(self.policy.may_add, judge):
            raise PolicyViolation("add", f"no right to add {who}", _name(judge))

    def check_extensions(self, proposer: AnySender, extensions: Extensions, after: Roster) -> RoomPolicy:
        """Extensions that are to replace the GroupContext's; the policy in them."""
        judge = self._wisher(proposer)
        if not self._permits(self.policy.may_change_policy, judge):
            raise PolicyViolation("change-policy", "no right to change the group's extensions", _name(judge))
        try:
            new = RoomPolicy.required_in(extensions)
        except PeerError as error:
            raise PolicyViolation("policy-missing", f"extensions without a policy: {error}", _name(judge)) from error
        if new.room != self.policy.room:
            raise PolicyViolation("room", "the policy would name another room", _name(judge))
        if not any(map(after.has, new.administrators)):
            raise PolicyViolation("administrator", "the policy would leave no administrator in the group", _name(judge))
        return new

    def _wisher(self, proposer: AnySender) -> ClientIdentity | None:
        """Who answers for a wish: who proposed it, for an outsider's the committer; None if both are outsiders."""
        for sender in (proposer, self.committer):
            if isinstance(sender, MemberSender):
                return self.roster.at(sender.leaf_index)
        return None

    def _joiner(self) -> str | None:
        return next((str(client) for client in self.arriving.values()), None)

    def _permits(self, right: Right, client: ClientIdentity | None) -> bool:
        return client is not None and self.policy.permits(right, client.account, self.roster)

    def _is_administrator(self, client: ClientIdentity | None) -> bool:
        return client is not None and self.policy.is_administrator(client.account, self.roster)

    def _is_wanted(self, change: MemberChange) -> bool:
        """Whether a member leaves by itself, or is replaced because it asks to be added afresh.

        Only the committer's own Remove replaces.  Somebody else's may be there to exclude for good, and
        would be turned into its opposite by committing it together with the wish to come back.
        """
        if change.proposer == MemberSender(change.index):
            return True
        return change.proposer == self.committer and self.roster.at(change.index) in self.asking

    def _is_evicted(self, account: str) -> bool:
        """Whether the last client of an account goes, and any against the account's will.

        `own_devices` does not bring it back then: who proposes a new device just before would evade the Remove.
        """
        removals = self.removals.get(account, [])
        return len(removals) == self.roster.clients_of(account) and any(
            not self._is_wanted(change) and getattr(self._wisher(change.proposer), "account", None) != account
            for change in removals
        )


def _leaf(change: MemberChange) -> LeafNode:
    """The leaf that a change brings."""
    assert change.after is not None, "a Remove brings no leaf"
    return change.after


def _name(client: ClientIdentity | None) -> str | None:
    return None if client is None else str(client)
