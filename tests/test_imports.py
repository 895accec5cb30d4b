"""Data flows one way: a module imports only layers below its own. Read from the sources, nothing is imported."""

import ast
import itertools
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {
    "mobileloop": ROOT / "mobileloop",
    "mobileloop_export": ROOT / "export" / "mobileloop_export",
    "mobileloop_bench": ROOT / "runtime_bench" / "mobileloop_bench",
}

# Lowest first. A module belongs to the longest entry that is its name or a package above it.
LAYERS = (
    ("mobileloop.errors",),
    ("mobileloop.spec.config",),
    ("mobileloop.quiet", "mobileloop.process"),
    ("mobileloop.spec.schedule",),
    ("mobileloop.spec.costs",),
    ("mobileloop.quant.schemes",),
    ("mobileloop.checkpoints.checkpoint",),
    ("mobileloop.families.registry",),
    ("mobileloop.checkpoints",),
    ("mobileloop.quant.records", "mobileloop.packed"),
    ("mobileloop.reference.model", "mobileloop.tokenizer"),
    ("mobileloop.artifact",),
    ("mobileloop_export",),
    ("mobileloop.runtimes",),
    ("mobileloop_bench",),
    ("mobileloop.commands", "mobileloop.cli", "mobileloop.__main__"),
)
# Pure markers: a docstring, and a version.
MARKERS = {"mobileloop", "mobileloop.quant"}

# The command line, the exporter of ExecuTorch programs and what checks against the reference may load PyTorch.
TORCH = (
    "mobileloop.reference.model",
    "mobileloop.verify",
    "mobileloop.commands.verify",
    "mobileloop_bench.peers.agreement",
)


def layer(module):
    """Index of a module's layer, or None for a module that no layer names."""
    best, depth = None, -1
    for index, names in enumerate(LAYERS):
        for name in names:
            if (module == name or module.startswith(name + ".")) and len(name) > depth:
                best, depth = index, len(name)
    return best


def modules():
    found = {}
    for package, folder in SOURCES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            if parts[-1] == "__init__":
                parts.pop()
            found[".".join(parts)] = path
    return found


MODULES = modules()


def imports(module):
    """Every module that the source imports, at whatever depth; relative names made absolute."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield whole if whole in MODULES else base


def height(module):
    """The layer's index; what no layer names sits beside the command line, which it serves."""
    if module in MARKERS:
        return -1
    found = layer(module)
    return len(LAYERS) - 1 if found is None else found


def test_the_layers_name_modules_that_exist():
    assert len(MODULES) > 20
    planned = ("mobileloop_bench", "mobileloop.commands", "mobileloop.cli", "mobileloop.__main__")
    for name in itertools.chain(*LAYERS):
        assert name in MODULES or name.startswith(planned), f"there is no module {name}"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_point_downwards(module):
    for imported in imports(module):
        if imported in MODULES:
            assert height(imported) <= height(module), f"{module} imports {imported}, which lies above it"


@pytest.mark.parametrize("module", sorted(m for m in MODULES if m.startswith("mobileloop.checkpoints")))
def test_a_family_is_no_fork_of_the_engine_or_an_exporter(module):
    for imported in imports(module):
        assert not imported.startswith(("mobileloop.runtimes", "mobileloop_export", "mobileloop_bench"))


@pytest.mark.parametrize("module", sorted(MODULES))
def test_torch_stays_where_it_belongs(module):
    if module in TORCH or "executorch" in module:
        return
    loaded = [name for name in imports(module) if name.partition(".")[0] in ("torch", "executorch", "transformers")]
    assert loaded == [], f"{module} imports {loaded}, and PyTorch is an optional extra"


def test_a_runtime_imports_no_other_runtime():
    for module in MODULES:
        if not module.startswith("mobileloop.runtimes.") or module.count(".") > 2:
            continue
        allowed = {f"mobileloop.runtimes{part}" for part in ("", ".base", ".native", ".streaming", ".topology")}
        for imported in imports(module):
            assert not imported.startswith("mobileloop.runtimes") or imported in allowed, (module, imported)
