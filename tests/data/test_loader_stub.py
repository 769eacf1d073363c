"""What type checkers read of the C++ module, _loader.pyi, is what the module has."""

import ast
import os
import subprocess
import sys
from pathlib import Path

from albert_fast import _loader

ROOT = Path(__file__).resolve().parents[2]
STUB = ast.parse((ROOT / "albert_fast" / "_loader.pyi").read_text(encoding="utf-8"))


def test_the_stub_has_every_name_and_no_other(tmp_path):
    (tmp_path / "mypy.ini").write_text("[mypy]\nfollow_imports = skip\nignore_missing_imports = true\n")
    classes = [node.name for node in STUB.body if isinstance(node, ast.ClassDef)]
    # pybind11's classes have a metaclass of its own.
    (tmp_path / "allowed").write_text("\n".join(f"albert_fast._loader.{name}" for name in classes))
    command = [sys.executable, "-m", "mypy.stubtest", "--mypy-config-file=mypy.ini", "--allowlist=allowed"]
    environment = os.environ | {"MYPYPATH": str(ROOT)}
    found = subprocess.run(
        [*command, "albert_fast._loader"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr


def signature(function: ast.FunctionDef) -> tuple:
    """Names, keyword-only names, defaults and what is returned, where that has a name of Python's."""
    arguments = function.args
    positional = [a.arg for a in arguments.args if a.arg != "self"]
    defaults = [ast.unparse(default) for default in arguments.defaults]
    returned = ast.unparse(function.returns).split("[")[0]
    return positional, [a.arg for a in arguments.kwonlyargs], defaults, {"_Batch": "tuple"}.get(returned, returned)


def documented(name: str, member: object) -> ast.FunctionDef:
    """The signature that pybind11 writes into a docstring's first line (a property's is of its getter)."""
    text = member.fget.__doc__ if isinstance(member, property) else member.__doc__.removeprefix(name)
    (function,) = ast.parse(f"def {name}{text.splitlines()[0].replace('arg0', 'self')}: ...").body
    return function


def test_the_stub_has_the_signatures():
    checked = 0
    for node in STUB.body:
        owner = getattr(_loader, node.name) if isinstance(node, ast.ClassDef) else _loader
        for member in node.body if isinstance(node, ast.ClassDef) else [node]:
            if isinstance(member, ast.AnnAssign) and owner is not _loader:
                found = documented(member.target.id, vars(owner)[member.target.id])
                assert ast.unparse(found.returns) == ast.unparse(member.annotation), member.target.id
            elif isinstance(member, ast.FunctionDef):
                found = documented(member.name, vars(owner)[member.name])
                assert signature(found) == signature(member), member.name
            else:
                continue
            checked += 1
    assert checked > 30
