// A device follows a room with ts-mls: one JSON request on stdin, one JSON reply on stdout. Run with `node --import ./repairs.mjs story.mjs`.
//
// Request: {"device": an entry of private_keys in xep/story.json, "stanzas": [[{"kind", "epoch", "data", "keyEpoch"}, ...], ...]}, data being that of
// the element in base64, and "ephemeral": [{"epoch", "data"}]. Reply: for each stanza what became of it: {"ignored": true} or {"epoch", "authenticator"}
// in hex, "plaintext" in base64, "keyEpoch" if there was a GroupInfo for members that it could read, and "envelopes" of the epoch's ephemeral content.
import { readFileSync } from "node:fs"
import * as mls from "ts-mls"
import * as sealed from "../js_client/sealed.mjs"

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

const { device, stanzas, ephemeral } = JSON.parse(readFileSync(0, "utf8"))
const [first] = device.key_packages
let state, infoKey

const leaves = (group) => group.ratchetTree.filter((node) => node?.nodeType === "leaf").map((node) => node.leaf)
// Nobody in the story changes its signature key, so who has gone is whose leaf is found no more (mls-recovery.xml, "Encrypted GroupInfos").
async function adopt(after) {
  const changes = { gone: leaves(state), come: leaves(after), open: false }
  if (after.groupContext.epoch > state.groupContext.epoch) infoKey = await sealed.keyAfter(infoKey, state, after, changes, suite)
  state = after
}
async function opened() {
  const here = ephemeral.filter(({ epoch }) => BigInt(epoch) === state.groupContext.epoch)
  return Promise.all(here.map(async ({ data }) =>
    Buffer.from((await sealed.openEphemeral(state, Buffer.from(data, "base64"), suite)).envelope).toString()))
}

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
    const [joined, extensions] =
      await mls.joinGroupWithExtensions(welcome, publicPackage, privatePackage, mls.emptyPskIndex, suite, undefined, undefined, config)
    state = joined
    infoKey = await sealed.keyOnJoining(state, extensions, suite)
    return {}
  }
  const element = message("commit", "proposal", "application")
  if (BigInt(element.epoch) < state.groupContext.epoch) return { ignored: true } // the XEP's rule 2: another Commit came first
  const { privateMessage, publicMessage } = decode(Buffer.from(element.data, "base64"))
  const process = privateMessage ? mls.processPrivateMessage : mls.processPublicMessage
  const result = await process(state, privateMessage ?? publicMessage, mls.emptyPskIndex, suite)
  await adopt(result.newState)
  const info = message("group-info")
  const reply = {}
  if (info) {
    const attributes = { "key-epoch": String(info.keyEpoch) }
    reply.keyEpoch = Number((await sealed.openGroupInfo(state, infoKey, attributes, Buffer.from(info.data, "base64"), suite)).keyEpoch)
  }
  return result.kind === "applicationMessage" ? { plaintext: Buffer.from(result.message).toString("base64") } : reply
}

const replies = []
for (const elements of stanzas) {
  const reply = await follow(elements)
  const authenticator = Buffer.from(state.keySchedule.epochAuthenticator).toString("hex")
  replies.push({ ...reply, epoch: Number(state.groupContext.epoch), authenticator, envelopes: await opened() })
}
console.log(JSON.stringify(replies))
