"""Imports run one way, from the mathematics up to the faces that people meet."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "unveil"

# From the bottom up: a module imports from the layers below its own, and never from its own.
LAYERS: tuple[set[str], ...] = (
    {"shapes", "errors"},
    {"noise", "distributions"},
    {"families", "networks", "chain"},
    {"priors", "posteriors", "likelihoods"},
    {"latent"},
    {"objectives"},
    {"storage", "data", "request"},
    {"tiles", "step", "synthesis"},
    {"units"},
    {"refining"},
    {"training", "evidence", "imputation"},
    {"diagnostics", "baselines"},
    {"inference", "evaluation", "check", "scoring", "conditional"},
    {"log_density"},
    {"registry"},
    {"build"},
    {"settings", "defaults", "feed"},
    {"card", "judge"},
    {"fitted"},
    {"fitting"},
    {"estimators", "figures", "bootstrap"},
    {"report", "explorer"},
    {"cli"},
)

# They move tensors, frames and documents, and know nothing of models: their place among the layers
# says who may use them, and this what they may use.
APART: dict[str, set[str]] = {"storage": {"errors"}, "data": {"errors"}}


def module_of(path: Path) -> str:
    """The module or folder of unveil that a file belongs to; "" for the package's own ``__init__``.

    >>> module_of(SOURCE / "evidence" / "bounds.py"), module_of(SOURCE / "latent.py")
    ('evidence', 'latent')
    """
    first = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def imported(tree: ast.AST, package: tuple[str, ...]) -> Iterator[str]:
    """The dotted names that a file of ``package`` imports, at its top or inside its functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join((*above, *filter(None, [node.module])))
            yield from (f"{base}.{alias.name}" for alias in node.names)


def below(module: str) -> set[str]:
    """The modules that ``module`` may import from."""
    if module in APART:
        return APART[module]
    height = next(height for height, layer in enumerate(LAYERS) if module in layer)
    return set().union(*LAYERS[:height])


def violations(path: Path, source: str) -> list[str]:
    """One sentence for each import in ``source``, the text of ``path``, that goes the wrong way."""
    module = module_of(path)
    package = ("unveil", *path.relative_to(SOURCE).parts[:-1])
    if module and not any(module in layer for layer in LAYERS):
        return [f"{module} stands in no layer: give it its place in LAYERS."]
    allowed = below(module) | {module} if module else set().union(*LAYERS)
    targets = {
        name.split(".")[1] if "." in name else ""
        for name in imported(ast.parse(source), package)
        if name.split(".")[0] == "unveil"
    }
    return [
        f"{module} imports {target or 'the package itself'}, which is not below it."
        for target in sorted(targets - allowed)
    ]


FILES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(SOURCE)) for path in FILES])
def test_imports_run_one_way(path: Path) -> None:
    assert violations(path, path.read_text(encoding="utf-8")) == []


def test_a_module_stands_in_one_layer() -> None:
    assert sum(len(layer) for layer in LAYERS) == len(set().union(*LAYERS))


@pytest.mark.parametrize(
    ("file", "source", "expected"),
    [
        ("priors.py", "from unveil.fitted import fit", ["fitted"]),
        ("priors.py", "import unveil.fitted as f", ["fitted"]),
        ("priors.py", "from unveil import fitted, shapes", ["fitted"]),
        ("priors.py", "from .posteriors import DiagonalGaussian", ["posteriors"]),
        ("priors.py", "def f():\n    from . import training", ["training"]),
        ("priors.py", "import unveil", ["the package itself"]),
        ("evidence/bounds.py", "from ..training import train", ["training"]),
        ("evidence/bounds.py", "from .importance import elbo\nfrom .. import latent", []),
        ("storage.py", "import torch\nfrom unveil.errors import InputError", []),
        ("data/read.py", "from unveil.shapes import Rows", ["shapes"]),
        ("__init__.py", "from unveil.fitted import fit", []),
    ],
)
def test_a_wrong_import_is_caught(file: str, source: str, expected: list[str]) -> None:
    found = violations(SOURCE / file, source)
    assert len(found) == len(expected)
    assert all(target in sentence for target, sentence in zip(expected, found, strict=True))


def test_a_module_without_a_layer_is_caught() -> None:
    assert violations(SOURCE / "novel.py", "") == [
        "novel stands in no layer: give it its place in LAYERS."
    ]
