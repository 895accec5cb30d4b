"""Data flows one way: a module imports only layers below its own. Read from the sources, nothing is imported."""

import ast
import graphlib
import itertools
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {
    "mobileloop": ROOT / "mobileloop",
    "mobileloop_export": ROOT / "export" / "mobileloop_export",
    "mobileloop_bench": ROOT / "runtime_bench" / "mobileloop_bench",
}

# Ground first. A module belongs to the longest entry that is its name or a package above it, and imports what lies in
# the same entry or in a lower layer. Entries of one layer do not know each other.
LAYERS = (
    ("mobileloop.errors", "mobileloop.quiet", "mobileloop.process", "mobileloop.console"),
    ("mobileloop.files", "mobileloop.json_tokenizer", "mobileloop.unigram"),
    ("mobileloop.spec",),
    ("mobileloop.model",),
    ("mobileloop.quant.schemes",),
    ("mobileloop.families",),
    ("mobileloop.checkpoints",),
    ("mobileloop.chat", "mobileloop.detokenize", "mobileloop.normal_form"),
    ("mobileloop.quant.records", "mobileloop.quant.search", "mobileloop.tokenizer"),
    ("mobileloop.packed", "mobileloop.quant.feedback"),
    ("mobileloop.artifact", "mobileloop.reference", "mobileloop.decode", "mobileloop.quant.budget"),
    ("mobileloop.quant.calibrate", "mobileloop.quant.sensitivity", "mobileloop.quant.price"),
    ("mobileloop.quant.fit",),
    ("mobileloop.runtimes", "mobileloop_export"),
    ("mobileloop.verify",),
    ("mobileloop_bench.writing",),
    ("mobileloop_bench.machine",),
    ("mobileloop_bench.bandwidth",),
    ("mobileloop_bench.results", "mobileloop_bench.simulate"),
    ("mobileloop_bench.timemodel",),
    ("mobileloop_bench.report",),
    ("mobileloop_bench.measure",),
    ("mobileloop_bench.devices", "mobileloop_bench.peers"),
    ("mobileloop_bench.checks",),
    ("mobileloop.commands.options",),
    ("mobileloop.commands", "mobileloop_export.commands"),
    ("mobileloop_bench.commands",),
    ("mobileloop.cli",),
)
# Pure markers: a docstring, and a version.
MARKERS = {
    "mobileloop",
    "mobileloop.chat",
    "mobileloop.data",
    "mobileloop.quant",
    "mobileloop_export",
    "mobileloop_bench",
}

# The command line, the exporter of ExecuTorch programs and what checks against the reference may load PyTorch.
TORCH = (
    "mobileloop.checkpoints.unpickle",
    "mobileloop.reference.cache",
    "mobileloop.reference.layers",
    "mobileloop.reference.model",
    "mobileloop.quant.calibrate",
    "mobileloop.quant.sensitivity",
    "mobileloop.quant.price",
    "mobileloop.verify",
    "mobileloop.commands.verify",
    "mobileloop_bench.peers.agreement",
    "mobileloop_bench.checks.quantization",
)


# Where an import may wait inside a function: commands, so that `--help` is quick, what opens an optional extra,
# and the package of readers, which artifacts need the least of.
LATE = (
    "mobileloop.checkpoints",
    "mobileloop.runtimes",
    "mobileloop_export.formats",
    "mobileloop_export.weights",
    "mobileloop_bench.peers.agreement",
)


def entry(module):
    """The layer's index and the entry that a module belongs to; None for one that no layer names."""
    found = [
        (len(name), index, name)
        for index, names in enumerate(LAYERS)
        for name in names
        if module == name or module.startswith(name + ".")
    ]
    return max(found)[1:] if found else None


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


def imports(module, nodes=None):
    """Every module that the source imports, at whatever depth; relative names made absolute."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in nodes if nodes is not None else ast.walk(TREES[module]):
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


TREES = {module: ast.parse(path.read_text(encoding="utf-8")) for module, path in MODULES.items()}


def test_every_module_has_a_layer_and_every_layer_a_module():
    assert len(MODULES) > 20
    for module in MODULES:
        assert module in MARKERS or entry(module) is not None, f"no layer names {module}"
    for name in itertools.chain(*LAYERS):
        assert any(module == name or module.startswith(name + ".") for module in MODULES), f"there is no module {name}"


def test_the_floor_of_the_bench_is_swept():
    assert [path.name for path in SOURCES["mobileloop_bench"].glob("*.py")] == ["__init__.py"]


@pytest.mark.parametrize("module", sorted(set(MODULES) - MARKERS))
def test_imports_point_downwards(module):
    floor, own = entry(module)
    for imported in imports(module):
        if imported in MODULES and imported not in MARKERS:
            below, other = entry(imported)
            assert other == own or below < floor, f"{module} imports {imported}, which does not lie below it"


def test_no_files_import_each_other_in_a_circle():
    order = graphlib.TopologicalSorter(
        {module: {other for other in imports(module) if other in MODULES and other != module} for module in MODULES}
    )
    order.prepare()  # a CycleError names the circle


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_stand_at_the_top(module):
    if ".commands." in module or module in LATE:
        return
    functions = (node for node in ast.walk(TREES[module]) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))
    late = {other for node in functions for other in imports(module, ast.walk(node)) if other in MODULES}
    assert late == set(), f"{module} hides imports of {late} in a function"


@pytest.mark.parametrize("module", sorted(m for m in MODULES if "checkpoints" in m or "families" in m))
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
        allowed = {f"mobileloop.runtimes{part}" for part in ("", ".abi", ".base", ".native", ".streaming", ".topology")}
        for imported in imports(module):
            assert not imported.startswith("mobileloop.runtimes") or imported in allowed, (module, imported)
