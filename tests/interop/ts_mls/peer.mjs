// ts-mls as a peer: one JSON request per line on stdin, one JSON reply per line on stdout. Run with `node --import ./repairs.mjs peer.mjs`.
//
// Request: {"id": n, "op": name, ...}; reply: {"id": n, "ok": {...}} or {"id": n, "error": "..."}. Bytes travel as base64; messages are
// whole MLSMessages. Clients and groups are named by the numbers that `client`, `create_group`, `join` and the like return.
// ts-mls keeps a group as an immutable value. A slot below holds the current value and, after `commit`, the staged one; a request
// that fails assigns neither, so an error leaves the group as it was.
import { createInterface } from "node:readline"
import * as mls from "ts-mls"
import { encode } from "ts-mls/codec/tlsEncoder.js"
import { encodeExternalSender } from "ts-mls/externalSender.js"
import { protectExternalProposalPublic } from "ts-mls/messageProtectionPublic.js"
import { signLeafNodeCommit } from "ts-mls/leafNode.js"
import { makeKeyPackageRef } from "ts-mls/keyPackage.js"
import { unprotectPrivateMessage } from "ts-mls/messageProtection.js"
import { decodeRatchetTree, ratchetTreeEncoder } from "ts-mls/ratchetTree.js"
import { postQuantum } from "./post_quantum.mjs"

const config = {
  keyRetentionConfig: { retainKeysForGenerations: 100, retainKeysForEpochs: 5, maximumForwardRatchetSteps: 1000 },
  lifetimeConfig: mls.defaultLifetimeConfig,
  keyPackageEqualityConfig: mls.defaultKeyPackageEqualityConfig,
  paddingConfig: mls.defaultPaddingConfig,
  authService: { validateCredential: async () => true },
}

const clients = []
const groups = []

const toBytes = (text) => Uint8Array.from(Buffer.from(text ?? "", "base64"))
const toText = (bytes) => Buffer.from(bytes).toString("base64")
const equal = (a, b) => Buffer.compare(a, b) === 0
const nameOf = (table, number) => Object.keys(table).find((name) => table[name] === number) ?? number
const numberOf = (table, name) => table[name] ?? name
const suiteName = (suite) => String(nameOf(mls.ciphersuites, suite))
const suiteOf = async (name) => postQuantum[name]?.() ?? mls.getCiphersuiteImpl(mls.getCiphersuiteFromName(name))
const toExtensions = (list) =>
  (list ?? []).map(({ type, data }) => ({ extensionType: nameOf(mls.defaultExtensionTypes, type), extensionData: toBytes(data) }))
const fromExtensions = (list) =>
  list.map((e) => ({ type: numberOf(mls.defaultExtensionTypes, e.extensionType), data: toText(e.extensionData) }))

function find(list, number, what) {
  if (list[number] === undefined) throw new Error(`no such ${what}: ${number}`)
  return list[number]
}
const clientOf = (request) => find(clients, request.client, "client")
const slotOf = (request) => find(groups, request.group, "group")

function decodeMessage(text, ...wireformats) {
  const bytes = toBytes(text)
  const decoded = mls.decodeMlsMessage(bytes, 0)
  if (decoded === undefined) throw new Error("not an MLSMessage")
  const [message, length] = decoded
  if (length !== bytes.length) throw new Error(`${bytes.length - length} bytes after the MLSMessage`)
  if (!wireformats.includes(message.wireformat)) throw new Error(`unexpected wire format ${message.wireformat}`)
  return message
}
const encodeMessage = (content) => toText(mls.encodeMlsMessage({ version: "mls10", ...content }))
const decodeKeyPackage = (text) => decodeMessage(text, "mls_key_package").keyPackage
const encodeTree = (tree) => toText(encode(ratchetTreeEncoder)(tree))

function decodeTree(text) {
  if (text === undefined || text === null) return undefined
  const bytes = toBytes(text)
  const decoded = decodeRatchetTree(bytes, 0)
  if (decoded === undefined || decoded[1] !== bytes.length) throw new Error("not a ratchet tree")
  return decoded[0]
}

function newGroup(client, state) {
  groups.push({ client, state: { ...state, clientConfig: config }, staged: undefined, updates: [] })
  return { group: groups.length - 1 }
}

async function newKeyPackage(client, { not_before, not_after, extensions, leaf_extensions } = {}) {
  const now = Math.floor(Date.now() / 1000)
  const capabilities = mls.defaultCapabilities()
  capabilities.extensions = [...capabilities.extensions, ...client.extensions]
  capabilities.ciphersuites = [...capabilities.ciphersuites, ...Object.keys(postQuantum)]
  const pair = await mls.generateKeyPackageWithKey(
    { credentialType: "basic", identity: client.identity },
    capabilities,
    { notBefore: BigInt(not_before ?? now - 3600), notAfter: BigInt(not_after ?? now + 28 * 86400) },
    toExtensions(extensions),
    client.keys,
    client.suite,
    toExtensions(leaf_extensions),
  )
  client.keyPackages.push(pair)
  return pair
}

/** The KeyPackage of this client that the Welcome was made for (12.4.3.1). */
async function packageFor(client, welcome) {
  for (const pair of client.keyPackages) {
    const ref = await makeKeyPackageRef(pair.publicPackage, client.suite.hash)
    if (welcome.secrets.some((secret) => equal(secret.newMember, ref))) return pair
  }
  throw new Error("the Welcome is for none of this client's KeyPackages")
}

const pskIndex = (slot) => mls.makePskIndex(slot.state, slot.client.psks)

const pskProposal = (slot, id) => ({
  proposalType: "psk",
  psk: { preSharedKeyId: { ...id, pskNonce: slot.client.suite.rng.randomBytes(slot.client.suite.kdf.size) } },
})
const externalPsk = (slot, id) => pskProposal(slot, { psktype: "external", pskId: toBytes(id) })
const resumptionPsk = (slot, epoch) =>
  pskProposal(slot, {
    psktype: "resumption",
    usage: "application",
    pskGroupId: slot.state.groupContext.groupId,
    pskEpoch: BigInt(epoch),
  })
const addProposal = (keyPackage) => ({ proposalType: "add", add: { keyPackage: decodeKeyPackage(keyPackage) } })
const removeProposal = (removed) => ({ proposalType: "remove", remove: { removed } })
const extensionsProposal = (list) => ({
  proposalType: "group_context_extensions",
  groupContextExtensions: { extensions: toExtensions(list) },
})
const reinitProposal = ({ group_id, suite, extensions }) => ({
  proposalType: "reinit",
  reinit: { groupId: toBytes(group_id), version: "mls10", cipherSuite: suiteName(suite), extensions: toExtensions(extensions) },
})

/** An Update proposal and its private key. The library reads Updates but offers no way to make one. */
async function updateProposal(slot) {
  const { state, client } = slot
  const index = state.privatePath.leafIndex
  const { leaf } = state.ratchetTree[2 * index]
  const keys = await client.suite.hpke.generateKeyPair()
  const tbs = {
    leafNodeSource: "update",
    hpkePublicKey: await client.suite.hpke.exportPublicKey(keys.publicKey),
    signaturePublicKey: leaf.signaturePublicKey,
    credential: leaf.credential,
    capabilities: leaf.capabilities,
    extensions: leaf.extensions,
    groupId: state.groupContext.groupId,
    leafIndex: index,
  }
  const leafNode = await signLeafNodeCommit(tbs, state.signaturePrivateKey, client.suite.signature)
  const update = { publicKey: tbs.hpkePublicKey, privateKey: await client.suite.hpke.exportPrivateKey(keys.privateKey) }
  return [{ proposalType: "update", update: { leafNode } }, update]
}

async function groupInfo(slot, state, tree) {
  const make = tree ? mls.createGroupInfoWithExternalPubAndRatchetTree : mls.createGroupInfoWithExternalPub
  return encodeMessage({ wireformat: "mls_group_info", groupInfo: await make(state, [], slot.client.suite) })
}

const phases = { active: "active", removedFromGroup: "removed", suspendedPendingReinit: "reinit" }
const phaseOf = (state) => phases[state.groupActiveState.kind]

const commitReply = (message, welcome, tree) => ({
  message,
  welcome: welcome && encodeMessage({ wireformat: "mls_welcome", welcome }),
  ratchet_tree: encodeTree(tree),
})

/** This member's own Update among the proposals of a commit, if it is there. */
const ownUpdate = (slot, proposals) =>
  slot.updates.find(({ publicKey }) =>
    proposals.some(({ proposal: p }) => p.proposalType === "update" && equal(p.update.leafNode.hpkePublicKey, publicKey)),
  )

/** The leaf index of who sent a private message, which the library does not tell. */
async function privateSender(slot, message) {
  const { state, client } = slot
  const past = message.epoch < state.groupContext.epoch ? state.historicalReceiverData.get(message.epoch) : undefined
  const { senderDataSecret } = past ?? state.keySchedule
  const { secretTree, ratchetTree, groupContext } = past ?? state
  const { keyRetentionConfig } = config
  const opened = await unprotectPrivateMessage(
    senderDataSecret, message, secretTree, ratchetTree, groupContext, keyRetentionConfig, client.suite)
  return opened.content.content.sender.leafIndex
}

const ops = {
  async client({ suite, identity, extensions }) {
    const impl = await suiteOf(suiteName(suite))
    const keys = await impl.signature.keygen()
    clients.push({ suite: impl, identity: toBytes(identity), extensions: extensions ?? [], keys, keyPackages: [], psks: {} })
    return { client: clients.length - 1 }
  },

  async psk({ psk_id, secret, ...request }) {
    clientOf(request).psks[toText(toBytes(psk_id))] = toBytes(secret)
    return {}
  },

  async key_package(request) {
    const { publicPackage } = await newKeyPackage(clientOf(request), request)
    return { message: encodeMessage({ wireformat: "mls_key_package", keyPackage: publicPackage }) }
  },

  async external_sender(request) {
    const { identity, keys } = clientOf(request)
    const credential = { credentialType: "basic", identity }
    return { data: toText(encodeExternalSender({ signaturePublicKey: keys.publicKey, credential })) }
  },

  async create_group({ group_id, extensions, ...request }) {
    const client = clientOf(request)
    const { publicPackage, privatePackage } = await newKeyPackage(client)
    const list = toExtensions(extensions)
    return newGroup(client, await mls.createGroup(toBytes(group_id), publicPackage, privatePackage, list, client.suite, config))
  },

  async join({ welcome, ratchet_tree, resumed, ...request }) {
    const client = clientOf(request)
    const message = decodeMessage(welcome, "mls_welcome").welcome
    const { publicPackage, privatePackage } = await packageFor(client, message)
    const old = resumed === undefined ? undefined : slotOf({ group: resumed }).state
    const tree = decodeTree(ratchet_tree)
    const psks = mls.makePskIndex(old, client.psks)
    const state = await mls.joinGroup(message, publicPackage, privatePackage, psks, client.suite, tree, old, config)
    client.keyPackages = client.keyPackages.filter((pair) => pair.publicPackage !== publicPackage)
    return newGroup(client, state)
  },

  async external_join({ group_info, ratchet_tree, resync, aad, ...request }) {
    const client = clientOf(request)
    const info = decodeMessage(group_info, "mls_group_info").groupInfo
    const { publicPackage, privatePackage } = await newKeyPackage(client)
    client.keyPackages.pop()
    const { publicMessage, newState } = await mls.joinGroupExternal(
      info, publicPackage, privatePackage, resync ?? false, client.suite, decodeTree(ratchet_tree), config, toBytes(aad))
    return { ...newGroup(client, newState), message: encodeMessage({ wireformat: "mls_public_message", publicMessage }) }
  },

  async propose_join({ group_info, ...request }) {
    const client = clientOf(request)
    const info = decodeMessage(group_info, "mls_group_info").groupInfo
    const { publicPackage, privatePackage } = await newKeyPackage(client)
    return { message: encodeMessage(await mls.proposeAddExternal(info, publicPackage, privatePackage, client.suite)) }
  },

  async propose_external({ group_info, sender_index, kind, ...request }) {
    const { keys, suite } = clientOf(request)
    const { groupContext } = decodeMessage(group_info, "mls_group_info").groupInfo
    const proposal = kind === "add" ? addProposal(request.key_package) : removeProposal(request.removed)
    const sender = { senderType: "external", senderIndex: sender_index }
    const made = await protectExternalProposalPublic(keys.signKey, groupContext, new Uint8Array(), proposal, sender, suite)
    return { message: encodeMessage({ wireformat: "mls_public_message", publicMessage: made.publicMessage }) }
  },

  async commit({ adds, removes, psks, resumption_epochs, extensions, reinit, private: encrypted, tree_in_welcome, aad, ...request }) {
    const slot = slotOf(request)
    const result = await mls.createCommit(
      { state: slot.state, pskIndex: pskIndex(slot), cipherSuite: slot.client.suite },
      {
        wireAsPublicMessage: !(encrypted ?? true),
        ratchetTreeExtension: tree_in_welcome ?? true,
        authenticatedData: toBytes(aad),
        extraProposals: [
          ...(adds ?? []).map(addProposal),
          ...(removes ?? []).map(removeProposal),
          ...(psks ?? []).map((id) => externalPsk(slot, id)),
          ...(resumption_epochs ?? []).map((epoch) => resumptionPsk(slot, epoch)),
          ...(extensions ? [extensionsProposal(extensions)] : []),
          ...(reinit ? [reinitProposal(reinit)] : []),
        ],
      },
    )
    const message = toText(mls.encodeMlsMessage(result.commit))
    const info = await groupInfo(slot, result.newState, true)
    slot.staged = { message: toBytes(message), state: result.newState }
    return { ...commitReply(message, result.welcome, result.newState.ratchetTree), group_info: info }
  },

  async propose({ kind, private: encrypted, aad, ...request }) {
    const slot = slotOf(request)
    let update
    let proposal
    if (kind === "add") proposal = addProposal(request.key_package)
    else if (kind === "remove") proposal = removeProposal(request.removed)
    else if (kind === "psk") proposal = externalPsk(slot, request.psk_id)
    else if (kind === "extensions") proposal = extensionsProposal(request.extensions)
    else if (kind === "reinit") proposal = reinitProposal(request.reinit)
    else if (kind === "update") [proposal, update] = await updateProposal(slot)
    else throw new Error(`no such proposal: ${kind}`)
    const made = await mls.createProposal(slot.state, !(encrypted ?? true), proposal, slot.client.suite, toBytes(aad))
    slot.state = made.newState
    if (update) slot.updates.push(update)
    return { message: toText(mls.encodeMlsMessage(made.message)) }
  },

  async process({ message, ...request }) {
    const slot = slotOf(request)
    if (slot.staged && equal(toBytes(message), slot.staged.message)) {
      Object.assign(slot, { state: slot.staged.state, staged: undefined, updates: [] })
      return { kind: "commit", sender: slot.state.privatePath.leafIndex, phase: phaseOf(slot.state) }
    }
    const decoded = decodeMessage(message, "mls_public_message", "mls_private_message")
    const secret = decoded.privateMessage
    const content = secret ?? decoded.publicMessage.content
    if (!equal(content.groupId, slot.state.groupContext.groupId)) throw new Error("message for another group")
    const sender = secret ? await privateSender(slot, secret) : content.sender.leafIndex
    const handle = secret ? mls.processPrivateMessage : mls.processPublicMessage
    const attempt = (state, callback) => handle(state, secret ?? decoded.publicMessage, pskIndex(slot), slot.client.suite, callback)

    // A commit over this member's own Update needs the Update's private key in place before its path is opened: look first.
    let update
    const peek = ({ kind, proposals }) => {
      update = kind === "commit" ? ownUpdate(slot, proposals) : undefined
      return update ? "reject" : "accept"
    }
    let result = await attempt(slot.state, peek)
    if (update) {
      const { privatePath } = slot.state
      const privateKeys = { ...privatePath.privateKeys, [2 * privatePath.leafIndex]: update.privateKey }
      result = await attempt({ ...slot.state, privatePath: { ...privatePath, privateKeys } }, mls.acceptAll)
    }
    slot.state = result.newState
    if (content.contentType === "commit") Object.assign(slot, { staged: undefined, updates: [] })
    const data = result.message && toText(result.message)
    return { kind: content.contentType, sender, data, aad: toText(content.authenticatedData), phase: phaseOf(slot.state) }
  },

  async encrypt({ data, aad, ...request }) {
    const slot = slotOf(request)
    const made = await mls.createApplicationMessage(slot.state, toBytes(data), slot.client.suite, toBytes(aad))
    slot.state = made.newState
    return { message: encodeMessage({ wireformat: "mls_private_message", privateMessage: made.privateMessage }) }
  },

  async group_info({ tree, ...request }) {
    const slot = slotOf(request)
    return { message: await groupInfo(slot, slot.state, tree ?? true) }
  },

  async export_secret({ label, context, length, ...request }) {
    const { state, client } = slotOf(request)
    return { data: toText(await mls.mlsExporter(state.keySchedule.exporterSecret, label, toBytes(context), length, client.suite)) }
  },

  async state(request) {
    const { state } = slotOf(request)
    const { groupContext: context } = state
    return {
      epoch: Number(context.epoch),
      group_id: toText(context.groupId),
      tree_hash: toText(context.treeHash),
      confirmed_transcript_hash: toText(context.confirmedTranscriptHash),
      extensions: fromExtensions(context.extensions),
      ratchet_tree: encodeTree(state.ratchetTree),
      own_index: state.privatePath.leafIndex,
      epoch_authenticator: toText(state.keySchedule.epochAuthenticator),
      phase: phaseOf(state),
    }
  },

  /** Serialise the group and go on from what was read back. */
  async reload(request) {
    const slot = slotOf(request)
    const bytes = mls.encodeGroupState(slot.state)
    const [state, length] = mls.decodeGroupState(bytes, 0)
    if (length !== bytes.length) throw new Error("the group's state was not read back whole")
    slot.state = { ...state, clientConfig: config }
    return { data: toText(bytes) }
  },

  async reinit({ key_packages, ...request }) {
    const { state } = slotOf(request)
    const client = clientOf(request)
    const { groupId, cipherSuite, extensions } = state.groupActiveState.reinit
    const { publicPackage, privatePackage } = await newKeyPackage(client)
    const provider = { getCiphersuiteImpl: () => suiteOf(cipherSuite) }
    const made = await mls.reinitCreateNewGroup(
      state, publicPackage, privatePackage, key_packages.map(decodeKeyPackage), groupId, cipherSuite, extensions, provider)
    return { ...newGroup(client, made.newState), ...commitReply(undefined, made.welcome, made.newState.ratchetTree) }
  },

  async branch({ key_packages, group_id, ...request }) {
    const { state, client } = slotOf(request)
    const { publicPackage, privatePackage } = await newKeyPackage(client)
    const made = await mls.branchGroup(
      state, publicPackage, privatePackage, key_packages.map(decodeKeyPackage), toBytes(group_id), client.suite)
    return { ...newGroup(client, made.newState), ...commitReply(undefined, made.welcome, made.newState.ratchetTree) }
  },
}

for await (const line of createInterface({ input: process.stdin })) {
  const reply = {}
  try {
    const { id, op, ...request } = JSON.parse(line)
    reply.id = id
    if (!Object.hasOwn(ops, op)) throw new Error(`no such operation: ${op}`)
    reply.ok = await ops[op](request)
  } catch (error) {
    reply.error = `${error?.name ?? "Error"}: ${error?.message ?? error}`
  }
  process.stdout.write(JSON.stringify(reply) + "\n")
}
