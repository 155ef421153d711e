"""Apps for doctor: good ones, and ones whose wiring is broken on purpose."""
