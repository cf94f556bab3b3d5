"""All vectors over all planes, as one table; and other directors' XDP programs held to those that need no memory."""
