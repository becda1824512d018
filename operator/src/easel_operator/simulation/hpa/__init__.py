"""The HorizontalPodAutoscaler controller of Kubernetes 1.33 to 1.37 as a pure function. It knows nothing of Easel."""
