"""Says once that the broker is away and once that it is back, whichever call of a worker notices."""

import logging

from easel_server.stores.errors import StoreUnavailableError

logger = logging.getLogger(__name__)


class BrokerLink:
    """One for all parts of a worker."""

    def __init__(self) -> None:
        self._is_away = False

    def note_outage(self, error: StoreUnavailableError) -> None:
        """A call failed."""
        if not self._is_away:
            logger.warning("%s", error)
        self._is_away = True

    def note_return(self) -> None:
        """A call was answered."""
        if self._is_away:
            logger.info("the broker is back")
        self._is_away = False
