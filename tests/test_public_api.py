"""The public surface, in a text file: each change of it is a line in a diff.

LLMWIRE_UPDATE_PUBLIC_API=1 writes the file anew.
"""

import importlib
import inspect
import os
from pathlib import Path

import pytest
from dependency_injector import providers

SURFACE = Path(__file__).parent / "public_api.txt"
PACKAGES = ("llmwire.container", "llmwire.services", "llmwire.services.testing")


def _lines():
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in module.__all__:
            yield from _described(f"{package}.{name}", getattr(module, name))


def _described(path, thing):
    if not inspect.isclass(thing):
        yield f"{path}{_signature(thing)}" if callable(thing) else path
        return
    bases = ", ".join(base.__name__ for base in thing.__bases__ if not base.__name__.startswith("_"))
    yield f"class {path}({bases})"
    members = _members(thing)
    if "__init__" in members:
        yield f"    {path}{_signature(thing.__init__)}"
    for name in sorted(members.keys() - {"__init__"}):
        yield f"    {path}.{name}{_member(getattr(thing, name), members[name])}"
        if isinstance(members[name], providers.Container):
            inner = sorted((known, provider) for known, provider in members[name].providers.items() if known[0] != "_")
            yield from (f"    {path}.{name}.{known}: {type(provider).__name__}" for known, provider in inner)


def _members(thing):
    """What our own classes define, private bases included: providers, methods, properties; fields are in __init__."""
    ours = [base for base in reversed(thing.__mro__) if base.__module__.startswith("llmwire.")]
    defined = {name: member for base in ours for name, member in vars(base).items()}
    kinds = (property, classmethod, staticmethod, providers.Provider)
    return {
        name: member
        for name, member in defined.items()
        if (name == "__init__" or not name.startswith("_"))
        and (inspect.isfunction(member) or isinstance(member, kinds))
    }


def _member(seen, member):
    if isinstance(member, property):
        return ""
    return f": {type(member).__name__}" if isinstance(member, providers.Provider) else _signature(seen)


def _signature(function):
    try:
        return str(inspect.signature(function))
    except (TypeError, ValueError):
        return ""


def test_the_public_surface_is_the_one_that_is_written_down():
    surface = "\n".join(_lines()) + "\n"
    if os.environ.get("LLMWIRE_UPDATE_PUBLIC_API") == "1":
        SURFACE.write_text(surface, encoding="utf-8")

    assert surface == SURFACE.read_text(encoding="utf-8")


@pytest.mark.parametrize("package", PACKAGES)
def test_all_is_sorted_and_every_name_is_there(package):
    module = importlib.import_module(package)

    assert list(module.__all__) == sorted(module.__all__)
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_class_and_function_says_what_it_does(package):
    module = importlib.import_module(package)
    public = [getattr(module, name) for name in module.__all__]

    assert [
        thing for thing in public if (inspect.isclass(thing) or inspect.isfunction(thing)) and not thing.__doc__
    ] == []
