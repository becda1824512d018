"""The inference server: gateways speak HTTP, workers generate, Redis (or memory) holds everything in between."""
