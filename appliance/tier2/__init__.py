"""The second tier: nodes behind directors that have the VIPs, end clients' connections in a full proxy, and answer them
directly."""
