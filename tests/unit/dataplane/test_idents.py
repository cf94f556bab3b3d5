"""Identifications of outer packets that may be fragmented."""

from appliance.dataplane.raw.idents import Idents


def test_all_are_used_before_one_comes_again() -> None:
    """One by one and many at once share one row of numbers, and none of 65,536 in a row is there twice (RFC 6864)."""
    idents = Idents(65_530)
    got: list[int] = []
    while len(got) < 65_536 - 100:
        got += [idents.take(), *idents.take_many(99).tolist()]
    assert len(set(got)) == len(got)
    assert set(got) <= set(range(65_536))


def test_those_of_others_are_left_alone() -> None:
    """With a step, numbers between belong to somebody else, also after the last one."""
    idents = Idents(3, 4)
    got = [idents.take() for _ in range(3)] + idents.take_many(20_000).tolist() + [idents.take()]
    assert {ident % 4 for ident in got} == {3}
    assert got[:5] == [3, 7, 11, 15, 19]
    assert len(set(got[:16_384])) == 16_384
