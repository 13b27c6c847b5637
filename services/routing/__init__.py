"""Which endpoint. Pure: no I/O, no clock of its own."""
