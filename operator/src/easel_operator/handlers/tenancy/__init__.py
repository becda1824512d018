"""Where the operator looks, and what it may read there: namespaces to watch, services outside, rights to Secrets."""
