"""Being written by the wire helper."""
