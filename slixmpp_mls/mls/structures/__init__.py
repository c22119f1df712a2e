"""The structures of RFC 9420 as they stand on the wire: declared once, in wire order, with their limits."""
