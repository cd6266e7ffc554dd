"""The public names are a list somebody decided on."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import opencode_async


def test_all_is_what_the_package_imports_sorted() -> None:
    names = sorted(name for name in vars(opencode_async) if not name.startswith("_"))
    modules = {name for name in names if inspect.ismodule(getattr(opencode_async, name))}
    assert sorted(opencode_async.__all__) == opencode_async.__all__
    assert sorted(set(names) - modules) == opencode_async.__all__


def test_the_package_itself_holds_no_logic() -> None:
    tree = ast.parse(Path(opencode_async.__file__).read_text("utf-8"))
    assert {type(node) for node in tree.body} == {ast.Expr, ast.ImportFrom, ast.Assign}


def test_every_public_class_says_what_it_is() -> None:
    for name in opencode_async.__all__:
        thing = getattr(opencode_async, name)
        if inspect.isclass(thing):
            assert (thing.__doc__ or "").strip(), name
            assert not (thing.__doc__ or "").startswith(f"{name}("), (
                f"{name}: a generated docstring"
            )
