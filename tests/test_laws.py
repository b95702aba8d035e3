"""Laws that can be read off the source: where randomness comes from, what is loaded, who prints."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "unveil"
FILES = sorted(SOURCE.rglob("*.py"))

NO_CODE_ON_LOAD = "a saved model is tensors and JSON, and loading one runs no code"
NO_GLOBAL_RANDOMNESS = "randomness enters as a seed and is drawn from a generator of its own"
NO_PRINTING = "only the command line prints; the library tells a callback"
NO_GLOBAL_SETTINGS = "library code leaves torch's settings as its user chose them"
NO_HIDDEN_DRAW = "draws go through distributions.draw or posterior.push, from a given generator"

# A name stands for everything below it: "torch.random" forbids torch.random.fork_rng too.
FORBIDDEN = {
    "pickle": NO_CODE_ON_LOAD,
    "cloudpickle": NO_CODE_ON_LOAD,
    "dill": NO_CODE_ON_LOAD,
    "joblib": NO_CODE_ON_LOAD,
    "marshal": NO_CODE_ON_LOAD,
    "shelve": NO_CODE_ON_LOAD,
    "torch.load": NO_CODE_ON_LOAD,
    "torch.save": NO_CODE_ON_LOAD,
    "eval": NO_CODE_ON_LOAD,
    "exec": NO_CODE_ON_LOAD,
    "torch.manual_seed": NO_GLOBAL_RANDOMNESS,
    "torch.seed": NO_GLOBAL_RANDOMNESS,
    "torch.random": NO_GLOBAL_RANDOMNESS,
    "torch.set_rng_state": NO_GLOBAL_RANDOMNESS,
    "torch.cuda.manual_seed": NO_GLOBAL_RANDOMNESS,
    "torch.cuda.manual_seed_all": NO_GLOBAL_RANDOMNESS,
    "numpy.random.seed": NO_GLOBAL_RANDOMNESS,
    "numpy.random.set_state": NO_GLOBAL_RANDOMNESS,
    "random": NO_GLOBAL_RANDOMNESS,
    "torch.set_num_threads": NO_GLOBAL_SETTINGS,
    "torch.set_default_dtype": NO_GLOBAL_SETTINGS,
    "torch.set_default_device": NO_GLOBAL_SETTINGS,
    "torch.use_deterministic_algorithms": NO_GLOBAL_SETTINGS,
    "print": NO_PRINTING,
}

# torch's own draws, which take a generator or else move global state.
DRAWS = {"rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "uniform_"}

# The command line prints, and a fitted model's own ``sample`` is a verb that takes a seed.
MAY_PRINT = {"cli"}
MAY_SAMPLE = {"fitted", "estimators", "figures", "report", "explorer", "cli"}


def aliases(tree: ast.AST) -> dict[str, str]:
    """What each imported name stands for: ``np`` for numpy, ``load`` for torch.load."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {a.asname or a.name.split(".")[0]: a.name for a in node.names if a.asname}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return names


def dotted(node: ast.AST) -> str | None:
    """``a.b.c`` as text, where the node is a name or an attribute of one."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (base := dotted(node.value)):
        return f"{base}.{node.attr}"
    return None


def used(tree: ast.AST) -> Iterator[str]:
    """Every dotted name that a file imports or uses, by its full name."""
    names = aliases(tree)
    yield from names.values()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif text := dotted(node):
            first, _, rest = text.partition(".")
            yield ".".join(filter(None, [names.get(first, first), rest]))


def hidden_draws(tree: ast.AST) -> list[str]:
    return [
        f"line {node.lineno} calls .{node.func.attr}(): {NO_HIDDEN_DRAW}."
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in {"sample", "rsample", "sample_n", "rsample_n"}
    ]


def draws_without_generator(tree: ast.AST) -> list[str]:
    return [
        f"line {node.lineno} calls {text} without a generator: {NO_GLOBAL_RANDOMNESS}."
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and (text := dotted(node.func) or "").startswith(("torch.", "nn.init."))
        and text.rpartition(".")[2] in DRAWS
        and not any(keyword.arg == "generator" for keyword in node.keywords)
    ]


def unpickling(tree: ast.AST) -> list[str]:
    return [
        f"line {node.value.lineno} allows pickle: {NO_CODE_ON_LOAD}."
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword)
        and node.arg == "allow_pickle"
        and not (isinstance(node.value, ast.Constant) and node.value.value is False)
    ]


def violations(module: str, source: str) -> list[str]:
    """One sentence for each law that ``source``, a file of ``module``, breaks."""
    tree = ast.parse(source)
    broken = {
        name: law
        for name, law in FORBIDDEN.items()
        if any(text == name or text.startswith(name + ".") for text in used(tree))
        and not (law is NO_PRINTING and module in MAY_PRINT)
    }
    sentences = [f"{name} is used: {law}." for name, law in broken.items()]
    sentences += draws_without_generator(tree)
    return sentences + unpickling(tree) + ([] if module in MAY_SAMPLE else hidden_draws(tree))


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(SOURCE)) for path in FILES])
def test_the_source_keeps_the_laws(path: Path) -> None:
    module = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    assert violations(module, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("source", "law"),
    [
        ("import pickle", NO_CODE_ON_LOAD),
        ("from pickle import loads", NO_CODE_ON_LOAD),
        ("import torch as t\nt.load('f')", NO_CODE_ON_LOAD),
        ("from torch import save as keep\nkeep(1, 'f')", NO_CODE_ON_LOAD),
        ("import numpy as np\nnp.load('f', allow_pickle=True)", NO_CODE_ON_LOAD),
        ("eval('1')", NO_CODE_ON_LOAD),
        ("import torch\ntorch.manual_seed(0)", NO_GLOBAL_RANDOMNESS),
        ("import torch.random", NO_GLOBAL_RANDOMNESS),
        ("import numpy as np\nnp.random.seed(0)", NO_GLOBAL_RANDOMNESS),
        ("from numpy import random as r\nr.seed(0)", NO_GLOBAL_RANDOMNESS),
        ("import random\nrandom.random()", NO_GLOBAL_RANDOMNESS),
        ("def f(progress=print): ...", NO_PRINTING),
        ("q.rsample()", NO_HIDDEN_DRAW),
        ("model.posterior(x).sample((5,))", NO_HIDDEN_DRAW),
    ],
)
def test_a_broken_law_is_caught(source: str, law: str) -> None:
    sentences = violations("evidence", source)
    assert len(sentences) == 1
    assert law in sentences[0]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("cli", "print('done')"),
        ("cli", "fitted.sample(10)"),
        ("noise", "import torch\ntorch.Generator().manual_seed(0)"),
        ("noise", "import numpy as np\nnp.random.Generator(np.random.Philox(key=1))"),
        ("training", "model.eval()\nconsole.print('done')"),
        ("data", "import numpy as np\nnp.load('f', allow_pickle=False)"),
    ],
)
def test_what_the_laws_allow_passes(module: str, source: str) -> None:
    assert violations(module, source) == []
