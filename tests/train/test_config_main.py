"""The file that drives a run: loading, kinds, round trips, schema."""

from __future__ import annotations

import json
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scmf.core.config import require
from scmf.core.config_read import parse_json, parse_yaml
from scmf.core.config_write import json_schema, to_json, to_yaml
from scmf.core.errors import ConfigError
from scmf.data.config import SHIPPED_VOCABULARIES, CellsConfig, RankTokenizerConfig, SplitConfig
from scmf.data.config_order import (
    BalancedConfig,
    BlockOrderConfig,
    RandomOrderConfig,
    StoreEntry,
    UniformConfig,
)
from scmf.model.config import EncoderConfig, MlmTask
from scmf.train.config import (
    CheckpointConfig,
    EmaConfig,
    MainConfig,
    ParallelConfig,
    TrainerConfig,
    load_config,
)
from scmf.train.log_config import LogConfig, ProfileConfig, WandbConfig
from scmf.train.optimizer_config import OPTIMIZERS
from scmf.train.schedule import (
    ConstantConfig,
    CosineConfig,
    ExponentialConfig,
    InverseSqrtConfig,
    LinearConfig,
    PlateauConfig,
    ScheduleConfig,
    WsdConfig,
)
from scmf.train.validation_config import EarlyStopConfig, ValidateConfig

MINIMAL = """\
data:
  kind: cells
  store: store
  tokenizer: {kind: rank, seq_length: 128}
  global_batch_size: 8
  microbatch_tokens: 1024
model:
  kind: encoder
  layers: 2
  hidden: 32
  ffn: 64
  heads: 2
trainer:
  max_steps: 10
  optimizer: {lr: 1e-3}
  result_dir: run
"""


@pytest.fixture
def cfg(tmp_path: Path) -> Path:
    path = tmp_path / "cfg.yaml"
    path.write_text(MINIMAL)
    return path


@pytest.fixture
def user_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package of the user's own: a data section with one more key, and classes that will not do."""
    code = """
        from scmf.core.config import Config
        from scmf.data.config import CellsConfig, DataConfig
        from scmf.model.config import EncoderConfig, TaskConfig

        class PerturbSeqConfig(CellsConfig):
            '''Cells with the gene that was knocked out.'''
            guides: tuple[str, str]
            '''Two columns of obs.'''

        class AnyData(DataConfig):
            '''Any.'''

        class WideEncoder(EncoderConfig):
            '''Wide.'''
            wings: int = 2
            '''Wings.'''

        class Contrast(TaskConfig):
            '''A task.'''
            margin: float
            '''Margin.'''

        class Stray(Config):
            '''No data section.'''

        number = 3
    """
    name = f"user_package_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(code))
    (tmp_path / f"{name}_broken.py").write_text("raise RuntimeError('no licence')\n")
    (tmp_path / f"{name}_needy.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_a_short_file_is_completed_by_defaults(cfg):
    config = load_config(cfg)
    assert isinstance(config.data, CellsConfig)
    assert isinstance(config.model, EncoderConfig)
    assert isinstance(config.model.task, MlmTask)
    assert config.trainer.optimizer.lr == 1e-3
    assert config.trainer.validation.every == 100
    assert config.trainer.steps == 10


def test_overrides_win_over_the_file(cfg):
    config = load_config(cfg, ["trainer.optimizer.lr=3e-4", "data.split.by=donor_id", "trainer.validate.every=null"])
    assert config.trainer.optimizer.lr == 3e-4
    assert config.data.split.by == "donor_id"
    assert config.trainer.validation.every is None


def test_a_fault_says_the_file_the_line_and_the_key(cfg):
    cfg.write_text(MINIMAL.replace("max_steps", "max_stepz"))
    with pytest.raises(ConfigError) as error:
        load_config(cfg)
    assert error.value.what == "trainer.max_stepz is not a key of trainer"
    assert error.value.where == f"{cfg}, line 14, trainer.max_stepz"
    assert error.value.fix.startswith("did you mean `max_steps`?")
    with pytest.raises(ConfigError) as error:
        load_config(cfg, ["model.heads=3"])
    assert "trainer.max_stepz is not a key of trainer (line 14): did you mean `max_steps`?" in error.value.what
    assert "(override model.heads=3)" in error.value.what


@pytest.mark.parametrize(
    ("override", "near"),
    [
        ("trainer.optimzer.lr=1", "optimizer"),
        ("trainer.validation.every=1", "validate"),
        ("trainer.parallel.tensr=1", "tensor"),
        ("data.tokenizer.seqlength=1", "seq_length"),
        ("model.task.masks=1", "mask"),
        ("data.global_batch=1", "global_batch_size"),
        ("max_steps=1", "trainer.max_steps"),
        ("trainer.learning_rate=1", "trainer.optimizer.lr"),
        ("data.seq_length=1", "data.tokenizer.seq_length"),
        ("model.precision=fp32", "trainer.precision"),
        ("traner.seed=1", "trainer"),
    ],
)
def test_a_misspelt_override_names_the_nearest_key(cfg, override, near):
    with pytest.raises(ConfigError) as error:
        load_config(cfg, [override])
    assert f"did you mean `{near}`?" in error.value.fix
    assert override in error.value.where


def test_keys_that_a_kind_leaves_behind_are_told_with_the_whole_section_to_write(cfg):
    with pytest.raises(ConfigError) as error:
        load_config(cfg, ["model.task.kind=classify", "model.task.column=cell_type", "model.task.mask=0.5"])
    assert error.value.what == "model.task.mask is a key of kind mlm, and model.task.kind is classify"
    assert error.value.fix.endswith("takes its place: 'model.task={kind: classify, column: ...}'")
    with pytest.raises(ConfigError) as error:
        load_config(cfg, ["model.task.masc=0.5"])
    assert error.value.what == "model.task.masc is not a key of model.task"


def test_a_kind_may_be_left_out_and_a_wrong_one_lists_the_right_ones(cfg):
    cfg.write_text(MINIMAL.replace("  kind: cells\n", "").replace("  kind: encoder\n", ""))
    assert load_config(cfg).data.kind == "cells"
    with pytest.raises(ConfigError) as error:
        load_config(cfg, ["data.kind=cell"])
    assert error.value.what == 'kind "cell" is not built in'
    assert (
        "write one of: cells, sequences; or the dotted path of your own subclass of scmf.data.config.DataConfig"
        in error.value.fix
    )


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("model.task.kind=mml", "mlm"),
        ("model.task.kind=clasify", "classify"),
        ("data.kind=Cells", "cells"),
        ("model.kind=enc", "encoder"),
        ("trainer.schedule.kind=cosin", "cosine"),
        ("data.order.kind=block", "blocks"),
        ("model.task={kind: several, tasks: {a: {kind: regres}}}", "regress"),
    ],
)
def test_a_misspelt_kind_names_the_nearest_one_and_all_others(cfg, override, meant):
    with pytest.raises(ConfigError) as error:
        load_config(cfg, [override])
    assert error.value.fix.startswith(f"did you mean kind: {meant}? Otherwise write one of: ")
    assert error.value.where.endswith("kind")


def test_a_class_of_the_user_is_named_by_its_path_and_survives_the_round_trip(cfg, user_package, tmp_path):
    overrides = [
        f"data.kind={user_package}.PerturbSeqConfig", "data.guides=[a, b]",
        f"model.kind={user_package}.WideEncoder",
        f"model.task={{kind: {user_package}.Contrast, margin: 1}}",
    ]  # fmt: skip
    config = load_config(cfg, overrides)
    assert config.data.guides == ("a", "b")
    assert config.data.kind == f"{user_package}.PerturbSeqConfig"
    assert config.model.wings == 2
    assert config.model.task.margin == 1.0
    again = tmp_path / "again.yaml"
    again.write_text(to_yaml(config))
    assert load_config(again) == config
    assert "# Two columns of obs.\n  guides: [a, b]" in again.read_text()


def test_the_rules_hold_for_a_class_of_the_user(cfg, user_package):
    with pytest.raises(ConfigError, match=r"model\.heads=5 cannot share model\.hidden=32"):
        load_config(cfg, [f"model.kind={user_package}.WideEncoder", "model.heads=5"])
    with pytest.raises(ConfigError, match="did you mean `wings`"):
        load_config(cfg, [f"model.kind={user_package}.WideEncoder", "model.wing=5"])
    with pytest.raises(ConfigError, match=r"data\.guides is missing"):
        load_config(cfg, [f"data.kind={user_package}.PerturbSeqConfig"])


def test_a_class_given_beside_the_file_wins_over_its_kind(cfg, user_package):
    config = load_config(cfg, ["data.guides=[a, b]"], data_cls=f"{user_package}.PerturbSeqConfig")
    assert type(config.data).__name__ == "PerturbSeqConfig"
    wide = sys.modules[user_package].WideEncoder
    assert isinstance(load_config(cfg, model_cls=wide).model, wide)
    with pytest.raises(ConfigError) as error:
        load_config(cfg, data_cls="nowhere.Data")
    assert "--data-config-cls nowhere.Data" in error.value.where


@pytest.mark.parametrize(
    ("kind", "what", "fix"),
    [
        ("no_such.Data", "no_such.Data: there is no module no_such", "PYTHONPATH"),
        ("{p}.sub.Data", "there is no module {p}.sub", "PYTHONPATH"),
        ("{p}.PerturbSeq", "module {p} has no PerturbSeq", "PerturbSeqConfig"),
        ("{p}.Stray", "{p}.Stray is not a subclass of scmf.data.config.DataConfig", "class Stray(DataConfig)"),
        ("{p}.number", "{p}.number is not a subclass of", "derive it"),
        ("{p}.WideEncoder", "{p}.WideEncoder is not a subclass of scmf.data.config.DataConfig", "derive it"),
        ("{p}_broken.Data", "importing {p}_broken fails: RuntimeError: no licence", "whole trace"),
        ("{p}_needy.Data", "No module named 'a_package_that_is_not_there'", "install a_package_that_is_not_there"),
        (".Data", "", ""),
        ("a..b", "", ""),
        ("3", "kind must be text, not 3", "write one of: cells"),
        ("[a]", "kind must be text", "write one of: cells"),
    ],
)
def test_a_path_that_names_no_such_class_says_which_part_is_wrong(cfg, user_package, kind, what, fix):
    with pytest.raises(ConfigError) as error:
        load_config(cfg, [f"data.kind={kind.format(p=user_package)}"])
    assert what.format(p=user_package) in error.value.what
    assert fix in error.value.fix
    assert error.value.where.endswith("data.kind")


def test_a_kind_that_cannot_be_built_is_refused_where_it_is_met(cfg, user_package):
    config = load_config(cfg)
    assert require(config.data, CellsConfig, key="data") is config.data
    other = load_config(cfg, [f"data.kind={user_package}.AnyData"])
    with pytest.raises(ConfigError) as error:
        require(other.data, CellsConfig, key="data")
    assert error.value.what == f"data.kind={user_package}.AnyData is no CellsConfig, and nothing else can be built here"
    assert error.value.fix == "write data.kind: cells, or derive your class from scmf.data.config.CellsConfig"


def test_a_class_made_in_python_names_itself(user_package):
    import importlib

    data = importlib.import_module(user_package).AnyData(
        store="s", tokenizer=RankTokenizerConfig(seq_length=8), global_batch_size=1, microbatch_tokens=8
    )
    assert data.kind == f"{user_package}.AnyData"
    assert CellsConfig.kind_name() == "cells"


def test_the_sizes_that_the_config_knows_are_those_of_the_shipped_vocabularies():
    from scmf.data.vocabulary import load_vocabulary, shipped_vocabularies

    assert {name: len(load_vocabulary(name)) for name in shipped_vocabularies()} == SHIPPED_VOCABULARIES


@pytest.mark.parametrize(("name", "file"), [("geneformer-v1", "V1/token_dictionary_gc30M.json"),
                                            ("geneformer-v2", "V2/token_dictionary_gc104M.json")])  # fmt: skip
def test_the_sizes_that_the_config_knows_are_those_of_upstream(name, file):
    path = Path(__file__).parents[2].parent / "shared" / "data" / "geneformer_dicts" / file
    if not path.exists():
        pytest.skip("needs the shared data")
    assert len(json.loads(path.read_text())) == SHIPPED_VOCABULARIES[name]


def multiples(of: int, most: int) -> st.SearchStrategy[int]:
    return st.integers(1, most // of).map(lambda n: n * of)


BALANCED = BalancedConfig(by="cell_type")


@st.composite
def schedules(draw: st.DrawFn, warmup: int, hold: int, lr: float) -> ScheduleConfig:
    """Any kind that needs no more than `warmup + hold` steps and one."""
    floor = draw(
        st.sampled_from([{}, {"min_lr": draw(st.floats(lr / 9, lr))}, {"min_ratio": draw(st.floats(0.1, 1.0))}])
    )
    cls = draw(st.sampled_from([ConstantConfig, CosineConfig, LinearConfig, ExponentialConfig, InverseSqrtConfig,
                                PlateauConfig, WsdConfig]))  # fmt: skip
    given: dict[str, Any] = {} if cls is ConstantConfig else dict(floor)
    if issubclass(cls, WsdConfig):
        return WsdConfig(warmup_steps=warmup, decay_steps=max(1, hold), decay=draw(st.sampled_from(["linear", "sqrt"])))
    if issubclass(cls, CosineConfig | LinearConfig | ExponentialConfig):
        given |= {"hold_steps": hold, "horizon": draw(st.none() | st.just(warmup + hold + 1))}
    if cls is InverseSqrtConfig:
        given["timescale"] = draw(st.integers(1, 10**6))
    return cls(warmup_steps=warmup, **given)


@st.composite
def configs(draw: st.DrawFn) -> MainConfig:
    """Valid configs over the whole range of every field."""
    tensor, pipeline = draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([1, 2, 3]))
    replicas, nodes = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    share = nodes * replicas * draw(st.integers(1, 8))
    packing = draw(st.booleans())
    seq_length = draw(st.integers(2, 4096))
    heads = draw(multiples(tensor, 16))
    warmup, hold = draw(st.integers(0, 10**6)), draw(st.integers(0, 10**6))
    lr = draw(st.floats(1e-8, 10.0))
    schedule = draw(schedules(warmup, hold, lr))
    optimizers = [cls for cls in OPTIMIZERS.values() if tensor == 1 or cls.elementwise]
    validate = draw(st.integers(1, 10**6) | (st.nothing() if isinstance(schedule, PlateauConfig) else st.none()))
    mask = draw(st.floats(0.0, 1.0))
    text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
    epochs = draw(st.booleans())
    order = draw(st.sampled_from([RandomOrderConfig(), BlockOrderConfig(block=16, window=64)]))
    # Weights that differ and blocks exclude each other.
    entries = st.builds(StoreEntry, path=text, weight=st.just(1.0) if order.kind == "blocks" else st.floats(1e-3, 9.0))
    return MainConfig(
        data=CellsConfig(
            store=draw(text | st.lists(entries, min_size=1, max_size=3, unique_by=lambda e: e.path).map(tuple)),
            order=order,
            sampling=UniformConfig() if order.kind == "blocks" else draw(st.sampled_from([UniformConfig(), BALANCED])),
            read=draw(st.sampled_from(["auto", "mmap", "pread"])),
            tokenizer=RankTokenizerConfig(
                vocabulary=draw(st.sampled_from(["geneformer-v1", "geneformer-v2", "my/own.parquet"])),
                seq_length=seq_length,
            ),
            split=SplitConfig(
                by=draw(st.none() | text), validation=draw(st.floats(0.01, 0.5)), test=draw(st.floats(0, 0.4))
            ),
            global_batch_size=share,
            packing=packing,
            microbatch_tokens=tensor * seq_length * draw(st.integers(1, 9)) if packing else None,
            micro_batch_size=None if packing else 1,
            workers=draw(st.integers(0, 64)),
        ),
        model=EncoderConfig(
            layers=draw(multiples(pipeline, 96)),
            hidden=heads * draw(st.integers(1, 64)),
            ffn=draw(multiples(tensor, 8192)),
            heads=heads,
            norm=draw(st.sampled_from(["pre", "post"])),
            hidden_dropout=draw(st.floats(0.0, 0.9)),
            layernorm_epsilon=draw(st.floats(1e-15, 1e-2)),
            task=MlmTask(select=draw(st.floats(0.01, 1.0)), mask=mask, random=draw(st.floats(0.0, 1.0 - mask))),
            init_from=draw(st.none() | text),
        ),
        trainer=TrainerConfig(
            max_steps=None if epochs else warmup + hold + draw(st.integers(2, 10**6)),
            max_epochs=draw(st.floats(1e-3, 100.0)) if epochs else None,
            devices=draw(st.sampled_from(["auto", tensor * pipeline * replicas])),
            nodes=nodes,
            precision=draw(st.sampled_from(["fp32", "bf16", "auto"])),
            parallel=ParallelConfig(tensor=tensor, pipeline=pipeline, sequence=tensor > 1 and draw(st.booleans())),
            optimizer=draw(st.sampled_from(optimizers))(lr=lr, clip=draw(st.none() | st.floats(1e-3, 10.0))),
            schedule=schedule,
            ema=draw(st.none() | st.builds(EmaConfig, decay=st.floats(0.1, 0.9999), validate=st.booleans())),
            early_stop=None if validate is None else draw(st.none() | st.just(EarlyStopConfig(patience=3))),
            validate=ValidateConfig(every=validate, batches=draw(st.integers(1, 99))),
            checkpoint=CheckpointConfig(every=draw(st.integers(1, 10**6)), keep_best=draw(st.integers(0, 9))),
            log=LogConfig(
                tensorboard=draw(st.booleans()),
                verbosity=draw(st.sampled_from([0, 1, 2])),
                wandb=draw(st.none() | st.builds(WandbConfig, tags=st.lists(st.just("tag")).map(tuple))),
                peak_tflops=draw(st.none() | st.floats(1e-3, 1e4)),
            ),
            profile=draw(st.none() | st.builds(ProfileConfig, start=st.just(2), ranks=st.just((0,)))),
            result_dir=draw(text),
            seed=draw(st.integers(0, 2**63 - 1)),
        ),
    )


@settings(max_examples=100, deadline=None)
@given(configs())
def test_every_config_reads_back_equal_from_yaml_and_json(config):
    for written, parser in ((to_yaml(config), parse_yaml), (to_json(config), parse_json)):
        assert MainConfig.parse(parser(written, "f").values, source="f") == config


@settings(max_examples=100, deadline=None)
@given(configs())
def test_the_schema_accepts_every_config(config):
    assert list(schema_faults(SCHEMA, json.loads(to_json(config)))) == []


@pytest.mark.parametrize(
    "change",
    [
        ("trainer.max_stepz", 3), ("trainer.max_steps", "3"), ("trainer.optimizer.lr", 0.0), ("model.norm", "mid"),
        ("data.kind", "cell"), ("trainer.validate", None), ("trainer.devices", -1), ("model.task.select", 1.5),
        ("trainer.parallel.sequence", 1), ("data.tokenizer.seq_length", 1), ("data.store", []),
        ("data.store", [{"path": "a", "wait": 1.0}]), ("data.order.kind", "block"),
    ],
)  # fmt: skip
def test_the_schema_refuses_what_the_program_refuses(change):
    document = parse_yaml(MINIMAL, "f").values
    assert list(schema_faults(SCHEMA, document)) == []
    *path, last = change[0].split(".")
    section = document
    for key in path:
        section = section.setdefault(key, {})
    section[last] = change[1]
    assert list(schema_faults(SCHEMA, document))
    with pytest.raises(ConfigError):
        MainConfig.parse(document, source="f")


def test_the_schema_describes_every_key_and_resolves_every_reference():
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert set(SCHEMA["properties"]) == {"data", "model", "trainer"}
    for name, section in [("MainConfig", SCHEMA), *SCHEMA["$defs"].items()]:
        assert section.get("additionalProperties") is False, name
        for key, field in section["properties"].items():
            referred = SCHEMA["$defs"].get(field.get("$ref", "").rpartition("/")[2], {})
            assert field.get("description") or referred.get("description"), f"{name}.{key}"
    references = set(_references(SCHEMA))
    assert references <= {f"#/$defs/{name}" for name in SCHEMA["$defs"]}
    assert "validate" in SCHEMA["$defs"]["TrainerConfig"]["properties"]


def _references(node: Any) -> list[str]:
    if isinstance(node, list):
        return [found for item in node for found in _references(item)]
    if isinstance(node, dict):
        own = [node["$ref"]] if "$ref" in node else []
        return own + [found for item in node.values() for found in _references(item)]
    return []


SCHEMA = json_schema(MainConfig)
TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
CHECKED = {"type", "const", "enum", "anyOf", "$ref", "properties", "required", "additionalProperties", "minimum",
           "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength", "pattern", "items",
           "minItems"}  # fmt: skip
IGNORED = {"title", "description", "default", "$defs", "$schema"}


def schema_faults(schema: dict[str, Any], value: Any) -> list[str]:
    """Validate by the keywords of draft 2020-12 that the schema uses; an unknown keyword is an error, not a pass."""
    unknown = set(schema) - CHECKED - IGNORED
    assert not unknown, f"the checker does not know {unknown}"
    if "$ref" in schema:
        return schema_faults(SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]], value)
    if "anyOf" in schema and all(schema_faults(branch, value) for branch in schema["anyOf"]):
        return [f"{value!r} matches no branch"]
    if "type" in schema and not _is(schema["type"], value):
        return [f"{value!r} is no {schema['type']}"]
    allowed = [schema["const"]] if "const" in schema else schema.get("enum", [value])
    faults = [] if value in allowed else [f"{value!r} is none of {allowed}"]
    if isinstance(value, int | float) and not isinstance(value, bool):
        faults += _bound_faults(schema, value)
    if isinstance(value, str):
        within = schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value))
        fits = within and re.search(schema.get("pattern", ""), value)
        faults += [] if fits else [f"{value!r} does not match"]
    if isinstance(value, list):
        faults += [] if len(value) >= schema.get("minItems", 0) else ["too short a list"]
        faults += [fault for item in value for fault in schema_faults(schema.get("items", {}), item)]
    if isinstance(value, dict) and "properties" in schema:
        faults += _object_faults(schema, value)
    return faults


def _object_faults(schema: dict[str, Any], value: dict[str, Any]) -> list[str]:
    faults = [f"{key} is missing" for key in schema.get("required", []) if key not in value]
    known = schema["properties"]
    for key, inner in value.items():
        if key in known:
            faults += schema_faults(known[key], inner)
        elif schema.get("additionalProperties") is False:
            faults.append(f"{key} is unknown")
    return faults


def _is(kind: str, value: Any) -> bool:
    if kind in ("integer", "number"):
        whole = isinstance(value, int) and not isinstance(value, bool)
        return whole or (kind == "number" and isinstance(value, float))
    return isinstance(value, TYPES[kind])


def _bound_faults(schema: dict[str, Any], value: float) -> list[str]:
    inside = (
        value >= schema.get("minimum", value)
        and value <= schema.get("maximum", value)
        and value > schema.get("exclusiveMinimum", value - 1)
        and value < schema.get("exclusiveMaximum", value + 1)
    )
    return [] if inside else [f"{value} is out of bounds"]
