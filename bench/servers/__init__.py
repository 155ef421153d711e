"""The servers that are measured: one handler, and one module per way to watch it.

Each runs in the environment of its peer, so nothing here imports the rest of `bench`,
and only the module of a peer imports that peer.
"""
