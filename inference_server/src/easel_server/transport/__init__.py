"""HTTP itself: the server, its bounds, bodies, streams and what surrounds every request. No API's fields."""
