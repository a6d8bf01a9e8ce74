"""What a user calls a recipe goes in: a name, `my_pkg.recipes:mine`, `path/file.py:mine`; the Recipe comes out."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shlex import quote
from types import FunctionType, ModuleType

from scmf.core.config_kind import KindError, import_named
from scmf.core.errors import ConfigError, ScmfError
from scmf.core.near_path import correction
from scmf.core.near_word import nearest
from scmf.train.config import MainConfig
from scmf.train.recipe import Recipe, Setting, flatten
from scmf.train.recipes import find_recipe


def recipe_named(text: str, *, flag: str = "--recipe") -> Recipe:
    """The recipe that a word of the command line means.

    A word with a colon names the user's own: a module or a Python file, then what it holds under that name, a
    `Recipe`, or a function without arguments that returns one, or that returns a `MainConfig`. It is imported, so
    it can run code: name only files that you trust.

    Args:
        text: of the command line; becomes the recipe's name, so that the written command finds it again.
        flag: that the word was given to, for messages.

    Raises:
        ConfigError: no such recipe, module, file or name; or what is there is no recipe.
    """
    place, colon, name = text.rpartition(":")
    if not colon:
        _refuse_without_colon(text, flag)
        return find_recipe(text, flag=flag)
    module = _module_of_file(Path(place), flag) if place.endswith(".py") else _module(place, text, flag)
    return _recipe(_member(module, name, place=place, flag=flag), text, flag)


def own_module_folder(recipe: Recipe, config: MainConfig) -> Path | None:
    """The folder that Python has to know to read this recipe's config again; None where it needs none.

    Args:
        recipe: as `recipe_named` gave it.
        config: made of it; its sections may be classes of the recipe's file.
    """
    place, _, _ = recipe.name.rpartition(":")
    if not place.endswith(".py"):
        return None
    flat = flatten(config.model_dump(mode="json", by_alias=True))
    kinds = [value for key, value in flat.items() if key.endswith(".kind")]
    own = any(isinstance(kind, str) and kind.startswith(f"{Path(place).stem}.") for kind in kinds)
    return Path(place).resolve().parent if own else None


def _refuse_without_colon(text: str, flag: str) -> None:
    """A module or a file whose recipe is not named."""
    path, _, last = text.rpartition(".")
    if last in ("yaml", "yml", "json"):
        raise ConfigError(
            f"{text} is a configuration, and {flag} takes the name of a recipe, or FILE.py:NAME for one of your own",
            where=flag,
            fix=f"change keys of the file as it runs: scmf-train --config {quote(text)} key=value",
        )
    if not path or ("/" in path and last != "py"):
        return
    fix = f"{flag} {quote(f'{text}:NAME')}" if last == "py" else f"{flag} {quote(f'{path}:{last}')}"
    raise ConfigError(f"{text} has no colon, which stands before a recipe of your own", where=flag, fix=fix)


def _module(place: str, text: str, flag: str) -> ModuleType:
    """Import a dotted path."""
    if not all(part.isidentifier() for part in place.split(".")):
        fix = f"write {flag} my_package.module:NAME, or {flag} folder/file.py:NAME"
        raise ConfigError(
            f"{place or 'nothing'} is neither a module nor a Python file", where=f"{flag} {text}", fix=fix
        )
    try:
        return import_named(place, text)
    except KindError as error:
        file, name = Path(*place.split(".")).with_suffix(".py"), text.rpartition(":")[2]
        fix = f"{flag} {quote(f'{file}:{name}')}" if file.exists() else error.fix
        raise ConfigError(error.what, where=f"{flag} {text}", fix=fix) from None


def _module_of_file(path: Path, flag: str) -> ModuleType:
    """Import a file under its own name, so that a written `kind:` of a class in it can be found again."""
    if not path.is_file():
        raise ConfigError("there is no such Python file", where=f"{flag} {path}", fix=correction(path))
    name, folder = path.stem, str(path.resolve().parent)
    if not name.isidentifier():
        fix = f"rename it, for example: mv {quote(str(path))} {quote(str(path.with_name('my_recipes.py')))}"
        raise ConfigError(f"Python cannot import a file named {path.name}", where=f"{flag} {path}", fix=fix)
    if folder not in sys.path:
        sys.path.append(folder)
    importlib.invalidate_caches()
    found = sys.modules.get(name) or importlib.util.find_spec(name)
    origin = getattr(found, "__file__", None) or getattr(found, "origin", None)
    if origin is None or Path(origin).resolve() != path.resolve():
        fix = f"rename it, for example: mv {quote(str(path))} {quote(str(path.with_name(f'my_{path.name}')))}"
        what = f"another module has the name {name} ({origin or 'built into Python'}), and would be found instead"
        raise ConfigError(what, where=f"{flag} {path}", fix=fix)
    try:
        return import_named(name, str(path))
    except KindError as error:
        raise ConfigError(error.what, where=f"{flag} {path}", fix=error.fix) from None


def _member(module: ModuleType, name: str, *, place: str, flag: str) -> object:
    """What a module holds under a name."""
    found = getattr(module, name, None) if name else None
    if found is not None:
        return found
    recipes = [key for key, value in vars(module).items() if isinstance(value, Recipe)]
    recipes += [k for k, v in vars(module).items() if isinstance(v, FunctionType) and v.__module__ == module.__name__]
    near = nearest(name, recipes) or next(iter(recipes), "NAME")
    raise ConfigError(
        f"{place} has no {name or 'recipe without a name'}",
        where=flag,
        fix=f"{flag} {quote(f'{place}:{near}')}; what it has: {', '.join(recipes) or 'no recipe and no function'}",
    )


def _recipe(found: object, text: str, flag: str) -> Recipe:
    """The recipe that a module's member is or returns."""
    made = found if isinstance(found, Recipe) or not callable(found) else _call(found, text, flag)
    if isinstance(made, Recipe):
        return replace(made, name=text, aliases=())
    if isinstance(made, MainConfig):
        return _of_config(made, text, found)
    fix = "let it be a scmf.train.recipe.Recipe, or a function without arguments that returns one or a MainConfig"
    what = f"{text} is no recipe: it {'is' if made is found else 'returns'} a {type(made).__name__}"
    raise ConfigError(what, where=f"{flag} {text}", fix=fix)


def _call(function: Callable[[], object], text: str, flag: str) -> object:
    try:
        return function()
    except ScmfError:
        raise
    except Exception as error:  # whatever the user's function raises, it is the function's fault
        place, _, name = text.rpartition(":")
        raise ConfigError(
            f"{name}() of {place} fails: {type(error).__name__}: {error}",
            where=f"{flag} {text}",
            fix="mend the function, which is called without arguments; --debug shows the whole trace",
        ) from error


def _of_config(config: MainConfig, text: str, function: object) -> Recipe:
    """A recipe of a finished config: every value has the function for its source."""
    flat = flatten(config.model_dump(mode="json", by_alias=True))
    summary = (function.__doc__ or "a configuration of your own").strip().splitlines()[0]
    settings = {key: Setting(value, f"set by {text}") for key, value in flat.items()}
    return Recipe(text, summary, settings, family="own", devices="-")
