"""Onward: a Layer-4 load balancer with direct server return. See ARCHITECTURE.md for the map."""

__version__ = "0.1.0"
