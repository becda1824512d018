"""Small facts that processes of a service report to each other."""
