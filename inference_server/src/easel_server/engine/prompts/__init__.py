"""Prompts as text encoders take them: in chunks, with weights."""
