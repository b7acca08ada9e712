"""Install the torch that constraints.txt pins, without CUDA packages where there is no GPU.

Run it with the environment's own Python, before anything that depends on torch. PyPI's Linux wheel
of torch brings gigabytes of CUDA packages; PyTorch's CPU index has the same version without them.
The dependencies of torch are left to the install that follows, which pins them.
"""

import argparse
import importlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

CONSTRAINTS = Path(__file__).parent.parent / "constraints.txt"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-deps")


def pinned_torch() -> str:
    """Return the pin of torch, such as `torch==2.13.0`."""
    return next(
        line for line in CONSTRAINTS.read_text().splitlines() if line.startswith("torch==")
    )


def has_gpu() -> bool:
    """Say whether NVIDIA's driver answers for a GPU."""
    if shutil.which("nvidia-smi") is None:
        return False
    return subprocess.run(["nvidia-smi"], capture_output=True, check=False).returncode == 0


def needs_cuda(requirements: Sequence[str]) -> bool:
    """Say whether a wheel's requirements name a CUDA package."""
    return any(re.match(r"(nvidia|cuda)-", requirement) for requirement in requirements)


def candidate_requirements(requirement: str) -> list[str]:
    """Return what the wheel that pip would choose requires; reads metadata, downloads no wheel."""
    dry_run = [*PIP, "--quiet", "--dry-run", "--ignore-installed", "--report", "-", requirement]
    report = subprocess.run(dry_run, stdout=subprocess.PIPE, check=True).stdout
    (chosen,) = json.loads(report)["install"]
    return list(chosen["metadata"].get("requires_dist", []))


def installed_torch_needs_cuda() -> bool:
    """Say whether the torch of this environment requires CUDA packages."""
    importlib.invalidate_caches()
    return needs_cuda(metadata.requires("torch") or [])


def main() -> None:
    """Install torch, then make sure that it is the kind this machine can use."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--for",
        dest="device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="the machine that it will run on, where that is not this one",
    )
    device = parser.parse_args().device
    requirement = pinned_torch()
    on_cpu = device == "cpu" or (device == "auto" and not has_gpu())
    from_cpu_index = on_cpu and needs_cuda(candidate_requirements(requirement))
    index = ["--index-url", CPU_INDEX] if from_cpu_index else []
    subprocess.run([*PIP, *index, requirement], check=True)
    if on_cpu and installed_torch_needs_cuda():
        sys.exit(
            "install_torch: no GPU answers, but the installed torch requires CUDA packages. "
            "Remove the environment (.venv) and run this again."
        )


if __name__ == "__main__":
    main()
