"""Records the members whose identity the Authentication Service does not confirm.

All members apply a Commit that RFC 9420 and the group's policy allow.  The answers of the Authentication Service differ
between members and change over time: a device is retired, a server is down, a user has compared fingerprints.  A member
that applied only the Commits that its service confirms would sooner or later fork from the group.  The service is
therefore asked before a Commit is applied (RFC 9420 5.3.1), and its answer determines how the leaf is treated, which
RFC 9750 6.5 leaves to applications:

- The service *denies* a leaf for which it has never vouched.  Nothing is encrypted for the group until the leaf is
  removed or vouched for, and clients with the right to remove it do so.
- The service denies a leaf for which it had vouched before.  The leaf has *lapsed*: the device was retired, or its
  certificate was revoked.  The doubt is reported, and the leaf is removed if the doubt persists.  Encryption for the
  group continues meanwhile; otherwise anybody could silence a group by retracting a device.  A leaf that our own
  user refuses has not lapsed: nothing is encrypted for the group from then on.
- The service *cannot tell*.  The doubt is reported, and the service is asked again later.  A leaf that entered at its
  own client's request, without replacing an older leaf with the same key, was selected by no member.  Neither was the
  signer of the Welcome by which we have joined, if we know its key from nowhere.  Nothing is encrypted for the group
  while the service cannot tell who that is.

*Order, not time.*  A message is doubtful if its sender is doubtful when the message is read, whatever its time stamp.
The archive sets the time stamp, so a server could backdate messages of a stolen device.

The store keeps doubts together with the group.  A doubt is deleted with its leaf.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Self

from ...identity import ClientIdentity
from ...mls.group.commit_effects import Effects
from ...mls.structures.framing import NewMemberCommitSender, NewMemberProposalSender
from .records import DoubtRecord

__all__ = ["IDENTIFIED", "NOT_ASKED", "Doubt", "Doubts"]

NOT_ASKED = "not-asked"  # others have named too many accounts at once; asked before a message of it is shown
REFUSED = "refused"  # the reason of a person, see :class:`~slixmpp_mls.authentication.Verdict`
IDENTIFIED = frozenset({"not-verified", "no-revocation-list"})
"""Reasons of a service that cannot tell whether a leaf is valid, although it can tell whose it is."""
_UNKNOWN, _DENIED, _UNINVITED = range(3)  # in the store
_MAX_TEXT = 500  # octets; a service's text may contain text from servers


@dataclass(frozen=True, slots=True)
class Doubt:
    """The doubt about one member.

    :ivar client: the identity that it claims
    :ivar denied: True if the Authentication Service denies it, False if the service cannot tell
    :ivar reason: machine-readable, see :class:`~slixmpp_mls.authentication.Verdict`; or ``not-asked``: the service has
        not been asked yet, because others have named too many accounts at once
    :ivar text: the reason, human-readable
    :ivar since: seconds since the Unix epoch
    :ivar lapsed: whether the service had vouched for it before
    :ivar uninvited: whether it entered at its own request, or has let us in, and the service has never been able to
        tell who it is
    """

    client: ClientIdentity
    denied: bool
    reason: str
    text: str
    since: int
    lapsed: bool = False
    uninvited: bool = False

    @property
    def silences(self) -> bool:
        """Whether nothing may be encrypted for a group that contains the member."""
        return not self.lapsed if self.denied else self.uninvited

    def encode(self) -> bytes:
        text = self.text.encode()[:_MAX_TEXT]
        verdict = _DENIED if self.denied else _UNINVITED if self.uninvited else _UNKNOWN
        return DoubtRecord(verdict, self.lapsed, self.since, self.reason.encode(), text).encode()

    @classmethod
    def decode(cls, key: bytes, value: bytes) -> Self:
        account, _, device = key.decode().partition("/")
        record = DoubtRecord.decode(value)
        return cls(
            ClientIdentity(account, device),
            record.verdict == _DENIED,
            record.reason.decode(),
            record.text.decode(errors="replace"),
            record.since,
            bool(record.lapsed),
            record.verdict == _UNINVITED,
        )


class Doubts(Mapping[ClientIdentity, Doubt]):
    """The doubts about a group's members, an immutable value.

    :ivar silencing: doubts because of which nothing may be encrypted.  Each message needs them, so they are cached
    """

    __slots__ = ("_doubts", "silencing")

    def __init__(self, doubts: Iterable[Doubt] = ()) -> None:
        self._doubts = {doubt.client: doubt for doubt in doubts}
        self.silencing = tuple(doubt for doubt in self._doubts.values() if doubt.silences)

    def __getitem__(self, client: ClientIdentity) -> Doubt:
        return self._doubts[client]

    def __iter__(self) -> Iterator[ClientIdentity]:
        return iter(self._doubts)

    def __len__(self) -> int:
        return len(self._doubts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Doubts) and self._doubts == other._doubts

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<Doubts about {len(self._doubts)}>"

    def after(self, effects: Effects, judged: Iterable[Doubt]) -> Doubts:
        """The doubts after a Commit; the same object if the Commit affects none of them.

        :param judged: doubts about its new leaves
        """
        uninvited = frozenset(_uninvited(effects))
        new = {
            doubt.client: replace(doubt, uninvited=not doubt.denied and doubt.client in uninvited) for doubt in judged
        }
        gone = {
            ClientIdentity.from_leaf(change.before)
            for change in (effects.changes if self._doubts else ())
            if change.before is not None
            and (
                change.after is None
                or change.after.signature_key != change.before.signature_key
                or change.after.credential != change.before.credential
            )
        }
        if not new and self._doubts.keys().isdisjoint(gone):
            return self
        left = {client: doubt for client, doubt in self._doubts.items() if client not in gone}
        return Doubts((left | new).values())

    def reconsidered(self, asked: Iterable[ClientIdentity], answers: Iterable[Doubt]) -> Doubts:
        """The doubts after the service has been asked again.

        An answer that the service cannot tell does not revoke an earlier denial.  A member that was denied from the
        beginning does not become a lapsed one, whatever the present reason.

        :param asked: the members that the service was asked about
        :param answers: doubts about those of them for which it does not vouch
        """
        answered = {doubt.client: doubt for doubt in answers}
        left = dict(self._doubts)
        for client in asked:
            before, now = self._doubts.get(client), answered.get(client)
            if now is None:
                left.pop(client, None)
            elif before is None:
                left[client] = replace(now, lapsed=now.denied and now.reason != REFUSED)
            elif now.denied or not before.denied:
                since = before.since if before.denied == now.denied else now.since
                lapsed, uninvited = before.lapsed and now.reason != REFUSED, before.uninvited and not now.denied
                left[client] = replace(now, lapsed=lapsed, since=since, uninvited=uninvited)
        return Doubts(left.values())

    def changes_since(self, before: Doubts) -> Iterator[tuple[bytes, bytes | None]]:
        """The entries to be written: key and value, or None for an entry to be deleted."""
        if before is self:
            return
        for client in before._doubts.keys() - self._doubts.keys():
            yield str(client).encode(), None
        for client, doubt in self._doubts.items():
            if before._doubts.get(client) != doubt:
                yield str(client).encode(), doubt.encode()


def _uninvited(effects: Effects) -> Iterator[ClientIdentity]:
    """The clients that enter at their own request without replacing an older leaf with the same key."""
    left = {
        (ClientIdentity.from_leaf(change.before), change.before.signature_key)
        for change in effects.removed
        if change.before is not None
    }
    for change in effects.added:
        outsider = isinstance(change.proposer, NewMemberCommitSender | NewMemberProposalSender)
        if outsider and change.after is not None:
            client = ClientIdentity.from_leaf(change.after)
            if (client, change.after.signature_key) not in left:
                yield client
