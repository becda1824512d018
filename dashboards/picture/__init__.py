"""Easel's own plot of a dashboard's JSON: its grid, queries, legends, units and thresholds, by matplotlib.

It isn't Grafana, and doesn't try to look like it in every point. It knows the panels that these dashboards have, and
refuses another.
"""
