"""Work goes on while processes are killed: see test_soak.py."""
