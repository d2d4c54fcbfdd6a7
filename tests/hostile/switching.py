"""How a defence is switched off.

Where a statement refuses, it is found in the source, and made to ask first whether it stands: so
every refusal tells when it is reached, and none is forgotten. Where something else defends, a
value of ours is replaced by one that defends nothing.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

MAKERS = frozenset({"Fault", "fault", "unsafe", "malformed"})
"""Who calls one of these refuses, whether it raises what comes of it, keeps it or returns it."""

_HOOK = "__stands__"


@dataclass(frozen=True, slots=True)
class Refusal:
    """One statement that refuses: "module:function", its text, and where several are the same
    there, the how-manieth."""

    place: str
    text: str
    number: int = 0

    def __str__(self) -> str:
        return f"{self.place} {self.text}" + (f" (#{self.number})" if self.number else "")


class Refusals:
    """Every refusal of some modules, while `watched` holds."""

    def __init__(self, modules: Collection[str]) -> None:
        self._sources = {name: _Source(name) for name in modules}
        self.all = [one for source in self._sources.values() for one in source.refusals]
        self.reached: list[Refusal] = []
        self.fallen: set[Refusal] = set()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """While its block runs, each tells when it is reached, and those `fallen` do nothing."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(builtins, _HOOK, self._stands, raising=False)
            for source in self._sources.values():
                source.put(patch)
            yield

    def _stands(self, module: str, index: int) -> bool:
        refusal = self._sources[module].refusals[index]
        if refusal not in self.fallen:
            self.reached.append(refusal)
        return refusal not in self.fallen


class Put:
    """A value, "module:name.name", in whose place stands another while it is switched off."""

    def __init__(self, place: str, value: Any) -> None:
        self.place, self.value = place, value

    @contextmanager
    def switched_off(self) -> Iterator[None]:
        module, _, names = self.place.partition(":")
        owner: Any = _module(module)
        *path, last = names.split(".")
        for name in path:
            owner = getattr(owner, name)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, last, self.value)
            yield


class _Source:
    """One module's source: its refusals, and its functions with a question before each."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._path = str(inspect.getsourcefile(_module(module)))
        tree = ast.parse(Path(self._path).read_text())
        self.refusals: list[Refusal] = []
        self._functions: set[str] = set()
        self._ask_in(tree, "")
        self._code = compile(tree, self._path, "exec", dont_inherit=True)

    def put(self, patch: pytest.MonkeyPatch) -> None:
        """Has the module's functions ask. Wherever one was imported to, it is the same."""
        for name in self._functions:
            function = _function(self._module, name)
            code = next(
                one for one in _codes(self._code) if one.co_qualname == function.__qualname__
            )
            patch.setattr(function, "__code__", code)

    def _ask_in(self, node: ast.AST, name: str, function: str = "") -> None:
        for block in ("body", "orelse", "finalbody"):
            statements = getattr(node, block, None)
            if isinstance(statements, list):
                setattr(node, block, [self._asked(one, name, function) for one in statements])
        for handler in getattr(node, "handlers", []):
            self._ask_in(handler, name, function)

    def _asked(self, node: ast.stmt, name: str, function: str) -> ast.stmt:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = f"{name}.{node.name}".lstrip(".")
            is_class = isinstance(node, ast.ClassDef)
            self._ask_in(node, inner, function or ("" if is_class else inner))
        elif hasattr(node, "body"):
            self._ask_in(node, name, function)
        elif function and name not in MAKERS and _refuses(node):
            place, text = f"{self._module}:{name}", ast.unparse(node)
            alike = sum((one.place, one.text) == (place, text) for one in self.refusals)
            self.refusals.append(Refusal(place, text, alike))
            self._functions.add(function)
            asked = f"{_HOOK}({self._module!r}, {len(self.refusals) - 1})"
            question = ast.parse(asked, mode="eval").body
            for part in (*ast.walk(question), found := ast.If(question, [node], [])):
                ast.copy_location(part, node)
            return found
        return node


def _refuses(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Raise):
        return statement.exc is not None
    if not isinstance(statement, ast.Expr | ast.Assign | ast.AugAssign | ast.Return):
        return False
    calls = [node.func for node in ast.walk(statement) if isinstance(node, ast.Call)]
    named = {call.id for call in calls if isinstance(call, ast.Name)}
    return bool(named & MAKERS) and "super" not in named


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"earmark.{name}")


def _function(module: str, names: str) -> FunctionType:
    found: Any = _module(module)
    for name in names.split("."):
        found = inspect.getattr_static(found, name)
    found = getattr(found, "fget", None) or getattr(found, "__func__", found)
    found = inspect.unwrap(found)
    assert isinstance(found, FunctionType), names
    return found


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)
