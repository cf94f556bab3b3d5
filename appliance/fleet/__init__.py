"""Directors that act as one: what they agree on, and the store that they agree by."""
