"""Attach to the servers of other projects, without a change to them."""
