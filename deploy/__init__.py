"""How to run the observability stack: configuration files, and a native starter."""
