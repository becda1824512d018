"""What the API server, or the way to it, says no with."""

from http import HTTPStatus

from easel_cli.errors import CliError


class UnreachableError(CliError):
    """There is no kubeconfig that can be used, or nobody answers at its address."""


class RefusedError(CliError):
    """The API server answered with an error status."""

    def __init__(self, asked: str, status: int, reason: str, body: bytes = b"") -> None:
        """``asked``: what for, as in "list nodes"; ``reason``: the server's own words; ``body``: all of its answer."""
        self.asked, self.http_status, self.reason, self.body = asked, status, reason, body
        super().__init__(
            f"you may not {asked}: {reason}; ask whoever gives rights in this cluster"
            if self.is_forbidden
            else f"the API server refused to {asked} ({status}): {reason}"
        )

    @property
    def is_forbidden(self) -> bool:
        """Whether the rights are missing."""
        return self.http_status in (HTTPStatus.FORBIDDEN, HTTPStatus.UNAUTHORIZED)

    @property
    def is_missing(self) -> bool:
        """Whether there is no such object, or no such kind."""
        return self.http_status == HTTPStatus.NOT_FOUND
