"""The raw-socket data plane: packet rings as NumPy columns, rewritten in place, in one thread of the process."""
