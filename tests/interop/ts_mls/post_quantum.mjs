// Post-quantum suites of draft-ietf-mls-pq-ciphersuites-06 for ts-mls, composed from what it and its dependencies have: it has suites
// of its own making (X-Wing with SHA-512, ML-KEM with Ed25519 and so on), none of which is one of the draft. A suite is pluggable
// there, and a number that the library has no name for is its own name, as in "61441".
import { createHash } from "node:crypto"
import { CipherSuite } from "@hpke/core"
import { XWing } from "@hpke/hybridkem-x-wing"
import { ml_dsa44 } from "@noble/post-quantum/ml-dsa.js"
import { makeGenericHpke } from "ts-mls/crypto/implementation/hpke.js"
import { makeAead } from "ts-mls/crypto/implementation/default/makeAead.js"
import { makeHashImpl } from "ts-mls/crypto/implementation/default/makeHashImpl.js"
import { makeKdf, makeKdfImpl } from "ts-mls/crypto/implementation/default/makeKdfImpl.js"
import { makeNobleSignatureImpl } from "ts-mls/crypto/implementation/default/makeNobleSignatureImpl.js"
import { defaultRng } from "ts-mls/crypto/implementation/default/rng.js"

const number = (value, octets) => Buffer.from(value.toString(16).padStart(2 * octets, "0"), "hex")

/**
 * X-Wing as draft-ietf-hpke-pq has it. The package has the same KEM but an older DeriveKeyPair, SHAKE256(ikm): there a node's key
 * pair would be another for each side (RFC 9420 7.4).
 */
class MLKEM768X25519 extends XWing {
  async deriveKeyPair(ikm) {
    const label = Buffer.from("DeriveKeyPair")
    const parts = [Buffer.from(ikm), "HPKE-v1", "KEM", number(this.id, 2), number(label.length, 2), label, number(32, 2)]
    const hash = createHash("shake256", { outputLength: 32 })
    for (const part of parts) hash.update(part)
    return this.generateKeyPairDerand(Uint8Array.from(hash.digest()))
  }
}

const mldsa44 = {
  sign: async (signKey, message) => ml_dsa44.sign(message, signKey),
  verify: async (publicKey, message, signature) => ml_dsa44.verify(signature, message, publicKey),
  keygen: async () => {
    const { secretKey, publicKey } = ml_dsa44.keygen()
    return { signKey: secretKey, publicKey }
  },
}

async function make(name, aeadName, size, signature) {
  const [aead, aeadInterface] = await makeAead(aeadName)
  const kdf = `HKDF-SHA${size}`
  const suite = new CipherSuite({ kem: new MLKEM768X25519(), kdf: makeKdf(kdf), aead: aeadInterface })
  return {
    kdf: makeKdfImpl(makeKdf(kdf)),
    hash: makeHashImpl(crypto.subtle, `SHA-${size}`),
    signature: await signature,
    hpke: await makeGenericHpke({ kem: "X-Wing", kdf, aead: aeadName }, aead, suite),
    rng: defaultRng,
    name,
  }
}

/** What makes the implementation of a suite, by the suite's name. */
export const postQuantum = {
  61441: () => make("61441", "AES128GCM", 256, makeNobleSignatureImpl("Ed25519")),
  61442: () => make("61442", "AES256GCM", 384, makeNobleSignatureImpl("Ed25519")),
  61449: () => make("61449", "CHACHA20POLY1305", 384, mldsa44),
}
