"""Lists and objects in forms, by the names that clients give their fields."""

from typing import Any

import httpx2
import pytest
from easel_server.gateway.refusals import RefusalError
from easel_server.transport.bodies import read_form
from fastapi import Request

NESTED: dict[str, tuple[list[tuple[str, str]], Any]] = {
    "an object": ([("a[x]", "1"), ("a[y]", "2")], {"x": "1", "y": "2"}),
    "a list": ([("a[]", "1"), ("a[]", "2")], ["1", "2"]),
    "a numbered list, in any order": ([("a[1]", "1"), ("a[10]", "3"), ("a[2]", "2")], ["1", "2", "3"]),
    "a list of objects, one after the other": (
        [("a[][x]", "1"), ("a[][y]", "2"), ("a[][x]", "3"), ("a[][y]", "4")],
        [{"x": "1", "y": "2"}, {"x": "3", "y": "4"}],
    ),
    "a list of objects, field after field": (
        [("a[][x]", "1"), ("a[][x]", "3"), ("a[][y]", "2"), ("a[][y]", "4")],
        [{"x": "1", "y": "2"}, {"x": "3", "y": "4"}],
    ),
    "objects in objects": ([("a[][x][y]", "1"), ("a[][x][z]", "2")], [{"x": {"y": "1", "z": "2"}}]),
    "an object of numbered ones": ([("a[0][x]", "1"), ("a[1][y]", "2")], [{"x": "1"}, {"y": "2"}]),
}
UNCLEAR: dict[str, list[tuple[str, str]]] = {
    "a text and an object": [("a", "1"), ("a[x]", "2")],
    "a text twice": [("a", "1"), ("a", "2")],
    "an object's field twice": [("a[x]", "1"), ("a[x]", "2")],
    "objects that have different fields": [("a[][x]", "1"), ("a[][x]", "2"), ("a[][y]", "3")],
    "texts beside objects": [("a[]", "1"), ("a[][x]", "2")],
}


async def parse(fields: list[tuple[str, str]]) -> dict[str, Any]:
    """What a form with these fields holds."""
    sent = httpx2.Request("POST", "http://localhost/", files=[(name, (None, text)) for name, text in fields])
    headers = [(name.lower().encode(), value.encode()) for name, value in sent.headers.items()]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": sent.read(), "more_body": False}

    request = Request({"type": "http", "method": "POST", "path": "/", "headers": headers}, receive)
    return (await read_form(request, limit_bytes=1 << 20)).fields


@pytest.mark.parametrize("case", NESTED)
async def test_brackets_in_names_make_lists_and_objects(case):
    fields, expected = NESTED[case]
    assert await parse([*fields, ("prompt", "a [cat]")]) == {"a": expected, "prompt": "a [cat]"}


@pytest.mark.parametrize("case", UNCLEAR)
async def test_what_is_unclear_is_refused_by_its_name(case):
    with pytest.raises(RefusalError) as caught:
        await parse(UNCLEAR[case])
    assert caught.value.faults[0].field.partition("[")[0] == "a"


@pytest.mark.parametrize("name", ["a[", "a]", "[a]", "a[b", "a[b]c", "a[[b]]", "a" + "[b]" * 5])
async def test_a_name_that_isnt_nested_stays_as_it_is(name):
    assert await parse([(name, "1")]) == {name: "1"}
