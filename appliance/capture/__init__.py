"""Captures: files of packets, with what a director did with each of them as a comment."""
