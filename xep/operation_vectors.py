"""operations.json: a PSK of another group, a ReInit and what follows it, and a branch, as a member meets them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from generate_examples import ROOM, Person

from slixmpp_mls.client.device.leaf_proofs import renewing
from slixmpp_mls.identity import ClientIdentity
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.group.group import Group
from slixmpp_mls.mls.group.staging import StagedCommit
from slixmpp_mls.mls.registry import CredentialType, ProposalType
from slixmpp_mls.mls.structures.framing import MLSMessage
from slixmpp_mls.mls.structures.leaf_node import Lifetime
from slixmpp_mls.mls.structures.proposals import Add, AnyProposal, PreSharedKey, ReInit
from slixmpp_mls.mls.structures.psk import ExternalPSK, PreSharedKeyID, ResumptionPSK, ResumptionPSKUsage
from slixmpp_mls.mls.structures.welcome import Welcome
from slixmpp_mls.mls.tree.leaf_creation import KeyPackageBundle, OwnLeaf, capabilities, create_key_package
from slixmpp_mls.policy import EXTENSION_TYPES, RoomPolicy, group_extensions
from slixmpp_mls.stanza import elements

__all__ = ["operations"]

NOW = 1790970000
OLD, NEW = CipherSuite.get(1), CipherSuite.get(3)
HEATH, CAVE = "heath@chat.shakespeare.lit", "cave@chat.shakespeare.lit"


def package(person: Person, suite: CipherSuite) -> KeyPackageBundle:
    """A KeyPackage of a device that supports both suites, the newer one first."""
    listed = capabilities(
        cipher_suites=(NEW.id, OLD.id), extensions=EXTENSION_TYPES, proposals=(ProposalType.SELF_REMOVE,),
        credentials=(CredentialType.BASIC, CredentialType.X509), random=person.random,
    )  # fmt: skip
    own = OwnLeaf(person.identity.credential(), person.signature_key, listed, complete=renewing(suite))
    made = create_key_package(suite, own, Lifetime(NOW - 3600, NOW + 28 * 86400), random=person.random)
    person.packages.append(made)
    return made


def operations() -> dict[str, Any]:
    crone = Person("crone1@shakespeare.lit", "desktop", "firstwitch", "Cauldron")
    hag = Person("hag66@shakespeare.lit", "pda", "secondwitch", "PDA")
    wicca = Person("wiccarocks@shakespeare.lit", "laptop", "thirdwitch", "Laptop")

    def begun(room: str) -> tuple[Group, bytes]:
        """A group of all three in a room, and the Welcome."""
        extensions = group_extensions(RoomPolicy(room, (crone.account,)))
        group = Group.create(package(crone, OLD), crone.random(32), extensions=extensions, random=crone.random)
        adds = [Add(package(person, OLD).key_package) for person in (hag, wicca)]
        made = group.commit(adds, now=NOW, random=crone.random)
        assert isinstance(made.staged.next, Group)
        assert made.welcome is not None
        return made.staged.next, made.welcome

    coven, to_coven = begun(ROOM)
    heath, to_heath = begun(HEATH)
    joins = [{"room": ROOM, "welcome": to_coven.hex()}, {"room": HEATH, "welcome": to_heath.hex()}]
    steps: list[dict[str, Any]] = []

    def step(name: str, room: str, found: Sequence[elements.RoomElement], after: Group | None, **facts: Any) -> None:
        xml = [each.to_bytes().decode() for each in found]
        outcome = "refused" if after is None else "accepted"
        steps.append({"name": name, "room": room, "elements": xml, "outcome": outcome, **facts})
        if after is not None:
            steps[-1] |= {"epoch": after.epoch, "epoch_authenticator": after.epoch_authenticator.hex()}

    def commit(group: Group, proposals: Sequence[AnyProposal], psk: bytes = b"") -> tuple[elements.Commit, Group]:
        made = group.commit(proposals, now=NOW, psks=lambda _: psk, random=crone.random)
        assert isinstance(made.staged.next, Group)
        return elements.Commit(group.group_id, group.epoch, made.commit), made.staged.next

    # linking: the key of the coven's present epoch is needed on the heath from now on
    name = ResumptionPSK(ResumptionPSKUsage.APPLICATION, coven.group_id, coven.epoch)
    strange = ResumptionPSK(ResumptionPSKUsage.APPLICATION, bytes(32), 3)
    key = coven.resumption_psk(coven.epoch)
    assert key is not None
    for told, psk in (
        ("a PSK of a group that the receiver is not in", strange),
        ("an external PSK that the receiver does not have", ExternalPSK(b"moon")),
    ):
        sent, _ = commit(heath, [PreSharedKey(PreSharedKeyID(psk, crone.random(32)))], bytes(32))
        step(told, HEATH, [sent], None)
    sent, heath = commit(heath, [PreSharedKey(PreSharedKeyID(name, crone.random(32)))], key)
    step("link", HEATH, [sent], heath)

    def creation(made: Group, old: Group, welcome: bytes, first: bytes) -> list[elements.RoomElement]:
        assert made.epoch == 1
        return [elements.Commit(made.group_id, 0, first), elements.Welcome(made.group_id, 1, welcome)]

    # branching: the crone and the hag go to the cave
    extensions = group_extensions(RoomPolicy(CAVE, (crone.account,)))
    drafted = coven.draft_branch(
        crone.random(32), package(crone, OLD), [package(hag, OLD).key_package], now=NOW, extensions=extensions,
        identify=ClientIdentity.from_leaf, random=crone.random,
    ).finish(random=crone.random)  # fmt: skip
    assert isinstance(drafted.staged.next, Group)
    assert drafted.welcome is not None
    step("branch", CAVE, creation(drafted.staged.next, coven, drafted.welcome, drafted.commit), drafted.staged.next)

    # another cipher suite
    asked = ReInit(crone.random(32), 1, NEW.id, group_extensions(RoomPolicy(ROOM, (crone.account,))))
    made = coven.commit([asked], now=NOW, random=crone.random)
    closed, sent_reinit = made.staged.next, made.commit
    assert isinstance(closed, Group)
    step("reinit", ROOM, [elements.Commit(coven.group_id, coven.epoch, made.commit)], closed)

    def follows(old: Group, maker: Person, *others: Person) -> list[Any]:
        packages = [package(person, NEW).key_package for person in others]
        draft = old.draft_reinitialize(
            package(maker, NEW), packages, now=NOW, identify=ClientIdentity.from_leaf, random=maker.random
        )
        done = draft.finish(random=maker.random)
        assert isinstance(done.staged.next, Group)
        assert done.welcome is not None
        return [creation(done.staged.next, old, done.welcome, done.commit), done.staged.next]

    # refused: a group of the same id that nothing binds to the closed one
    loose = Group.create(package(crone, NEW), asked.group_id, extensions=asked.extensions, random=crone.random)
    bundle = loose.commit(
        [Add(package(person, NEW).key_package) for person in (hag, wicca)], now=NOW, random=crone.random
    )
    assert isinstance(bundle.staged.next, Group)
    assert bundle.welcome is not None
    step("a creation without the PSK", ROOM, creation(bundle.staged.next, closed, bundle.welcome, bundle.commit), None)

    # refused: a member that is no administrator puts a key of its own in the administrator's place
    welcome = MLSMessage.decode(to_coven).body
    assert isinstance(welcome, Welcome)
    theirs = Group.join(welcome, wicca.packages[0]).state
    assert isinstance(theirs, Group)
    read = theirs.process(sent_reinit, now=NOW)
    assert isinstance(read, StagedCommit)
    ended = theirs.apply(read, now=NOW)
    false = Person("crone1@shakespeare.lit", "desktop", "firstwitch", "Cauldron")
    assert false.identity == crone.identity
    false.signature_key = OLD.generate_signature_key(wicca.random)
    found, _ = follows(ended, wicca, hag, false)
    step("a creation by a member, with another key for the administrator", ROOM, found, None)
    found, after = follows(closed, crone, hag, wicca)
    step("creation", ROOM, found, after, continues=True)
    return {
        "suites": [OLD.id, NEW.id],
        "follower": str(hag.identity),
        "signature_key": hag.signature_key.public.hex(),
        "signature_private_key": hag.signature_key.encode().hex(),
        "key_packages": [
            {
                "suite": bundle.suite.id,
                "reference": bundle.reference.hex(),
                "key_package": MLSMessage.wrap(bundle.key_package).hex(),
                "init_private_key": bundle.init_key.encode().hex(),
                "encryption_private_key": bundle.leaf_key.encode().hex(),
            }
            for bundle in hag.packages
        ],
        "joins": joins,
        "steps": steps,
    }
