"""Where a client keeps its state: the interface, the durable store, and one for tests."""

from .interface import Store, Transaction
from .memory import MemoryStore
from .sqlite import SQLiteStore

__all__ = ["MemoryStore", "SQLiteStore", "Store", "Transaction"]
