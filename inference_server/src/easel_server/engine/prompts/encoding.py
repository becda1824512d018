"""Prompts longer than a CLIP encoder takes, and with weights, for every pipeline that encodes them with CLIP.

What a pipeline's ``encode_prompt`` gives is made here for prompts that it would cut, or whose signs it would take as
words; it is given that instead of a text then, and does the rest: so this holds for all pipelines of a family, whatever
their task. A prompt that is short and plain goes to the pipeline's own encoding, to the byte.

Weights are AUTOMATIC1111's: each chunk's embeddings are multiplied by their tokens' weights, and then all of them by
one number, so that their mean is what it was. The pooled embedding of models that have one is the first chunk's,
without weights. Of prompt and negative prompt the shorter one is filled up with chunks without words. Clip skip
(``clip_skip`` of the call) holds for both of them; pipelines themselves leave it out for the negative one.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from easel_server.engine.prompts.chunks import Chunk, Chunks, build_chunks
from easel_server.generation.prompts.syntax import ParsedPrompt, parse_prompt

CLIP_MODELS: Final = frozenset({"CLIPTextModel", "CLIPTextModelWithProjection"})
EMBEDDINGS: Final = ("prompt_embeds", "negative_prompt_embeds")
POOLED: Final = ("pooled_prompt_embeds", "negative_pooled_prompt_embeds")
SEQUENCE_LENGTH: Final = "max_sequence_length"
# A mean that is this much less than what it is made of is rounding, and no measure of anything.
NO_MEAN: Final = 1e-4


@dataclass(frozen=True)
class Encoded:
    """A prompt: [1, tokens, width], and pooled [1, width] of encoders that give it."""

    embeddings: torch.Tensor
    pooled: torch.Tensor | None


class ClipEncoding:
    """The CLIP encoders of a pipeline, and how its family takes what they give.

    Three forms are known, by the components: a single encoder, whose last layer is taken, through its final norm
    (Stable Diffusion 1.x and 2.x, LCM); one or two of which the last layer but one is taken as it is, beside each other
    (XL and its refiner); and those with T5 behind them (3).
    """

    def __init__(self, pipeline: Any) -> None:
        numbers = [number for number in ("", "_2") if _is_clip(getattr(pipeline, f"text_encoder{number}", None))]
        self._encoders = [
            (getattr(pipeline, f"tokenizer{number}"), getattr(pipeline, f"text_encoder{number}")) for number in numbers
        ]
        self._is_normed = numbers == [""]
        self._has_t5 = hasattr(pipeline, "text_encoder_3")

    def cut(self, prompt: str) -> Chunks:
        """As the first encoder has it; all of them have the same words and as many tokens."""
        return build_chunks(parse_prompt(prompt), self._encoders[0][0])

    def is_stock(self, prompt: str | None) -> bool:
        """Whether the pipeline's own encoding of a prompt is what is meant."""
        if not prompt:
            return True
        parsed = parse_prompt(prompt)
        if not parsed.is_plain(prompt):
            return False
        tokenizer = self._encoders[0][0]
        room = tokenizer.model_max_length - tokenizer.num_special_tokens_to_add()
        # A token is a byte at the least.
        return len(prompt.encode()) <= room or len(build_chunks(parsed, tokenizer).chunks) == 1

    def encode(self, pipeline: Any, prompts: Sequence[str], options: Mapping[str, Any]) -> list[Encoded]:
        """Prompts, all as long as the longest. ``options`` are the arguments of ``encode_prompt``."""
        parsed = [parse_prompt(prompt) for prompt in prompts]
        skipped = options.get("clip_skip") or 0
        if any(skipped >= encoder.config.num_hidden_layers for _, encoder in self._encoders):
            raise ValueError(f"a text encoder has no {skipped} layers that could be left out")
        parts = [self._encode_with(*encoder, parsed, skipped, options["device"]) for encoder in self._encoders]
        encoded = [self._join([part[number] for part in parts]) for number in range(len(prompts))]
        if not self._has_t5:
            return encoded
        return [
            self._append_t5(pipeline, each, words.text, options) for each, words in zip(encoded, parsed, strict=True)
        ]  # which is made for each image, as that family's pipelines don't repeat what they are given

    def _encode_with(
        self, tokenizer: Any, encoder: Any, prompts: Sequence[ParsedPrompt], skipped: int, device: Any
    ) -> list[Encoded]:
        cut = [build_chunks(prompt, tokenizer).chunks for prompt in prompts]
        longest = max(map(len, cut))
        [empty] = build_chunks(parse_prompt(""), tokenizer).chunks
        known: dict[Chunk, Encoded] = {}
        for chunk in (chunk for chunks in cut for chunk in (*chunks, *((empty,) if len(chunks) < longest else ()))):
            if chunk not in known:
                known[chunk] = self._encode_chunk(chunk, encoder, skipped, device)
        return [
            Encoded(
                torch.cat([known[chunk].embeddings for chunk in (*chunks, *(empty,) * (longest - len(chunks)))], dim=1),
                known[chunks[0]].pooled,
            )
            for chunks in cut
        ]

    def _encode_chunk(self, chunk: Chunk, encoder: Any, skipped: int, device: Any) -> Encoded:
        ids = torch.tensor([chunk.ids], device=device)
        if not self._is_normed:
            output = encoder(ids, output_hidden_states=True)
            pooled = output[0] if output[0].ndim == 2 else None
            return Encoded(apply_weights(output.hidden_states[-(skipped + 2)], chunk.weights), pooled)
        mask = None
        if getattr(encoder.config, "use_attention_mask", False):  # as the pipelines look for it
            mask = torch.tensor([_mask(chunk, encoder.config.eos_token_id)], device=device)
        if not skipped:
            return Encoded(apply_weights(encoder(ids, attention_mask=mask)[0], chunk.weights), None)
        hidden = encoder(ids, attention_mask=mask, output_hidden_states=True)[-1][-(skipped + 1)]
        return Encoded(apply_weights(find_text_model(encoder).final_layer_norm(hidden), chunk.weights), None)

    @staticmethod
    def _join(parts: Sequence[Encoded]) -> Encoded:
        pooled = [part.pooled for part in parts if part.pooled is not None]
        return Encoded(
            torch.cat([part.embeddings for part in parts], dim=-1), torch.cat(pooled, -1) if pooled else None
        )

    @staticmethod
    def _append_t5(pipeline: Any, encoded: Encoded, words: str, options: Mapping[str, Any]) -> Encoded:
        length = {SEQUENCE_LENGTH: options[SEQUENCE_LENGTH]} if SEQUENCE_LENGTH in options else {}
        t5 = pipeline._get_t5_prompt_embeds(words, device=options["device"], **length)
        wide = torch.nn.functional.pad(encoded.embeddings, (0, t5.shape[-1] - encoded.embeddings.shape[-1]))
        images = options.get("num_images_per_prompt") or 1
        pooled = None if encoded.pooled is None else encoded.pooled.repeat(images, 1)
        return Encoded(torch.cat([wide.to(t5.dtype), t5], dim=-2).repeat(images, 1, 1), pooled)


def find_encoding(pipeline: Any) -> ClipEncoding | None:
    """Of a pipeline whose prompts are encoded by CLIP token by token; None for others.

    Flux takes CLIP's pooled embedding alone, in which there is room for neither chunks nor weights.
    """
    takes = _find_names(pipeline)
    first = getattr(pipeline, "text_encoder", None) or getattr(pipeline, "text_encoder_2", None)
    if not _is_clip(first) or not {"clip_skip", *EMBEDDINGS} <= takes:
        return None
    return ClipEncoding(pipeline)


def encode_prompt(encoding: ClipEncoding, pipeline: Any, encode: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    """What the pipeline's own ``encode_prompt`` (``encode``) gives for these arguments, all of them by their names."""
    prompt, negative = options.get("prompt"), options.get("negative_prompt")
    if not isinstance(prompt, str) or not isinstance(negative, str | None):
        return encode(**options)
    if any(options.get(name) is not None for name in (*EMBEDDINGS, "prompt_2", "prompt_3")):
        return encode(**options)
    if encoding.is_stock(prompt) and encoding.is_stock(negative) and not options.get("clip_skip"):
        return encode(**options)
    is_guided = bool(options.get("do_classifier_free_guidance"))
    # Stable Diffusion XL's base takes zeros for no negative prompt, of the same length.
    is_zero = negative is None and getattr(pipeline.config, "force_zeros_for_empty_prompt", False)
    prompts = [prompt, negative or ""] if is_guided and not is_zero else [prompt]
    device = options.get("device") or pipeline._execution_device
    encoded = encoding.encode(pipeline, prompts, {**options, "device": device})
    if is_guided and is_zero:
        [one] = encoded
        pooled = None if one.pooled is None else torch.zeros_like(one.pooled)
        encoded = [one, Encoded(torch.zeros_like(one.embeddings), pooled)]
    given = {name: each.embeddings for name, each in zip(EMBEDDINGS, encoded, strict=False)}
    given |= {name: each.pooled for name, each in zip(POOLED, encoded, strict=False) if each.pooled is not None}
    return encode(**{**options, "prompt": None, "negative_prompt": None, **given})


def apply_weights(embeddings: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    """[1, tokens, width] with a weight for each token; as they are where all of these are 1.

    The mean of all numbers is then made what it was. Where it is next to nothing, as behind a norm without bias, there
    is nothing to measure by, and it is left.
    """
    if all(weight == 1 for weight in weights):
        return embeddings
    before = embeddings.float()
    after = before * torch.tensor(weights, device=embeddings.device)[None, :, None]
    least = NO_MEAN * before.abs().mean()
    is_measure = (before.mean().abs() > least) & (after.mean().abs() > least)
    scale = torch.where(is_measure, before.mean() / after.mean(), torch.ones((), device=embeddings.device))
    return (after * scale).to(embeddings.dtype)


def find_text_model(encoder: Any) -> Any:
    """The part of a CLIP model that has its layers."""
    return getattr(encoder, "text_model", encoder)


def _is_clip(encoder: Any) -> bool:
    return type(encoder).__name__ in CLIP_MODELS


def _mask(chunk: Chunk, end: int) -> list[int]:
    words = chunk.ids.index(end) + 1 if end in chunk.ids else len(chunk.ids)
    return [1] * words + [0] * (len(chunk.ids) - words)


def _find_names(pipeline: Any) -> set[str]:
    encode = getattr(type(pipeline), "encode_prompt", None)
    return set(inspect.signature(encode).parameters) if encode is not None else set()
