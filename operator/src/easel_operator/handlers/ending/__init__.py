"""How operators end: one process of several, and an installation with all of them."""
