"""Roll-outs of workers: whose turn it is to take a newer release, and what workers ran before."""
