"""Who may ask an agent, and whose answer is taken: both know a secret, and neither ever sends it. Pure.

A question carries its time, a number that is used once, and an HMAC (RFC 2104) of these, of what is asked for and of
its body. An answer carries an HMAC of the question's number and of its own body. So nobody who listens can ask, ask
again, or answer. What is said can be read by whoever is on the way: settings and counters, no secrets.
"""

import hashlib
import hmac

QUESTION, ANSWER = "Onward-Question", "Onward-Answer"
"""Headers of HTTP: `TIME NONCE MAC`, and `MAC`."""

WINDOW_S = 120
"""By so much the clocks of both may differ, and for so long numbers are remembered."""

SHORTEST_SECRET = 16


def question(secret: bytes, at: int, nonce: str, resource: str, body: bytes) -> str:
    """The header of a question.

    Args:
        secret: that both know.
        at: seconds since 1970.
        nonce: never used before.
        resource: method and path.
        body: of the request.
    """
    return f"{at} {nonce} {_mac(secret, b'question', str(at), nonce, resource, body)}"


def refusal(secret: bytes, header: str, resource: str, body: bytes, now: float, used: dict[str, float]) -> str:
    """Why a question is not answered; empty when it is, and then its number is used.

    Args:
        secret: that both know.
        header: that came with it.
        resource: method and path.
        body: of the request.
        now: seconds since 1970.
        used: numbers of earlier questions, and when.
    """
    at, _, rest = header.partition(" ")
    nonce, _, mac = rest.partition(" ")
    if not at.isdecimal() or len(at) > 12 or not 8 <= len(nonce) <= 64:
        return f"no {QUESTION} header"
    if not hmac.compare_digest(mac.encode(), _mac(secret, b"question", at, nonce, resource, body).encode()):
        return "another secret than this agent's"
    if abs(now - int(at)) > WINDOW_S:
        return f"the clocks differ by {abs(now - int(at)):.0f} s, and may by {WINDOW_S}"
    for old in [each for each, when in used.items() if now - when > 2 * WINDOW_S]:
        del used[old]
    if nonce in used:
        return "a question that was asked before"
    used[nonce] = now
    return ""


def answer(secret: bytes, nonce: str, body: bytes) -> str:
    """The header of an answer to the question with that number."""
    return _mac(secret, b"answer", "", nonce, "", body)


def _mac(secret: bytes, what: bytes, at: str, nonce: str, resource: str, body: bytes) -> str:
    parts = (what, at.encode(), nonce.encode(), resource.encode(), hashlib.sha256(body).digest())
    text = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return hmac.new(secret, text, hashlib.sha256).hexdigest()
