"""The operator on a real control plane, beside a bare client that makes the same objects."""
