"""A client's state: the interface of the store, the durable store, and one for tests."""

from .conversion import change_secret, decrypt, encrypt
from .copying import copied_to_memory, copy_all
from .interface import Store, Transaction
from .memory import MemoryStore
from .sqlite import SQLiteStore, is_encrypted
from .wrapped_key import StoreSecret, store_secret

__all__ = [
    "MemoryStore", "SQLiteStore", "Store", "StoreSecret", "Transaction", "change_secret", "copied_to_memory",
    "copy_all", "decrypt", "encrypt", "is_encrypted", "store_secret",
]  # fmt: skip
