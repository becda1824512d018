"""``easel doctor``: facts of a cluster and of services (``gather.py``), and checks of them, each a pure function."""
