// Corrects known deviations of ts-mls 1.6.4 from RFC 9420 while the library is loaded; the package on disk stays as published.
//
// Without these lines the peer could neither join most long-lived groups nor take part in external joins, GroupContextExtensions
// or external proposals, and those scenarios would test nothing. Each entry says what is wrong and which section says so. `from` must
// occur exactly `times` in the file (once unless said): a new release that changes one of these lines stops the peer with a clear
// error, and whoever upgrades decides again.
import { readFileSync } from "node:fs"
import * as nodeModule from "node:module"
import { isMainThread } from "node:worker_threads"

export const repairs = [
  // 12.4.3.1: only the nodes between the unmerged leaf and the parent that lists it must list it too, and they may list others.
  // The library wants every ancestor of the leaf to have an identical list.
  { file: "clientState.js", from: "for (const parentIdx of dp) {", to: "for (const parentIdx of dp.slice(0, dp.indexOf(i))) {" },
  {
    file: "clientState.js",
    from: "if (!arraysEqual(dpNode.parent.unmergedLeaves, n.parent.unmergedLeaves))",
    to: "if (!dpNode.parent.unmergedLeaves.includes(unmergedLeaf))",
  },
  // 12.4: a commit that covers a GroupContextExtensions proposal has a path ...
  {
    file: "clientState.js",
    from: "const needsUpdatePath = allProposals.length === 0 ||",
    to: "const needsUpdatePath = grouped.group_context_extensions.length > 0 || allProposals.length === 0 ||",
  },
  // ... encrypted under the provisional GroupContext, which has the new extensions (12.4.1) ...
  {
    file: "createCommit.js",
    from: "toLeafIndex(state.privatePath.leafIndex), state.groupContext, state.signaturePrivateKey, cipherSuite, excludeNodes)",
    to:
      "toLeafIndex(state.privatePath.leafIndex), { ...state.groupContext, extensions: res.additionalResult.extensions }, " +
      "state.signaturePrivateKey, cipherSuite, excludeNodes)",
  },
  // ... and may set an empty list (12.1.7), which the library takes for "no change".
  {
    file: "clientState.js",
    from: "const newExtensions = flattenExtensions(grouped.group_context_extensions);",
    to:
      "const newExtensions = grouped.group_context_extensions.length > 0 " +
      "? flattenExtensions(grouped.group_context_extensions) : state.groupContext.extensions;",
  },
  { file: "createCommit.js", from: " && res.additionalResult.extensions.length > 0", to: "" },
  { file: "processMessages.js", from: " && result.additionalResult.extensions.length > 0", to: "" },
  // 12.4.3.2: external_pub is an HPKEPublicKey, a vector with its length in front.
  {
    file: "createCommit.js",
    from: "extensionData: externalPub }",
    to: "extensionData: encode(varLenDataEncoder)(externalPub) }",
    times: 2,
    prelude: 'import { varLenDataEncoder, decodeVarLenData } from "./codec/variableLength.js";',
  },
  {
    file: "createCommit.js",
    from: "exportSecret(externalPub.extensionData, cs)",
    to: "exportSecret(decodeVarLenData(externalPub.extensionData, 0)[0], cs)",
  },
  // 12.1.8.1: external_senders is a vector of ExternalSender, and senderIndex counts in it.
  {
    file: "clientState.js",
    from: "const decoded = decodeExternalSender(externalSender.extensionData, 0);",
    to: "const decoded = decodeVarLenType(decodeExternalSender)(externalSender.extensionData, 0)?.[0];",
    prelude: 'import { decodeVarLenType } from "./codec/variableLength.js";',
  },
  {
    file: "publicMessage.js",
    from: "const externalSenderExtension = externalSenderExtensions[senderIndex];",
    to: "const externalSenderExtension = externalSenderExtensions[0];",
  },
  {
    file: "publicMessage.js",
    from: "const externalSender = decodeExternalSender(externalSenderExtension.extensionData, 0);",
    to:
      "const externalSender = decodeVarLenType(decodeExternalSender)(externalSenderExtension.extensionData, 0)" +
      "?.[0].slice(senderIndex);",
    prelude: 'import { decodeVarLenType } from "./codec/variableLength.js";',
  },
  // 7.4: the commit secret follows the last path secret of the filtered direct path. Where the root is not on it, because half of
  // the tree is empty, the library derives once more, for the blank root.
  {
    file: "pathSecrets.js",
    from: "const nextIndex = findFirstNonBlankAncestor(tree, currentIndex);",
    to: "const nextIndex = findFirstNonBlankAncestor(tree, currentIndex);\n        if (tree[nextIndex] === undefined) break;",
  },
  {
    file: "pathSecrets.js",
    from: "return pathSecrets;",
    to: 'return Object.defineProperty(pathSecrets, "last", { value: pathSecrets[currentIndex] });',
  },
  { file: "pathSecrets.js", from: "const rootSecret = path[rootIndex];", to: "const rootSecret = path.last;" },
  { file: "processMessages.js", from: "const rootSecret = pathSecrets[rootIndex];", to: "const rootSecret = pathSecrets.last;" },
  // 12.4.2: who is removed stops there, even if the same commit gives the leaf to somebody else.
  {
    file: "clientState.js",
    from: "const selfRemoved = mutatedTree[leafToNodeIndex(toLeafIndex(state.privatePath.leafIndex))] === undefined;",
    to: "const selfRemoved = grouped.remove.some(({ proposal }) => proposal.remove.removed === state.privatePath.leafIndex);",
  },
  // 5.1.1: ECDSA public keys are uncompressed points; those that the library generates are compressed.
  ...["p256", "p384", "p521"].map((curve) => ({
    file: "crypto/implementation/default/makeNobleSignatureImpl.js",
    from: `${curve}.getPublicKey(signKey)`,
    to: `${curve}.getPublicKey(signKey, false)`,
  })),
  // 2.1.1: an optional value that is zero is there; a waiting proposal of leaf 0 loses its sender when the group is serialised.
  { file: "codec/optional.js", from: "if (t) {", to: "if (t !== undefined && t !== null) {" },
]

function repair(url, result) {
  const file = /\/ts-mls\/dist\/src\/(.+)$/.exec(url)?.[1]
  const todo = repairs.filter((r) => r.file === file)
  if (todo.length === 0) return result
  let source = readFileSync(new URL(url), "utf8")
  for (const { from, to, times = 1 } of todo) {
    const pieces = source.split(from)
    if (pieces.length !== times + 1) throw new Error(`ts-mls has changed: ${file} no longer has ${times} × ${from}`)
    source = pieces.join(to)
  }
  const preludes = [...new Set(todo.flatMap((r) => r.prelude ?? []))]
  return { ...result, source: [...preludes, source].join("\n"), shortCircuit: true }
}

export async function load(url, context, next) {
  return repair(url, await next(url, context))
}

if (isMainThread) {
  if (nodeModule.registerHooks) nodeModule.registerHooks({ load: (url, context, next) => repair(url, next(url, context)) })
  else nodeModule.register(import.meta.url)
}
