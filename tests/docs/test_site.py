"""`make docs`: the pages as a web site, in which every link, anchor and picture is there."""

from __future__ import annotations

import subprocess
import sys

import pytest

from support.pages import REPOSITORY, texts

BUILD = REPOSITORY / "scripts" / "build_docs.py"


def build(repository, dest) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, BUILD, "--repository", repository, "--dest", dest]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_page_becomes_html_without_a_warning(tmp_path):
    done = build(REPOSITORY, tmp_path / "site")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    made = {path.relative_to(tmp_path / "site").with_suffix("").as_posix() for path in tmp_path.rglob("*.html")}
    wanted = {page.relative_to(REPOSITORY).with_suffix("").as_posix() for page in texts()}
    assert {name.removesuffix("README") + "index" * name.endswith("README") for name in wanted} <= made
    index = (tmp_path / "site" / "docs" / "index.html").read_text()
    assert 'src="pieces.svg"' in index
    assert (tmp_path / "site" / "docs" / "pieces.svg").exists()
    hosts = [host for host in ("cdn", "googleapis", "cloudflare") if host in index]
    assert hosts == []  # it can be read without a network


@pytest.mark.parametrize(
    ("added", "warning"),
    [
        pytest.param("[a](docs/nowhere.md)", "'docs/nowhere.md', but the target is not found", id="page"),
        pytest.param("[a](docs/page.md#nowhere)", "does not contain an anchor '#nowhere'", id="anchor"),
        pytest.param("![a](docs/nowhere.svg)", "'docs/nowhere.svg', but the target is not found", id="picture"),
    ],
)
def test_what_leads_nowhere_ends_the_build_with_its_place(added, warning, tmp_path):
    clone = tmp_path / "clone"
    (clone / "docs").mkdir(parents=True)
    (clone / "docs" / "README.md").write_text("# Index\n\n[page](page.md)\n")
    (clone / "docs" / "page.md").write_text("# Page\n\n## A heading: with `code`, dots... and -- dashes\n")
    (clone / "README.md").write_text("# Start\n\n[a](docs/page.md#a-heading-with-code-dots-and----dashes)\n")
    subprocess.run(["git", "init", "-q"], cwd=clone, check=True)
    assert build(clone, tmp_path / "site").returncode == 0
    (clone / "README.md").write_text(f"# Start\n\n{added}\n")
    done = build(clone, tmp_path / "site")
    assert done.returncode == 1
    assert warning in done.stderr
