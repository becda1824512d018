"""Token buckets, shared by all gateways."""
