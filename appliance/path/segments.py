"""Whether the MSS that a member advertises leaves room for the way to it. Pure."""

from dataclasses import dataclass

from appliance.forwarding import NextHop
from appliance.model import Delivery, IPAddress


@dataclass(frozen=True)
class Segments:
    """What a member says in its SYN-ACKs, and what fits (packets.md, section 1)."""

    member: str
    """`pool/member`."""

    vip: IPAddress
    port: int
    delivery: Delivery
    advertised: int
    limit: int
    """The largest segment that the way to the member takes, bytes."""

    near: bool
    """The director is on the member's own segment: SYN-ACKs to clients take another route, maybe with another MSS."""

    @property
    def too_large(self) -> bool:
        return self.advertised > self.limit

    @property
    def note(self) -> str:
        """What is wrong and what to do; empty when nothing is."""
        if not self.too_large:
            return ""
        caveat = ", as this director sees it on the member's own segment; clients may see less" if self.near else ""
        return (
            f"member {self.member} advertises MSS {self.advertised} for {self.vip} port {self.port}, and what fits by "
            f"{self.delivery} is {self.limit}{caveat}: set advmss {self.limit} on its routes to clients"
        )


def segments(
    member: str, vip: IPAddress, port: int, address: IPAddress, delivery: Delivery, hop: NextHop, advertised: int
) -> Segments:
    """
    Args:
        member: `pool/member`.
        vip: that was asked.
        port: of it.
        address: the member's.
        delivery: how packets go there.
        hop: the way to the member.
        advertised: what its SYN-ACK said, bytes.
    """
    limit = delivery.mss(vip.version, address.version, hop.mtu)
    return Segments(member, vip, port, delivery, advertised, limit, hop.direct and vip.version == address.version)
