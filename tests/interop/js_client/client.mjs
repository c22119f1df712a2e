// A client written from xep/mls.xml and RFC 9420 alone: ts-mls for MLS, xmpp.js for XMPP, nothing of this project's code.
//
// Each run is a new device of the account, with its state in memory. It follows one invitation. A line of JSON on stdin is a command, one
// on stdout an event. Sections of the document stand in quotes. Left out: Commits and Proposals of its own, coming back once it has lost
// track, trees kept elsewhere ("Large Groups"), X.509 and files. What it encrypts beside MLS messages is in sealed.mjs.
import { randomBytes, randomUUID } from "node:crypto"
import { createInterface } from "node:readline"
import { client, jid, xml } from "@xmpp/client"
import parse from "@xmpp/xml/lib/parse.js"
import * as mls from "ts-mls"
import { decodeVarLenData, decodeVarLenType } from "ts-mls/codec/variableLength.js"
import { makeKeyPackageRef } from "ts-mls/keyPackage.js"
import { unprotectPrivateMessage } from "ts-mls/messageProtection.js"
import * as sealed from "./sealed.mjs"

const [NS, DEVICES, KEY_PACKAGES] = ["urn:xmpp:mls:0", "urn:xmpp:mls:0:devices", "urn:xmpp:mls:0:key-packages"]
const LAST_RESORT = "urn:xmpp:mls:0:last-resort-key-packages"
const [PUBSUB, MUC, MAM] = ["http://jabber.org/protocol/pubsub", "http://jabber.org/protocol/muc", "urn:xmpp:mam:2"]
const [RSM, SID, SCE] = ["http://jabber.org/protocol/rsm", "urn:xmpp:sid:0", "urn:xmpp:sce:1"]
const REFUSED = ["resource-constraint", "conflict", "bad-request", "not-acceptable", "feature-not-implemented"]
const ABSENT = ["item-not-found", "forbidden", "not-authorized", "not-allowed", "registration-required"]
const [ROOM_POLICY, COMPONENTS, GREASE, ED25519] = [0xf4d1, 0x0006, 0x0a0a, "2055"]
const [STATES, MARKERS] = ["http://jabber.org/protocol/chatstates", "urn:xmpp:chat-markers:0"]

const ADMISSION = [0xf4e1, 0xf4e2, 0xf4e3, 0xf4e4, 0xf4e5] // "Proofs of Admission", "Removed Clients"

const { XMPP_JID, XMPP_PASSWORD, XMPP_SERVICE } = process.env
const [me, account] = [jid(XMPP_JID), jid(XMPP_JID).bare().toString()]
const device = randomBytes(8).toString("hex")
const self = `${account}/${device}`
const suite = await mls.getCiphersuiteImpl(mls.getCiphersuiteFromName("MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519"))
const signing = await suite.signature.keygen()
const keyRetentionConfig = { retainKeysForGenerations: 1000, retainKeysForEpochs: 5, maximumForwardRatchetSteps: 1000 }
const lifetimeConfig = { maximumTotalLifetime: BigInt(90 * 86_400), validateLifetimeOnReceive: false }
const config = { keyRetentionConfig, lifetimeConfig, paddingConfig: { kind: "padUntilLength", padUntilLength: 512 },
  keyPackageEqualityConfig: mls.defaultKeyPackageEqualityConfig, authService: { validateCredential: authenticate } }

let xmpp, room, position // the connection; the room's address; the archive id of the last stanza that was processed
let state, infoKey, denied // the key of GroupInfos; the group, while we are a member; whom the Authentication Service has denied, since the last look
let results, entered, unsaid = [] // a page of the archive; who waits to be in the room; what waits for the next epoch
const [seen, ended, once, salts] = [new Set(), new Set(), new Set(), new Set()] // archive ids; epochs that have ended; ids of messages; salts
const [keyPackages, known, outbox] = [new Map(), new Map(), new Map()] // by KeyPackageRef; keys by identity; what has not been reflected, by id
const [occupants, last] = [new Map(), new Map()] // JIDs by nickname; the last epoch in which we were a member, by group
let work = Promise.resolve() // one thing after the other, in the room's order

const enqueue = (task) => (work = work.then(task).catch((error) => emit("error", { why: error.message })))
const emit = (event, fields = {}) => process.stdout.write(JSON.stringify({ event, ...fields }) + "\n")
const fail = (why) => { throw new Error(why) }
const bytesOf = (text) => Buffer.from(text ?? "", "base64")
const base64 = (bytes) => Buffer.from(bytes).toString("base64")
const equal = (a, b) => Buffer.compare(a, b) === 0
const octets = (content) => Buffer.from(mls.encodeMlsMessage({ version: "mls10", ...content }))
const ask = (type, to, child) => xmpp.iqCaller.request(xml("iq", { type, to }, child), 60_000)
const pubsub = (type, to, ...children) => ask(type, to, xml("pubsub", { xmlns: PUBSUB }, ...children))

// "Devices and Credentials". The tables of RFC 7622 are left to the Authentication Service, which knows the account in one spelling only.
function nameOf({ credential: { credentialType, identity: bytes } }) {
  const identity = credentialType === "basic" ? new TextDecoder("utf-8", { fatal: true }).decode(bytes) : fail("not a BasicCredential")
  const [, owner, id] = /^([^@/\s]+@[^@/\s]+)\/([A-Za-z0-9_-]{1,64})$/.exec(identity) ?? fail("a leaf that names no client")
  if (owner !== owner.toLowerCase() || owner.endsWith(".") || /[@.]xn--/.test(owner)) fail("an account that is not in its one spelling")
  return { identity, owner, id }
}
const leafAt = (group, index) => nameOf(group.ratchetTree[2 * index].leaf)
const leavesOf = (group) => group.ratchetTree.filter((node) => node?.nodeType === "leaf").map((node) => nameOf(node.leaf))

// "Authenticating Devices". Denied leaves are collected, as they mean something else than an invalid Commit.
async function authenticate(credential, key) {
  const { identity, owner, id } = nameOf({ credential })
  if (identity === self || (known.has(identity) && equal(known.get(identity), key))) return true
  const answer = await pubsub("get", owner, xml("items", { node: DEVICES }, xml("item", { id }))).catch((error) => error)
  if (answer instanceof Error && !ABSENT.includes(answer.condition)) return emit("unknown", { identity, why: answer.message })
  const item = answer.getChild?.("pubsub").getChild("items").getChildByAttr("id", id)
  const keys = item?.getChild("device", NS)?.getChildren("key").filter((child) => child.attrs.scheme === ED25519) ?? []
  const found = !known.has(identity) && keys.some((child) => equal(bytesOf(child.getText()), key))
  return found ? known.set(identity, key) : denied.push(identity)
}

// "The Policy Extension"
function policyOf({ groupContext: { extensions } }) {
  const [policy, ...others] = extensions.filter(({ extensionType: type }) => type >= 0xf4d0 && type <= 0xf4df)
  if (others.length || policy?.extensionType !== ROOM_POLICY) fail("no policy of version 1, or several")
  const data = policy.extensionData
  const [address, size] = decodeVarLenData(data, 0)
  const [list, length] = decodeVarLenType(decodeVarLenData)(data, size)
  const administrators = list.map((bytes) => Buffer.from(bytes).toString())
  const [mayAdd, mayRemove, mayChange, maySubject, external, own, , , , , x509, ...more] = data.slice(size + length)
  const wrong = more.length < 9 || Math.max(mayAdd, mayRemove, mayChange, maySubject, external) > 2 || own > 1 || x509 > 1
  if (wrong || !list.length || list.length > 64 || new Set(administrators).size !== list.length) fail("a malformed policy")
  if (Buffer.from(address).toString() !== room || x509) fail("a policy for another room, or one that wants X.509")
  return { administrators, mayAdd, mayRemove, mayChange, external, own }
}

// "Policy Checks", before a Commit: one of its Proposals. One without a sender among the members is judged as the committer's wish.
function allowed({ proposal: { proposalType, add, remove, update }, senderLeafIndex: sender }, committer, all) {
  const { administrators, mayAdd, mayRemove, mayChange, own } = policyOf(state)
  const owners = leavesOf(state).map((leaf) => leaf.owner)
  const member = (owner) => owners.includes(owner)
  const administrator = (owner) => (administrators.some(member) ? administrators : owners).includes(owner)
  const has = (right, owner) => (right === 1 ? administrator(owner) : right === 2 && member(owner))
  const wisher = sender === undefined ? committer : leafAt(state, sender).owner
  const asks = ({ proposal: p, senderLeafIndex }) => senderLeafIndex === undefined && p.add && nameOf(p.add.keyPackage.leafNode).identity
  if (update) return nameOf(update.leafNode).identity === leafAt(state, sender).identity
  if (!add && !remove) return proposalType === "psk" || has(mayChange, wisher)
  const { owner, identity } = add ? nameOf(add.keyPackage.leafNode) : leafAt(state, remove.removed)
  if (add) return has(mayAdd, wisher) || (own === 1 && member(owner) && (sender === undefined || wisher === owner))
  if (sender === remove.removed || all.some((p) => asks(p) === identity)) return true
  return (administrator(wisher) || !administrator(owner) || wisher === owner) && (has(mayRemove, wisher) || (own === 1 && wisher === owner))
}

// "Policy Checks", after joining and after a Commit.
function check(group) {
  const [leaves, { administrators }] = [leavesOf(group), policyOf(group)]
  if (new Set(leaves.map((leaf) => leaf.identity)).size !== leaves.length) fail("a client with two leaves")
  const changed = state && JSON.stringify(policyOf(state)) !== JSON.stringify(policyOf(group))
  if (changed && !leaves.some((leaf) => administrators.includes(leaf.owner))) fail("no administrator is a member")
}

// "Publishing a Device" and "Publishing KeyPackages"
function form(kind, fields) {
  const field = (name, value, type) => xml("field", { var: name, type }, xml("value", {}, value))
  return xml("x", { xmlns: "jabber:x:data", type: "submit" }, field("FORM_TYPE", `${PUBSUB}#${kind}`, "hidden"),
    ...Object.entries(fields).map(([name, value]) => field(`pubsub#${name}`, value)))
}
async function publish(node, id, payload, sendLast) {
  const few = { access_model: "open", persist_items: "true" }
  const all = { ...few, max_items: "max", send_last_published_item: sendLast }
  const put = (options) => pubsub("set", undefined, xml("publish", { node }, xml("item", { id }, payload)),
    xml("publish-options", {}, form("publish-options", options)))
  await put(all).catch(async (error) => {
    if (!REFUSED.includes(error.condition)) throw error
    await configure(node, all)
    await put(few)
  })
}
async function configure(node, fields) {
  const owner = (type, content) => ask(type, undefined, xml("pubsub", { xmlns: `${PUBSUB}#owner` }, xml("configure", { node }, content)))
  await pubsub("set", undefined, xml("create", { node })).catch(() => {}) // it may be there
  const offered = (await owner("get")).getChild("pubsub").getChild("configure").getChild("x").getChildren("field")
  const known = Object.entries(fields).filter(([name]) => offered.some((field) => field.attrs.var === `pubsub#${name}`))
  const submit = (items) => owner("set", form("node_config", { ...Object.fromEntries(known), max_items: items }))
  await submit("max").catch(() => submit("1000")).catch(() => submit("256"))
}
const retract = (node, id) => pubsub("set", undefined, xml("retract", { node, notify: "true" }, xml("item", { id }))).catch(() => {})

const dictionary = (hex) => ({ extensionType: COMPONENTS, extensionData: Uint8Array.from(Buffer.from(hex, "hex")) }) // "IANA Considerations"
const nodeOf = (lastResort) => (lastResort ? LAST_RESORT : KEY_PACKAGES)
async function newKeyPackage(lastResort) {
  const capabilities = { versions: ["mls10"], ciphersuites: [suite.name, String(GREASE)], credentials: ["basic", String(GREASE)],
    proposals: [GREASE], extensions: [ROOM_POLICY, ...ADMISSION, COMPONENTS, GREASE] }
  const now = BigInt(Math.floor(Date.now() / 1000))
  const made = await mls.generateKeyPackageWithKey(
    { credentialType: "basic", identity: Buffer.from(self) }, capabilities, { notBefore: now - 3600n, notAfter: now + 28n * 86_400n },
    lastResort ? [dictionary("03000400")] : [], signing, suite, [dictionary("0a00010706000100020004")])
  const ref = Buffer.from(await makeKeyPackageRef(made.publicPackage, suite.hash)).toString("hex")
  keyPackages.set(ref, { ...made, lastResort })
  const text = base64(octets({ wireformat: "mls_key_package", keyPackage: made.publicPackage }))
  await publish(nodeOf(lastResort), ref, xml("key-package", { xmlns: NS, ref, suite: "1", "last-resort": String(lastResort) }, text), "never")
}

// "Attributes and Content": strict base64, and attributes that are those of the content.
function decode(element, ...wireformats) {
  const text = element.getText().replace(/[ \t\r\n]/g, "")
  const bytes = bytesOf(text)
  if (text.length > 1_048_576 || base64(bytes) !== text || element.getChildElements().length) fail("not base64")
  const [message, length] = mls.decodeMlsMessage(bytes, 0) ?? fail("not an MLSMessage")
  if (length !== bytes.length || !wireformats.includes(message.wireformat)) fail("not the MLSMessage that belongs here")
  const { group, epoch } = element.attrs
  if (base64(bytesOf(group)) !== group || !/^(0|[1-9]\d*)$/.test(epoch)) fail("bad attributes")
  const content = message.privateMessage ?? message.publicMessage?.content
  const same = !content || (base64(content.groupId) === group && String(content.epoch) === epoch && content.contentType === element.getName())
  return same ? { message, content, bytes } : fail("attributes and content differ")
}

// "Catching Up", as one task: live stanzas queue up behind it.
async function enter() {
  const inside = new Promise((resolve, reject) => (entered = { resolve, reject }))
  const to = `${room}/${me.local}-${device.slice(0, 4)}`
  await xmpp.send(xml("presence", { to }, xml("x", { xmlns: MUC }, xml("history", { maxstanzas: "0" }))))
  await inside
  let page = await readPage("250", position && { after: position })
  if (position && state) {
    const [edge] = (await readPage("1", page?.length ? {} : { before: "" })) ?? []
    if (!page || (edge?.id === (page[0]?.id ?? position)) === page.length > 0) lose("lost", "the archive has a gap")
  }
  for (page ??= await readPage("250"); ; page = await readPage("250", { after: page.at(-1).id })) {
    for (const { id, message, stamp } of page) await processStanza(id, message, stamp)
    if (page.complete || !page.length) break
  }
}
// A page of the archive; undefined if it does not know the stanza to read after.
async function readPage(max, bounds = {}) {
  const set = xml("set", { xmlns: RSM }, xml("max", {}, max), ...Object.entries(bounds).map(([name, id]) => xml(name, {}, id)))
  const page = (results = [])
  const answer = await ask("set", room, xml("query", { xmlns: MAM, queryid: randomUUID() }, set)).catch((error) => error)
  if (answer instanceof Error) return answer.condition === "item-not-found" ? undefined : fail(answer.message)
  return Object.assign(page, { complete: answer.getChild("fin", MAM).attrs.complete === "true" })
}

async function processStanza(id, message, stamp) {
  if (!id || message.attrs.type !== "groupchat" || seen.has(id)) return
  seen.add((position = id))
  await handle(message, stamp).catch((error) => emit("passed-over", { why: error.message }))
}
async function handle(message, stamp) {
  const find = (...names) => message.getChildElements().filter((e) => e.getNS() === NS && names.includes(e.getName()))
  const [main, second] = find("commit", "proposal", "application")
  if (!main || second) return second && fail("elements that do not go together")
  const { group, epoch } = main.attrs, decoded = decode(main, "mls_private_message", main.getName() === "application" ? "" : "mls_public_message")
  // A neighbour that does not belong there is left out by itself.
  const belongs = (e) => main.getName() === "commit" && e.attrs.group === group && e.attrs.epoch === String(BigInt(epoch) + 1n)
  if (state && group !== base64(state.groupContext.groupId)) fail("another group")
  const late = ended.has(`${group} ${epoch}`)
  if (main.getName() === "commit") ended.add(`${group} ${epoch}`)
  if (state && main.getName() === "proposal") ({ newState: state } = await mls.processMessage(decoded.message, state, {}, mls.acceptAll, suite))
  else if (state) await { commit, application }[main.getName()](decoded, message, stamp)
  else if (main.getName() === "application") emit("unreadable", { epoch: Number(epoch) })
  const passOver = (error) => emit("passed-over", { why: error.message })
  for (const element of find("group-info").filter((e) => state && belongs(e))) await groupInfo(element).catch(passOver)
  if (!state && !late) for (const element of find("welcome").filter(belongs)) await welcome(element).catch(passOver)
}

// "Being Invited"
async function welcome(element) {
  const message = decode(element, "mls_welcome").message.welcome
  const ref = message.secrets.map((secret) => Buffer.from(secret.newMember).toString("hex")).find((one) => keyPackages.has(one))
  if (!ref || state) return
  const { publicPackage, privatePackage, lastResort } = keyPackages.get(ref)
  denied = []
  const [joined, extensions] = await mls.joinGroupWithExtensions(message, publicPackage, privatePackage, mls.emptyPskIndex, suite, undefined, undefined, config)
  const { groupId, epoch } = joined.groupContext
  if (base64(groupId) !== element.attrs.group || String(epoch) !== element.attrs.epoch) fail("a Welcome with false attributes")
  if (epoch <= (last.get(base64(groupId)) ?? -1n)) fail("a Welcome into an epoch that was")
  if (denied.length) fail(`not authentic: ${denied}`)
  check(joined)
  infoKey = await sealed.keyOnJoining(joined, extensions, suite)
  adopt(joined, "joined")
  keyPackages.delete(ref)
  Promise.all([retract(nodeOf(lastResort), ref), newKeyPackage(lastResort)]).catch((error) => emit("error", { why: error.message }))
}

function adopt(group, event, by) {
  const { groupId, epoch } = (state = group).groupContext
  last.set(base64(groupId), epoch)
  const members = leavesOf(group).map((leaf) => leaf.identity).sort()
  emit(event, { epoch: Number(epoch), members, authenticator: base64(group.keySchedule.epochAuthenticator), by })
  for (const text of unsaid.splice(0)) enqueue(() => say(text))
}
const lose = (event, why) => emit(event, { why, state: (state = undefined) })

// "Order" and "Policy Checks"
async function commit({ message, content }) {
  const [before, { epoch }] = [state, state.groupContext]
  if (content.epoch !== epoch) fail(content.epoch < epoch ? "a Commit that came second" : "a Commit of a later epoch")
  denied = []
  const changes = { gone: [], come: [], open: policyOf(before).external === 2 }
  let by = content.sender?.senderType === "new_member_commit" && nameOf(content.commit.path.leafNode)
  const judge = ({ senderLeafIndex, proposals }) => {
    changes.gone = proposals.flatMap(({ proposal: { remove } }) => (remove ? [before.ratchetTree[2 * remove.removed].leaf] : []))
    changes.come = proposals.flatMap(({ proposal: { add } }) => (add ? [add.keyPackage.leafNode] : []))
    if (by) changes.come.push(content.commit.path.leafNode)
    const { external } = policyOf(before)
    const open = external === 2 || (external === 1 && leavesOf(before).some((leaf) => leaf.owner === by.owner))
    const own = ({ proposal: { remove } }) => !remove || leafAt(before, remove.removed).identity === by.identity
    if (by) return open && proposals.every(own) ? "accept" : "reject"
    by = leafAt(before, senderLeafIndex)
    return proposals.every((p) => allowed(p, by.owner, proposals)) ? "accept" : "reject"
  }
  const { newState, actionTaken } = await mls.processMessage(message, before, mls.makePskIndex(before, {}), judge, suite)
  if (actionTaken === "reject") fail(`a Commit of ${by.identity} that the policy forbids`)
  if (newState.groupActiveState.kind === "removedFromGroup") return lose("removed", by.identity)
  check(newState)
  if (!leavesOf(newState).some((leaf) => leaf.identity === by.identity)) fail("a committer who became another client")
  if (denied.length || newState.groupActiveState.kind !== "active") return lose("lost", `ReInit, or not authentic: ${denied}`)
  infoKey = await sealed.keyAfter(infoKey, before, newState, changes, suite)
  adopt(newState, "epoch", by.identity)
}

// "Encrypted GroupInfos": beside a Commit that has counted, of the epoch that it begins.
async function groupInfo(element) {
  const bytes = bytesOf(element.getText())
  if (element.attrs.epoch !== String(state.groupContext.epoch)) fail("a GroupInfo beside a Commit that does not count")
  const { signer, keyEpoch } = await sealed.openGroupInfo(state, infoKey, element.attrs, bytes, suite)
  emit("group-info", { signer: leafAt(state, signer).identity, epoch: Number(element.attrs.epoch), keyEpoch: Number(keyEpoch) })
}

// "Ephemeral Content"
async function ephemeral(element) {
  const { group, epoch } = element.attrs
  if (!state || group !== base64(state.groupContext.groupId) || epoch !== String(state.groupContext.epoch)) return
  const { salt, sender, envelope } = await sealed.openEphemeral(state, bytesOf(element.getText()), suite)
  const { identity, owner } = leafAt(state, sender)
  if (identity === self || salts.size === salts.add(`${group} ${epoch} ${base64(salt)}`).size) return
  const { content, shifted } = openEnvelope(envelope, owner)
  const [signal, more] = content.getChildElements()
  if (more || shifted || ![STATES, MARKERS].includes(signal?.getNS())) fail("ephemeral content of another time or kind")
  emit("signal", { sender: identity, name: signal.getName(), id: signal.attrs.id })
}
async function signal(name) {
  const envelope = Buffer.from(envelopeOf(xml(name, { xmlns: STATES })).toString())
  const bytes = await sealed.sealEphemeral(state, envelope, signing.signKey, suite)
  const { epoch, groupId } = state.groupContext
  const element = xml("ephemeral", { xmlns: NS, group: base64(groupId), epoch: String(epoch) }, base64(bytes))
  const hints = ["no-store", "no-permanent-store"].map((hint) => xml(hint, { xmlns: "urn:xmpp:hints" }))
  await xmpp.send(xml("message", { to: room, type: "groupchat", id: randomUUID() }, element, ...hints))
}

async function application({ content, bytes }, message, stamp) {
  const [id, sent] = [...outbox].find((entry) => equal(entry[1].bytes, bytes)) ?? []
  if (id) return outbox.delete(id) && emit("sent", { body: sent.body })
  const present = { ...state, ...state.keySchedule }
  const epoch = content.epoch === state.groupContext.epoch ? present : state.historicalReceiverData.get(content.epoch)
  if (!epoch) return emit("unreadable", { epoch: Number(content.epoch) })
  const opened = await unprotectPrivateMessage( // for the sender, whom processPrivateMessage does not tell
    epoch.senderDataSecret, content, epoch.secretTree, epoch.ratchetTree, epoch.groupContext, keyRetentionConfig, suite)
  const { identity, owner } = leafAt(epoch, opened.content.content.sender.leafIndex)
  if (identity === self) return lose("lost", "a key that our state has not used")
  const read = await mls.processPrivateMessage(state, content, mls.emptyPskIndex, suite)
  state = read.newState
  const name = `${identity} ${Buffer.from(content.authenticatedData)}` // "Once Only"
  if (content.authenticatedData.length && once.size === once.add(name).size) fail("a message that was read before")
  const claims = message.getChildren("x", `${MUC}#user`).map((x) => x.getChild("item")?.attrs.jid)
  const claimed = stamp ? claims.at(-1) : occupants.get(jid(message.attrs.from).resource)
  const forged = claimed !== undefined && jid(claimed).bare().toString() !== owner
  const { body, shifted } = openEnvelope(read.message, owner, stamp)
  emit("message", { sender: identity, forged, body, shifted })
}

// "Content Envelopes"
function openEnvelope(plaintext, sender, stamp) {
  const text = new TextDecoder("utf-8", { fatal: true }).decode(plaintext)
  if (plaintext.length > 262_144 || /<!--|<!DOCTYPE|<\?(?!xml )/i.test(text)) fail("an envelope that is too large, or restricted XML")
  const envelope = parse(text)
  const descend = (e, level) => (level > 64 ? fail("too deep") : e.getChildElements().forEach((child) => descend(child, level + 1)))
  const child = (name) => (envelope.is("envelope", SCE) && envelope.getChild(name, SCE)) || fail(`no envelope with ${name}`)
  descend(envelope, 1)
  if (child("content").getChildElements().length > 256 || !child("rpad")) fail("too many elements")
  if (child("from").attrs.jid !== sender || child("to").attrs.jid !== room) fail("an envelope for another room or by another account")
  const shifted = Math.abs(Date.parse(child("time").attrs.stamp) - (stamp ? Date.parse(stamp) : Date.now())) > 600_000
  return { body: child("content").getChildText("body", "jabber:client"), content: child("content"), shifted }
}

const envelopeOf = (content) => xml("envelope", { xmlns: SCE }, xml("content", {}, content),
  xml("time", { stamp: new Date().toISOString() }), xml("to", { jid: room }), xml("from", { jid: account }),
  xml("rpad", {}, base64(randomBytes(24)).slice(0, randomBytes(1)[0] % 33)))

// "Talking". Who may not send before Proposals are committed, and commits none, waits until somebody does.
async function say(body) {
  if (!state) fail("not a member of the group")
  if (Object.keys(state.unappliedProposals).length) return unsaid.push(body)
  const [id, { epoch, groupId }] = [randomUUID(), state.groupContext]
  const envelope = envelopeOf(xml("body", { xmlns: "jabber:client" }, body))
  const made = await mls.createApplicationMessage(state, Buffer.from(envelope.toString()), suite, Buffer.from(id))
  state = made.newState
  const bytes = octets({ wireformat: "mls_private_message", privateMessage: made.privateMessage })
  outbox.set(id, { bytes, body })
  const element = xml("application", { xmlns: NS, group: base64(groupId), epoch: String(epoch) }, base64(bytes))
  await xmpp.send(xml("message", { to: room, type: "groupchat", id }, element, xml("origin-id", { xmlns: SID, id }),
    xml("encryption", { xmlns: "urn:xmpp:eme:0", namespace: NS, name: "MLS" }), xml("store", { xmlns: "urn:xmpp:hints" })))
}

function receive(stanza) {
  const [from, { type, id }] = [jid(stanza.attrs.from ?? account), stanza.attrs]
  const [invitation, user, result] = [stanza.getChild("invitation", NS), stanza.getChild("x", `${MUC}#user`), stanza.getChild("result", MAM)]
  if (stanza.is("message") && invitation && !state) {
    room ??= stanza.getChild("x", "jabber:x:conference").attrs.jid
    position ??= invitation.attrs.after
    emit("invited", { room, by: from.bare().toString() })
    enqueue(enter)
  } else if (from.bare().toString() !== room) return
  else if (stanza.is("presence")) {
    occupants.set(from.resource, user?.getChild("item")?.attrs.jid)
    if (type === "error") entered.reject(new Error(`we may not enter: ${stanza.getChild("error")}`))
    if (!type && user?.getChildByAttr("code", "110")) entered.resolve()
  } else if (result && !from.resource) {
    const forwarded = result.getChild("forwarded", "urn:xmpp:forward:0")
    results.push({ id: result.attrs.id, message: forwarded.getChild("message"), stamp: forwarded.getChild("delay").attrs.stamp })
  } else if (stanza.is("message") && type === "error") emit("not-sent", { body: outbox.get(id)?.body })
  else if (stanza.is("message")) {
    const places = stanza.getChildren("stanza-id", SID).filter((e) => e.attrs.by === room)
    const shown = type === "groupchat" && stanza.getChild("ephemeral", NS)
    if (shown) enqueue(() => ephemeral(shown))
    else enqueue(() => (places.length > 1 ? enter() : processStanza(places[0]?.attrs.id, stanza)))
  }
}

// xmpp.js resets its count of stanzas only after it has counted those that arrive together with <enabled/>: too small an "h" ends the stream.
function withoutAcknowledgements(element) {
  if (element.is("features", "http://etherx.jabber.org/streams")) element.remove("sm", "urn:xmpp:sm:3")
}

// xmpp.js listens for the server's answer to a stream header only once it has heard that the header is written: the answer may come first.
function withoutWaiting(text) {
  Object.getPrototypeOf(this).write.call(this, text).catch((error) => this.emit("error", error))
  return Promise.resolve()
}

async function connect() {
  xmpp = client({ service: XMPP_SERVICE, domain: me.domain, username: me.local, password: XMPP_PASSWORD, timeout: 120_000 })
  xmpp.reconnect.stop()
  xmpp.write = withoutWaiting
  xmpp.prependListener("element", withoutAcknowledgements)
  xmpp.on("error", (error) => emit("error", { why: error.message })).on("stanza", receive)
  await xmpp.start()
}
await connect()
const key = xml("key", { scheme: ED25519 }, base64(signing.publicKey))
await publish(DEVICES, device, xml("device", { xmlns: NS, id: device }, xml("label", {}, "A stranger"), key), "on_sub_and_presence")
for (const lastResort of [true, false, false]) await newKeyPackage(lastResort)
await xmpp.send(xml("presence"))
emit("ready", { device })
for await (const line of createInterface({ input: process.stdin })) {
  const { command, text } = JSON.parse(line)
  if (command === "say") enqueue(() => say(text))
  else if (command === "signal") enqueue(() => signal(text))
  else if (command === "offline") await xmpp.stop().then(() => emit("offline"))
  else if (command === "online") await connect().then(() => enqueue(enter))
}
await Promise.all([retract(DEVICES, device), ...[...keyPackages].map(([ref, { lastResort }]) => retract(nodeOf(lastResort), ref))])
await xmpp.stop()
process.exit(0)
