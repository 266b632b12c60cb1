"""The latency panels people watch: Grafana dashboards, recording rules and alerts over what the server counts.

`metrics` is the one table of names, `promql` the few shapes of queries over them, each board a file of named queries
and panels. `build` writes what Grafana and Prometheus read; those files are committed, so that
using them takes no Python.
"""
