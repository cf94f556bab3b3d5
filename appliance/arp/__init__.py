"""VIPs on a segment: who answers ARP and neighbour solicitations for them, where no router is told by BGP."""
