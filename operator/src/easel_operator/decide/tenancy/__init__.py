"""Where the operator is bound to Secrets, and which services no operator looks after."""
