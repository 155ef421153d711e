"""The command ``report``: the rollouts of a file as one page for a browser."""
