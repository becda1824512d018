"""Webhooks: tells a client's URL what became of its job, signed, retried, and never inside the cluster's network."""
