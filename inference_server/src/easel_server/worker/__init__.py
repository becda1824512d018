"""The worker: claims a job, has the engine draw it, reports it. No HTTP, no Redis, no torch here."""
