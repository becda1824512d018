"""What reacts: kopf's handler for services, the queue behind it, the reconciler, and the scaling loop."""
