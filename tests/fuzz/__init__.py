"""The reference, the raw plane's fast paths and the XDP program, held against each other on random packets."""
