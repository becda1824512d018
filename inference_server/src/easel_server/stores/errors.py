"""What every store may raise, whatever it keeps. Errors of one subject live with its interface."""


class StoreError(Exception):
    """Base of everything that a store raises on purpose."""


class StoreUnavailableError(StoreError):
    """The server behind a store can't be reached or can't serve now. Nothing is known of the effect: repeat it."""

    def __init__(self, address: str, operation: str, reason: str, next_step: str, *, server: str = "Redis") -> None:
        """``address`` is the server's, without credentials; ``server`` says of what kind it is."""
        self.address = address
        self.operation = operation
        self.reason = reason
        super().__init__(f"{server} at {address} is unavailable: {operation} failed with {reason}; {next_step}")


class StoreEvictsError(StoreUnavailableError):
    """The server may drop what it was given: it isn't used until its policy is another."""

    def __init__(self, address: str, operation: str, reason: str, next_step: str, *, policy: str) -> None:
        super().__init__(address, operation, reason, next_step)
        self.policy = policy


class StoreDamagedError(StoreUnavailableError):
    """The server answers, and what it has stored can't be worked with; other requests are served."""


class StoreOutOfMemoryError(StoreUnavailableError):
    """The server answers, and has no memory for anything new: repeating helps only once something has expired."""
