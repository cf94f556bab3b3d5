"""The Internet checksum: RFC 1071 (computation), RFC 1624 (incremental update)."""


def checksum(data: bytes) -> int:
    """The 16-bit checksum of *data*; an odd last byte counts as if a zero byte followed.

    Over data that contains its own valid checksum the result is 0.
    """
    if len(data) % 2:
        data += b"\0"
    # 2^16 is 1 modulo 65535, so the whole text as one number has the same remainder as the sum of its 16-bit words. The
    # folded sum of words that are not all zero is never 0: where the remainder is 0, the sum is 65535.
    number = int.from_bytes(data, "big")
    folded = number % 0xFFFF or (0xFFFF if number else 0)
    return folded ^ 0xFFFF


def update(old_checksum: int, old: int, new: int) -> int:
    """The checksum after one 16-bit word has changed from *old* to *new*: HC' = ~(~HC + ~m + m') (RFC 1624, eqn. 3)."""
    total = (old_checksum ^ 0xFFFF) + (old ^ 0xFFFF) + new
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF
