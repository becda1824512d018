"""What the operator, the inference server and the tests agree on: names, the resource, the server's configuration.

Only pydantic and the standard library are imported here. No I/O, no behaviour beyond validation and rendering.
"""
