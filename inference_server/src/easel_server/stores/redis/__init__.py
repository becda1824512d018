"""The connection to Redis or Valkey that all stores share."""
