"""The proof that no flow breaks: a fleet under load, everything that can happen to it, and an account of every flow."""
