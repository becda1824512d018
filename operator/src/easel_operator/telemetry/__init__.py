"""What the operator says of each service in metrics; of itself it says it in operator_metrics.py."""
