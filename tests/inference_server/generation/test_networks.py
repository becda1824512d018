"""``<lora:…>`` in prompts asks for adapters, by the names that clients send."""

import time
from contextlib import suppress

import pytest
from easel_contract.add_ons import AdapterConfig
from easel_server.generation.add_ons import AdapterRequest
from easel_server.generation.prompts import networks
from easel_server.generation.prompts.networks import (
    NetworkError,
    build_adapter_finder,
    find_network,
    join_networks,
    split_networks,
)

ADAPTERS = (
    AdapterConfig(name="Ink Wash v1.5", source="someone/ink", file="weights/inkWash_v15.safetensors"),
    AdapterConfig(name="clay", source="someone/clay"),
    AdapterConfig(name="Clay", source="someone/clay"),
)


@pytest.mark.parametrize(
    ("text", "prompt", "adapters"),
    [
        ("a cat <lora:ink:0.8>", "a cat", [("ink", 0.8)]),
        ("a cat <lora:ink>", "a cat", [("ink", None)]),
        ("a cat <lora:ink:>", "a cat", [("ink", None)]),
        ("<lora:Ink Wash v1.5:.5>a cat", "a cat", [("Ink Wash v1.5", 0.5)]),
        ("a <lora:b:1> cat,<LoRA:a:-1> red", "a  cat, red", [("b", 1.0), ("a", -1.0)]),
        ("a cat <lora:ink:0.8:0.8>", "a cat", [("ink", 0.8)]),
        ("a cat <lora:ink:te=0.8:unet=0.8>", "a cat", [("ink", 0.8)]),
        ("a cat <lyco:ink:1>", "a cat", [("ink", 1.0)]),
        ("a cat\n<lora:ink:1>\non a mat", "a cat\n\non a mat", [("ink", 1.0)]),
        (" a cat ", " a cat ", []),
        ("a <3 cat <b> <lorance> 1 < 2 > 0", "a <3 cat <b> <lorance> 1 < 2 > 0", []),
    ],
)
def test_adapters_leave_the_prompt_and_nothing_else_does(text: str, prompt: str, adapters: list) -> None:
    found = split_networks(text)
    assert found.prompt == prompt
    assert [tuple(each) for each in found.adapters] == adapters


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<lora:ink:0.8:0.5>", "differ; here they are one: write <lora:ink:0.5>"),
        ("<lora:ink:te=0.8:unet=0.5>", "differ"),
        ("<lora:ink:0,8>", "whose weight '0,8' is no number; write <lora:ink:0.8>"),
        ("<lora:ink:strong>", "whose weight 'strong' is no number"),
        ("<lora:ink:1:1:8>", "of which only a name and a weight are known here"),
        ("<lora:ink:1:dyn=8>", "of which only a name and a weight are known here"),
        ("<lora:ink:1", "which is cut off; write <lora:NAME:WEIGHT>"),
        ("<lora:>", "which is cut off"),
        ("<lora:te=1>", "which is cut off"),
        ("<hypernet:anime:1>", "hypernetworks can't be asked for here"),
    ],
)
def test_what_cant_be_done_says_what_to_write_instead(text: str, message: str) -> None:
    with pytest.raises(NetworkError) as caught:
        split_networks(f"a cat {text}")
    assert message in str(caught.value)
    assert text in str(caught.value)


@pytest.mark.parametrize("weight", [1.0, 0.8, -0.35, 0.1 + 0.2, 1 / 3])
def test_adapters_that_are_written_are_read_with_the_very_weight(weight: float) -> None:
    adapters = (AdapterRequest("Ink Wash v1.5", weight), AdapterRequest("clay", None))
    assert split_networks(join_networks("a cat", adapters)) == ("a cat", adapters)
    assert split_networks(join_networks("", adapters)) == ("", adapters)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("Ink Wash v1.5", "Ink Wash v1.5"),
        ("ink  wash V1.5 ", "Ink Wash v1.5"),
        ("Ink Wash v1.5.safetensors", "Ink Wash v1.5"),
        ("inkWash_v15", "Ink Wash v1.5"),
        ("INKWASH_V15.safetensors", "Ink Wash v1.5"),
        ("clay", "clay"),
        ("Clay", "Clay"),
        ("CLAY", None),  # either
        ("Ink Wash v1", None),
        ("someone/ink", None),  # where it comes from is no customer's business
        ("weights/inkWash_v15.safetensors", None),
    ],
)
def test_an_adapter_is_found_as_clients_say_its_name(said: str, meant: str | None) -> None:
    found = build_adapter_finder(ADAPTERS)(said)
    assert (found.name if found else None) == meant


@pytest.mark.parametrize("prompt", ["<lora:detail:1>", "a cat <LoRA:detail>", "x <lyco: a:0.5>"])
def test_where_only_words_are_read_the_way_to_ask_is_said(prompt: str) -> None:
    assert "ask for adapters by `loras` instead" in (find_network(prompt) or "")


@pytest.mark.parametrize("prompt", ["a < b and c > d", "<lorance>", "a <3 cat"])
def test_other_angles_are_words(prompt: str) -> None:
    assert find_network(prompt) is None


@pytest.mark.parametrize("piece", ["<lora:", "<lora:a", "<", "<lora:a:1>", "< lora", "<lora:=:"])
def test_hostile_prompts_take_no_time(piece: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of a second here; a pattern that begins anew at each sign takes more than a minute."""
    monkeypatch.setattr(networks, "MAX_TEXT_CHARACTERS", 400_000)
    prompt = piece * (400_000 // len(piece))
    began = time.thread_time()
    find_network(prompt)
    with suppress(NetworkError):
        split_networks(prompt)
    assert time.thread_time() - began < 20
