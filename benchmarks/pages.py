"""Where a page has figures that a benchmark writes: between two comments, or one row of a table. Pure."""


def replace_part(text: str, name: str, part: str) -> str:
    """``part`` instead of what is between ``<!-- NAME: begin -->`` and its end. ValueError without them."""
    begin, end = (f"<!-- {name}: {side} -->" for side in ("begin", "end"))
    before, found, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found or not found_end:
        raise ValueError(f"the page has no place for the figures of {name}: {begin} and {end} are expected")
    return f"{before}{begin}\n\n{part}\n{end}{after}"


def replace_row(text: str, begin: str, row: str) -> str:
    """``row`` instead of the only line that begins so. ValueError where there is none, or several."""
    lines = text.split("\n")
    places = [place for place, line in enumerate(lines) if line.startswith(begin)]
    if len(places) != 1:
        raise ValueError(f"the page has {len(places)} lines that begin with {begin!r}; one is expected")
    lines[places[0]] = row
    return "\n".join(lines)
