"""``make images``: builds the images with the engine that answers. docs/platform/images.md says what comes of it."""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from images import debian_base, plan
from images.engine import Engine, EngineError, find_engine

ROOT: Final = Path(__file__).resolve().parent.parent
BASE_FILE: Final = ROOT / "images/base.env"
CERTIFICATES: Final = (Path("/etc/ssl/certs/ca-certificates.crt"), Path("/etc/pki/tls/certs/ca-bundle.crt"))


def main() -> None:
    """Console script; ends with 1 and a sentence where an image can't be built."""
    arguments = read_arguments(sys.argv[1:])
    try:
        engine = find_engine()
        if arguments.refresh_base:
            refresh_base(engine)
        else:
            build(engine, arguments)
    except (EngineError, plan.PlanError) as error:
        sys.exit(f"images: {error}")


def read_arguments(words: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make images", description="Builds Easel's container images.")
    names = ", ".join(image.name for image in plan.IMAGES)
    parser.add_argument(
        "--only", default="", metavar="NAMES", help=f"which, with spaces between: {names}; all if left out"
    )
    parser.add_argument(
        "--base",
        choices=["pinned", "debian"],
        default="pinned",
        help="images/base.env's, from its registry, or a stand-in, made of Debian's packages",
    )
    parser.add_argument("--platform", default="", help="such as linux/arm64; the engine's own if left out")
    parser.add_argument("--tag", default="", help="the chart's appVersion if left out")
    parser.add_argument("--no-cache", action="store_true", help="take no step of an earlier build")
    parser.add_argument("--require-digest", action="store_true", help="refuse a base that only a tag names")
    parser.add_argument("--refresh-base", action="store_true", help="write the base's digest into images/base.env")
    return parser.parse_args(words)


def build(engine: Engine, arguments: argparse.Namespace) -> None:
    """Build what is asked for, one after another. Raises EngineError, PlanError."""
    images = plan.choose_images(arguments.only)
    base = plan.read_base(BASE_FILE.read_text())
    if arguments.base == "debian":
        base = debian_base.provide(engine, arguments.platform)
    if arguments.require_digest and not base.digest:
        raise plan.PlanError(
            f"the base is {base.reference} without a digest: `make images-base` writes it into images/base.env"
        )
    source = read_source()
    options = plan.Options(
        tag=arguments.tag or source.version,
        program=engine.program,
        certificates=next((path for path in CERTIFICATES if path.exists()), None),
        index_url=os.environ.get("PIP_INDEX_URL", ""),
        platform=arguments.platform,
        has_cache=not arguments.no_cache,
    )
    for image in images:
        sys.stderr.write(f"images: {plan.name_image(image, options.tag)} of {source.revision}, by {engine.program}\n")
        engine.show(*plan.build_arguments(image, source, base, options))


def read_source() -> plan.Source:
    """The tree as git knows it; SOURCE_DATE_EPOCH decides over the commit's time, as in other builds."""
    version = plan.read_version((ROOT / "helm/easel/Chart.yaml").read_text())
    revision = _git("rev-parse", "HEAD") + ("-dirty" if _git("status", "--porcelain") else "")
    return plan.Source(version, revision, int(os.environ.get("SOURCE_DATE_EPOCH") or _git("log", "-1", "--format=%ct")))


def _git(*words: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise plan.PlanError(
            f"git {words[0]}: {done.stderr.strip()}: images are built from a clone, whose commit they name"
        )
    return done.stdout.strip()


def refresh_base(engine: Engine) -> None:
    """Ask the registry which digest the base's tag has now, and write it into base.env. Raises EngineError."""
    text = BASE_FILE.read_text()
    reference = plan.read_base(text).reference
    engine.show("pull", reference)
    said = engine.call("image", "inspect", "--format", "{{json .RepoDigests}}", reference)
    found = re.search(plan.DIGEST, said)
    if found is None:
        raise EngineError(f"{engine.program} knows no digest of {reference}: {said.strip()}")
    BASE_FILE.write_text(plan.write_base(text, found[0]))
    sys.stderr.write(f"images: {reference} is {found[0]}, now in images/base.env\n")


if __name__ == "__main__":
    main()
