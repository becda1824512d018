"""AUTOMATIC1111's API, as far as one served model can keep it: what can't be done is refused, never ignored."""
