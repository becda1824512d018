"""``easel``, also as ``kubectl easel``: commands for people who use, run and watch over services.

A command gathers (``cluster/``, files, HTTP), decides (pure functions of what was gathered), and renders. It may import
the contract, and of the operator what is pure; nobody imports it.
"""
