"""Cryptographic objects (RFC 9420 5): cipher suites, HPKE, signatures."""
