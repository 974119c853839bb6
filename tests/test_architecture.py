"""Which way imports point, and what can be imported without Paddle."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, also inside functions, but not for type checking alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def reached(start: Path) -> set[str]:
    """Every module of the project that a file imports, directly or through others."""
    seen: set[str] = set()
    pending = [start]
    while pending:
        for module in imports(pending.pop()):
            base = ROOT / module.replace(".", "/")
            for path in (base.with_suffix(".py"), base / "__init__.py"):
                if path.is_file() and module not in seen:
                    seen.add(module)
                    pending.append(path)
    return seen


def files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def packages(path: Path) -> set[str]:
    return {module.partition(".")[0] for module in imports(path)}


def test_models_and_util_do_not_import_each_other() -> None:
    assert [p for p in files("models") if "util" in packages(p) and p.name != "__main__.py"] == []
    assert [p for p in files("util") if "models" in packages(p) and p.name != "__main__.py"] == []  # that is a script
    scripts = {"train", "eval", "predict", "visualize", "export_model", "infer", "serve", "demo", "deploy", "tests"}
    assert [p for p in [*files("models"), *files("util")] if packages(p) & scripts] == []


def test_infer_reaches_neither_models_nor_training() -> None:
    found = reached(ROOT / "infer.py")
    assert "util.deploy.engines" in found
    assert {m for m in found if m.startswith(("models", "util.train", "util.weights", "util.distributed"))} == set()


def test_serve_reaches_neither_models_nor_training() -> None:
    found = reached(ROOT / "serve.py")
    assert "util.serving.app" in found
    assert {m for m in found if m.startswith(("models", "util.train", "util.weights", "util.distributed"))} == set()


def test_no_family_imports_another() -> None:
    shared = {"models.layers", "models.registry", "models.profile", "models.transformer", "models.cpu"}
    others_than_families = {
        "__init__",
        "__main__",
        "deploy",
        "attention_maps",
        "saliency",
        *(name[7:] for name in shared),
    }
    for family in {p.stem for p in files("models")} - others_than_families:
        others = {m for m in imports(ROOT / "models" / f"{family}.py") if m.startswith("models.")}
        assert others <= shared | {f"models.{family}_layers"}, family


WITHOUT_PADDLE = (  # docs/architecture.md names them; packages stand for all that is in them
    "util.options", "util.settings", "util.errors", "util.runtime", "util.restore", "util.prediction", "util.inputs",
    "util.weights", "util.report", "util.deploy.bundle", "util.deploy.manifest", "util.deploy.archive",
    "util.deploy.chosen", "util.deploy.engine_choice", "util.deploy.engines", "util.serving", "util.checkpoint",
    "util.storage", "util.stop",
    "util.processes", "util.notes", "util.job", "util.outcome", "util.launcher", "util.data", "util.train.progress",
    "util.train.run_folder", "util.train.saver", "util.train.rejected", "util.infer_job", "util.part", "util.results",
    "util.interrupts", "util.output_lock", "util.seeing", "util.libraries", "util.yaml_text",
    "train", "eval", "predict", "visualize", "export_model", "infer", "serve", "deploy",
)  # fmt: skip
WITH_PADDLE = {"util.data.loader", "util.data.mixup"}


def modules(name: str) -> list[str]:
    """A module, or all those of a package but what is started with `python -m` and what needs Paddle."""
    folder = ROOT / name.replace(".", "/")
    if not folder.is_dir():
        return [name]
    found = [".".join(p.relative_to(ROOT).with_suffix("").parts) for p in sorted(folder.rglob("*.py"))]
    return sorted({module.removesuffix(".__init__") for module in found} - WITH_PADDLE - {f"{name}.__main__"})


def first_with_paddle(names: list[str]) -> str:
    """Imports modules one after the other; returns the first one after which Paddle is there, or nothing."""
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    if 'paddle' in sys.modules: sys.exit(print(name))"
    )
    done = subprocess.run([sys.executable, "-c", code, *names], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_imports_without_paddle() -> None:
    names = [module for name in WITHOUT_PADDLE for module in modules(name)]
    assert {"util.data.check", "util.data.index", "util.data.shards", "util.weights.container"} <= set(names)
    assert first_with_paddle(names) == ""
    assert first_with_paddle(["util.errors", "util.data.mixup"]) == "util.data.mixup"


def test_what_running_an_export_does_without_is_imported_in_one_place() -> None:
    """Elsewhere, who lacks one of them would see a traceback: take it from util.libraries."""
    without = {"yaml", "safetensors", "tqdm"}
    found = {str(p.relative_to(ROOT)): packages(p) & without for p in [*files("models"), *files("util")]}
    assert {name: used for name, used in found.items() if used} == {
        "util/libraries.py": without,
        "util/prediction.py": {"tqdm"},  # which looks first whether it is there
    }


def test_what_run_sh_becomes_needs_the_standard_library_alone() -> None:
    for name in ("job", "outcome", "processes", "notes"):
        found = reached(ROOT / f"util/{name}.py")
        assert found <= {"util.outcome", "util.processes", "util.launcher", "util.notes", "util.errors"}
        # Paddle's launcher is imported by `launcher.main`, in the process that becomes it
        others = {module for path in (name, *(m[5:] for m in found)) for module in packages(ROOT / f"util/{path}.py")}
        assert others - {"util", "paddle"} <= set(sys.stdlib_module_names)


def test_files_stay_readable() -> None:
    places = [*ROOT.glob("*.py"), *(p for top in ("models", "util", "demo", "deploy") for p in files(top))]
    lines = {str(p.relative_to(ROOT)): len(p.read_text(encoding="utf-8").splitlines()) for p in places}
    assert {name: count for name, count in lines.items() if count > 400} == {}


FORBIDDEN = {"eval", "exec", "print"}


def test_no_eval_no_exec_and_no_print_in_libraries() -> None:
    allowed = {
        ("util/__init__.py", "print"),
        ("util/errors.py", "print"),
        ("util/runtime.py", "print"),
        ("util/prediction.py", "print"),
        ("util/checkpoint.py", "print"),
        ("util/data/split.py", "print"),
        ("util/weights/sources.py", "print"),
        ("models/__main__.py", "print"),
    }
    found = set()
    for path in [*files("models"), *files("util")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN:
                found.add((str(path.relative_to(ROOT)), node.func.id))
    assert found <= allowed


def test_every_import_is_covered_by_the_requirements() -> None:
    """A fresh environment has what the requirements files name and nothing else."""
    distribution = {"PIL": "Pillow", "yaml": "PyYAML", "paddle": "paddlepaddle", "cykooz_resizer": "cykooz.resizer",
                    "prometheus_client": "prometheus-client"}  # fmt: skip
    names = [f"requirements{name}.txt" for name in ("", "-cpu", "-dev", "-fast", "-deploy", "-serve")]
    text = "".join((ROOT / name).read_text() for name in [*names, "bench/requirements-peers.txt"])
    own = {p.stem for p in ROOT.glob("*.py")} | {"models", "util", "demo", "deploy", "bench", "tests", "configs"}
    # what made a golden file ran once, beside the reference implementations
    places = [
        p
        for top in ("models", "util", "demo", "deploy", "bench", "tests")
        for p in files(top)
        if not p.match("golden/make_*.py")
    ]
    used = set().union(*(packages(p) for p in places))
    for package in sorted(used - own - set(sys.stdlib_module_names)):
        assert distribution.get(package, package) in text, package
