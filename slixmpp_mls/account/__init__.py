"""Maintenance of our own account over all rooms, done automatically."""
