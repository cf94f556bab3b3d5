"""Passwords and tokens of those who use the API: what is kept of them, and whether one is it.

Passwords are kept as scrypt hashes (RFC 7914) in the PHC string format, `$scrypt$ln=15,r=8,p=1$SALT$HASH`; tokens are
random, so that a SHA-256 is enough: `sha256:HEX`.
"""

import hashlib
import hmac
import re
from base64 import b64decode, b64encode
from dataclasses import dataclass

LN, R, P = 15, 8, 1
"""32 MiB, and a tenth of a second of a processor, for each try (RFC 7914, section 2)."""

SALT_BYTES, HASH_BYTES = 16, 32
TOKEN_BYTES = 32
LONGEST = 1024
"""Bytes of a password."""

_PHC = re.compile(
    r"\$scrypt\$ln=([0-9]{1,2}),r=([0-9]{1,2}),p=([0-9]{1,2})\$([A-Za-z0-9+/]{16,86})\$([A-Za-z0-9+/]{22,86})"
)
_SHA256 = re.compile(r"sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class Scrypt:
    """What is kept of a password."""

    ln: int
    """log2 of the cost."""

    r: int
    p: int
    salt: bytes
    digest: bytes

    def fits(self, password: str) -> bool:
        """Whether it is that password. Takes a tenth of a second of a processor."""
        return hmac.compare_digest(_scrypt(password, self.salt, self.ln, self.r, self.p, len(self.digest)), self.digest)

    def __str__(self) -> str:
        return f"$scrypt$ln={self.ln},r={self.r},p={self.p}${_text(self.salt)}${_text(self.digest)}"


def hashed(password: str, salt: bytes) -> Scrypt:
    """
    Args:
        password: up to LONGEST bytes.
        salt: random, SALT_BYTES.
    """
    return Scrypt(LN, R, P, salt, _scrypt(password, salt, LN, R, P, HASH_BYTES))


def scrypt_of(text: str) -> Scrypt:
    """
    Raises:
        ValueError: this is no hash, or one that would take a director's memory or time.
    """
    match = _PHC.fullmatch(text)
    if match is None:
        raise ValueError("it does not look like one")
    ln, r, p = int(match[1]), int(match[2]), int(match[3])
    if not (14 <= ln <= 17 and 1 <= r <= 8 and 1 <= p <= 4):
        raise ValueError("ln is 14..17, r 1..8, p 1..4")
    return Scrypt(ln, r, p, _bytes(match[4]), _bytes(match[5]))


def token_digest(token: str) -> bytes:
    """What is kept of a token."""
    return hashlib.sha256(token.encode()).digest()


def digest_of(text: str) -> bytes:
    """
    Raises:
        ValueError: this is no hash of a token.
    """
    match = _SHA256.fullmatch(text)
    if match is None:
        raise ValueError("it is not sha256: and 64 hexadecimal digits")
    return bytes.fromhex(match[1])


def _scrypt(password: str, salt: bytes, ln: int, r: int, p: int, length: int) -> bytes:
    room = 128 * r * ((1 << ln) + p + 2)
    return hashlib.scrypt(password.encode(), salt=salt, n=1 << ln, r=r, p=p, maxmem=room + (1 << 20), dklen=length)


def _text(raw: bytes) -> str:
    return b64encode(raw).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    return b64decode(text + "=" * (-len(text) % 4))
