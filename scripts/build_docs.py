"""The documentation as a web site. In: every markdown page of the repository. Out: HTML; a warning is an error.

    python scripts/build_docs.py --dest site

The pages are staged as they lie in the repository, so that a link that works there works here. Broken links and
anchors, and pictures that are not there end it with exit code 1.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

REPOSITORY: Final = Path(__file__).resolve().parents[1]
_INDEX: Final = "docs/README.md"
_LINK: Final = re.compile(r"\]\(([^)\s#]+)")
_ANCHOR_LETTERS: Final = re.compile(r"[^\w\- ]")


def anchor(heading: str, separator: str = "-") -> str:
    """A heading's anchor as GitHub makes it, where most people read the pages.

    Args:
        heading: text without markup.
        separator: for spaces.
    """
    return _ANCHOR_LETTERS.sub("", heading.strip().lower()).replace(" ", separator)


def stage(repository: Path, folder: Path) -> list[str]:
    """Copy every page and every file that a page links to.

    Args:
        repository: its root.
        folder: where the copies go, at the same relative paths.

    Returns:
        The pages, as relative paths.
    """
    pages = [name for name in _listed(repository) if name.endswith(".md")]
    linked = {target for page in pages for target in _links(repository, page)}
    for name in {*pages, *linked}:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(repository / name, folder / name)
    return pages


def navigation(repository: Path, pages: Sequence[str]) -> list[Any]:
    """The menu: pages in the order of the index, then the others by folder."""
    index = [name for name in _links(repository, _INDEX) if name.endswith(".md")]
    docs = [_INDEX, *dict.fromkeys(name for name in index if name.startswith("docs/"))]
    others = sorted(name for name in pages if name not in docs and name != "README.md")
    return ["README.md", {"Documentation": docs}, {"Folders": others}]


def build(repository: Path, dest: Path) -> int:
    """Build the site; returns the exit code, after the warnings were printed."""
    from mkdocs.commands.build import build as build_site
    from mkdocs.config import load_config
    from mkdocs.exceptions import Abort, MkDocsException

    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING, stream=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        pages = stage(repository, Path(folder) / "pages")
        settings = _settings(Path(folder) / "pages", dest, navigation(repository, pages))
        try:
            (Path(folder) / "mkdocs.yml").touch()
            config = load_config(str(Path(folder) / "mkdocs.yml"), **settings)
            build_site(config)
        except (Abort, MkDocsException) as error:
            sys.stderr.write(f"{error}\n")
            return 1
    print(f"{len(pages)} pages in {dest}; open {dest / 'index.html'}")
    return 0


def _settings(pages: Path, dest: Path, menu: list[Any]) -> dict[str, Any]:
    """Of mkdocs: everything that it can check is checked, and nothing is fetched from other hosts."""
    links = dict.fromkeys(("not_found", "anchors", "absolute_links", "unrecognized_links"), "warn")
    return {
        "site_name": "scmf: single-cell model forge",
        "docs_dir": str(pages),
        "site_dir": str(dest.resolve()),
        "theme": {"name": "readthedocs", "highlightjs": False},
        "nav": menu,
        "strict": True,
        "use_directory_urls": False,
        "validation": {
            "nav": dict.fromkeys(("omitted_files", "not_found", "absolute_links"), "warn"),
            "links": links,
        },
        "markdown_extensions": ["tables", "fenced_code", {"toc": {"slugify": anchor}}],
    }


def _listed(repository: Path) -> list[str]:
    """Tracked files and new ones that git does not ignore."""
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    listed = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.splitlines() if (repository / name).is_file()]


def _links(repository: Path, page: str) -> Iterator[str]:
    """Files of the repository that a page links to, as relative paths."""
    for target in _LINK.findall((repository / page).read_text(encoding="utf-8")):
        path = (repository / page).parent / target
        if "://" not in target and path.is_file():
            yield os.path.relpath(path, repository)


def main(argv: Sequence[str] | None = None) -> int:
    """Build; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dest", type=Path, default=REPOSITORY / "site", help="folder of the HTML (default: site/)")
    parser.add_argument("--repository", type=Path, default=REPOSITORY)
    options = parser.parse_args(argv)
    return build(options.repository, options.dest)


if __name__ == "__main__":
    sys.exit(main())
