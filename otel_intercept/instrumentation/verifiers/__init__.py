"""Attach to PrimeIntellect verifiers, unmodified."""
