"""One room and its group: turns the room's stanzas into new states, and our operations into stanzas."""
