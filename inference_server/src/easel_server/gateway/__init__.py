"""What all APIs share between a checked request and its answer: keys, limits, submission, results. No routes."""
