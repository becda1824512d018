"""A real Kubernetes in containers, by kind: node image, cluster, and the images of Easel's pods on its nodes."""
