"""All I/O with the API server, over the official client's connection. The only place that imports that client."""
