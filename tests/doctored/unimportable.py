"""A module that cannot be imported, with a secret in the error's text."""

raise ValueError("sk-canary-d0c7")
