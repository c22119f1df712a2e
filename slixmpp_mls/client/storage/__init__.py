"""What the store holds of a room: records, queues, and the memory of what has been seen."""
