"""Several real processes together, over HTTP."""
