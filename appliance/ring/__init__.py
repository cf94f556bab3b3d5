"""Which member owns which flow: flow hash, Maglev base table, rendezvous overlay. Pure."""
