"""The built-in calibration sample: modules of Python's own standard library.

The reference model under `examples/` is trained without these modules, so what is measured on them
is measured on text that it never saw.
"""

import sysconfig
from pathlib import Path

HELD_OUT_FOR_VALIDATION = ("ast", "csv", "optparse", "plistlib", "urllib")
HELD_OUT_FOR_TEST = (
    "argparse",
    "asyncio",
    "configparser",
    "difflib",
    "fractions",
    "heapq",
    "json",
    "mailbox",
    "pathlib",
    "statistics",
    "tarfile",
    "textwrap",
    "zipfile",
)
# Tables of code points and settings: characters without much to learn from.
TABLES = ("encodings", "pydoc_data", "lib2to3")


def standard_library() -> Path:
    """Return the folder of the running interpreter's standard library."""
    return Path(sysconfig.get_path("stdlib"))


def module_files(names: tuple[str, ...]) -> list[Path]:
    """Return the source files of top-level modules or packages but for tests, sorted by path."""
    root = standard_library()
    files: list[Path] = []
    for name in names:
        module = root / f"{name}.py"
        found = [module] if module.is_file() else sorted((root / name).rglob("*.py"))
        files += [file for file in found if not is_test(file.relative_to(root))]
    return sorted(files)


def is_test(relative: Path) -> bool:
    """Whether a path inside the standard library belongs to a test suite."""
    return any(part.startswith(("test", "idle_test")) for part in relative.parts)


def training_files() -> tuple[list[Path], list[Path]]:
    """Return the library's other source files and its tests', those of held-out modules left out.

    They are what the reference model is trained on, and nothing that anything is measured on.
    """
    root = standard_library()
    held_out = set(HELD_OUT_FOR_VALIDATION + HELD_OUT_FOR_TEST)
    library: list[Path] = []
    tests: list[Path] = []
    for file in sorted(root.rglob("*.py")):
        relative = file.relative_to(root)
        words = {word for part in relative.parts for word in part.removesuffix(".py").split("_")}
        inside = set(relative.parts) & {"site-packages", "dist-packages"}
        if inside or relative.parts[0] in TABLES or words & held_out:
            continue
        if relative.name.startswith("_sysconfigdata"):
            continue
        (tests if is_test(relative) else library).append(file)
    return library, tests


def read_documents() -> list[str]:
    """Return the sample's documents: one for each held-out source file, sorted by path."""
    files = module_files(HELD_OUT_FOR_VALIDATION + HELD_OUT_FOR_TEST)
    return [file.read_text(encoding="utf-8") for file in files]


def training_documents() -> list[str]:
    """Return the documents that the reference model is trained on, without the library's tests."""
    library, _ = training_files()
    return [file.read_text(encoding="utf-8", errors="replace") for file in library]
