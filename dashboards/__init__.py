"""Grafana dashboards as code: what the chart installs, written to ``helm/easel/dashboards/`` by ``dashboards.write``.

What a panel asks is here; names of metrics come from the contract. Nothing here talks to a Grafana or a Prometheus but
``picture``, which plots a dashboard's panels for those who have no Grafana at hand.
"""
