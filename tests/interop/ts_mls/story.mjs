// A device follows a room with ts-mls: one JSON request on stdin, one JSON reply on stdout. Run with `node --import ./repairs.mjs story.mjs`.
//
// Request: {"device": an entry of private_keys in xep/story.json, "stanzas": [[{"kind", "epoch", "data"}, ...], ...]}, data being an MLSMessage
// in base64. Reply: for each stanza what became of it: {"ignored": true} or {"epoch", "authenticator"} in hex, and "plaintext" in base64.
import { readFileSync } from "node:fs"
import * as mls from "ts-mls"

const config = {
  keyRetentionConfig: { retainKeysForGenerations: 100, retainKeysForEpochs: 5, maximumForwardRatchetSteps: 1000 },
  lifetimeConfig: mls.defaultLifetimeConfig,
  keyPackageEqualityConfig: mls.defaultKeyPackageEqualityConfig,
  paddingConfig: mls.defaultPaddingConfig,
  authService: { validateCredential: async () => true },
}
const suite = await mls.getCiphersuiteImpl(mls.getCiphersuiteFromName("MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519"))
const hex = (text) => Uint8Array.from(Buffer.from(text, "hex"))
const decode = (bytes) => mls.decodeMlsMessage(Uint8Array.from(bytes), 0)[0]

const { device, stanzas } = JSON.parse(readFileSync(0, "utf8"))
const [first] = device.key_packages
let state

async function follow(elements) {
  const message = (...kinds) => elements.find((element) => kinds.includes(element.kind))
  if (state === undefined) {
    const welcome = decode(Buffer.from(message("welcome").data, "base64")).welcome
    const publicPackage = decode(hex(first.key_package)).keyPackage
    const privatePackage = {
      initPrivateKey: hex(first.init_private_key),
      hpkePrivateKey: hex(first.encryption_private_key),
      signaturePrivateKey: hex(device.signature_private_key),
    }
    state = await mls.joinGroup(welcome, publicPackage, privatePackage, mls.emptyPskIndex, suite, undefined, undefined, config)
    return {}
  }
  const element = message("commit", "proposal", "application")
  if (BigInt(element.epoch) < state.groupContext.epoch) return { ignored: true } // the XEP's rule 2: another Commit came first
  const { privateMessage, publicMessage } = decode(Buffer.from(element.data, "base64"))
  const process = privateMessage ? mls.processPrivateMessage : mls.processPublicMessage
  const result = await process(state, privateMessage ?? publicMessage, mls.emptyPskIndex, suite)
  state = result.newState
  return result.kind === "applicationMessage" ? { plaintext: Buffer.from(result.message).toString("base64") } : {}
}

const replies = []
for (const elements of stanzas) {
  const reply = await follow(elements)
  const authenticator = Buffer.from(state.keySchedule.epochAuthenticator).toString("hex")
  replies.push({ ...reply, epoch: Number(state.groupContext.epoch), authenticator })
}
console.log(JSON.stringify(replies))
