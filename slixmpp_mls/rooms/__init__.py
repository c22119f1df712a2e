"""The API objects of an application: a room, its messages, and the registry of all rooms of the device."""
