"""Replicate's predictions: https://replicate.com/docs/reference/http"""
