"""Writes the CRD and the reference of its fields from the contract's models (``make crds``); ``--check`` compares."""

import argparse
import json
import sys
from pathlib import Path

import yaml
from easel_contract.crd import build_crd
from easel_contract.crd.reference import build_reference

ROOT = Path(__file__).parent.parent
# The second is the chart's copy: Helm reads nothing outside of a chart.
CRD_FILES = (ROOT / "crds/stablediffusionservices.yaml", ROOT / "helm/easel/files/stablediffusionservices.yaml")
REFERENCE_FILE = ROOT / "docs/reference.md"
HEADER = "# Generated from contract/src/easel_contract by scripts/write_crds.py: change the models, not this file.\n"


def render_crd() -> str:
    """The CustomResourceDefinition as the files hold it."""
    # Through JSON, so that rules which are one object in memory don't become anchors in YAML.
    return HEADER + yaml.safe_dump(json.loads(json.dumps(build_crd())), sort_keys=False, width=120)


def find_stale_files() -> dict[Path, str]:
    """The files that aren't what the models say, with what they should hold."""
    crd = render_crd()
    wanted = {**dict.fromkeys(CRD_FILES, crd), REFERENCE_FILE: build_reference()}
    return {file: text for file, text in wanted.items() if not file.exists() or file.read_text() != text}


def main() -> int:
    """Write or compare. The exit status is 1 where ``--check`` finds a difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only")
    is_check_only = parser.parse_args().check
    stale = find_stale_files()
    for file, text in stale.items():
        if is_check_only:
            sys.stderr.write(f"{file.relative_to(ROOT)} isn't what the models say; run: python scripts/write_crds.py\n")
        else:
            file.write_text(text)
    return 1 if stale and is_check_only else 0


if __name__ == "__main__":
    sys.exit(main())
