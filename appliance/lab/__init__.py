"""A network with directors, routers and members on one machine: containerlab topologies in network namespaces."""
