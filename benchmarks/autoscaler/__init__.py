"""Easel's planner against others' autoscalers and an oracle, in the simulator."""
