"""The worker: claims jobs, has the engine generate them, reports each. No HTTP, no Redis, no torch here."""
