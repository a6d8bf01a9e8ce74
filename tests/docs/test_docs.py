"""The documentation does what it says: every block is executed, every link, option, key and metric exists."""

from __future__ import annotations

import json
import re
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache

import pytest
import yaml

from scmf.core.config_write import json_schema
from scmf.train.bionemo_flags import FLAGS, WITHOUT_ONE_WORD
from scmf.train.config import MainConfig
from support.pages import (
    REPOSITORY,
    PageRun,
    blocks,
    expectations,
    help_of,
    missing_lines,
    name,
    pages,
    prose,
    run_page,
    texts,
)

PAGES = [pytest.param(page, id=name(page)) for page in pages()]
TEXTS = [pytest.param(page, id=name(page)) for page in texts()]
STORE_COMMANDS = (
    "add",
    "merge",
    "subset",
    "split",
    "name-split",
    "check",
    "convert",
    "coverage",
    "info",
    "verify",
    "bench",
    "tokens",
    "vocabulary",
    "ledger",
    "seen",
    "shuffle-quality",
    "rank-order",
)
MODEL_COMMANDS = {"scmf-predict": ("generate",), "scmf-eval": ("perplexity",)}
BIONEMO = {
    *FLAGS,
    *WITHOUT_ONE_WORD,
    *(f"--{kind}-{what}-path" for kind in ("train", "valid") for what in ("cluster", "database")),
}
"""Flags of another program, which one page names beside ours."""
INVENTED = {"trainer.optimzer.lr", "trainer.optimzer", "data.guides", "trainer.optimizer.learning_rate"}
"""Keys that pages show on purpose: misspelt ones, one of another trainer, one of the reader's own class."""
MISSPELT = {"--resum"}
"""Flags that troubleshooting.md shows on purpose."""


@pytest.fixture(scope="session")
def page_run(request, tmp_path_factory):
    """The run of a page. All pages that this session asks for are begun at once, two at a time."""
    asked = {item.callspec.params["page"] for item in request.session.items if item.name.startswith("test_every_block")}
    with ThreadPoolExecutor(max_workers=2) as pool:

        @cache
        def begin(page) -> Future[PageRun]:
            return pool.submit(run_page, page, tmp_path_factory.mktemp(page.stem) / "clone")

        for page in sorted(asked):
            begin(page)
        yield lambda page: begin(page).result()
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_a_page_runs_and_prints_what_the_page_shows(page, page_run):
    result = page_run(page)
    assert result.returncode == 0, f"{name(page)}, {result.tail}"
    for block, output in expectations(page):
        missing = missing_lines(output.code, result.printed[block.line])
        assert not missing, (
            f"{name(page)}:{output.line}: not printed: {missing}; printed:\n{result.printed[block.line]}"
        )


@pytest.mark.parametrize("page", TEXTS)
def test_a_command_that_is_not_executed_has_a_reason_on_the_page(page):
    found = blocks(page)
    shown = [b for b in found if b.shows_a_command and not b.executed and b.language != "output"]
    executed_somewhere = page in pages()
    silent = [b.line for b in shown if b.reason is None or len(b.reason.split()) < 3]
    assert not silent, f"{name(page)}: write <!-- not executed: REASON --> above the blocks at lines {silent}"
    assert executed_somewhere or not [b for b in found if b.executed], f"{name(page)} has blocks that no test executes"
    stray = [b.line for b in found if b.reason is not None and not b.shows_a_command]
    assert not stray, f"{name(page)}: blocks at lines {stray} show no command and need no reason"


@pytest.mark.parametrize("page", PAGES)
def test_commands_stand_in_fences_and_output_below_the_block_that_prints_it(page):
    indented = [
        n for n, line in enumerate(prose(page).splitlines(), 1) if re.match(r" {4,}(scmf-|\$ |make |pip )", line)
    ]
    assert not indented, f"{name(page)}: commands outside of fences at lines {indented}"
    outputs = [b.line for b in blocks(page) if b.language == "output"]
    assert outputs == [output.line for _, output in expectations(page)], f"{name(page)}: output below no executed block"


def test_most_blocks_that_show_a_command_are_executed():
    shown = [b for page in pages() for b in blocks(page) if b.shows_a_command and b.language != "output"]
    assert sum(b.executed for b in shown) >= 0.7 * len(shown)


@pytest.mark.parametrize("page", TEXTS)
def test_every_relative_link_leads_to_a_file_and_a_heading(page):
    broken = [target for target in _links(page) if not _resolves(page, target)]
    assert not broken, f"{name(page)}: {broken}"


def _links(page):
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    return [t for t in targets if not re.match(r"[a-z]+:", t)]


def _resolves(page, target):
    path, _, anchor = target.partition("#")
    file = (page.parent / path).resolve() if path else page
    return file.exists() and (not anchor or anchor in _anchors(file))


def _anchors(page):
    """GitHub's: lower case, punctuation dropped, spaces to hyphens."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_every_option_that_a_page_names_is_in_the_help_of_its_command(page):
    unknown = [(" ".join(words), flag) for words, flag in _options(page) if flag not in _flags(*words)]
    if page.name == "from-bionemo.md":  # its left columns
        unknown = [(words, flag) for words, flag in unknown if flag not in BIONEMO]
    if page.name == "troubleshooting.md":
        unknown = [(words, flag) for words, flag in unknown if flag not in MISSPELT]
    assert not unknown, f"{name(page)}: {unknown}"


def _options(page):
    """(command, option) of every mention: in blocks by their command, in prose by the command or by any."""
    spans = re.findall(r"`([^`]+)`", prose(page))
    lines = [line for b in blocks(page) for line in b.code.replace("\\\n", " ").splitlines()]
    for text in (*spans, *lines):
        # torchrun starts the module; what comes before it are torchrun's own options.
        text = text.replace("-m scmf.train.cli_train", "scmf-train")  # noqa: PLW2901
        for match in re.finditer(r"(scmf-(?:store|recipe|plan|train|predict|eval))( [a-z-]+)?([^|;&#]*)", text):
            command, word, rest = match.groups()
            known = MODEL_COMMANDS.get(command, STORE_COMMANDS)
            words = (command, word.strip()) if word and word.strip() in known else (command,)
            yield from ((words, flag) for flag in re.findall(r"(?<!\S)--[a-z-]+", rest))
    for flag in (f for span in spans for f in re.findall(r"^--[a-z0-9-]+", span)):
        yield (), flag


@cache
def _flags(*words):
    """Options of a command; of all commands where none is named."""
    if words:
        return set(re.findall(r"--[a-z-]+", help_of(*words)))
    every = [("scmf-train",), ("scmf-recipe",), ("scmf-plan",)]
    every += [("scmf-store", command) for command in STORE_COMMANDS]
    every += [(command, sub) for command, subs in MODEL_COMMANDS.items() for sub in subs]
    return set().union(*(_flags(*words) for words in every))


@pytest.mark.parametrize("page", PAGES)
def test_every_configuration_key_that_a_page_names_is_in_the_schema(page):
    keys = set(re.findall(r"(?<![\w./-])((?:data|model|trainer)(?:\.[a-z_0-9]+)+)\b(?!/)", _without_files(page)))
    unknown = sorted(key for key in keys - INVENTED if not _known(key))
    assert not unknown, f"{name(page)}: {unknown}"


def _without_files(page):
    """File names, such as model.py, are no keys."""
    return re.sub(r"\b\w+\.(py|md|h5ad|yaml|json|parquet)\b", "", page.read_text(encoding="utf-8"))


def _known(key):
    """Whether a dotted path is in the schema, following every variant of a section."""
    schema = _schema()
    here = [schema]
    for part in key.split("."):
        here = [sub for node in here for sub in _properties(node, schema).get(part, [])]
    return bool(here)


@cache
def _schema():
    return json_schema(MainConfig)


def _properties(node, schema):
    """Name -> schemas of a node's properties, through references and alternatives."""
    if "$ref" in node:
        return _properties(schema["$defs"][node["$ref"].rsplit("/", 1)[1]], schema)
    found = {key: [value] for key, value in node.get("properties", {}).items()}
    for other in (*node.get("anyOf", ()), *node.get("oneOf", ()), *node.get("allOf", ())):
        for key, values in _properties(other, schema).items():
            found.setdefault(key, []).extend(values)
    return found


def test_the_key_check_knows_what_a_key_is():
    assert _known("trainer.parallel.tensor")
    assert _known("data.tokenizer.vocabulary")
    assert _known("model.task.select")
    assert not _known("trainer.parallel.tensr")


@pytest.mark.parametrize("page", PAGES)
def test_yaml_and_json_on_a_page_can_be_parsed(page):
    for block in blocks(page):
        if block.language == "yaml":
            yaml.safe_load(block.code)
        elif block.language == "json":
            json.loads(block.code)


def test_the_metrics_page_lists_exactly_what_a_run_writes(page_run):
    page = REPOSITORY / "docs" / "metrics.md"
    listed = set(re.findall(r"^\| `([a-z_/]+)` \|", page.read_text(), re.MULTILINE))
    lines = (page_run(page).folder / "run" / "metrics.jsonl").read_text().splitlines()
    written = set().union(*(json.loads(line) for line in lines))
    assert listed == written


def test_the_index_has_one_line_for_every_page():
    index = REPOSITORY / "docs" / "README.md"
    linked = [target for target in _links(index) if target.endswith(".md") and "/" not in target]
    others = sorted(page.name for page in (REPOSITORY / "docs").glob("*.md") if page != index)
    assert sorted(linked) == others


@pytest.mark.parametrize(
    ("expected", "printed", "missing"),
    [
        pytest.param("a ... c\nd\n", "x\na b c\nd\n", [], id="any text"),
        pytest.param("d\na\n", "a\nd\n", ["a"], id="order"),
        pytest.param("loss 1.0\n", "loss 1x0\n", ["loss 1.0"], id="a dot is a dot"),
    ],
)
def test_shown_output_is_compared_line_by_line_in_order(expected, printed, missing):
    assert missing_lines(expected, printed) == missing


def test_a_page_stops_at_its_first_failing_block(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "```bash\nexport X=1\n```\n```python\nimport os\nassert os.environ['X'] == '2'\n```\n```bash\necho no\n```\n"
    )
    result = run_page(page, tmp_path / "clone")
    assert result.returncode != 0
    assert sorted(result.printed) == [1, 4]
    assert "AssertionError" in result.tail
