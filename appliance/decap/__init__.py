"""The member's side of L3 DSR: takes packets out of their encapsulation."""
