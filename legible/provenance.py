"""What produced a file: configuration, code, versions, hardware.

`code_fingerprint` is what makes a stage rerun when a module that it imports changes, and only then.
"""

import ast
import hashlib
import os
import platform
import resource
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "open_clip_torch",
    "peft",
    "torchao",
    "bitsandbytes",
    "easyocr",
    "rapidocr",
    "tesserocr",
    "pillow",
    "numpy",
)


@cache
def _module_file(name: str) -> Path | None:
    """The file of a module of this project, None for anything else."""
    path = ROOT.joinpath(*name.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file() and name.split(".")[0] == "legible":
            return candidate
    return None


@cache
def _read(path: Path) -> tuple[str, frozenset[Path]]:
    """Hash of a file's code (comments, docstrings and layout do not count) and the project files it imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = set()
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            imported |= {_module_file(".".join(parts[: i + 1])) for i in range(len(parts))}
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest(), frozenset(imported - {None})


def imported_files(path: str | Path) -> list[Path]:
    """`path` and every file of this project that it imports, directly or not, sorted."""
    seen: set[Path] = set()
    waiting = [Path(path).resolve()]
    while waiting:
        current = waiting.pop()
        if current not in seen:
            seen.add(current)
            waiting.extend(_read(current)[1])
    return sorted(seen)


def code_fingerprint(path: str | Path) -> str:
    """Hash of the code of `path` and of everything in this project that it imports (16 hex digits)."""
    digest = hashlib.sha256()
    for file in imported_files(path):
        digest.update(
            f"{file.relative_to(ROOT) if file.is_relative_to(ROOT) else file.name}={_read(file)[0]}\n".encode()
        )
    return digest.hexdigest()[:16]


def peak_memory_bytes() -> int:
    """Largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def has_gpu() -> bool:
    """Whether this machine has an NVIDIA device; asked without importing torch, which takes seconds."""
    return Path("/dev/nvidia0").exists()


def environment() -> dict[str, object]:
    """Versions and hardware, as they go into provenance files."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {"versions": versions, "machine": machine(), "cores": os.cpu_count()}


def machine() -> str:
    """The processor's (and, where there is one, the GPU's) name."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        name = f"{lines[0]} ({len(lines)} logical cores)" if lines else name
    if os.environ.get("CUDA_VISIBLE_DEVICES") != "":
        try:
            import torch

            if torch.cuda.is_available():
                name += f" + {torch.cuda.get_device_name()}"
        except ImportError:
            pass
    return f"{name}, {platform.system()}"


def decides(script: str | Path, modules: list[str], packages: list[str]) -> dict[str, object]:
    """What of code decides a stage's bytes: the fingerprint, and the versions of packages."""
    return {"code": code_fingerprint(script), "modules": modules, "packages": packages}
