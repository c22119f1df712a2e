"""One room and its group: from a stanza of the room to a new state, and from a wish of ours to a stanza."""
