"""All input and output: the Kubernetes API, pods, and the API that the cluster reads. Nothing here decides."""
