"""The inference server: gateways speak HTTP, workers denoise, a broker holds everything in between."""
