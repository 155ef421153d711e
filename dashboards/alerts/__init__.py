"""What pages whom: alerts and recording rules, for Prometheus and for Grafana."""
