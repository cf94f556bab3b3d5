"""Bidirectional forwarding detection (RFC 5880, 5881, 5883): knows within fractions of a second that a router is gone.

    Bfd (process.py, event loop) --- socket pair, messages.py --- Engine (engine.py, a process of its own) --- routers
                                                                     |
                                                          Session (session.py, pure), packet.py

`engine` says why it is a process, and what makes it fall silent.
"""
