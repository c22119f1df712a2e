"""Members of whom the Authentication Service does not say that they are who they claim to be.

A Commit is followed by all members alike if RFC 9420 and the group's policy allow it.  What the
Authentication Service answers depends on the time and on who asks (a device is retired, a server is down, a
person has compared fingerprints), so a member that let it decide which Commits to follow would sooner or
later be alone.  It is asked before a Commit is applied (RFC 9420 5.3.1), and its answer decides what is done
about the leaf, which RFC 9750 6.5 leaves to applications:

- it *denies* a leaf for which it has never vouched: nothing is encrypted for the group until the leaf is gone
  or vouched for, and whoever may remove it does;
- it denies one for which it had vouched before, which has *lapsed*: the device was retired, or its certificate
  has been revoked.  That is reported, and the leaf removed if it is still so after a while.  Talk goes on
  meanwhile, or anybody could silence a group by retracting a device.  But whom our own people refuse has
  not lapsed: nothing is encrypted for it from then on;
- it cannot tell: that is reported, and asked again later.  A leaf that has come in by its own wish, and not in the
  place of an older one with the same key, was chosen by nobody: as long as the service cannot tell who that is, nothing
  is encrypted for the group.

*Order, not time.*  A message is as doubtful as its sender is when it is read, whatever its time says: the archive says
when, and a server could date what a stolen device says back to better days.

Doubts are kept in the store beside the group, and go with the leaf.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Self

from ...identity import ClientIdentity
from ...mls.group.commit_effects import Effects
from ...mls.structures.framing import NewMemberCommitSender, NewMemberProposalSender
from .records import DoubtRecord

__all__ = ["Doubt", "Doubts"]

REFUSED = "refused"  # the reason of a person, see :class:`~slixmpp_mls.authentication.Verdict`
_UNKNOWN, _DENIED, _UNINVITED = range(3)  # in the store
_MAX_TEXT = 500  # octets; services' texts may repeat what servers have said


@dataclass(frozen=True, slots=True)
class Doubt:
    """What is wrong with a member.

    :ivar client: who it claims to be
    :ivar denied: whether the Authentication Service denies it; if not, it cannot tell
    :ivar reason: machine-readable, see :class:`~slixmpp_mls.authentication.Verdict`
    :ivar text: the same for people
    :ivar since: seconds since the Unix epoch
    :ivar lapsed: whether the service had vouched for it before
    :ivar uninvited: whether it has come in by its own wish, as somebody of whom the service has never been able to tell
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
        """Whether nothing must be encrypted for the member."""
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
    """The doubts about a group's members; a value.

    :ivar silencing: those for whom nothing must be encrypted; asked for with each message, so found once
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
        """Those after a Commit; the same object if it concerns none of them.

        :param judged: about its new leaves
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
        """Those after the service has been asked again.

        A service that cannot tell takes back nothing that it has said; what a member has been denied for from
        the beginning does not become a lapse, whatever the reason is now.

        :param asked: members
        :param answers: about those of them whom it does not vouch for
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
        """What must be written: key and value, None if deleted."""
        if before is self:
            return
        for client in before._doubts.keys() - self._doubts.keys():
            yield str(client).encode(), None
        for client, doubt in self._doubts.items():
            if before._doubts.get(client) != doubt:
                yield str(client).encode(), doubt.encode()


def _uninvited(effects: Effects) -> Iterator[ClientIdentity]:
    """Who comes in by its own wish, but not in the place of an older leaf with the same key."""
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
