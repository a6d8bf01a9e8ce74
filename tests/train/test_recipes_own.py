"""Questions to `scmf-recipe` (list, describe, diff) and recipes of the user's own."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys

import pytest

from scmf.core.config_write import write_config
from scmf.core.errors import ConfigError
from scmf.train.cli_recipe import recipe_command
from scmf.train.config import load_config
from scmf.train.recipe import RecipeArguments, flatten, parameters, run_line
from scmf.train.recipe_named import recipe_named
from scmf.train.recipes import RECIPES, find_recipe

OWN = '''
from scmf.data.config import CellsConfig
from scmf.train.recipe import Recipe, RecipeArguments, Setting
from scmf.train.recipes import find_recipe


class Guides(CellsConfig):
    """Cells, and the guides that each received."""

    guides: list[str] = ["guide_1"]
    """Columns of obs that name the guides."""


_TEST = find_recipe("test").settings
wide = Recipe(
    "wide", "a wider test", _TEST | {"model.hidden": Setting(64, "tried 32 and 64")}, family="mine", devices="1 GPU"
)


def guided():
    kind = {"data.kind": Setting(f"{__name__}.Guides", "our screen")}
    return Recipe("guided", "with guides", _TEST | kind, family="mine", devices="1 GPU")


def later():
    """The test recipe with another seed."""
    return find_recipe("test").config(RecipeArguments(overrides=("trainer.seed=7",)))


def broken():
    return 1 / 0


def nothing():
    return "a recipe"
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A file of recipes whose module name no other test uses."""
    name = f"own_{tmp_path.parent.name.replace('-', '_')}_{tmp_path.name}"
    path = tmp_path / "my recipes" / f"{name}.py"
    path.parent.mkdir()
    path.write_text(OWN)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield path
    sys.modules.pop(name, None)


def shown(capsys, *words) -> str:
    assert recipe_command([str(word) for word in words]) == 0
    return capsys.readouterr().out


def test_the_list_says_family_size_devices_and_purpose_of_every_recipe(capsys):
    lines = shown(capsys, "--list").splitlines()
    assert lines[0].split() == ["recipe", "family", "parameters", "devices", "tokens", "batch", "steps", "purpose"]
    for recipe in RECIPES:
        line = next(line for line in lines if line.startswith(f"{recipe.name} "))
        assert recipe.family in line
        assert recipe.devices in line
        assert line.endswith(recipe.summary)


def test_the_list_is_json_for_programs(capsys):
    rows = {row["name"]: row for row in json.loads(shown(capsys, "--list", "--json"))}
    assert list(rows) == [recipe.name for recipe in RECIPES]
    row = rows["106m-pretrain"]
    assert row["parameters"] == parameters(find_recipe("106m-pretrain").config())
    assert (row["family"], row["devices"], row["tokens"], row["batch"]) == ("geneformer", "8 GPUs", 2048, 64)
    assert "geneformer_106m_pretrain_recipe" in row["other_names"]


def test_a_description_names_a_source_or_a_meaning_for_every_key_of_the_config(capsys):
    config = find_recipe("10m-pretrain").config()
    keys = json.loads(shown(capsys, "--describe", "10m-pretrain", "--json"))["keys"]
    assert {key: entry["value"] for key, entry in keys.items()} == flatten(
        config.model_dump(mode="json", by_alias=True)
    )
    assert keys["model.hidden"]["source"] == "V1, BioNeMo 10M: hidden_size"
    assert [key for key, entry in keys.items() if not (entry["source"] or entry["meaning"])] == []
    text = shown(capsys, "--describe", "10m-pretrain")
    assert [key for key in keys if f"\n{key} " not in text] == []


def test_a_difference_shows_exactly_the_keys_that_differ_with_both_sources(capsys):
    one, other = (
        flatten(find_recipe(n).config().model_dump(mode="json", by_alias=True)) for n in ("10m-pretrain", "1b-pretrain")
    )
    found = json.loads(shown(capsys, "--diff", "10m-pretrain", "1b-pretrain", "--json"))
    differ = {key for key in one.keys() | other.keys() if one.get(key, "absent") != other.get(key, "absent")}
    assert found["keys"].keys() == differ
    assert found["keys"]["model.layers"] == [
        {"value": 6, "source": "V1, BioNeMo 10M: num_layers"},
        {"value": 48, "source": "BioNeMo 1B: num_layers"},
    ]
    text = shown(capsys, "--diff", "10m-pretrain", "1b-pretrain")
    assert "\nmodel.layers\n  10m-pretrain  6 " in text
    assert "model.norm" not in text
    assert f"{len(differ)} keys differ, {len(one.keys() | other.keys()) - len(differ)} are equal" in text


def test_a_difference_to_an_edited_file_names_its_line(tmp_path, capsys):
    path = tmp_path / "cfg.yaml"
    write_config(find_recipe("test").config(), path)
    assert shown(capsys, "--diff", "test", path) == f"test and {path} give the same configuration\n"
    lines = path.read_text().replace("seed: 42", "seed: 43").replace("ema: null", "ema: {decay: 0.5}")
    path.write_text(lines)
    number = next(n for n, line in enumerate(lines.splitlines(), 1) if "seed: 43" in line)
    text = shown(capsys, "--diff", "test", path)
    assert re.search(rf" 43 +{re.escape(str(path))}, line {number}$", text, re.MULTILINE)
    assert re.search(r" 42 +the default$", text, re.MULTILINE)
    assert re.search(r"^trainer\.ema\.decay\n  test +no such key\n", text, re.MULTILINE)
    assert "a section" in text


def test_a_json_file_can_be_compared(tmp_path, capsys):
    path = tmp_path / "cfg.json"
    write_config(find_recipe("test").config(RecipeArguments(overrides=("trainer.seed=5",))), path)
    found = json.loads(shown(capsys, "--diff", path, "test", "--json"))["keys"]
    assert found == {"trainer.seed": [{"value": 5, "source": str(path)}, {"value": 42, "source": "the default"}]}


def test_a_recipe_of_a_file_is_written_listed_and_compared_like_any_other(own, tmp_path, capsys):
    dest = tmp_path / "cfg.yaml"
    shown(capsys, "--recipe", f"{own}:wide", "--dest", dest, "trainer.seed=3")
    config = load_config(dest)
    assert (config.model.hidden, config.trainer.seed) == (64, 3)
    assert (
        f"written by:  {shlex.join(['scmf-recipe', '--recipe', f'{own}:wide', 'trainer.seed=3'])}\n" in dest.read_text()
    )
    assert "tried 32 and 64" in shown(capsys, "--diff", "test", f"{own}:wide")
    assert "tried 32 and 64" in shown(capsys, "--describe", f"{own}:wide")


def test_a_function_may_return_the_finished_config(own, capsys):
    found = json.loads(shown(capsys, "--diff", "test", f"{own}:later", "--json"))["keys"]
    assert list(found) == ["trainer.seed"]
    assert found["trainer.seed"][1] == {"value": 7, "source": f"set by {own}:later"}
    assert recipe_named(f"{own}:later").summary == "The test recipe with another seed."


def test_a_class_of_the_recipes_file_is_found_again_by_the_command_that_is_printed(own, tmp_path, capsys):
    dest = tmp_path / "cfg.yaml"
    out = shown(capsys, "--recipe", f"{own}:guided", "--dest", dest)
    run = f"PYTHONPATH={shlex.quote(str(own.parent))} scmf-train --config {dest}"
    assert out.endswith(f"\nnext: {run}\n")
    assert f"# run it by:   {run}\n" in dest.read_text()
    code = "import sys; from scmf.train.config import load_config; print(load_config(sys.argv[1]).data.guides)"
    environment = {**os.environ, "PYTHONPATH": str(own.parent)}
    ran = subprocess.run(
        [sys.executable, "-c", code, dest], env=environment, capture_output=True, text=True, check=True
    )
    assert ran.stdout == "['guide_1']\n"


def test_a_recipe_of_an_installed_module_is_named_by_its_dotted_path(own, monkeypatch, capsys):
    monkeypatch.syspath_prepend(own.parent)
    text = f"{own.stem}:guided"
    assert f"  kind: {own.stem}.Guides\n" in shown(capsys, "--recipe", text)
    assert recipe_named(text).name == text


@pytest.mark.parametrize(
    ("word", "what", "fix"),
    [
        pytest.param("{own}", "has no colon", "--recipe '{own}:NAME'", id="a file and no name"),
        pytest.param("{own}:wid", "has no wid", "--recipe '{own}:wide'", id="a misspelt name"),
        pytest.param("{own}:", "has no recipe without a name", "what it has: wide, guided, later", id="an empty name"),
        pytest.param(
            "{own}:broken", "broken() of {own} fails: ZeroDivisionError", "--debug", id="a function that fails"
        ),
        pytest.param("{own}:nothing", "it returns a str", "Recipe", id="a function that returns text"),
        pytest.param("{own}:OWN", "has no OWN", "wide", id="nothing of that name"),
        pytest.param("{own}x.py:wide", "there is no such Python file", "Did you mean '{own}'?", id="no file"),
        pytest.param("my_pkg.recipes.mine", "has no colon", "--recipe my_pkg.recipes:mine", id="a dot for the colon"),
        pytest.param("cfg.yaml", "is a configuration", "--config cfg.yaml key=value", id="a configuration"),
        pytest.param("no_such_pkg:mine", "there is no module no_such_pkg", "PYTHONPATH", id="no module"),
        pytest.param(":mine", "nothing is neither a module nor", "my_package.module:NAME", id="no module named"),
        pytest.param("a/b:mine", "a/b is neither a module nor", "folder/file.py:NAME", id="a folder"),
    ],
)
def test_a_recipe_that_cannot_be_found_is_told_with_the_way_out(own, word, what, fix):
    with pytest.raises(ConfigError) as error:
        recipe_named(word.format(own=own))
    assert what.format(own=own) in error.value.what
    assert fix.format(own=own) in error.value.fix
    assert len(str(error.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("name", "what"), [("json.py", "another module has the name json"), ("my-recipes.py", "cannot import a file named")]
)
def test_a_file_whose_name_python_would_mistake_is_refused(own, name, what):
    path = own.rename(own.with_name(name))
    with pytest.raises(ConfigError, match=what) as error:
        recipe_named(f"{path}:wide")
    assert error.value.fix.startswith("rename it, for example: mv ")


def test_a_file_that_cannot_be_imported_says_why(own):
    own.write_text("import no_such_package_at_all\n")
    with pytest.raises(ConfigError, match="No module named 'no_such_package_at_all'"):
        recipe_named(f"{own}:wide")


def test_a_file_for_several_nodes_says_how_slurm_starts_it(tmp_path, capsys):
    dest = tmp_path / "cfg.yaml"
    shown(capsys, "--recipe", "106m-published", "--dest", dest, "trainer.nodes=16", "trainer.devices=8")
    srun = f"srun --nodes=16 --ntasks-per-node=8 --gpus-per-node=8 scmf-train --config {dest} --resume auto"
    assert f"# run it by:   {srun}\n" in dest.read_text()
    unknown = run_line(load_config(dest, ["trainer.devices=auto"]), "c.yaml")
    assert unknown.startswith("srun --nodes=16 --ntasks-per-node=GPUS_A_NODE ")
