"""A safety checker of the real class, at a tiny width, with random weights from a fixed seed."""

import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPConfig, CLIPImageProcessor

SEED = 20240301
SIDE_PIXELS = 32
EVERYTHING, NOTHING = -2.0, 2.0  # thresholds that every cosine is above, or none


def build_safety_checker(threshold: float) -> StableDiffusionSafetyChecker:
    """It flags an image where any concept's cosine is above the threshold."""
    torch.manual_seed(SEED)
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": SIDE_PIXELS,
        "patch_size": 8,
        "projection_dim": 16,
    }
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=16))
    with torch.no_grad():
        checker.concept_embeds.copy_(torch.randn_like(checker.concept_embeds))
        checker.special_care_embeds.copy_(torch.randn_like(checker.special_care_embeds))
        checker.special_care_embeds_weights.fill_(NOTHING)
        checker.concept_embeds_weights.fill_(threshold)
    return checker.eval()


def build_feature_extractor() -> CLIPImageProcessor:
    """What makes a checker's input of images."""
    side = {"height": SIDE_PIXELS, "width": SIDE_PIXELS}
    return CLIPImageProcessor(size={"shortest_edge": SIDE_PIXELS}, crop_size=side)
