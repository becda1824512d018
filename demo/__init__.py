"""The demo: the whole path on a real Kubernetes, as a newcomer would walk it. The end-to-end tests use its parts."""
