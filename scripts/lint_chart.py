"""kube-score over the chart, with its defaults and with a platform's values, and over the children of services.

What it finds and we keep is in ``chart_lint.yaml``, each with its reason. A finding that isn't there fails, and so does
a reason that nothing needs any more (``make lint-chart``).
"""

import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from easel_contract.resource import ServiceDefaults, StableDiffusionServiceSpec
from easel_operator.manifests.children import build_children
from easel_operator.manifests.metadata import ChildContext, Owner, Release

from demo.cluster import devcluster_binary

ROOT = Path(__file__).parent.parent
PLATFORM = ROOT / "tests/chart/values/platform.yaml"
REASONS = Path(__file__).with_name("chart_lint.yaml")
FULL_MARKS = 10
# Off unless asked for: requests that equal limits are the platform's to choose, and so are ports and profiles; we ask.
OPTIONAL = ("container-seccomp-profile", "container-ports-check")


@dataclass(frozen=True)
class Finding:
    """What kube-score says of one object."""

    source: str
    target: str  # Kind/name
    check: str
    message: str


@dataclass(frozen=True)
class Reason:
    """Why findings of a check on objects are kept; patterns match from the start."""

    check: str
    source: str
    target: str
    message: str
    why: str

    def fits(self, finding: Finding) -> bool:
        """Whether it is this one that keeps a finding."""
        pairs = ((self.source, finding.source), (self.target, finding.target), (self.message, finding.message))
        return self.check == finding.check and all(re.match(pattern, text) for pattern, text in pairs)


def read_reasons() -> list[Reason]:
    """Raises TypeError for one with a field that is missing or unknown."""
    return [
        Reason(**{"source": "", "target": "", "message": "", **entry}) for entry in yaml.safe_load(REASONS.read_text())
    ]


def main() -> None:
    """Ends with status 1 where a finding has no reason, or a reason no finding."""
    findings = [finding for source, manifests in render_all().items() for finding in score(source, manifests)]
    reasons = read_reasons()
    left = [finding for finding in findings if not any(reason.fits(finding) for reason in reasons)]
    unneeded = [reason for reason in reasons if not any(reason.fits(finding) for finding in findings)]
    faults = [f"{each.source}: {each.target}: {each.check}: {each.message}" for each in left]
    faults += [f"{REASONS.name}: nothing needs this reason any more, take it out: {reason}" for reason in unneeded]
    if faults:
        sys.exit("\n".join([*faults, f"Mend what kube-score found, or say in {REASONS.name} why it stays."]))
    sys.stdout.write(f"kube-score: each of {len(findings)} findings has one of {len(reasons)} reasons\n")


def render_all() -> dict[str, str]:
    """Manifests by where they come from."""
    helm = str(Path(devcluster_binary()).parent / "helm")
    chart = [helm, "template", "easel", str(ROOT / "helm/easel"), "--namespace", "easel-system"]
    rendered = {
        "chart": _run(chart),
        "chart of a platform": _run([*chart, "--values", str(PLATFORM)]),
        "children of a platform": build_platform_children(),
    }
    children = {path.stem: path.read_text() for path in sorted((ROOT / "tests/operator/manifests").glob("*.yaml"))}
    return rendered | {f"children {name}": text for name, text in children.items()}


def build_platform_children() -> str:
    """Those of a service that asks for all that there is, where the installation's defaults are a platform's."""
    values = yaml.safe_load(PLATFORM.read_text())
    release = Release(
        worker_image="registry.example.com/easel-worker:1",
        gateway_image="registry.example.com/easel-gateway:1",
        redis_url="redis://redis.easel.svc:6379/0",
        worker_image_pull_policy=values["worker"]["image"]["pullPolicy"],
        gateway_image_pull_policy=values["gateway"]["image"]["pullPolicy"],
        defaults=ServiceDefaults.model_validate(values["defaults"]),
    )
    spec = StableDiffusionServiceSpec.model_validate(
        {
            "model": {"source": {"huggingFace": {"repository": "studio/model"}}, "cache": {"size": "40Gi"}},
            "scaling": {"minReplicas": 2, "maxReplicas": 8},
            "gateway": {"ingress": {"hosts": ["images.example.com"]}},
            "networkPolicy": {},
        }
    )
    context = ChildContext(Owner("studio", "painter", "1"), spec, release, 60)
    return yaml.safe_dump_all(build_children(context, has_hpa=True, is_tolerance_supported=True))


def score(source: str, manifests: str) -> list[Finding]:
    """All that isn't given full marks."""
    kube_score = _run([str(ROOT / "scripts/kube_score.sh")]).strip()
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(manifests)
        file.flush()
        words = [kube_score, "score", "--output-format", "json"]
        words += [word for check in OPTIONAL for word in ("--enable-optional-test", check)]
        done = subprocess.run([*words, file.name], capture_output=True, text=True, check=False)
    try:
        scored: list[dict[str, Any]] = json.loads(done.stdout)
    except json.JSONDecodeError:
        sys.exit(f"kube-score didn't read {source}: {done.stderr or done.stdout}")
    return [
        Finding(
            source,
            f"{each['type_meta']['kind']}/{each['object_meta']['name']}",
            check["check"]["id"],
            f"({comment['path']}) {comment['summary']}" if comment["path"] else comment["summary"],
        )
        for each in scored
        for check in each["checks"]
        if not check["skipped"] and check["grade"] < FULL_MARKS
        for comment in check["comments"] or [{"path": "", "summary": check["check"]["comment"]}]
    ]


def _run(words: list[str]) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{words[0]} failed: {done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
