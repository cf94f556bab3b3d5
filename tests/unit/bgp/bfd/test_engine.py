"""Which of two sockets the kernel gives a packet to: the program, run here step by step."""

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from bgp.bfd.engine import INSTRUCTION, MAX_INSTRUCTIONS, peers_first

HOPS = {4: 8, 6: 7}
SOURCES = {4: 12, 6: 8}
NETWORK = 0xFFF00000


def run(program: bytes, header: bytes) -> int:
    """Classic BPF, as far as it is used."""
    code = list(INSTRUCTION.iter_unpack(program))
    at = loaded = 0
    while True:
        operation, yes, no, value = code[at]
        at += 1
        match operation:
            case 0x20:
                loaded = int.from_bytes(header[value - NETWORK :][:4], "big")
            case 0x30:
                loaded = header[value - NETWORK]
            case 0x15:
                at += yes if loaded == value else no
            case 0x06:
                return value
            case _:
                raise AssertionError(f"operation {operation:#x}")


def header(source: str, hop_limit: int) -> bytes:
    address = ip_address(source)
    made = bytearray(40)
    made[HOPS[address.version]] = hop_limit
    made[SOURCES[address.version] : SOURCES[address.version] + len(address.packed)] = address.packed
    return bytes(made)


@pytest.mark.parametrize(
    ("peers", "strangers"),
    [
        (("192.0.2.1", "192.0.2.2"), ("192.0.2.3", "192.0.3.1")),
        (
            ("2001:db8:1::1", "2001:db8:1::2", "2001:db8:2::1"),
            ("2001:db8:1::3", "2001:db8:3::1", "2001:db8:1:0:1::1"),
        ),
    ],
)
def test_only_peers_that_are_near_enough_come_first(peers: tuple[str, ...], strangers: tuple[str, ...]) -> None:
    """On one hop with a hop limit of 255 only; over several with any."""
    version = ip_address(peers[0]).version
    for hop_limit in (255, 254, 1):
        for source in (*peers, *strangers):
            far = hop_limit != 255
            assert run(peers_first(peers, version, 255), header(source, hop_limit)) == (far or source in strangers)
            assert run(peers_first(peers, version, None), header(source, hop_limit)) == (source in strangers)
    assert run(peers_first((), version, None), header(peers[0], 255)) == 1


@pytest.mark.parametrize("first", [IPv4Address("192.0.2.0"), IPv6Address("2001:db8::")])
def test_more_peers_than_a_program_can_name_are_not_told_apart(first: IPv4Address | IPv6Address) -> None:
    """Nobody is left out for it."""
    peers = [str(first + number) for number in range(2000)]
    program = peers_first(peers, first.version, 255)
    assert len(program) // INSTRUCTION.size <= MAX_INSTRUCTIONS
    assert run(program, header(peers[-1], 255)) == 0
