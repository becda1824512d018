"""The APIs' description for browsers, at ``/docs``."""
