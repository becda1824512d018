"""Easel."""
