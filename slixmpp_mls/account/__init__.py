"""What runs by itself for our own account, over all rooms."""
