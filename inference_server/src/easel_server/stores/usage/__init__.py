"""What customers' jobs took, by day."""
