"""For whoever watches directors with Prometheus: a dashboard for Grafana and rules for alerts. Pure."""
