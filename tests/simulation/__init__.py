"""A discrete model of a fleet: which flows break when members and directors come and go, scheme by scheme."""
