"""What a bot has in hand: a room, its messages, and the registry of all rooms of the device."""
