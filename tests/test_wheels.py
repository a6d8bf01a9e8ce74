"""What people install: the wheel of each package holds all that the repository has of it, and says what it needs."""

from __future__ import annotations

import subprocess
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).parents[1]
PACKAGES = ("core", "data", "model", "train", "eval")


@pytest.fixture(scope="module", params=PACKAGES)
def package(request):
    """Folder of a package."""
    return REPOSITORY / "sub-packages" / f"scmf-{request.param}"


@pytest.fixture(scope="module")
def wheel(package, tmp_path_factory):
    """Its wheel, opened."""
    (built,) = WheelBuilder(str(package)).build(directory=str(tmp_path_factory.mktemp("wheel")), versions=["standard"])
    with zipfile.ZipFile(built) as opened:
        yield opened


@pytest.fixture(scope="module")
def metadata(wheel):
    """What an index and an installer read of it."""
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return Parser().parsestr(wheel.read(name).decode())


def tracked(folder):
    """Files of the repository below a folder, relative to it."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=folder, capture_output=True, text=True, check=True
    )
    return {name for name in listed.stdout.split("\n") if name and (folder / name).exists()}


def test_a_wheel_holds_every_file_of_its_package_and_no_other(package, wheel):
    inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert inside == tracked(package / "src")
    assert f"scmf/{package.name.removeprefix('scmf-')}/py.typed" in inside
    assert "scmf/__init__.py" not in inside  # five packages share the name


def test_a_wheel_carries_the_license(wheel, metadata):
    assert metadata["License-Expression"] == "Apache-2.0"
    (name,) = [name for name in wheel.namelist() if name.endswith("/licenses/LICENSE")]
    assert wheel.read(name) == (REPOSITORY / "LICENSE").read_bytes()


def test_packages_of_one_version_ask_for_each_other_in_that_version(package, metadata):
    versions = {_project(REPOSITORY / "sub-packages" / f"scmf-{name}")["version"] for name in PACKAGES}
    assert versions == {metadata["Version"]}
    needed = [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]
    own = [need for need in needed if need.name.startswith("scmf-")]
    assert all(str(need.specifier) == f"=={metadata['Version']}" for need in own)


def test_a_wheel_says_for_which_python_it_is_and_what_it_is(package, metadata):
    assert metadata["Requires-Python"] == "<3.13,>=3.11"
    pythons = [text for text in metadata.get_all("Classifier") if text.startswith("Programming Language")]
    assert pythons == [f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12)]
    text = metadata.get_payload()
    assert text.startswith(f"# {package.name}")
    assert "](../" not in text  # leads nowhere on an index


def test_every_command_of_a_wheel_is_in_it(package, wheel):
    for target in _project(package).get("scripts", {}).values():
        module, _, function = target.partition(":")
        source = wheel.read(module.replace(".", "/") + ".py").decode()
        assert f"def {function}(" in source


def _project(package):
    return tomllib.loads((package / "pyproject.toml").read_text())["project"]
