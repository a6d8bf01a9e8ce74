"""Every rule of the config is broken once, and its sentence is read."""

from __future__ import annotations

import inspect

import pytest

from scmf.core.config_override import override
from scmf.core.config_read import Document
from scmf.core.errors import ConfigError
from scmf.train import rules
from scmf.train.config import MainConfig, check_document, with_steps
from scmf.train.recipe import nest
from scmf.train.recipes import find_recipe
from scmf.train.rules import check_world

BASE = {
    "data.store": "store",
    "data.tokenizer.seq_length": 128,
    "data.global_batch_size": 24,
    "data.microbatch_tokens": 768,
    "model.layers": 4,
    "model.hidden": 48,
    "model.ffn": 96,
    "model.heads": 6,
    "trainer.max_steps": 100,
    "trainer.optimizer.lr": 1e-3,
    "trainer.result_dir": "run",
}


def check(*overrides: str) -> MainConfig:
    return check_document(override(Document(nest(BASE), "cfg.yaml"), overrides))


PADDED = ("data.packing=false", "data.microbatch_tokens=null")

BROKEN = [
    (
        ["trainer.devices=2", "trainer.profile={ranks: [0, 2]}"],
        "trainer.profile.ranks names rank 2, and the run has 2 ranks, numbered from 0",
        "ranks up to 1",
    ),
    (
        ["trainer.profile={start: 101}"],
        "trainer.profile.start=101 comes after the last step, trainer.max_steps=100",
        "a step up to 100",
    ),
    (["model.heads=7"], "model.heads=7 cannot share model.hidden=48 evenly", "at most this: 6"),
    (
        ["model.task.mask=0.9", "model.task.random=0.2"],
        "model.task.mask=0.9 and model.task.random=0.2 are shares of the same tokens and sum to more than 1",
        "use random: 0.1 or less",
    ),
    (
        ["model.task={kind: classify, column: type, classes: [a, b, a]}"],
        "classes names 'a' twice",
        "name each class once",
    ),
    (
        ["model.task={kind: classify, column: type, classes: [a]}"],
        "classes names 1, and with fewer than two there is nothing to tell apart",
        "null for all that training cells have",
    ),
    (
        ["model.task={kind: several, tasks: {}}"],
        "model.task.tasks names no objective",
        "tasks: {mlm: {kind: mlm}}",
    ),
    (
        ["model.task={kind: several, tasks: {Cell type: {kind: classify, column: type}}}"],
        ("model.task.tasks has an objective of the name 'Cell type'; small letters, digits and _ make a name, "
        "a letter first"),
        "call it cell_type",
    ),
    (
        ["model.task={kind: several, tasks: {one: {kind: mlm}, two: {kind: mlm}}}"],
        "model.task.tasks has 2 masked language models (one, two), and a cell is corrupted in one way",
        "keep one of them, for example one",
    ),
    (
        ["model.task={kind: several, tasks: {mlm: {kind: mlm}}, weights: {mln: 0.5}}"],
        "model.task.weights.mln is the weight of no objective",
        "did you mean mlm? The objectives: mlm",
    ),
    (
        ["model.task={kind: several, tasks: {mlm: {kind: mlm}}, weights: {mlm: 0}}"],
        "every weight is 0: nothing would be trained",
        "a weight above 0",
    ),
    (
        ["data.kind=sequences", "data.tokenizer.kind=char", "model.task={kind: classify, column: type}"],
        "model.task asks for labels of cells (classify), and data.kind=sequences has no obs",
        "write data.kind: cells",
    ),
    (
        ["model.hidden=49", "model.heads=7", "model.positions=sinusoidal"],
        "model.positions=sinusoidal takes a sine and a cosine of each wavelength, and model.hidden=49 is odd",
        "use an even hidden",
    ),
    (
        ["model.heads=16", "model.positions=rotary"],
        ("model.positions=rotary turns pairs of a head's numbers, and model.hidden=48 over model.heads=16 is no even "
        "width"),
        "a multiple of 2 x heads",
    ),
    (
        ["data.kind=sequences", "data.tokenizer.kind=char", "data.store=s3://bucket/text"],
        "data.store=s3://bucket/text is not on a disk, and stores of sequences are read by memory map",
        "copy the folder to a disk",
    ),
    (
        ["data.split.validation=0.5", "data.split.test=0.5"],
        "data.split.validation=0.5 and data.split.test=0.5 leave nothing to train on",
        "sum to less than 1",
    ),
    (
        ["data.split.by=donor_id", "data.split.name=first"],
        "data.split.name=first and data.split.by=donor_id both say which cells are held out",
        "write null for one of them",
    ),
    (
        ["data.store=[{path: a}, {path: a, weight: 2.0}]"],
        "data.store names a twice",
        "a weight above 1 draws its cells more often",
    ),
    (
        ["data.order.kind=blocks", "data.sampling={kind: balanced, by: cell_type}"],
        ("data.order.kind=blocks gives every cell once an epoch, and data.sampling.kind=balanced asks for some more "
        "often"),
        "write order: {kind: random}",
    ),
    (
        ["data.order={kind: blocks, block: 64, window: 100}"],
        ("data.order.window=100 holds fewer than two blocks of data.order.block=64 cells, so that a batch would come "
        "from one stretch of the store"),
        "use a window of 64 blocks: 4096",
    ),
    (
        ["data.tokenizer.vocabulary=geneformer-v9"],
        "no vocabulary geneformer-v9 is shipped, and a path would hold a slash or a dot",
        "did you mean geneformer-v",
    ),
    (
        ["data.micro_batch_size=4"],
        "data.micro_batch_size=4 counts padded cells; data.packing=true has none",
        "microbatch_tokens: 512",
    ),
    (
        ["data.microbatch_tokens=null"],
        "data.microbatch_tokens is null, and data.packing=true needs a budget",
        "at least tokenizer.seq_length=128",
    ),
    (
        ["data.microbatch_tokens=100"],
        ("data.microbatch_tokens=100 is less than data.tokenizer.seq_length=128, so the longest cells fit into "
        "no microbatch"),
        "use at least 128",
    ),
    (
        ["data.packing=false", "data.micro_batch_size=4"],
        "data.microbatch_tokens=768 is a pack's budget; data.packing=false has no packs",
        "microbatch_tokens: null",
    ),
    (
        [*PADDED],
        "data.micro_batch_size is null, and data.packing=false needs the cells of a microbatch",
        "give a number",
    ),
    (
        [*PADDED, "data.micro_batch_size=7"],
        "data.global_batch_size=24 is not a multiple of data.micro_batch_size=7",
        "divides it",
    ),
    (
        ["trainer.parallel.context=2"],
        ("trainer.parallel.context=2 is not available: only Transformer Engine's attention on GPUs can share one "
        "cell's positions, and scmf has not been run with it"),
        "context: 1",
    ),
    (
        ["trainer.parallel.interleave=2"],
        "trainer.parallel.interleave=2 deals stages out to pipeline ranks, and trainer.parallel.pipeline=1",
        "interleave: 1",
    ),
    (
        ["trainer.parallel.interleave=3", "trainer.parallel.pipeline=2"],
        "model.layers=4 cannot be split over trainer.parallel.pipeline=2 x interleave=3 stages",
        "interleave: 2",
    ),
    (
        ["trainer.parallel.fsdp=true", "trainer.parallel.tensor=2"],
        ("trainer.parallel.fsdp=true shares whole layers out over data-parallel ranks, and tensor=2, pipeline=1 "
        "split them already"),
        "fsdp: false and shard_optimizer: true",
    ),
    (
        ["trainer.parallel.fsdp=true", "trainer.parallel.shard_optimizer=true"],
        ("trainer.parallel.shard_optimizer=true and trainer.parallel.fsdp=true are two ways to share out the "
        "optimizer's state"),
        "shard_optimizer: false",
    ),
    (
        ["trainer.parallel.fsdp=true", "trainer.devices=12", "model.hidden=60", "data.tokenizer.seq_length=120",
         "model.pad_vocabulary_to=384", "model.ffn=95"],
        ("model.ffn=95 makes matrices of 95 ffn, which trainer.parallel.fsdp=true cannot share out evenly over 12 "
        "ranks"),
        "use ffn: 96, or another number",
    ),
    (
        ["trainer.parallel.fsdp=true", "trainer.faults.probe_memory=true"],
        ("trainer.faults.probe_memory=true tries microbatches on each rank alone, and under "
        "trainer.parallel.fsdp=true no rank can compute alone"),
        "probe_memory: auto",
    ),
    (
        ["trainer.precision=fp8", "model.ffn=100"],
        ("model.ffn=100 is no multiple of 16, as trainer.precision=fp8 with trainer.fp8.recipe=current needs it"),
        "use ffn: 112",
    ),
    (
        ["trainer.precision=fp8", "trainer.parallel.pipeline=2", "trainer.fp8.first_bf16=3"],
        ("trainer.fp8.first_bf16=3 is more than the 2 layers of a pipeline rank (model.layers=4 over "
        "trainer.parallel.pipeline=2)"),
        "first_bf16: 2 or less",
    ),
    (
        ["trainer.fp8.recipe=delayed", "trainer.fp8.last_bf16=1"],
        ("trainer.fp8.recipe=delayed scales all layers in one context, and first_bf16=0, last_bf16=1 take some out "
        "(megatron-core 0.16.1 cannot)"),
        "recipe: current",
    ),
    (
        ["trainer.precision=fp16", "trainer.parallel.fsdp=true"],
        ("trainer.precision=fp16 scales the loss of no sharded optimizer, and trainer.parallel.fsdp=true shards it"),
        "precision: bf16",
    ),
    (
        ["trainer.precision=fp8", "trainer.parallel.recompute=selective"],
        "trainer.parallel.recompute=selective would scale a feed-forward's fp8 products twice a step",
        "recompute: full",
    ),
    (
        ["trainer.parallel.sequence=true"],
        "trainer.parallel.sequence=true splits over the tensor ranks, and trainer.parallel.tensor=1",
        "sequence: false",
    ),
    (["trainer.max_steps=null"], "the run has no length", "give trainer.max_steps, or trainer.max_epochs"),
    (
        ["trainer.max_epochs=2"],
        "trainer.max_steps=100 and trainer.max_epochs=2.0 both set the length",
        "null for one",
    ),
    (
        ["trainer.schedule.min_lr=0.01"],
        "trainer.schedule.min_lr=0.01 is above the peak trainer.optimizer.lr=0.001",
        "below the peak",
    ),
    (
        ["trainer.schedule.min_lr=0.0001", "trainer.schedule.min_ratio=0.5"],
        "trainer.schedule.min_lr=0.0001 and trainer.schedule.min_ratio=0.5 both set the floor",
        "null for one",
    ),
    (
        ["trainer.schedule={kind: exponential, min_ratio: 0.0}"],
        "trainer.schedule.kind=exponential never reaches a floor of 0.0",
        "min_ratio: 0.01",
    ),
    (
        ["trainer.schedule={kind: inverse_sqrt}"],
        "trainer.schedule.kind=inverse_sqrt falls on the scale of the warm-up, and warmup_steps=0",
        "timescale: 1000",
    ),
    (
        ["trainer.schedule={kind: wsd, warmup_steps: 50, decay_steps: 30, hold_steps: 20}"],
        ("trainer.schedule.warmup_steps=50 and decay_steps=30 and hold_steps=20 take 100 steps, and the whole run has "
        "trainer.max_steps=100"),
        "shorten them",
    ),
    (
        ["trainer.schedule.horizon=40", "trainer.schedule.warmup_steps=40"],
        ("trainer.schedule.warmup_steps=40 and hold_steps=0 take 40 steps, and the whole run has "
        "trainer.schedule.horizon=40"),
        "shorten them, for example trainer.schedule.warmup_steps=0; or lengthen the run",
    ),
    (
        ["trainer.schedule={kind: plateau}", "trainer.validate.every=null"],
        "trainer.schedule.kind looks at the validation loss, and trainer.validate.every=null takes none",
        "validate.every: 100",
    ),
    (
        ["trainer.early_stop={patience: 3}", "trainer.validate.every=null"],
        "trainer.early_stop looks at the validation loss, and trainer.validate.every=null takes none",
        "validate.every: 100",
    ),
    (
        ["trainer.early_stop={patience: 3, metric: val/ema_loss}"],
        "trainer.early_stop.metric=val/ema_loss is the loss of averaged weights, and trainer.ema takes none",
        "metric: val/loss",
    ),
    (
        ["trainer.optimizer={kind: muon, lr: 0.001}", "trainer.parallel.tensor=2"],
        "trainer.optimizer.kind=muon needs every matrix whole, and trainer.parallel.tensor=2 splits it over ranks",
        "optimizer.kind: adamw",
    ),
    (
        ["trainer.optimizer={kind: muon, lr: 0.001}", "trainer.parallel.shard_optimizer=true"],
        ("trainer.optimizer.kind=muon needs every matrix whole, and trainer.parallel.shard_optimizer=true splits it "
        "over ranks"),
        "shard_optimizer: false",
    ),
    (
        ["trainer.optimizer={kind: muon, lr: 0.001}", "trainer.parallel.fsdp=true"],
        "trainer.optimizer.kind=muon needs every matrix whole, and trainer.parallel.fsdp=true splits it over ranks",
        "fsdp: false",
    ),
    (
        ["trainer.schedule.warmup_steps=60", "trainer.schedule.hold_steps=40"],
        ("trainer.schedule.warmup_steps=60 and hold_steps=40 take 100 steps, and the whole run has "
        "trainer.max_steps=100"),
        "lengthen the run",
    ),
    (
        ["trainer.parallel.tensor=4"],
        "model.heads=6 cannot be split over trainer.parallel.tensor=4",
        "tensor: 2",
    ),
    (
        ["trainer.parallel.tensor=2", "model.ffn=95"],
        "model.ffn=95 cannot be split over trainer.parallel.tensor=2",
        "tensor: 1",
    ),
    (
        ["trainer.parallel.pipeline=3"],
        "model.layers=4 cannot be split over trainer.parallel.pipeline=3",
        "pipeline: 2",
    ),
    (
        ["trainer.parallel.tensor=3"],
        ("model.pad_vocabulary_to=128 pads geneformer-v1's 25,426 tokens to 25472, which cannot be split over "
        "trainer.parallel.tensor=3"),
        "use pad_vocabulary_to: 129",
    ),
    (
        ["trainer.parallel.tensor=3", "data.tokenizer.vocabulary=own.parquet"],
        ("model.pad_vocabulary_to=128 pads any vocabulary to a multiple of it, which cannot be split over "
        "trainer.parallel.tensor=3"),
        "use pad_vocabulary_to: 129",
    ),
    (
        ["trainer.parallel.tensor=2", "trainer.parallel.sequence=true", "data.microbatch_tokens=769"],
        ("data.microbatch_tokens=769 cannot be split over trainer.parallel.tensor=2, and "
        "trainer.parallel.sequence=true splits positions"),
        "use microbatch_tokens: 770",
    ),
    (
        ["data.split.validation=0.0"],
        "data.split.validation=0.0 holds out no cells, and trainer.validate.every=100 asks for their loss",
        "trainer.validate.every: null",
    ),
    (
        ["trainer.devices=3", "trainer.parallel.tensor=2"],
        "trainer.parallel.tensor=2 x pipeline=1 takes 2 ranks a copy of the model, and the run has 3 (devices x nodes)",
        "a multiple of 2 ranks",
    ),
    (
        ["trainer.devices=5", "trainer.nodes=2"],
        "data.global_batch_size=24 cannot be shared by 10 data-parallel ranks evenly",
        "use a multiple: 30",
    ),
    (
        [*PADDED, "data.micro_batch_size=8", "trainer.devices=2"],
        ("data.micro_batch_size=8 does not divide a rank's 12 cells of a step (data.global_batch_size=24 over 2 "
        "data-parallel ranks)"),
        "use micro_batch_size: 6",
    ),
    (
        ["data.sampling={kind: uniform, steps: 5}"],
        "data.sampling.steps=5 and nothing moves in them",
        "write steps: null",
    ),
    (
        ["data.sampling={kind: balanced, by: type, exponent: 1.0, end_exponent: 0.0}"],
        ("data.sampling.end_exponent is another value than the first, and data.sampling.steps=null gives no steps to "
        "reach it in"),
        "sampling.steps: 10000",
    ),
    (
        ["data.curriculum={by: length, steps: 5}", "data.order={kind: blocks}"],
        ("data.curriculum draws cells in the order of their difficulty, and data.order.kind=blocks in that of the "
        "disk"),
        "curriculum: null",
    ),
    (
        ["data.curriculum={by: length, steps: 5}", "data.sampling={kind: balanced, by: type}"],
        ("data.curriculum draws all cells that it admits alike, and data.sampling.kind=balanced asks for some more "
        "often"),
        "sampling: {kind: uniform}",
    ),
    (
        ["data.curriculum={by: length, steps: 101}"],
        "data.curriculum.steps=101 is more than the run has (trainer.max_steps=100): it never ends",
        "use 100 or less",
    ),
    (
        ["trainer.validate.splits=[{name: a}]"],
        "the split a names no other cells than those that train or give val/loss",
        "part: test",
    ),
    (
        ["trainer.validate.splits=[{name: a, store: b, part: test}]"],
        "part=test of b can only be known from a split that travels with that store",
        "part: null",
    ),
    (
        ["trainer.validate.splits=[{name: a, split: b}, {name: a, split: c}]"],
        "2 splits have the name a",
        "a name of its own",
    ),
    (
        ["trainer.validate={every: null, splits: [{name: a, split: b}]}"],
        "1 split of trainer.validate.splits, and trainer.validate.every=null takes no loss",
        "splits: []",
    ),
    (
        ["trainer.checkpoint.metric=val/donors/loss", "trainer.validate.splits=[{name: donor, split: b}]"],
        ("trainer.checkpoint.metric=val/donors/loss is no loss that a validation of this run takes; they are val/loss, "
        "val/donor/loss"),
        "did you mean val/donor/loss?",
    ),
    (
        ["model.task={kind: classify, column: type}", "trainer.validate.splits=[{name: classify, split: b}]"],
        "the split classify has the name of an objective, whose numbers are val/classify/... as well",
        "call it classify_cells",
    ),
    (
        ["trainer.observers=[Mine]"],
        "observer: Mine is no dotted path of a class",
        "my_package.my_module.MyObserver",
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "what", "fix"), BROKEN, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_a_broken_rule_says_both_values_and_the_way_out(overrides, what, fix):
    with pytest.raises(ConfigError) as error:
        check(*overrides)
    assert error.value.what == what
    assert fix in error.value.fix
    assert "cfg.yaml" in error.value.where


def test_every_rule_of_the_code_is_in_the_table_above():
    from scmf.data import config as data
    from scmf.data import config_order as order
    from scmf.model import config as model
    from scmf.model import task
    from scmf.train import observer_config as observer
    from scmf.train import schedule
    from scmf.train import trainer_config as train
    from scmf.train import validation_config as validation

    modules = (data, order, model, task, train, schedule, validation, observer, rules)
    written = sum(inspect.getsource(module).count("yield Fault(") for module in modules)
    # Three sizes share `_splits`; a vocabulary of unknown size shares a rule with one of a known size; so do three
    # lengths of schedules, two who look at validations, and three ways to split a matrix.
    assert len(BROKEN) == written + 2 + 1 + 2 + 1 + 2


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(["trainer.precision=bf16"], id="bf16 on any machine"),
        pytest.param(["trainer.parallel.tensor=2", "trainer.parallel.sequence=true"], id="TP and SP"),
        pytest.param(["trainer.devices=8", "trainer.parallel.tensor=2", "trainer.parallel.pipeline=4"], id="TP x PP"),
        pytest.param(["trainer.devices=8", "trainer.nodes=3"], id="24 replicas"),
        pytest.param([*PADDED, "data.micro_batch_size=4", "trainer.devices=3"], id="padded DP"),
        pytest.param(["trainer.parallel.tensor=3", "model.pad_vocabulary_to=192"], id="TP3 with its own padding"),
        pytest.param(["data.split.validation=0.0", "trainer.validate.every=null"], id="no validation"),
        pytest.param(["model.task.mask=0.7", "model.task.random=0.3"], id="shares of exactly one"),
        pytest.param(["trainer.schedule.warmup_steps=59", "trainer.schedule.hold_steps=40"], id="just long enough"),
        pytest.param(["data.microbatch_tokens=128"], id="one longest cell"),
        pytest.param(["data.tokenizer.vocabulary=./own"], id="a path without a suffix"),
        pytest.param(["trainer.schedule.kind=constant"], id="constant"),
    ],
)
def test_what_fits_is_accepted(overrides):
    assert isinstance(check(*overrides), MainConfig)


def test_rules_that_are_broken_together_are_told_together():
    with pytest.raises(ConfigError) as error:
        check("trainer.parallel.tensor=4", "model.ffn=97", "trainer.parallel.pipeline=3", "data.split.validation=0")
    both = ("model.heads=6 cannot", "model.ffn=97 cannot")  # of one key, trainer.parallel.tensor
    for words in (*both, "model.layers=4 cannot", "data.split.validation=0.0 holds", "4 faults"):
        assert words in error.value.what


def test_the_layout_is_checked_again_against_the_ranks_that_there_are():
    config = check("trainer.parallel.tensor=2", "trainer.parallel.pipeline=2")
    assert check_world(config, 4) == 1
    assert check_world(config, 12) == 3
    with pytest.raises(ConfigError, match="takes 4 ranks a copy of the model, and the run has 6"):
        check_world(config, 6)
    with pytest.raises(ConfigError, match=r"global_batch_size=24 cannot be shared by 5 data-parallel ranks"):
        check_world(config, 20)


def test_epochs_become_steps_when_the_number_of_cells_is_known():
    config = check("trainer.max_steps=null", "trainer.max_epochs=1.5")
    with pytest.raises(ConfigError, match="has not been converted"):
        _ = config.trainer.steps
    resolved = with_steps(config, 1000)
    assert resolved.trainer.steps == 63  # 1,500 cells at 24 a step, the last step whole
    assert resolved.trainer.max_epochs is None
    assert with_steps(resolved, 5) is resolved


def test_a_schedule_longer_than_the_converted_run_is_refused():
    config = check("trainer.max_steps=null", "trainer.max_epochs=1", "trainer.schedule.warmup_steps=50")
    assert with_steps(config, 2400).trainer.steps == 100
    with pytest.raises(ConfigError, match=r"warmup_steps=50 and hold_steps=0 take 50 steps"):
        with_steps(config, 1200)


@pytest.mark.parametrize(("tensor", "pipeline"), [(1, 1), (2, 1), (4, 2), (2, 6), (12, 1)])
def test_the_106m_recipe_can_be_split_as_clusters_do(tensor, pipeline):
    from scmf.train.recipe import RecipeArguments

    words = (f"trainer.parallel.tensor={tensor}", f"trainer.parallel.pipeline={pipeline}")
    pad = ("model.pad_vocabulary_to=384",) if tensor == 12 else ()
    config = find_recipe("106m-pretrain").config(RecipeArguments(overrides=words + pad))
    assert check_world(config, tensor * pipeline * 8) == 8
