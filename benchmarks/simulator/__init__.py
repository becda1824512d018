"""``make bench-simulator``: is the simulator true? One trace on an embedded cluster and in the simulator."""
