"""Who decides the number of pods: Easel's planner, the cluster's autoscaler on raw metrics, and others' autoscalers."""
