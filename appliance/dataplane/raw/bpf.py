"""Classic BPF for the packet sockets: which frames the vectorised path takes, which ones the slow path takes.

A frame for a VIP of ours is *plain* when it has no VLAN tag left, no IPv4 options or IPv6 extension headers, is no
fragment, carries TCP or UDP with a TTL to spare, fits the link, has a sender that can be, and when nothing in its
headers contradicts itself, the IPv4 header checksum included. One program classifies; the ring's socket admits what is
plain, the slow socket the rest, so that no frame is ever in both or in none. Judging shapes here costs some 20 ns a
packet on the receiving CPU, and a flood of broken packets never reaches the ring.

A jump in classic BPF reaches 255 instructions and a program has at most 4096. VIPs are therefore found by a binary tree
whose long way is an unconditional jump (which reaches anywhere); when they are too many, everything of the family is
admitted, and the lookup behind the ring leaves alone what is no VIP.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv6Address

MAX_INSTRUCTIONS = 4096

_LD, _LDX, _ST, _ALU, _JMP, _RET, _MISC = 0x00, 0x01, 0x02, 0x04, 0x05, 0x06, 0x07
_W, _H, _B = 0x00, 0x08, 0x10
_IMM, _ABS, _IND, _MEM, _LEN = 0x00, 0x20, 0x40, 0x60, 0x80
_K, _X = 0x00, 0x08
_ADD, _SUB, _AND, _RSH, _MOD = 0x00, 0x10, 0x50, 0x70, 0x90
_JA, _JEQ, _JGT, _JGE, _JSET = 0x00, 0x10, 0x20, 0x30, 0x40
_TAX, _TXA = 0x00, 0x80
_PACKET_TYPE = 0xFFFFF000 + 4
"""SKF_AD_OFF + SKF_AD_PKTTYPE: how the kernel sees the frame's destination address; 0 is "for this host"."""

_ETHERNET = 14
_LEAF = 8
"""VIPs that a leaf of the tree compares one after the other."""


class Class(Enum):
    """What becomes of a frame."""

    OTHER = "other"
    """Not for a VIP: neither socket gets it."""
    PLAIN = "plain"
    """For the ring and the vectorised path."""
    ODD = "odd"
    """For the slow path."""


@dataclass(frozen=True)
class Instruction:
    code: int
    jt: int
    jf: int
    k: int


Program = tuple[Instruction, ...]


def assemble(program: Program) -> bytes:
    """As `struct sock_filter[]`."""
    return b"".join(struct.pack("HBBI", i.code, i.jt, i.jf, i.k) for i in program)


def classifier(
    vips4: Sequence[IPv4Address], vips6: Sequence[IPv6Address], mtu: int, accept: Class
) -> tuple[Program, bool]:
    """The filter of one socket.

    Args:
        vips4: IPv4 VIPs.
        vips6: IPv6 VIPs.
        mtu: of the link; longer packets are not plain.
        accept: PLAIN or ODD, the frames to admit.

    Returns:
        The program, and whether it knows the VIPs exactly. When they do not fit into a program, it admits frames to any
        address of the families that have VIPs.
    """
    exact = _build(vips4, vips6, mtu, accept, exact=True)
    if len(exact) <= MAX_INSTRUCTIONS:
        return exact, True
    return coarse_classifier(vips4, vips6, mtu, accept), False


def coarse_classifier(vips4: Sequence[IPv4Address], vips6: Sequence[IPv6Address], mtu: int, accept: Class) -> Program:
    """The filter that does not look at destination addresses: small whatever the number of VIPs."""
    return _build(vips4[:1], vips6[:1], mtu, accept, exact=False)


class _Assembler:
    """Instructions with labels. Conditional jumps name a label for each way; None is the next instruction."""

    def __init__(self) -> None:
        self._code: list[tuple[int, str | None, str | None, int | str]] = []
        self._labels: dict[str, int] = {}
        self._fresh = 0

    def label(self, name: str) -> None:
        self._labels[name] = len(self._code)

    def fresh(self) -> str:
        self._fresh += 1
        return f".{self._fresh}"

    def op(self, code: int, k: int = 0) -> None:
        self._code.append((code, None, None, k))

    def jump(self, kind: int, k: int, yes: str | None = None, no: str | None = None) -> None:
        self._code.append((_JMP | kind, yes, no, k))

    def go(self, label: str) -> None:
        self._code.append((_JMP | _JA, None, None, label))

    def finish(self) -> Program:
        def distance(at: int, label: str | None) -> int:
            return 0 if label is None else self._labels[label] - at - 1

        return tuple(
            Instruction(code, 0, 0, distance(at, k))
            if isinstance(k, str)
            else Instruction(code, distance(at, yes), distance(at, no), k)
            for at, (code, yes, no, k) in enumerate(self._code)
        )


def _build(vips4: Sequence[IPv4Address], vips6: Sequence[IPv6Address], mtu: int, accept: Class, exact: bool) -> Program:
    a = _Assembler()
    a.op(_LD | _W | _ABS, _PACKET_TYPE)
    a.jump(_JEQ, 0, no="other")
    # X is the length of the tags in front of the type field: the same search serves tagged frames, which are odd.
    a.op(_LDX | _IMM, 0)
    for tags in range(3):
        a.op(_LD | _H | _ABS, _ETHERNET - 2 + 4 * tags)
        for ethertype, family in ((0x0800, "v4"), (0x86DD, "v6")):
            after = a.fresh()
            a.jump(_JEQ, ethertype, no=after)
            a.go(family)
            a.label(after)
        if tags < 2:
            more = a.fresh()
            a.jump(_JEQ, 0x8100, yes=more)
            a.jump(_JEQ, 0x88A8, no="other")
            a.label(more)
            a.op(_LDX | _IMM, 4 * (tags + 1))
    a.label("other")
    a.op(_RET | _K, 0)

    a.label("v4")
    if vips4:
        a.op(_LD | _W | _IND, _ETHERNET + 16)  # a frame cut before the destination is nobody's: the load ends it
        if exact:
            _tree(a, sorted(int(vip) for vip in vips4), lambda _: "is4")
    else:
        a.op(_RET | _K, 0)
    a.label("is4")
    _plain4(a, mtu)
    _verdicts(a, "4", accept)

    a.label("v6")
    if vips6 and exact:
        _tree6(a, [struct.unpack("!4I", vip.packed) for vip in vips6], 0)
    elif vips6:
        a.op(_LD | _W | _IND, _ETHERNET + 36)
    else:
        a.op(_RET | _K, 0)
    a.label("is6")
    _plain6(a, mtu)
    _verdicts(a, "6", accept)
    return a.finish()


def _tree(a: _Assembler, values: Sequence[int], where: Callable[[int], str]) -> None:
    """Code that finds A among sorted values and goes to the label that belongs to it, or ends with "no"."""
    if len(values) > _LEAF:
        middle = len(values) // 2
        left, right = a.fresh(), a.fresh()
        a.jump(_JGE, values[middle], no=left)
        a.go(right)
        a.label(left)
        _tree(a, values[:middle], where)
        a.label(right)
        _tree(a, values[middle:], where)
        return
    springboards = {where(value): a.fresh() for value in values}
    for value in values:
        a.jump(_JEQ, value, yes=springboards[where(value)])
    a.op(_RET | _K, 0)
    for label, springboard in springboards.items():
        a.label(springboard)
        a.go(label)


def _tree6(a: _Assembler, addresses: Sequence[tuple[int, ...]], word: int) -> None:
    """The same for IPv6 addresses, word by word."""
    a.op(_LD | _W | _IND, _ETHERNET + 24 + 4 * word)
    groups: dict[int, list[tuple[int, ...]]] = {}
    for address in addresses:
        groups.setdefault(address[word], []).append(address)
    labels = {value: "is6" if word == 3 else a.fresh() for value in groups}
    _tree(a, sorted(groups), labels.__getitem__)
    if word < 3:
        for value, group in groups.items():
            a.label(labels[value])
            _tree6(a, group, word + 1)


def _fits(a: _Assembler, mtu: int, length: Callable[[], None], odd: str) -> None:
    """IP length <= bytes behind the Ethernet header <= MTU."""
    length()
    a.op(_MISC | _TAX)
    a.op(_LD | _W | _LEN)
    a.op(_ALU | _SUB | _K, _ETHERNET)
    a.jump(_JGT, mtu, yes=odd)
    a.jump(_JGE | _X, 0, no=odd)


def _l4(a: _Assembler, at: int, family: str, available: Callable[[], None]) -> None:
    """A has the protocol: TCP or UDP with a header that fits into what is there (P7)."""
    odd, udp = f"odd{family}", f"udp{family}"
    a.jump(_JEQ, 17, yes=udp)
    a.jump(_JEQ, 6, no=odd)
    available()
    a.jump(_JGE, 20, no=odd)  # a load behind the end of the frame would end the program with "no" for both sockets
    a.op(_MISC | _TAX)
    a.op(_LD | _B | _ABS, at + 12)
    a.op(_ALU | _AND | _K, 0xF0)
    a.op(_ALU | _RSH | _K, 2)
    a.jump(_JGE, 20, no=odd)
    a.jump(_JGT | _X, 0, yes=odd, no=f"plain{family}")
    a.label(udp)
    available()
    a.jump(_JGE, 8, no=odd)
    a.op(_MISC | _TAX)
    a.op(_LD | _H | _ABS, at + 4)
    a.jump(_JGE, 8, no=odd)
    a.jump(_JGT | _X, 0, yes=odd, no=f"plain{family}")


def _plain4(a: _Assembler, mtu: int) -> None:
    ip, odd = _ETHERNET, "odd4"
    a.op(_MISC | _TXA)
    a.jump(_JEQ, 0, no=odd)
    a.op(_LD | _B | _ABS, ip)
    a.jump(_JEQ, 0x45, no=odd)
    a.op(_LD | _H | _ABS, ip + 6)
    a.jump(_JSET, 0x3FFF, yes=odd)
    a.op(_LD | _B | _ABS, ip + 8)
    a.jump(_JGT, 1, no=odd)
    a.op(_LD | _H | _ABS, ip + 2)
    a.jump(_JGE, 20, no=odd)
    _fits(a, mtu, lambda: a.op(_LD | _H | _ABS, ip + 2), odd)
    # The words of a header with a right checksum add up to a multiple of 65535 (2^16 is 1 modulo 65535).
    a.op(_LD | _H | _ABS, ip)
    for offset in range(2, 20, 2):
        a.op(_MISC | _TAX)
        a.op(_LD | _H | _ABS, ip + offset)
        a.op(_ALU | _ADD | _X)
    a.op(_ALU | _MOD | _K, 0xFFFF)
    a.jump(_JEQ, 0, no=odd)

    # Martians (packet/protection.py).
    a.op(_LD | _B | _ABS, ip + 12)
    a.jump(_JGE, 224, yes=odd)
    a.jump(_JEQ, 127, yes=odd)
    a.jump(_JEQ, 0, yes=odd)
    a.op(_LD | _W | _ABS, ip + 16)
    a.op(_MISC | _TAX)
    a.op(_LD | _W | _ABS, ip + 12)
    a.jump(_JEQ | _X, 0, yes=odd)

    def available() -> None:
        a.op(_LD | _H | _ABS, ip + 2)
        a.op(_ALU | _SUB | _K, 20)

    a.op(_LD | _B | _ABS, ip + 9)
    _l4(a, ip + 20, "4", available)


def _plain6(a: _Assembler, mtu: int) -> None:
    ip, odd = _ETHERNET, "odd6"
    a.op(_MISC | _TXA)
    a.jump(_JEQ, 0, no=odd)
    a.op(_LD | _B | _ABS, ip)
    a.op(_ALU | _AND | _K, 0xF0)
    a.jump(_JEQ, 0x60, no=odd)
    a.op(_LD | _B | _ABS, ip + 7)
    a.jump(_JGT, 1, no=odd)

    def length() -> None:
        a.op(_LD | _H | _ABS, ip + 4)
        a.op(_ALU | _ADD | _K, 40)

    _fits(a, mtu, length, odd)
    # Martians: multicast; ten zero bytes; the destination itself.
    possible = a.fresh()
    a.op(_LD | _W | _ABS, ip + 8)
    a.jump(_JGE, 0xFF000000, yes=odd)
    a.jump(_JEQ, 0, no=possible)
    a.op(_LD | _W | _ABS, ip + 12)
    a.jump(_JEQ, 0, no=possible)
    a.op(_LD | _H | _ABS, ip + 16)
    a.jump(_JEQ, 0, yes=odd)
    a.label(possible)
    other = a.fresh()
    for word in range(4):
        a.op(_LD | _W | _ABS, ip + 24 + 4 * word)
        a.op(_MISC | _TAX)
        a.op(_LD | _W | _ABS, ip + 8 + 4 * word)
        a.jump(_JEQ | _X, 0, yes=odd if word == 3 else None, no=other)
    a.label(other)
    a.op(_LD | _B | _ABS, ip + 6)
    _l4(a, ip + 40, "6", lambda: a.op(_LD | _H | _ABS, ip + 4))


def _verdicts(a: _Assembler, family: str, accept: Class) -> None:
    a.label(f"plain{family}")
    a.op(_RET | _K, 0x40000 if accept is Class.PLAIN else 0)
    a.label(f"odd{family}")
    a.op(_RET | _K, 0x40000 if accept is Class.ODD else 0)


def run(program: Program, frame: bytes) -> bool:
    """What the kernel would make of a frame that is addressed to this host: admit it?

    Knows the instructions that `classifier` uses.
    """
    a = x = at = 0
    size = {_W: 4, _H: 2, _B: 1}
    while True:
        i = program[at]
        at += 1
        match i.code & 7:
            case 0x00:
                if i.code & 0xE0 == _LEN:
                    a = len(frame)
                elif i.k == _PACKET_TYPE:
                    a = 0
                else:
                    offset = i.k + (x if i.code & 0xE0 == _IND else 0)
                    width = size[i.code & 0x18]
                    if offset + width > len(frame):
                        return False
                    a = int.from_bytes(frame[offset : offset + width], "big")
            case 0x01:
                x = i.k
            case 0x04:
                operand = x if i.code & _X else i.k
                a = _ALU_DOES[i.code & 0xF0](a, operand) & 0xFFFFFFFF
            case 0x05 if i.code & 0xF0 == _JA:
                at += i.k
            case 0x05:
                at += i.jt if _JUMP_IF[i.code & 0xF0](a, x if i.code & _X else i.k) else i.jf
            case 0x06:
                return i.k != 0
            case 0x07:
                if i.code & 0xF8 == _TAX:
                    x = a
                else:
                    a = x


_ALU_DOES: dict[int, Callable[[int, int], int]] = {
    _ADD: int.__add__,
    _SUB: int.__sub__,
    _AND: int.__and__,
    _RSH: int.__rshift__,
    _MOD: int.__mod__,
}
_JUMP_IF: dict[int, Callable[[int, int], bool]] = {
    _JEQ: int.__eq__,
    _JGT: int.__gt__,
    _JGE: int.__ge__,
    _JSET: lambda a, k: a & k != 0,
}
