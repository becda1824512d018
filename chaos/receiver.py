"""The customers' receiver of webhooks: checks signatures, refuses some deliveries once, and notes the others."""

import json
import re
from collections.abc import Iterable
from typing import Final

from standardwebhooks import Webhook

from chaos.ledger import Ledger
from chaos.requests import PlannedJob
from tests.support.http_receiver import Received

JOB_IN_PATH: Final = re.compile(r"POST /(\S+) ")


class WebhookChecks:
    """``answer`` is what an HttpReceiver asks."""

    def __init__(self, secret: str, jobs: Iterable[PlannedJob], ledger: Ledger) -> None:
        self._to_refuse = {planned.id for planned in jobs if planned.is_webhook_refused_once}
        self._ledger = ledger
        self._webhook = Webhook(secret)
        self.errors: list[str] = []

    def answer(self, received: Received) -> str:
        """The status line."""
        try:
            return self._note(received)
        except Exception as error:  # it would be lost in the receiver's own task
            self.errors.append(f"{received.request_line}: {error!r}")
            return "400 Bad Request"

    def _note(self, received: Received) -> str:
        self._webhook.verify(received.body, received.headers)
        found = JOB_IN_PATH.match(received.request_line)
        if found is None:
            raise ValueError("expected POST /JOB")
        if found[1] in self._to_refuse:
            self._to_refuse.remove(found[1])
            return "503 Service Unavailable"
        self._ledger.note_webhook(found[1], received.headers["webhook-id"], json.loads(received.body))
        return "200 OK"
