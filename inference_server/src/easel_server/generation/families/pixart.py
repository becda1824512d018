"""PixArt alpha and sigma: https://github.com/PixArt-alpha/PixArt-sigma"""

from dataclasses import replace
from typing import Final

from easel_server.generation.families.definition import Family

ALPHA: Final = Family(
    name="PixArt alpha",
    pipelines=frozenset({"PixArtAlphaPipeline"}),
    steps=20,  # diffusers' own, and so is the guidance scale
    least_steps=2,  # of a single one it takes what most schedulers, and the model's own, don't give
    guidance_scale=4.5,
    prompt_tokens=120,
)
SIGMA: Final = replace(
    ALPHA, name="PixArt sigma", pipelines=frozenset({"PixArtSigmaPipeline"}), least_steps=1, prompt_tokens=300
)
FAMILIES: Final = (ALPHA, SIGMA)
