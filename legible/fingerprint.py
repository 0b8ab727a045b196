"""Fingerprints of code: what of a file decides the bytes that a job writes, and which files a script uses.

Neutral, so that rewording costs nobody a training: comments, docstrings, layout, annotations, the arguments of
exceptions, what is printed, warned, logged or refused (`must_be_…`, as a statement), labels of progress, help texts of
options and of configuration keys; and statements that only hold a file against its checksum.
"""

import ast
import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# They let a file be as it is, or refuse it: so does a statement that calls a function of theirs.
CHECKING = {"legible.integrity", "legible.models.download"}
# They speak to people, say what was used, or when a checkpoint is written; the pre-flight and what is allowed refuse a
# run, or let it be as it is.
SILENT = ("cluster", "config.allowed", "errors", "fingerprint", "progress", "provenance", "wording")
SILENT = {f"legible.{name}" for name in (*SILENT, "train.budget", "train.preflight")} | CHECKING
# Keyword arguments that only people read, by the last name of what is called.
WORDS = {
    "Field": {"description", "title", "examples"},
    "ArgumentParser": {"description", "epilog", "formatter_class", "usage"},
    "add_argument": {"help", "metavar"},
    "add_argument_group": {"title", "description"},
}
SPEAKERS = {"logger", "logging", "warnings"}  # whose methods, called as a statement, only say something
VALIDATORS = {"field_validator", "model_validator"}


@cache
def module_file(name: str) -> Path | None:
    """The file of a module of this project, None for anything else."""
    path = ROOT.joinpath(*name.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file() and name.split(".")[0] == "legible":
            return candidate
    return None


def used_files(script: str | Path, modules: Iterable[str] = ()) -> list[Path]:
    """`script`, the files of `modules`, and every file of this project that one of them imports, sorted."""
    silent = {module_file(name) for name in SILENT}
    seen: set[Path] = set()
    waiting = [Path(script).resolve(), *_files_of(modules)]
    while waiting:
        current = waiting.pop()
        if current not in seen and current not in silent:
            seen.add(current)
            waiting.extend(_read(current)[1])
    return sorted(seen)


@cache
def _fingerprint(script: str | Path, modules: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for file in used_files(script, modules):
        name = file.relative_to(ROOT) if file.is_relative_to(ROOT) else file.name
        digest.update(f"{name}={_read(file)[0]}\n".encode())
    return digest.hexdigest()[:16]


def code_fingerprint(script: str | Path, *modules: str) -> str:
    """Hash of the code that decides what `script` writes when it opens `modules` by name (16 hex digits).

    Raises:
        ValueError: one of the modules is not this project's.
    """
    return _fingerprint(script, tuple(sorted(set(modules))))


def _files_of(modules: Iterable[str]) -> list[Path]:
    """The files of modules and of the packages that they lie in, which are imported before them."""
    found = []
    for module in modules:
        if module_file(module) is None:
            raise ValueError(f"{module}: no module of this project")
        parts = module.split(".")
        found += [module_file(".".join(parts[: i + 1])) for i in range(len(parts))]
    return [file for file in found if file]


@cache
def _read(path: Path) -> tuple[str, frozenset[Path]]:
    """Hash of what decides in a file, and the project files that it imports."""
    decisive = Decisive(path.is_relative_to(ROOT / "legible" / "config"))
    tree = decisive.visit(ast.parse(path.read_text(encoding="utf-8")))
    files: set[Path | None] = set()
    for name, _ in decisive.imports:
        parts = name.split(".")
        files |= {module_file(".".join(parts[: i + 1])) for i in range(len(parts))}
    # Where an import stands does not matter, and one whose name is left to annotations only is not used.
    used = {f"{name} as {bound}" for name, bound in decisive.imports if bound in decisive.names or bound == "*"}
    text = "\n".join([*sorted(used), ast.unparse(tree)])
    return hashlib.sha256(text.encode()).hexdigest(), frozenset(files - {None})


class Decisive(ast.NodeTransformer):
    """A tree without what is neutral, and without its imports, which are collected.

    Of the configuration (`settings`) only functions and properties count: the values of its keys reach a job as
    parameters, and its registries by the modules that they name.
    """

    def __init__(self, settings: bool) -> None:
        self.settings = settings
        self.imports: list[tuple[str, str]] = []  # (dotted name, name that it binds)
        self.names: set[str] = set()  # that the rest uses

    def visit_Name(self, node: ast.Name) -> ast.Name:
        self.names.add(node.id)
        return node

    def visit_Import(self, node: ast.Import) -> None:
        self.imports += [(alias.name, alias.asname or alias.name.partition(".")[0]) for alias in node.names]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self.imports += [(f"{node.module}.{alias.name}", alias.asname or alias.name) for alias in node.names]

    def visit_Pass(self, node: ast.Pass) -> None:
        """Dropped: what is left of a block may be empty, as the text is only hashed."""

    def visit_Module(self, node: ast.Module) -> ast.AST:
        if self.settings:
            kept = (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)
            node.body = [statement for statement in node.body if isinstance(statement, kept)]
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        # In a class an annotation makes a field: the field stays, its annotation is neutral.
        for statement in node.body:
            if isinstance(statement, ast.AnnAssign):
                statement.annotation = ast.Constant(...)
        node = self.visit_Module(node)
        return node if node.body or not self.settings else None

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST | None:
        if self.settings and {_last_name(decorator) for decorator in node.decorator_list} & VALIDATORS:
            return None
        node.returns = None
        return self.generic_visit(node)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        if not (isinstance(node.annotation, ast.Constant) and node.annotation.value is ...):
            node = ast.Assign([node.target], node.value, lineno=node.lineno) if node.value else None
        return self.generic_visit(node) if node else None

    def visit_Raise(self, node: ast.Raise) -> ast.Raise:
        if isinstance(node.exc, ast.Call):
            node.exc = node.exc.func
        node.cause = None
        return self.generic_visit(node)

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        node.msg = None
        return self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        if isinstance(node.value, ast.Constant):
            return None
        if isinstance(node.value, ast.Call) and (_only_speaks(node.value) or self._only_checks(node.value)):
            return None
        return self.generic_visit(node)

    def _only_checks(self, call: ast.Call) -> bool:
        """Whether a call, made as a statement, only holds a file against its checksum."""
        name = getattr(call.func, "id", "")
        return any(bound == name and dotted.rpartition(".")[0] in CHECKING for dotted, bound in self.imports)

    def visit_If(self, node: ast.If) -> ast.AST:
        if _last_name(node.test) == "TYPE_CHECKING":
            node.body = []
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        name = _last_name(node.func)
        if name == "progress" and node.args:
            return self.visit(node.args[0])
        node.keywords = [keyword for keyword in node.keywords if keyword.arg not in WORDS.get(name, ())]
        return self.generic_visit(node)


def _last_name(node: ast.AST) -> str:
    """`b` of a.b, of b and of a.b(…); empty for anything else."""
    if isinstance(node, ast.Call):
        return _last_name(node.func)
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _only_speaks(call: ast.Call) -> bool:
    """Whether a call, made as a statement, prints, warns, logs, or refuses (must_be_…)."""
    if isinstance(call.func, ast.Name) and call.func.id.startswith("must_be_"):
        return True
    if isinstance(call.func, ast.Name) and call.func.id == "print":
        # Printing into a file decides its bytes.
        return all(_last_name(k.value) in ("stderr", "stdout") for k in call.keywords if k.arg == "file")
    return isinstance(call.func, ast.Attribute) and _last_name(call.func.value) in SPEAKERS
