"""A model's files: where they come from, what they are, which they were."""
