"""The demo: real rollouts on loopback, with every failure that can be provoked."""
