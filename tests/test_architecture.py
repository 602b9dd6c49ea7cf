"""The import rule of docs/architecture.md and the limits of CONTRIBUTING.md."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PRODUCT = sorted(
    path.relative_to(ROOT)
    for pattern in ("*.py", "llama/**/*.py", "utils/**/*.py", "preprocess/**/*.py")
    for path in ROOT.glob(pattern)
)
TREES = {path: ast.parse((ROOT / path).read_text(encoding="utf-8")) for path in PRODUCT}
IDS = [str(path) for path in PRODUCT]

GROUND = {"llama", "utils.io", "utils.cli", "utils.runtime"}
LIBRARY = GROUND | {"config_HeLLM", "utils.data", "utils.evaluation", "utils.logs", "utils.training"}
PREPROCESS = LIBRARY | {"preprocess", "preprocess.raw", "preprocess.modalities", "preprocess.pretraining"}
PROGRAMS = PREPROCESS | {"utils.planning"}
# Package -> packages that it may import. A package that is missing here has no place in the architecture yet.
ALLOWED = {
    "llama": set(),
    "utils.io": {"llama"},
    "utils.cli": {"llama", "utils.io"},
    "utils.runtime": {"llama", "utils.io"},
    "utils.data": {"llama", "utils.io"},
    "config_HeLLM": {"utils.cli", "utils.runtime"},
    "utils.evaluation": GROUND | {"utils.data"},
    "utils.logs": GROUND | {"config_HeLLM", "utils.data", "utils.evaluation"},
    "utils.training": LIBRARY,
    "utils.planning": LIBRARY,
    "utils.ensemble": LIBRARY,
    "preprocess.raw": GROUND | {"utils.data"},
    "preprocess.modalities": GROUND | {"utils.data", "preprocess.raw"},
    "preprocess.pretraining": LIBRARY,
    "preprocess": PREPROCESS,
    "utils.report": PREPROCESS,
    "utils.recommend": PREPROCESS | {"utils.report"},
    "utils.sweep": PROGRAMS | {"utils.report", "utils.ensemble"},
    "utils.benchmark": PROGRAMS,
    "utils.baselines": PROGRAMS,
    "train_HeLLM": PROGRAMS | {"utils.sweep"},
}
DEFINITIONS = (ast.Import, ast.ImportFrom, ast.ClassDef, ast.FunctionDef, ast.Assign, ast.AnnAssign, ast.AugAssign)
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_PACKED_SHARE = 0.03
MAX_IMPORTS_OF_TRAIN = 30


def package_of(module: str) -> str:
    """Return the package of a dotted module name: a package, or the module itself at the root and in utils."""
    parts = module.split(".")
    if parts[0] in ("utils", "preprocess") and len(parts) > 1:
        candidate = ".".join(parts[:2])
        return candidate if parts[0] == "utils" or (ROOT / parts[0] / parts[1]).is_dir() else "preprocess"
    return parts[0]


def imported_modules(path: Path) -> set[str]:
    """Return the project's modules that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: line {node.lineno}: imports are absolute"
            # `from utils.planning import plan` names a module only together with its last word
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    project = {"llama", "utils", "preprocess", "config_HeLLM", "train_HeLLM"}
    return {name for name in names if name.split(".")[0] in project}


def test_every_package_imports_only_what_the_rule_allows():
    forbidden = []
    for path in PRODUCT:
        package = package_of(".".join(path.with_suffix("").parts))
        for name in imported_modules(path):
            if package_of(name) != package and package_of(name) not in ALLOWED[package]:
                forbidden.append(f"{path} imports {name}")
    assert not forbidden


def test_llama_imports_nothing_of_the_project():
    imported = {name for path in PRODUCT if path.parts[0] == "llama" for name in imported_modules(path)}
    assert not {name for name in imported if package_of(name) != "llama"}


def test_packages_form_no_cycle():
    imports = {package: set() for package in ALLOWED}
    for path in PRODUCT:
        package = package_of(".".join(path.with_suffix("").parts))
        imports.setdefault(package, set()).update(map(package_of, imported_modules(path)))
    for package, targets in imports.items():
        targets.discard(package)
    while imports:
        leaves = [package for package, targets in imports.items() if not targets & imports.keys()]
        assert leaves, f"these packages import each other: {sorted(imports)}"
        for package in leaves:
            del imports[package]


@pytest.mark.parametrize("path", PRODUCT, ids=IDS)
def test_importing_a_module_only_defines_names(path):
    for node in TREES[path].body:
        assert not (isinstance(node, ast.ImportFrom) and node.names[0].name == "*"), f"line {node.lineno}: star import"
        defines = isinstance(node, DEFINITIONS) or _is_docstring(node) or _is_main_guard(node)
        assert defines, f"line {node.lineno}: runs at import"


@pytest.mark.parametrize("path", PRODUCT, ids=IDS)
def test_files_and_functions_are_short(path):
    n_lines = len((ROOT / path).read_text(encoding="utf-8").splitlines())
    assert n_lines <= MAX_FILE_LINES
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno + 1 <= MAX_FUNCTION_LINES, node.name


def test_few_assignments_are_packed():
    """`a, b = x, y` where each could have a line."""
    assignments = [node for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.Assign)]
    packed = [a for a in assignments if isinstance(a.targets[0], ast.Tuple) and isinstance(a.value, ast.Tuple)]
    assert len(packed) <= MAX_PACKED_SHARE * len(assignments)


def test_train_names_few_things_of_the_project():
    path = Path("train_HeLLM.py")
    assert len(imported_modules(path)) <= MAX_IMPORTS_OF_TRAIN


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _is_main_guard(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"
