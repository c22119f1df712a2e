"""The ratchet tree (RFC 9420 4, 7, appendix C): its shape, its hashes, its leaves and TreeKEM."""
