"""Steady load while everything that can go wrong does, counted from outside: ``make chaos`` on an embedded cluster, and
the parts that ``make soak`` shares. docs/platform/chaos.md says what is promised and what came out.
"""
