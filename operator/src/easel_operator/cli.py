"""``easel``: commands for people, which need no cluster."""

import argparse
import sys
from collections.abc import Sequence

from easel_operator import simulate_command
from easel_operator.usage import UsageError


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 2 where what was asked for can't be done."""
    parser = argparse.ArgumentParser(prog="easel", description="Stable Diffusion on Kubernetes: tools.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    simulate_command.add_to(commands)
    parsed = parser.parse_args(arguments)
    try:
        sys.stdout.write(parsed.run(parsed))
    except UsageError as error:
        sys.stderr.write(f"easel: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
