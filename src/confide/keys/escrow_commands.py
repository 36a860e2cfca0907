"""Commands about keys in the hands of trustees: an owner's and its trustees' at the broker that has the key, and at one that is to have it.

Shares are made and put together here, in memory.  What leaves is sealed to one trustee each; what comes back is sealed to a one-time key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Final

from confide.canonical import Json
from confide.crypto.seal import SealKey, seal
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import PublicKey, SigningKey
from confide.errors import CredentialError, EscrowError, Fact, ShareError, UnwrapError, UsageError
from confide.ids import KeyRef
from confide.keys.custody.local import MasterKey
from confide.keys.custody.shares import Collected, Share, SharedRoot
from confide.keys.escrow import Contribution, Escrow, EscrowRequest, Recovery, TrusteeKey, one_recovery
from confide.keys.escrow_records import FormerCredential, KeptEscrow, KeptRecovery, KeptTrusteeKey
from confide.keys.key_records import Key
from confide.keys.leaving import LeavingKeys
from confide.keys.records import Owner
from confide.keys.sessions import Peer

RECOVERY_TTL: Final = timedelta(days=7)
"""How long trustees have to contribute: they have to be found, and to ask whether this is right."""
_MAX_OPEN: Final = 20
"""Recoveries of one owner that wait at the same time."""


class EscrowCommands(LeavingKeys):
    """Each command writes the audit log, refusals included."""

    # --- where the key is --------------------------------------------------------------------------------------------

    def register_trustee_key(self, peer: Peer, envelope: Json) -> Json:
        """Take the key that shares for the client are sealed to from now on; shares that were made before are not touched.

        Raises:
            EscrowError: the client's credential did not sign it.
        """
        with self._command("trustee-key", peer, {}) as who, self._store.transaction():
            TrusteeKey.verify(envelope, PublicKey.from_spki(who.spki))
            self._store.put(KeptTrusteeKey(who.name, envelope))
            self._note("trustee-key", who)
            return {"name": who.name, "spki": who.ref}

    def trustees(self, peer: Peer, names: Sequence[object]) -> Json:
        """What an owner needs of those who are to be its trustees: each one's credential and signed key.

        They are named as ``Tenants.find`` has it: one of another tenant with the digest of the public key.

        Raises:
            UsageError: one is not enrolled (any more), or has registered no key for shares.
        """
        with self._command("list-trustees", peer, {}) as who:
            return {"trustees": [self._trustee(who, str(name)) for name in names]}

    def _trustee(self, who: Owner, name: str) -> Json:
        found = self._tenants.find(who, name, "trustee")
        kept = self._store.get(KeptTrusteeKey, found.name)
        if kept is None:
            hint = "a trustee enrols, and runs `confide keys escrow trustee-key`"
            raise UsageError(f"{found.name} has registered no key for shares at this broker", hint=hint)
        return {"name": found.name, "spki": found.spki.hex(), "key": kept.envelope}

    def escrow(self, peer: Peer, signed_request: Json) -> Json:
        """An own key in the hands of the trustees that the owner's signed request names; or what it waits for.

        Raises:
            EscrowError: the client did not sign the request, it is for another broker, or a trustee's key is not the registered one.
            CredentialError: the key is not the client's.
            KeyDestroyedError: no version of it can be opened.
        """
        with self._command("escrow-key", peer, {}) as owner, self._store.transaction():
            request = EscrowRequest.verify(signed_request, PublicKey.from_spki(owner.spki))
            own = self._store.signing_key
            if request.source != own.spki_digest:
                raise EscrowError("the request is for another broker", expected=own.spki_digest, got=request.source[:80])
            key = self._own_key(owner, request.key)
            for trustee in request.trustees:
                self._check_registered(trustee.name, trustee.key, trustee.jwk)
            waits = self._waits(owner, key, "escrow", request.terms)
            if waits is not None:
                return waits
            escrow = self._made(request, signed_request, PublicKey.from_spki(owner.spki), key)
            names = tuple(trustee.name for trustee in request.trustees)
            made = KeptEscrow(escrow.digest, key.id, len(key.versions), request.threshold, names, self._clock())
            self._store.put(made)
            facts: dict[str, Fact] = {"trustees": ", ".join(names), "threshold": request.threshold, "escrow": escrow.digest}
            self._note("escrow-key", owner, concerned=[*names, *self._approvers(key)], key=key.id, version=key.newest.version, **facts)
        return {"escrow": escrow.sign(own)}

    def _made(self, request: EscrowRequest, signed_request: Json, owner: PublicKey, key: Key) -> Escrow:
        root, shares = SharedRoot.create(threshold=request.threshold, count=len(request.trustees))
        outline, secret = self._keys.outline(key)
        bare = Escrow(request, signed_request, owner, self._store.signing_key.public, outline, root.shares)
        wrapped = MasterKey(root.root).wrap(secret, context=bare.context)
        sealed = [
            seal(share.to_text(), trustee.jwk, context=bare.share_context(share.index))
            for share, trustee in zip(shares, request.trustees, strict=True)
        ]
        for used in (secret, root.root, *(share.value for share in shares)):
            used.wipe()
        return replace(bare, wrapped=wrapped, sealed=tuple(sealed))

    def _check_registered(self, name: str, credential: PublicKey, jwk: Json) -> None:
        enrolled, kept = self._store.get(Owner, name), self._store.get(KeptTrusteeKey, name)
        if enrolled is None or enrolled.ref != credential.digest or enrolled.withdrawn is not None:
            raise EscrowError("a trustee is not enrolled under that name and credential", trustee=name)
        if kept is None or TrusteeKey.verify(kept.envelope, credential).jwk != jwk:
            raise EscrowError("a trustee's key is not the one that it has registered", trustee=name)

    def escrows(self, peer: Peer) -> Json:
        """The escrows of own keys that were made here, the newest last."""
        with self._command("list-escrows", peer, {}) as owner:
            found = sorted(self._store.find(KeptEscrow, owner.name), key=lambda one: one.made)
            return {"escrows": [one.to_json() for one in found]}

    def announce(self, peer: Peer, escrow: str, recovery: Json) -> Json:
        """A trustee's word that it is about to contribute its share to a recovery: the key's owner sees it in the audit log.

        Raises:
            CredentialError: no such escrow was made here with the client as trustee.
            EscrowError: it is no recovery of that escrow.
        """
        with self._command("escrow-open", peer, {"escrow": escrow[:96]}) as trustee, self._store.transaction():
            found = self._store.get(KeptEscrow, escrow)
            if found is None or trustee.name not in found.trustees:
                raise CredentialError("this credential is no trustee of such an escrow")
            asked = Recovery.from_form(recovery)
            if (asked.escrow, asked.key) != (escrow, found.key):
                raise EscrowError("the recovery is of another escrow")
            facts = {"recovery": asked.digest, "requester": asked.requester[:64], "target": asked.broker[:64]}
            self._note("escrow-open", trustee, concerned=[found.ref], key=found.key, escrow=escrow, **facts)
            return {"key": found.key}

    # --- where it is to be -------------------------------------------------------------------------------------------

    def request_recovery(self, peer: Peer, escrow: str, key: str) -> Json:
        """Ask for an escrowed key of the client's own name: a one-time key of this broker, to which trustees may seal their shares.

        Raises:
            CredentialError: a key of that name would not be the client's.
            UsageError: too many recoveries wait already.
        """
        with self._command("recovery-request", peer, {"key": key[:130]}) as owner, self._store.transaction():
            ref, now = KeyRef.parse(key), self._clock()
            self._check_owner(owner, ref)
            self._store.sweep(now)
            if len(self._store.find(KeptRecovery, owner.name)) >= _MAX_OPEN:
                raise UsageError("too many recoveries wait already", limit=_MAX_OPEN)
            pem = SigningKey.generate().private_pem()
            jwk, own = SealKey.from_private_pem(pem).public_jwk(), self._store.signing_key
            asked = Recovery(escrow[:96], ref.id, own.spki_digest, owner.ref, jwk, now + RECOVERY_TTL)
            self._store.put(KeptRecovery(asked, self._store.kms.wrap(pem, context=recovery_use(asked))), expires=asked.expires)
            pem.wipe()
            self._note("recovery-request", owner, key=ref.id, escrow=asked.escrow, recovery=asked.digest)
            return {"recovery": asked.sign(own)}

    def recover(self, peer: Peer, head: Json, contributions: Sequence[Json]) -> Json:
        """Take over the escrowed key of a file, by enough trustees' contributions to a recovery that the client has asked for here.

        Raises:
            EscrowError: the file, or one contribution (``trustee`` names whose), is not what it must be, or they are too few.
            CredentialError: the key would not be the client's.
            UsageError: another key of that name is here.
        """
        with self._command("recover-key", peer, {}) as owner, self._store.transaction():
            escrow = Escrow.of_head(head)
            ref = KeyRef.parse(escrow.request.key)
            self._check_owner(owner, ref)
            given = [Contribution.verify(one, escrow) for one in contributions]
            kept = self._asked(owner, escrow, one_recovery(given))
            secret = self._put_together(escrow, given, kept)
            made = self._take_over(owner, escrow.outline, secret)
            secret.wipe()
            if escrow.owner.digest != owner.ref:
                self._store.put(FormerCredential(made.id, escrow.owner.spki_der))
            self._store.delete(KeptRecovery, kept.id)
            trustees = ", ".join(sorted(escrow.request.trustees[one.index - 1].name for one in given))
            facts = {"source": escrow.source.digest, "escrow": escrow.digest, "recovery": kept.id, "trustees": trustees}
            self._note("recover-key", owner, key=made.id, version=made.newest.version, former=escrow.owner.digest, **facts)
            return {"key": made.id, "version": made.newest.version}

    # --- inside ------------------------------------------------------------------------------------------------------

    def _check_owner(self, owner: Owner, ref: KeyRef) -> None:
        if ref.owner != owner.name:
            raise CredentialError("this credential does not own that key", owner=owner.name, key=ref.id)

    def _asked(self, owner: Owner, escrow: Escrow, recovery: str) -> KeptRecovery:
        kept = self._store.get(KeptRecovery, recovery)
        if kept is None or kept.recovery.requester != owner.ref or self._clock() >= kept.recovery.expires:
            hint = "ask for one with `confide keys escrow request`, and let the trustees contribute to it"
            raise EscrowError("this credential has asked for no such recovery here, or it is over", hint=hint)
        if (kept.recovery.escrow, kept.recovery.key) != (escrow.digest, escrow.request.key):
            raise EscrowError("the recovery was asked for another escrow", expected=kept.recovery.escrow, got=escrow.digest)
        return kept

    def _put_together(self, escrow: Escrow, given: Sequence[Contribution], kept: KeptRecovery) -> SecretBytes:
        """What the escrow holds, if enough of the contributions are there and every one is genuine."""
        one_time = SealKey.from_private_pem(self._store.kms.unwrap(kept.wrapped, context=recovery_use(kept.recovery)))
        collected = Collected(escrow.shares)
        for one in given:
            name = escrow.request.trustees[one.index - 1].name
            try:
                share = Share.parse(one_time.open(one.jwe, context=one.context))
                if share.index != one.index:
                    raise ShareError("it is another trustee's")
                collected.add(share)
            except (ShareError, UnwrapError) as cause:
                raise EscrowError(f"the contribution of {name} is refused: {cause.message}", trustee=name) from None
        if collected.missing:
            hint = "further trustees make theirs with `confide keys escrow open`, for the same request"
            raise EscrowError("there are too few contributions", hint=hint, needed=escrow.request.threshold, got=len(given))
        root = collected.take()
        try:
            return MasterKey(root).unwrap(escrow.wrapped, context=escrow.context)
        except UnwrapError:
            raise EscrowError("what the broker put into the escrow does not open", broker=escrow.source.digest) from None
        finally:
            root.wipe()


def recovery_use(recovery: Recovery) -> Json:
    """What the one-time key of a recovery is bound to where it is kept."""
    return {"use": "key-recovery", "recovery": recovery.digest}
