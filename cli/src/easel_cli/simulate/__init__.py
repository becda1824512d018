"""``easel simulate``: the files, the arguments and the output around the operator's simulation, which is pure."""
