"""Images of jobs: where they are, and how much room they have."""
