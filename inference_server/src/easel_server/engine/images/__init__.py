"""From latents to images, looked at."""
