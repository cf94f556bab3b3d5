"""When an X.509 certificate ends. Pure.

Python tells that only of certificates that it has verified. Of DER (X.690) this reads as much as it takes to get to the
one field (RFC 5280, section 4.1).
"""

from datetime import UTC, datetime

_SEQUENCE, _VERSION = 0x30, 0xA0
_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18


def not_after(certificate: bytes) -> datetime:
    """The last moment of a certificate.

    Args:
        certificate: in DER.

    Raises:
        ValueError: it is none.
    """
    _, whole, _ = _element(certificate, _SEQUENCE)
    _, fields, _ = _element(whole, _SEQUENCE)
    if fields[:1] == bytes([_VERSION]):
        fields = _element(fields)[2]
    for _ in ("serial number", "signature algorithm", "issuer"):
        fields = _element(fields)[2]
    _, validity, _ = _element(fields, _SEQUENCE)
    _, _, rest = _element(validity)
    kind, text, _ = _element(rest)
    if kind == _UTC_TIME:  # two digits of the year: from 1950 to 2049
        return _time(("20" if text[:2] < b"50" else "19") + text.decode("ascii"))
    if kind == _GENERALIZED_TIME:
        return _time(text.decode("ascii"))
    raise ValueError("no time where a certificate's end should be")


def _time(text: str) -> datetime:
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _element(data: bytes, expected: int | None = None) -> tuple[int, bytes, bytes]:
    """The first element: tag, content, and what follows it."""
    if len(data) < 2:
        raise ValueError("a certificate that ends in the middle")
    tag, length, start = data[0], data[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(data[2:start], "big")
    if (expected is not None and tag != expected) or start + length > len(data):
        raise ValueError("not a certificate")
    return tag, data[start : start + length], data[start + length :]
