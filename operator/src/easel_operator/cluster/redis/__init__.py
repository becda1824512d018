"""What the operator does in the services' Redis: it ends and cleans up, and never reads what customers stored."""
