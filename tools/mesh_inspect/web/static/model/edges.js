/** What moves, as edges: from a source or from storage to the member that loads; and who waits. */

/**
 * All edges of these members: `kind` is `transfer`, `storage` or `wait`; `from` is null for storage
 * and for a source that nobody knows. The fastest come first.
 */
export function edgesOf(members) {
  const edges = [];
  for (const member of members.values()) {
    let fromPeers = 0;
    for (const feed of member.feeds) {
      const known = feed.id !== null && members.has(feed.id);
      edges.push({
        kind: "transfer",
        from: known ? feed.id : null,
        at: feed.endpoint,
        to: member.id,
        rate: feed.rate,
        bytes: feed.bytes,
      });
      fromPeers += feed.rate;
    }
    if (member.readsStorage) {
      const rate = Math.max(0, member.rate - fromPeers);
      edges.push({ kind: "storage", from: null, at: "storage", to: member.id, rate, bytes: null });
    }
    for (const id of member.awaits) {
      if (members.has(id)) {
        edges.push({ kind: "wait", from: id, at: id, to: member.id, rate: 0, bytes: null });
      }
    }
  }
  return edges.sort((one, other) => other.rate - one.rate);
}

/**
 * The same edges summed by the groups in which their ends stand: for pictures in which thousands
 * would be one blot. `groupOf` gives the name of a member's group.
 */
export function summed(edges, groupOf) {
  const found = new Map();
  for (const edge of edges) {
    const from = edge.from === null ? null : groupOf(edge.from);
    const to = groupOf(edge.to);
    const key = JSON.stringify([edge.kind, from, to]);
    const known = found.get(key);
    if (known === undefined) {
      found.set(key, { ...edge, from, to, many: 1 });
    } else {
      known.rate += edge.rate;
      known.many += 1;
    }
  }
  return [...found.values()].sort((one, other) => other.rate - one.rate);
}
