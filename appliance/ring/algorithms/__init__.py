"""The algorithms that a pool can name. A new one is a file here and a line in ALGORITHMS.

An algorithm makes *choices*: member indices, in the order in which flows (or datagrams) that come take them. Data
planes know choices and no algorithms. All algorithms are functions of their arguments alone, so whoever has the same
numbers makes the same choices.
"""

from appliance.model import Algorithm
from appliance.ring.algorithms import (
    consistent_hash,
    fastest_response,
    fewest_servers,
    least_connections,
    least_load,
    random_member,
    round_robin,
)
from appliance.ring.algorithms.method import Candidate, Method, Need, Remark, remarks

__all__ = ["ALGORITHMS", "Candidate", "Method", "Need", "Remark", "remarks"]

ALGORITHMS: dict[Algorithm, Method] = {
    Algorithm.CONSISTENT_HASH: consistent_hash.METHOD,
    Algorithm.ROUND_ROBIN: round_robin.METHOD,
    Algorithm.RANDOM: random_member.METHOD,
    Algorithm.LEAST_CONNECTIONS: least_connections.METHOD,
    Algorithm.LEAST_LOAD: least_load.METHOD,
    Algorithm.FASTEST_RESPONSE: fastest_response.METHOD,
    Algorithm.FEWEST_SERVERS: fewest_servers.METHOD,
}
