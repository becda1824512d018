"""``easel simulate --pool --model-costs``: how many models a pod holds, and what it takes to change to one."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from easel_operator.simulation.pod import ModelCosts, Pool

from easel_cli.errors import UsageError

MAX_MODELS: Final = 1000  # that a pod holds
MAX_COST_SECONDS: Final = 86400.0
COST_COLUMNS: Final = ("model", "switch_seconds", "load_seconds")


def parse_pool(pool: str, costs: str, models: Sequence[str]) -> Pool:
    """``GPU[:RAM]`` models, and ``SWITCH:LOAD`` seconds or a file of them by model. Raises UsageError."""
    try:
        in_gpu, in_ram = (int(number) for number in (pool if ":" in pool else f"{pool}:0").split(":"))
    except ValueError:
        in_gpu, in_ram = 0, 0
    if not (1 <= in_gpu <= MAX_MODELS and 0 <= in_ram <= MAX_MODELS):
        raise UsageError(f"--pool is {pool!r}; GPU[:RAM], 1 to {MAX_MODELS} models and 0 to {MAX_MODELS}, is expected")
    if costs.endswith(".csv"):
        by_model = _read_costs(Path(costs))
        if unknown := [model for model in models if model not in by_model]:
            raise UsageError(f"--model-costs: {costs} says nothing of {', '.join(unknown[:5])}")
        return Pool(in_gpu, in_ram, tuple(by_model[model] for model in models))
    return Pool(in_gpu, in_ram, (_parse_costs(costs.split(":"), "--model-costs"),) * len(models))


def _read_costs(path: Path) -> Mapping[str, ModelCosts]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            rows = csv.DictReader(lines)
            return {
                str(row[COST_COLUMNS[0]]).strip(): _parse_costs(
                    [str(row[name]) for name in COST_COLUMNS[1:]], f"{path}:{rows.line_num}"
                )
                for row in rows
            }
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"--model-costs: can't read {path}: {error}") from None
    except KeyError as error:
        raise UsageError(
            f"--model-costs: {path} has no column {error}; {', '.join(COST_COLUMNS)} are expected"
        ) from None


def _parse_costs(texts: Sequence[str], where: str) -> ModelCosts:
    try:
        switch, load = (float(text) for text in texts)
    except ValueError:
        switch, load = math.nan, math.nan
    if not (0 <= switch <= MAX_COST_SECONDS and 0 <= load <= MAX_COST_SECONDS):
        raise UsageError(f"{where}: {':'.join(texts)!r}; SWITCH:LOAD, each 0 to {MAX_COST_SECONDS:g} s, is expected")
    return ModelCosts(switch, load)
