// What the client encrypts and decrypts beside MLS messages: "Ephemeral Content" of xep/mls.xml, and "Encrypted GroupInfos" of
// xep/mls-recovery.xml, from these two sections and RFC 9420 alone.
import { randomBytes } from "node:crypto"
import * as mls from "ts-mls"
import { decodeVarLenData } from "ts-mls/codec/variableLength.js"
import { expandWithLabel } from "ts-mls/crypto/kdf.js"
import { signWithLabel, verifyWithLabel } from "ts-mls/crypto/signature.js"
import { encodeGroupContext } from "ts-mls/groupContext.js"
import { verifyGroupInfoSignature } from "ts-mls/groupInfo.js"

const [EPHEMERAL, GROUP_INFO, GROUP_INFO_KEY] = ["MLS-XMPP 1.0 ephemeral", "MLS-XMPP 1.0 group-info", 0xf4e6]
const fail = (why) => { throw new Error(why) }
const equal = (a, b) => Buffer.compare(a, b) === 0
const number = (value, size) => Buffer.from(BigInt(value).toString(16).padStart(2 * size, "0"), "hex")
const length = (n) => (n < 0x40 ? number(n, 1) : n < 0x4000 ? number(0x4000 | n, 2) : number(0x80000000 + n, 4)) // RFC 9420 2.1.2
const vector = (bytes) => Buffer.concat([length(bytes.length), bytes])
const leafAt = (state, index) => state.ratchetTree[2 * index]?.leaf ?? fail("a leaf that is not there")
const exported = (state, label, suite) => mls.mlsExporter(state.keySchedule.exporterSecret, label, new Uint8Array(), suite.kdf.size, suite)

function* vectors(bytes, position = 0) {
  while (position < bytes.length) {
    const [value, size] = decodeVarLenData(bytes, position)
    position += size
    yield value
  }
}
async function keysOf(secret, salt, suite) {
  const of = (label, size) => expandWithLabel(secret, label, salt, size, suite.kdf)
  return [await of("key", suite.hpke.keyLength), await of("nonce", suite.hpke.nonceLength)]
}
const signed = (state, sender, salt, envelope) =>
  Buffer.concat([encodeGroupContext(state.groupContext), number(sender, 4), vector(salt), vector(envelope)])

export async function sealEphemeral(state, envelope, signKey, suite) {
  const [salt, sender] = [randomBytes(suite.kdf.size), state.privatePath.leafIndex]
  const signature = await signWithLabel(signKey, EPHEMERAL, signed(state, sender, salt, envelope), suite.signature)
  const content = Buffer.concat([number(sender, 4), vector(envelope), vector(signature)])
  const [key, nonce] = await keysOf(await exported(state, EPHEMERAL, suite), salt, suite)
  return Buffer.concat([vector(salt), vector(await suite.hpke.encryptAead(key, nonce, undefined, content))])
}
// The leaf that has signed it, and the envelope.
export async function openEphemeral(state, bytes, suite) {
  const [salt, ciphertext, more] = bytes.length > 4096 ? fail("too long") : vectors(bytes)
  if (more || salt.length !== suite.kdf.size) fail("not an EphemeralMessage")
  const [key, nonce] = await keysOf(await exported(state, EPHEMERAL, suite), salt, suite)
  const content = Buffer.from(await suite.hpke.decryptAead(key, nonce, undefined, ciphertext))
  const [sender, [envelope, signature]] = [content.readUInt32BE(0), vectors(content, 4)]
  const genuine = await verifyWithLabel(
    leafAt(state, sender).signaturePublicKey, EPHEMERAL, signed(state, sender, salt, envelope), signature, suite.signature)
  return genuine ? { salt, sender, envelope } : fail("ephemeral content that its sender has not signed")
}

// The key of GroupInfos, {epoch, key}, of who comes by a Welcome whose GroupInfo has these extensions.
export async function keyOnJoining(state, extensions, suite) {
  const { epoch } = state.groupContext
  const handed = extensions.find(({ extensionType: type }) => type === GROUP_INFO_KEY)
  if (!handed) return { epoch, key: await exported(state, GROUP_INFO, suite) }
  const [since, [key]] = [Buffer.from(handed.extensionData).readBigUInt64BE(0), vectors(handed.extensionData, 8)]
  if ((key.length && key.length !== suite.kdf.size) || since > epoch) fail("a GroupInfoKey that is none")
  return key.length ? { epoch: since, key } : undefined
}
// The key after a Commit: `gone` and `come` are the leaves that it takes out and brings in, `open` whether anybody could come in before.
export async function keyAfter(present, before, after, { gone, come, open }, suite) {
  const stays = (leaf) => come.some((one) => equal(one.credential.identity, leaf.credential.identity) &&
    equal(one.signaturePublicKey, leaf.signaturePublicKey))
  if (before.groupContext.epoch !== 0n && gone.every(stays) && !open) return present
  return { epoch: after.groupContext.epoch, key: await exported(after, GROUP_INFO, suite) }
}
// The GroupInfo of the state's epoch, in an element with these attributes.
export async function openGroupInfo(state, known, attrs, bytes, suite) {
  const [since, position] = [bytes.readBigUInt64BE(0), 8]
  const [salt, ciphertext, more] = vectors(bytes, position)
  if (more || String(since) !== attrs["key-epoch"]) fail("not an EncryptedGroupInfo, or of another key than it says")
  if (since !== known?.epoch) fail("a GroupInfo whose key we do not have")
  const { groupId, epoch } = state.groupContext
  const [key, nonce] = await keysOf(known.key, salt, suite)
  const data = Buffer.concat([vector(groupId), number(epoch, 8), number(since, 8)])
  const [message] = mls.decodeMlsMessage(await suite.hpke.decryptAead(key, nonce, data, ciphertext), 0) ?? []
  const info = message?.wireformat === "mls_group_info" ? message.groupInfo : fail("not a GroupInfo")
  if (!equal(encodeGroupContext(info.groupContext), encodeGroupContext(state.groupContext))) fail("a GroupInfo of another state")
  const genuine = await verifyGroupInfoSignature(info, leafAt(state, info.signer).signaturePublicKey, suite.signature)
  return genuine ? { signer: info.signer, keyEpoch: since } : fail("a GroupInfo that its signer has not signed")
}
