"""What watching costs: this library beside its peers, in one interleaved run."""
