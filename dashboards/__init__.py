"""Grafana dashboards as code. Nothing here yet: the metrics they will show are served under `/metrics`."""
