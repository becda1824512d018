"""Webhooks: report to a client's URL what became of its job, signed, retried, and never to an address inside."""
