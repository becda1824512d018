"""A line of the log: one object, with the request and the trace that it belongs to."""

import asyncio
import json
import logging

from easel_server.telemetry.logs import RequestFormatter, logged_for
from easel_server.telemetry.tracing import NO_TRACER, open_span

RECORD = {"name": "easel", "levelname": "INFO", "msg": "job %s", "args": ("j1",), "seconds": 2.5}
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"


def write(formatter: RequestFormatter | None = None):
    return json.loads((formatter or RequestFormatter()).format(logging.makeLogRecord(RECORD)))


def test_a_line_is_an_object_with_its_extras_its_request_and_its_trace():
    with logged_for("r1"), open_span(NO_TRACER, "request", parent=f"00-{TRACE_ID}-b7ad6b7169203331-01"):
        line = write(RequestFormatter(is_traced=True))
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "info",
        "logger": "easel",
        "message": "job j1",
        "request_id": "r1",
        "trace_id": TRACE_ID,
        "seconds": 2.5,
    }


def test_a_line_that_belongs_to_no_request_names_none():
    with logged_for("r1"):
        pass
    assert {"request_id", "trace_id"} & write().keys() == set()


async def test_requests_side_by_side_keep_their_lines_apart():
    async def serve(name: str) -> str:
        with logged_for(name):
            await asyncio.sleep(0)  # the others begin
            line = await asyncio.create_task(asyncio.to_thread(write))
            return str(line["request_id"])

    names = [f"r{number}" for number in range(20)]
    assert await asyncio.gather(*map(serve, names)) == names
