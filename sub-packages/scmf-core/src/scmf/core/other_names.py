"""Keys of other trainers. In: a key that a config does not have. Out: the key there that stands for it."""

from __future__ import annotations

from collections.abc import Collection

_NAMES = {
    "lr": ("learning_rate", "max_lr", "base_lr"),
    "clip": ("max_grad_norm", "grad_clip", "clip_grad", "gradient_clip", "gradient_clip_val", "clip_norm"),
    "weight_decay": ("wd",),
    "eps": ("epsilon", "adam_epsilon"),
    "beta1": ("betas", "adam_beta1"),
    "warmup_steps": ("warmup", "num_warmup_steps"),
    "min_lr": ("eta_min", "min_ratio"),
    "global_batch_size": ("batch_size", "train_batch_size", "gradient_accumulation", "accumulate_grad_batches"),
    "micro_batch_size": ("per_device_train_batch_size", "per_device_batch_size"),
    "workers": ("num_workers", "num_dataset_workers", "dataloader_num_workers"),
    "seq_length": ("max_length", "max_seq_length", "max_genes", "context_length", "sequence_length", "block_size"),
    "layers": ("num_layers", "n_layers", "n_layer", "num_hidden_layers", "depth"),
    "hidden": ("hidden_size", "d_model", "n_embd", "embed_dim", "dim"),
    "ffn": ("ffn_hidden_size", "intermediate_size", "d_ff", "ff_dim"),
    "heads": ("num_heads", "n_head", "num_attention_heads", "nhead"),
    "hidden_dropout": ("dropout", "hidden_dropout_prob", "resid_pdrop"),
    "attention_dropout": ("attention_probs_dropout_prob", "attn_pdrop"),
    "select": ("mask_ratio", "mask_prob", "mlm_probability", "masking_ratio"),
    "max_epochs": ("epochs", "num_epochs", "num_train_epochs"),
    "max_steps": ("num_steps", "train_iters", "total_steps", "n_steps"),
    "devices": ("num_gpus", "gpus", "num_devices", "accelerator", "device"),
    "nodes": ("num_nodes", "nnodes"),
    "precision": ("mixed_precision", "dtype", "amp"),
    "schedule": ("scheduler", "lr_scheduler"),
    "validate": ("validation", "eval"),
    "every": ("eval_steps", "val_check_interval", "save_steps", "log_every_n_steps", "logging_steps", "interval"),
    "batches": ("limit_val_batches", "val_batches", "eval_iters"),
    "keep_best": ("save_top_k",),
    "result_dir": ("output_dir", "out_dir", "checkpoint_dir", "log_dir", "default_root_dir", "save_dir"),
    "recompute": ("gradient_checkpointing", "activation_checkpointing"),
    "tensor": ("tensor_model_parallel_size", "tp", "tensor_parallel"),
    "pipeline": ("pipeline_model_parallel_size", "pp", "pipeline_parallel"),
    "store": ("data_path", "dataset", "data_dir", "train_data"),
    "init_from": ("pretrained", "initial_ckpt_path", "restore_from", "model_name_or_path"),
}
"""Our key: what Lightning, Hugging Face, NeMo, BioNeMo and nanoGPT call it."""
_OURS = {other: ours for ours, others in _NAMES.items() for other in others}


def our_name(word: str, keys: Collection[str]) -> str | None:
    """The key that another trainer calls so, where it is among those of the section; None elsewhere."""
    ours = _OURS.get(word.lower().replace("-", "_"))
    return ours if ours in keys else None
