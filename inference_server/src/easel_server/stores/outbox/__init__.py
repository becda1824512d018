"""Webhooks to be sent, written in the same step as the change that they report."""
