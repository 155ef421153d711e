"""The command ``doctor``: prove on loopback that a wiring sees what it must see."""
