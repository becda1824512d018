"""What a value of the API keys' Secret may hold."""

import hashlib

import pytest
from easel_contract.gateway_config import RateLimitConfig
from easel_contract.keys import ApiKeyEntry, parse_api_key_entry
from easel_contract.server_config import Priority

KEY = "esl_live_alices-key"
DIGEST = "sha256:" + hashlib.sha256(KEY.encode()).hexdigest()

READ = {
    "one key": (KEY.encode(), ApiKeyEntry(keys=(KEY,))),
    "keys, one a line": (f"\n{KEY}\r\n  next-key \n\n".encode(), ApiKeyEntry(keys=(KEY, "next-key"))),
    "a digest": (DIGEST.encode(), ApiKeyEntry(keys=(DIGEST,))),
    "JSON": (
        f' {{"keys": ["{DIGEST}", "{KEY}"], "weight": 3, "maxPriority": "High",'
        ' "rateLimit": {"gpuSecondsPerMinute": 60}}\n'.encode(),
        ApiKeyEntry(
            keys=(DIGEST, KEY),
            weight=3,
            max_priority=Priority.HIGH,
            rate_limit=RateLimitConfig(gpu_seconds_per_minute=60),
        ),
    ),
}

REFUSED = {
    "nothing": (b" \n", "keys: Tuple should have at least 1 item"),
    "a short key": (b"hunter2", "keys.0: String should have at least 8 characters"),
    "a key with a space": (b"hunter2 hunter2", "keys.0: String should match pattern"),
    "half a digest": (b"sha256:hunter2", "keys.0: Value error, sha256: must be followed by 64 hexadecimal digits"),
    "bytes that are no text": (b"hunter2\xff\xfe", "the value is not UTF-8 text"),
    "half of JSON": (b'{"keys": ["hunter2-hunter2"', "the value begins like JSON and is none"),
    "an unknown field": (
        b'{"keys": ["hunter2-hunter2"], "hunter2": 1}',
        "a field is not known, allowed are keys, weight, maxPriority, rateLimit",
    ),
    "an unknown field of the limit": (
        b'{"keys": ["hunter2-hunter2"], "rateLimit": {"hunter2": 1}}',
        "a field of rateLimit is not known, allowed are requestsPerMinute, burst, gpuSecondsPerMinute, gpuSecondsBurst",
    ),
    "a weight": (b'{"keys": ["hunter2-hunter2"], "weight": 0}', "weight: Input should be greater than or equal to 1"),
    "a priority": (b'{"keys": ["hunter2-hunter2"], "maxPriority": "Top"}', "maxPriority: Input should be 'High'"),
}


@pytest.mark.parametrize("case", READ)
def test_an_entry_is_read(case: str) -> None:
    value, entry = READ[case]
    assert parse_api_key_entry(value) == entry


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_is_said_without_a_word_of_the_value(case: str) -> None:
    value, message = REFUSED[case]
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the message is looked at below
        parse_api_key_entry(value)
    assert message in str(caught.value)
    assert "hunter2" not in str(caught.value)
