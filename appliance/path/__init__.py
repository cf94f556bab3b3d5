"""Health probes by the way that clients' packets go: to the VIP, through the member's own DSR mode and encapsulation.

`vantage` says what is asked this way. `gate` takes the packets of checks' sockets, and sends them as a data plane does;
`steer` makes the kernel hand them over. `causes` says what ICMP errors and results mean, and `segments` judges the MSS
that members advertise.
"""
