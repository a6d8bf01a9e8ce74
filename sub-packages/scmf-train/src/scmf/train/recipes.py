"""The table of recipes: a name goes in, a Recipe comes out. Every number stands beside its source.

Sources used more than once:
    BioNeMo   NVIDIA/bionemo-framework (Apache-2.0), the last release with a Geneformer trainer: recipes.py of
              bionemo-geneformer and config_models.py of bionemo-llm
    card      the model cards of BioNeMo's published Geneformer checkpoints
    V1        Theodoris et al., Nature 2023, and the config of Geneformer-V1-10M
"""

from __future__ import annotations

from scmf.core.errors import ConfigError
from scmf.core.near_word import nearest
from scmf.train.recipe import Recipe, Setting, Settings
from scmf.train.recipes_char import CHAR_19M, CHAR_85M, CHAR_TEST, CHAR_TINY

_FRACTIONS = "BioNeMo config_models: warm-up is 1% and the hold 5% of the steps, the floor a hundredth of the peak"
_MICRO_BATCH = "as many positions as BioNeMo's micro batch of {} padded cells; packed, it holds more cells"
_DEMO = "chosen for the demo: minutes on two CPU cores"
_UNSTATED = "not stated for the published run; the 10m-pretrain and 106m-pretrain value"


def _pretraining(name: str) -> Settings:
    """What all Geneformer pretraining recipes of BioNeMo share."""
    return {
        "data.kind": Setting("cells", "single cells as ranked genes"),
        "data.store": Setting("data/store", "placeholder: your folder from scmf-store convert, or --data-path"),
        "data.tokenizer.kind": Setting("rank", "V1: rank value encoding"),
        "data.tokenizer.vocabulary": Setting("geneformer-v1", "BioNeMo: Genecorpus-30M's dictionary and medians"),
        "data.tokenizer.seq_length": Setting(2048, "V1, BioNeMo: seq_length"),
        "data.packing": Setting(True, "padding to 2,048 wastes 30-65% of the work; BioNeMo pads"),
        "data.microbatch_tokens": Setting(8 * 2048, _MICRO_BATCH.format(8)),
        "model.kind": Setting("encoder", "BERT"),
        "model.norm": Setting("pre", "BioNeMo: apply_residual_connection_post_layernorm=False"),
        "model.hidden_dropout": Setting(0.02, "V1, BioNeMo: hidden_dropout"),
        "model.attention_dropout": Setting(0.1, "BioNeMo: attention_dropout (V1: 0.02)"),
        "model.layernorm_epsilon": Setting(1e-12, "V1, BioNeMo: layernorm_epsilon"),
        "model.init_std": Setting(0.02, "V1, BioNeMo: init_method_std"),
        "model.pad_vocabulary_to": Setting(128, "BioNeMo: make_vocab_size_divisible_by; 25,426 becomes 25,472"),
        "model.task.kind": Setting("mlm", "V1: masked genes"),
        "model.task.select": Setting(0.15, "V1, BioNeMo: mask_prob"),
        "model.task.mask": Setting(0.8, "BioNeMo: mask_token_prob"),
        "model.task.random": Setting(0.02, "BioNeMo: random_token_prob of the published models; BERT's is 0.10"),
        "trainer.devices": Setting("auto", "the global batch alone decides the result"),
        "trainer.precision": Setting("auto", "BioNeMo: bf16-mixed, which auto is on a GPU"),
        "trainer.optimizer.weight_decay": Setting(0.01, "BioNeMo: Megatron's OptimizerConfig"),
        "trainer.optimizer.beta1": Setting(0.9, "BioNeMo: Megatron's OptimizerConfig"),
        "trainer.optimizer.beta2": Setting(0.999, "BioNeMo: Megatron's OptimizerConfig"),
        "trainer.optimizer.eps": Setting(1e-8, "BioNeMo: Megatron's OptimizerConfig"),
        "trainer.optimizer.clip": Setting(1.0, "BioNeMo: Megatron's OptimizerConfig, clip_grad"),
        "trainer.validate.every": Setting(100, "BioNeMo: val_check_interval"),
        "trainer.validate.batches": Setting(8, "BioNeMo: limit_val_batches"),
        "trainer.checkpoint.every": Setting(100, "BioNeMo: save_every_n_steps"),
        "trainer.result_dir": Setting(f"results/{name}", "placeholder: your folder, or --result-dir"),
    }


_SCHEDULE_400K: Settings = {
    "trainer.max_steps": Setting(400_000, "BioNeMo: max_steps"),
    "trainer.optimizer.lr": Setting(1e-3, "BioNeMo: lr"),
    "trainer.schedule.kind": Setting("cosine", "BioNeMo: lr_scheduler"),
    "trainer.schedule.warmup_steps": Setting(4_000, _FRACTIONS),
    "trainer.schedule.hold_steps": Setting(20_000, _FRACTIONS),
    "trainer.schedule.min_lr": Setting(1e-5, _FRACTIONS),
}

_SIZE_10M: Settings = {
    "model.layers": Setting(6, "V1, BioNeMo 10M: num_layers"),
    "model.hidden": Setting(256, "V1, BioNeMo 10M: hidden_size"),
    "model.ffn": Setting(512, "V1, BioNeMo 10M: ffn_hidden_size"),
    "model.heads": Setting(4, "V1, BioNeMo 10M: num_attention_heads"),
}

_SIZE_106M: Settings = {
    "model.layers": Setting(12, "BioNeMo 106M: num_layers"),
    "model.hidden": Setting(768, "BioNeMo 106M: hidden_size"),
    "model.ffn": Setting(3072, "BioNeMo 106M: ffn_hidden_size"),
    "model.heads": Setting(12, "BioNeMo 106M: num_attention_heads"),
}

_TEN_MILLION = Recipe(
    "10m-pretrain",
    "Geneformer 10M from scratch, BioNeMo's recipe",
    _pretraining("10m-pretrain")
    | _SIZE_10M
    | _SCHEDULE_400K
    | {"data.global_batch_size": Setting(8, "BioNeMo: micro batch 8 on one device")},
    ("geneformer_10m_pretrain_recipe", "geneformer-10m-pretrain", "geneformer_10m"),
    family="geneformer",
    devices="1 GPU",
)

_HUNDRED_MILLION = Recipe(
    "106m-pretrain",
    "Geneformer 106M from scratch, BioNeMo's recipe",
    _pretraining("106m-pretrain")
    | _SIZE_106M
    | _SCHEDULE_400K
    | {"data.global_batch_size": Setting(64, "BioNeMo: micro batch 8 on each of 8 devices")},
    ("geneformer_106m_pretrain_recipe", "geneformer-106m-pretrain", "geneformer_106m"),
    family="geneformer",
    devices="8 GPUs",
)

_ONE_BILLION = Recipe(
    "1b-pretrain",
    "Geneformer 1B from scratch, BioNeMo's recipe",
    _pretraining("1b-pretrain")
    | {
        "model.layers": Setting(48, "BioNeMo 1B: num_layers"),
        "model.hidden": Setting(1280, "BioNeMo 1B: hidden_size"),
        "model.ffn": Setting(5120, "BioNeMo 1B: ffn_hidden_size"),
        "model.heads": Setting(20, "BioNeMo 1B: num_attention_heads"),
        "model.hidden_dropout": Setting(0.1, "BioNeMo 1B: hidden_dropout"),
        "data.global_batch_size": Setting(8, "BioNeMo: micro batch 8 on one device"),
        "trainer.max_steps": Setting(123_125, "BioNeMo 1B: max_steps"),
        "trainer.optimizer.lr": Setting(4e-4, "BioNeMo 1B: lr"),
        "trainer.schedule.kind": Setting("linear", "BioNeMo 1B: lr_scheduler warmup_anneal"),
        "trainer.schedule.warmup_steps": Setting(500, "BioNeMo 1B: warmup_steps"),
        "trainer.schedule.hold_steps": Setting(
            12_262, "BioNeMo: anneal_percentage=0.10, its line to zero is cut off for the last tenth of 122,625 steps"
        ),
        "trainer.schedule.min_lr": Setting(4e-5, "BioNeMo: anneal_percentage=0.10 of the peak"),
    },
    ("geneformer_1b_pretrain_recipe", "geneformer-1b-pretrain", "geneformer_1b"),
    family="geneformer",
    devices="1 GPU",
)

_TEN_MILLION_PUBLISHED = Recipe(
    "10m-published",
    "Geneformer 10M as published by BioNeMo: 64 GPUs, 4 days, test loss 3.18",
    _pretraining("10m-published")
    | _SIZE_10M
    | {
        "data.global_batch_size": Setting(2048, "card: micro batch 32 on 64 A100"),
        "data.microbatch_tokens": Setting(32 * 2048, _MICRO_BATCH.format(32)),
        "trainer.max_steps": Setting(81_485, "card: 7 passes over 23.87M cells"),
        "trainer.optimizer.lr": Setting(1e-3, _UNSTATED),
        "trainer.schedule.kind": Setting("cosine", _UNSTATED),
        "trainer.schedule.warmup_steps": Setting(815, f"{_FRACTIONS}; rounded up"),
        "trainer.schedule.hold_steps": Setting(4_075, f"{_FRACTIONS}; rounded up"),
        "trainer.schedule.min_lr": Setting(1e-5, _FRACTIONS),
    },
    ("geneformer-10m-published",),
    family="geneformer",
    devices="64 GPUs",
)

_HUNDRED_MILLION_PUBLISHED = Recipe(
    "106m-published",
    "Geneformer 106M as published by BioNeMo: 128 GPUs, 8 hours, test loss 2.89",
    _pretraining("106m-published")
    | _SIZE_106M
    | {
        "data.global_batch_size": Setting(2048, "card: micro batch 16 on 128 A100"),
        "data.microbatch_tokens": Setting(16 * 2048, _MICRO_BATCH.format(16)),
        "trainer.max_steps": Setting(35_650, "card: 3 passes over 23.87M cells"),
        "trainer.optimizer.lr": Setting(1e-3, _UNSTATED),
        "trainer.schedule.kind": Setting("cosine", _UNSTATED),
        "trainer.schedule.warmup_steps": Setting(357, f"{_FRACTIONS}; rounded up"),
        "trainer.schedule.hold_steps": Setting(1_783, f"{_FRACTIONS}; rounded up"),
        "trainer.schedule.min_lr": Setting(1e-5, _FRACTIONS),
    },
    ("geneformer-106m-published",),
    family="geneformer",
    devices="128 GPUs",
)

_TEST = Recipe(
    "test",
    "ten steps of a tiny Geneformer, to see that everything runs",
    _pretraining("test")
    | {
        "data.tokenizer.seq_length": Setting(128, "BioNeMo pretrain_tiny_test_recipe: seq_length"),
        "data.global_batch_size": Setting(4, "BioNeMo pretrain_tiny_test_recipe: micro batch 2, accumulated twice"),
        "data.microbatch_tokens": Setting(2 * 128, _MICRO_BATCH.format(2)),
        "data.workers": Setting(0, "BioNeMo pretrain_tiny_test_recipe: num_dataset_workers"),
        "model.layers": Setting(2, "BioNeMo geneformer_tiny_config: num_layers"),
        "model.hidden": Setting(32, "BioNeMo geneformer_tiny_config: hidden_size"),
        "model.ffn": Setting(128, "BioNeMo geneformer_tiny_config: ffn_hidden_size"),
        "model.heads": Setting(2, "BioNeMo geneformer_tiny_config: num_attention_heads"),
        "trainer.max_steps": Setting(10, "BioNeMo pretrain_tiny_test_recipe: max_steps"),
        "trainer.optimizer.lr": Setting(1e-4, "BioNeMo OptimizerSchedulerConfig: lr"),
        "trainer.schedule.kind": Setting("cosine", "BioNeMo pretrain_tiny_test_recipe: lr_scheduler"),
        "trainer.schedule.warmup_steps": Setting(1, f"{_FRACTIONS}; rounded up"),
        "trainer.schedule.hold_steps": Setting(1, f"{_FRACTIONS}; rounded up"),
        "trainer.schedule.min_lr": Setting(1e-6, _FRACTIONS),
        "trainer.validate.every": Setting(2, "BioNeMo pretrain_tiny_test_recipe: val_check_interval"),
        "trainer.validate.batches": Setting(2, "BioNeMo pretrain_tiny_test_recipe: limit_val_batches"),
        "trainer.checkpoint.every": Setting(2, "BioNeMo pretrain_tiny_test_recipe: save_every_n_steps"),
        "trainer.log.every": Setting(1, "ten lines for ten steps"),
    },
    ("pretrain_tiny_test_recipe", "geneformer-test"),
    family="geneformer",
    devices="1 CPU core",
)

_DEMO_RECIPE = Recipe(
    "demo",
    "small Geneformer for `make demo`: a few hundred cells on a laptop",
    _pretraining("demo")
    | {
        "data.store": Setting("demo/store", "where make demo converts its counts to"),
        "data.tokenizer.seq_length": Setting(512, _DEMO),
        "data.split.validation": Setting(0.1, "a twentieth of two hundred cells would be too few to measure on"),
        "data.global_batch_size": Setting(16, _DEMO),
        "data.microbatch_tokens": Setting(8 * 512, _DEMO),
        "model.layers": Setting(3, _DEMO),
        "model.hidden": Setting(128, _DEMO),
        "model.ffn": Setting(256, _DEMO),
        "model.heads": Setting(4, _DEMO),
        "model.attention_dropout": Setting(0.0, "there is no fused attention with dropout on CPUs"),
        "trainer.max_steps": Setting(300, _DEMO),
        "trainer.optimizer.lr": Setting(1e-3, "BioNeMo: lr"),
        "trainer.schedule.kind": Setting("cosine", "BioNeMo: lr_scheduler"),
        "trainer.schedule.warmup_steps": Setting(30, "a tenth of the run: small batches start roughly"),
        "trainer.schedule.min_lr": Setting(1e-5, _FRACTIONS),
        "trainer.validate.every": Setting(50, _DEMO),
        "trainer.validate.batches": Setting(2, "all 21 held-out cells"),
        "trainer.checkpoint.every": Setting(50, _DEMO),
        "trainer.result_dir": Setting("demo/run", "beside the demo's store"),
    },
    family="geneformer",
    devices="2 CPU cores",
)

RECIPES: tuple[Recipe, ...] = (
    _TEST,
    _DEMO_RECIPE,
    _TEN_MILLION,
    _HUNDRED_MILLION,
    _ONE_BILLION,
    _TEN_MILLION_PUBLISHED,
    _HUNDRED_MILLION_PUBLISHED,
    CHAR_TEST,
    CHAR_TINY,
    CHAR_19M,
    CHAR_85M,
)
"""Every recipe, in the order in which they are listed."""


def find_recipe(name: str, *, flag: str = "--recipe") -> Recipe:
    """The recipe of a name or an alias.

    Args:
        name: as typed.
        flag: that it was given to, for messages.

    Raises:
        ConfigError: no such recipe; says which is nearest.
    """
    names = {spelling: recipe for recipe in RECIPES for spelling in (recipe.name, *recipe.aliases)}
    if name in names:
        return names[name]
    near = nearest(name, names)
    fix = f"did you mean {near}? " if near else ""
    raise ConfigError(
        f"there is no recipe {name}",
        where=flag,
        fix=f"{fix}The recipes are {', '.join(recipe.name for recipe in RECIPES)}",
    )
