"""How input images get here: whose turn it is to have one decoded or fetched, and where it may be fetched from."""
