"""Headroom by replay."""
