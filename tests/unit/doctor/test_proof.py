"""Agents answer who knows the secret, once, and directors take answers of nobody else."""

from appliance.doctor.proof import WINDOW_S, answer, question, refusal

SECRET, OTHER = b"what both of them know", b"what somebody else knows"
NOW, NONCE, BODY = 1_800_000_000, "0123456789abcdef", b'{"vips": []}'
PATH = "POST /v1/report"


def asked(**changes: object) -> str:
    """Why a question is not answered, with something of it changed on the way."""
    made = question(SECRET, NOW, NONCE, PATH, BODY)
    values = {"secret": SECRET, "header": made, "resource": PATH, "body": BODY, "now": float(NOW), "used": {}}
    return refusal(**values | changes)  # type: ignore[arg-type]


def test_who_knows_the_secret_is_answered_once() -> None:
    """And not again with the same words, as long as these count."""
    used: dict[str, float] = {}
    assert asked(used=used) == ""
    assert "before" in asked(used=used)
    assert "clocks" in asked(used=used, now=NOW + WINDOW_S + 1.0)


def test_nothing_of_a_question_can_be_changed() -> None:
    """Neither what is asked for, nor the body, the time or the number; and nobody can ask with another secret."""
    assert "secret" in asked(secret=OTHER)
    assert "secret" in asked(resource="POST /v1/watch")
    assert "secret" in asked(body=b"{}")
    for header in (question(SECRET, NOW + 1, NONCE, PATH, BODY), question(SECRET, NOW, NONCE[::-1], PATH, BODY)):
        mac = header.rsplit(" ", 1)[1]
        assert "secret" in asked(header=f"{NOW} {NONCE} {mac}")
    for header in ("", "no", f"{NOW}", f"{NOW} short mac", f"x {NONCE} mac", f"{NOW} {NONCE} \u00e4"):
        assert asked(header=header)


def test_numbers_are_forgotten_when_they_are_too_old_to_count() -> None:
    """What is remembered of questions is bounded by time."""
    used: dict[str, float] = {"old": NOW - 3 * WINDOW_S, "young": NOW - 1.0}
    assert asked(used=used) == ""
    assert set(used) == {"young", NONCE}


def test_an_answer_belongs_to_one_question() -> None:
    """Another body, number or secret makes another proof, and no question's proof is an answer's."""
    proof = answer(SECRET, NONCE, BODY)
    others = {answer(SECRET, NONCE, b""), answer(SECRET, NONCE[::-1], BODY), answer(OTHER, NONCE, BODY)}
    assert proof not in others
    assert not question(SECRET, NOW, NONCE, PATH, BODY).endswith(proof)
