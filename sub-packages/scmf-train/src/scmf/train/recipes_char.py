"""Recipes of character GPTs: a name goes in (scmf.train.recipes), a Recipe comes out. Numbers stand beside sources.

Sources used more than once:
    nanoGPT      karpathy/nanoGPT (MIT): config/train_shakespeare_char.py, and train.py's defaults behind it
    nanoGPT CPU  the README's run of that config on a CPU: 4 layers x 128, 2,000 steps, validation loss 1.88
    GPT-2        Radford et al., 2019: the smallest model; its training as nanoGPT's config/train_gpt2.py repeats it
    base         Vaswani et al., 2017 (arXiv:1706.03762), table 3: the base model
"""

from __future__ import annotations

from scmf.train.recipe import Recipe, Setting, Settings

_FAST = "chosen so that thirty steps take seconds on one CPU core"
_LEARNED_SIZE = "learned positions would add a matrix, and the name counts parameters"


def _text(name: str) -> Settings:
    """What all of them share."""
    return {
        "data.kind": Setting("sequences", "text as windows of characters"),
        "data.store": Setting("data/text", "placeholder: your folder from scmf-store convert, or --data-path"),
        "data.tokenizer.kind": Setting("char", "nanoGPT: one token a character"),
        "data.tokenizer.characters": Setting(65, "Tiny Shakespeare's; write null, or your text's number, for another"),
        "data.split.kind": Setting("contiguous", "nanoGPT: the end of the text is held out"),
        "data.split.validation": Setting(0.05, "nanoGPT: the last tenth is held out, half of it here"),
        "data.split.test": Setting(0.05, "the other half, which training never asks for: scmf-eval perplexity"),
        "data.packing": Setting(True, "windows are equally long: nothing is padded"),
        "model.kind": Setting("decoder", "GPT-2"),
        "model.norm": Setting("pre", "GPT-2, nanoGPT"),
        "model.layernorm_epsilon": Setting(1e-5, "GPT-2, nanoGPT: torch's default"),
        "model.init_std": Setting(0.02, "GPT-2, nanoGPT"),
        "model.pad_vocabulary_to": Setting(8, "68 tokens become 72; nanoGPT pads nothing, tensor cores like eights"),
        "model.task.kind": Setting("clm", "GPT-2: the next token"),
        "model.task.label_smoothing": Setting(0.0, "nanoGPT has none; base: 0.1"),
        "trainer.devices": Setting("auto", "the global batch alone decides the result"),
        "trainer.precision": Setting("auto", "nanoGPT: bf16, which auto is on a GPU"),
        "trainer.optimizer.weight_decay": Setting(0.1, "nanoGPT: weight_decay"),
        "trainer.optimizer.beta1": Setting(0.9, "nanoGPT: beta1"),
        "trainer.optimizer.beta2": Setting(0.99, "nanoGPT: beta2, larger than GPT-2's because a step has few tokens"),
        "trainer.optimizer.eps": Setting(1e-8, "nanoGPT: torch's default"),
        "trainer.optimizer.clip": Setting(1.0, "nanoGPT: grad_clip"),
        "trainer.schedule.kind": Setting("cosine", "nanoGPT: decay_lr"),
        "trainer.result_dir": Setting(f"results/{name}", "placeholder: your folder, or --result-dir"),
    }


CHAR_TEST = Recipe(
    "char-gpt-test",
    "thirty steps of a tiny character GPT, to see that everything runs",
    _text("char-gpt-test")
    | {
        "data.tokenizer.seq_length": Setting(32, _FAST),
        "data.global_batch_size": Setting(8, _FAST),
        "data.microbatch_tokens": Setting(128, "two microbatches a step, so that accumulation runs too"),
        "data.workers": Setting(0, "batches are prepared in the step itself, so that it is one process and one thread"),
        "model.layers": Setting(4, "two pipeline ranks can have two interleaved stages each"),
        "model.hidden": Setting(32, _FAST),
        "model.ffn": Setting(128, "GPT-2: 4 x hidden"),
        "model.heads": Setting(2, "two tensor ranks can share them"),
        "model.hidden_dropout": Setting(0.0, "tensor ranks drop different values: layouts could not be compared"),
        "model.attention_dropout": Setting(0.0, "tensor ranks drop different values: layouts could not be compared"),
        "model.positions": Setting("learned", "GPT-2; char-gpt-tiny has the rotary ones"),
        "trainer.max_steps": Setting(30, _FAST),
        "trainer.optimizer.lr": Setting(1e-2, "ten times nanoGPT's: thirty steps should learn something"),
        "trainer.schedule.warmup_steps": Setting(3, "a tenth of the run"),
        "trainer.schedule.min_lr": Setting(1e-3, "nanoGPT: a tenth of the peak"),
        "trainer.validate.every": Setting(10, _FAST),
        "trainer.validate.batches": Setting(4, _FAST),
        "trainer.checkpoint.every": Setting(10, _FAST),
        "trainer.log.every": Setting(1, "thirty lines for thirty steps"),
    },
    family="char-gpt",
    devices="1 CPU core",
)

CHAR_TINY = Recipe(
    "char-gpt-tiny",
    "character GPT for a CPU: Tiny Shakespeare in minutes",
    _text("char-gpt-tiny")
    | {
        "data.tokenizer.seq_length": Setting(64, "nanoGPT CPU: block_size"),
        "data.global_batch_size": Setting(12, "nanoGPT CPU: batch_size"),
        "data.microbatch_tokens": Setting(12 * 64, "the whole step"),
        "model.layers": Setting(4, "nanoGPT CPU: n_layer"),
        "model.hidden": Setting(128, "nanoGPT CPU: n_embd"),
        "model.ffn": Setting(512, "GPT-2: 4 x hidden"),
        "model.heads": Setting(4, "nanoGPT CPU: n_head"),
        "model.hidden_dropout": Setting(0.0, "nanoGPT CPU: dropout"),
        "model.attention_dropout": Setting(0.0, "nanoGPT CPU: dropout"),
        "model.positions": Setting("rotary", "RoFormer; measured: 0.07 nats below learned ones on Tiny Shakespeare"),
        "trainer.max_steps": Setting(2_000, "nanoGPT CPU: max_iters"),
        "trainer.optimizer.lr": Setting(3e-3, "measured: 0.07 nats below nanoGPT's 1e-3 on Tiny Shakespeare"),
        "trainer.schedule.warmup_steps": Setting(100, "nanoGPT: warmup_iters"),
        "trainer.schedule.min_lr": Setting(3e-4, "nanoGPT: a tenth of the peak"),
        "trainer.validate.every": Setting(250, "nanoGPT: eval_interval"),
        "trainer.validate.batches": Setting(80, "all 872 held-out windows of Tiny Shakespeare, in 73 batches"),
        "trainer.checkpoint.every": Setting(250, "with every validation"),
    },
    family="char-gpt",
    devices="1 CPU core",
)

CHAR_19M = Recipe(
    "char-gpt-19m",
    "character GPT of the base Transformer's sizes, trained as nanoGPT trains on Tiny Shakespeare",
    _text("char-gpt-19m")
    | {
        "data.tokenizer.seq_length": Setting(256, "nanoGPT: block_size"),
        "data.global_batch_size": Setting(64, "nanoGPT: batch_size"),
        "data.microbatch_tokens": Setting(64 * 256, "the whole step on one GPU"),
        "model.layers": Setting(6, "base: N; nanoGPT: n_layer"),
        "model.hidden": Setting(512, "base: d_model"),
        "model.ffn": Setting(2048, "base: d_ff"),
        "model.heads": Setting(8, "base: h"),
        "model.hidden_dropout": Setting(0.2, "nanoGPT: dropout"),
        "model.attention_dropout": Setting(0.2, "nanoGPT: dropout"),
        "model.positions": Setting("rotary", f"RoFormer; {_LEARNED_SIZE}"),
        "trainer.max_steps": Setting(5_000, "nanoGPT: max_iters"),
        "trainer.optimizer.lr": Setting(1e-3, "nanoGPT: learning_rate"),
        "trainer.schedule.warmup_steps": Setting(100, "nanoGPT: warmup_iters"),
        "trainer.schedule.min_lr": Setting(1e-4, "nanoGPT: min_lr"),
        "trainer.validate.every": Setting(250, "nanoGPT: eval_interval; a small text is soon learned by heart"),
        "trainer.validate.batches": Setting(200, "nanoGPT: eval_iters"),
        "trainer.checkpoint.every": Setting(250, "with every validation; the best three stay"),
    },
    family="char-gpt",
    devices="1 GPU",
)

CHAR_85M = Recipe(
    "char-gpt-85m",
    "character GPT of the smallest GPT-2's sizes, for texts of hundreds of millions of characters",
    _text("char-gpt-85m")
    | {
        "data.tokenizer.seq_length": Setting(1024, "GPT-2: block_size"),
        "data.global_batch_size": Setting(480, "GPT-2: 12 windows x 40 accumulations, 491,520 tokens a step"),
        "data.microbatch_tokens": Setting(12 * 1024, "GPT-2: batch_size 12"),
        "model.layers": Setting(12, "GPT-2: n_layer"),
        "model.hidden": Setting(768, "GPT-2: n_embd"),
        "model.ffn": Setting(3072, "GPT-2: 4 x hidden"),
        "model.heads": Setting(12, "GPT-2: n_head"),
        "model.hidden_dropout": Setting(0.0, "GPT-2 as nanoGPT trains it: dropout, for less than one pass over a text"),
        "model.attention_dropout": Setting(0.0, "GPT-2 as nanoGPT trains it: dropout"),
        "model.positions": Setting("rotary", f"RoFormer; {_LEARNED_SIZE}"),
        "trainer.max_steps": Setting(3_464, "20 tokens a parameter, 1.7 billion: Hoffmann et al., 2022"),
        "trainer.optimizer.lr": Setting(6e-4, "GPT-2 as nanoGPT trains it: learning_rate"),
        "trainer.optimizer.beta2": Setting(0.95, "GPT-2 as nanoGPT trains it: beta2"),
        "trainer.schedule.warmup_steps": Setting(70, "2% of the run, as nanoGPT's 100 of 5,000"),
        "trainer.schedule.min_lr": Setting(6e-5, "GPT-2 as nanoGPT trains it: min_lr"),
        "trainer.validate.every": Setting(100, "about thirty a run"),
        "trainer.validate.batches": Setting(8, "about 4 million characters"),
        "trainer.checkpoint.every": Setting(100, "with every validation"),
    },
    family="char-gpt",
    devices="8 GPUs",
)
