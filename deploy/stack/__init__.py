"""Install and run collector, Jaeger, Prometheus and Alertmanager on this machine."""
