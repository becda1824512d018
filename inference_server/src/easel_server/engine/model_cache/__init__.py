"""A volume with models of the Hub for many workers: filled once (``filling.py``), recorded, and read (``record.py``).

hub/                     the Hub client's own layout: what an attempt began, the next goes on with; its blobs are shared
                         by all models that are kept
easel/RECORD.lock        held by whoever fills this record; the kernel lets go of it when its holder dies
easel/RECORD.json        which commits and files it is, written last
"""
