"""What a collector of the operator's lines reads."""

import json
import logging
import sys

from easel_operator.logs import ServiceFormatter, logged_for
from easel_operator.objects import ServiceKey


def write(message: str, **attributes: object) -> dict[str, object]:
    made = {"name": "easel_operator", "levelname": "WARNING", "msg": message, **attributes}
    line: dict[str, object] = json.loads(ServiceFormatter().format(logging.makeLogRecord(made)))
    return line


def test_a_line_is_json_and_names_the_service_that_is_worked_on() -> None:
    with logged_for(ServiceKey("studio", "painter")):
        line = write("Reconciling failed:\nno answer")
    assert (line["level"], line["namespace"], line["service"]) == ("warning", "studio", "painter")
    assert line["message"] == "Reconciling failed:\nno answer", "one line, whatever is in it"
    assert "service" not in write("A watch ended"), "it is about none"


def test_a_fault_brings_its_traceback_along() -> None:
    try:
        raise KeyError("nobody thought of it")
    except KeyError:
        line = write("A fault", exc_info=sys.exc_info())
    assert "KeyError: 'nobody thought of it'" in str(line["exception"])
