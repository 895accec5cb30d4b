"""The keys that files of a source may hold without an effect on the answer, and why; the rest is read or refused."""

from __future__ import annotations

import re
from collections.abc import Mapping

from mobileloop.checkpoints.account import Rules


def _because(reason: str, names: str, prefix: str = "") -> dict[str, str]:
    return dict.fromkeys((prefix + name for name in names.split()), reason)


_GENERATION = _because(
    "how transformers generates where nothing else is asked for; `mobileloop run` has options of its own",
    "max_length max_new_tokens min_length min_new_tokens do_sample early_stopping num_beams num_beam_groups "
    "diversity_penalty temperature top_k top_p min_p typical_p epsilon_cutoff eta_cutoff repetition_penalty "
    "encoder_repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids "
    "force_words_ids renormalize_logits constraints forced_bos_token_id forced_eos_token_id remove_invalid_values "
    "exponential_decay_length_penalty suppress_tokens begin_suppress_tokens forced_decoder_ids sequence_bias "
    "guidance_scale low_memory num_return_sequences output_scores output_logits return_dict_in_generate penalty_alpha "
    "max_time stop_strings token_healing watermarking_config cache_implementation cache_config prefill_chunk_size "
    "num_assistant_tokens num_assistant_tokens_schedule assistant_confidence_threshold assistant_early_exit "
    "prompt_lookup_num_tokens max_matching_ngram_size dola_layers compile_config disable_compile return_legacy_cache "
    "chat_format max_window_size trust_remote_code",
)
_OUTPUTS = _because(
    "what a framework returns or how it runs, not what it computes",
    "output_attentions output_hidden_states return_dict use_return_dict torchscript use_bfloat16 use_cache torch_dtype "
    "dtype attn_implementation _attn_implementation _attn_implementation_autoset _flash_attn_2_enabled "
    "use_flash_attn use_flash_attention use_flash_attention_2 flash_attn use_sdpa use_xformers pretraining_tp "
    "chunk_size_feed_forward gradient_checkpointing use_gradient_checkpointing tf_legacy_loss pruned_heads "
    "is_decoder is_encoder_decoder add_cross_attention cross_attention_hidden_size tie_encoder_decoder "
    "fused_mlp fused_bias_fc residual_in_fp32 use_fused_rmsnorm attn_backend",
)
_TRAINING = _because(
    "of training alone",
    "initializer_range init_std initializer_factor attention_dropout hidden_dropout resid_dropout embd_dropout "
    "resid_pdrop embd_pdrop attn_pdrop dropout classifier_dropout embedding_dropout attention_probs_dropout_prob "
    "hidden_dropout_prob residual_dropout output_dropout router_aux_loss_coef output_router_logits aux_loss_alpha "
    "seq_aux z_loss_weight loss_type ignore_index",
)
_NAMES = _because(
    "names, labels and versions",
    "architectures _name_or_path name_or_path transformers_version _commit_hash auto_map custom_pipelines "
    "task_specific_params problem_type finetuning_task id2label label2id num_labels prefix tokenizer_class "
    "unsloth_version unsloth_fixed unsloth_training_framework processor_class model_name name license language "
    "library_name base_model pipeline_tag _from_model_config _diffusers_version is_llama_config transformers.js_config",
)
_TOKENS = _because(
    "tokens that play no part in generation",
    "pad_token_id sep_token_id cls_token_id mask_token_id unk_token_id decoder_start_token_id image_token_id "
    "original_max_position_embeddings vocab_pad_multiple pad_vocab_size_multiple_of pad_vocab_size_multiple",
)

CONFIG = Rules(
    without_effect={**_GENERATION, **_OUTPUTS, **_TRAINING, **_NAMES, **_TOKENS},
    can_change=re.compile(
        r"rope|rotary|pos(ition|_emb)?|scal|norm|eps|attn|attention|bias|expert|moe|router|loop|recur|iter|repeat|shar|"
        r"depth|_steps|halt|exit|gate|window|cap|multiplier|residual|skip|act|kv_|head|layer|block|hidden|inner|"
        r"intermediate|alibi|mask|causal|lora|adapter|quant|prun|spars|mix|emb|proj|conv|ssm|mamba|mlp|ffn|feed|qk|logit"
    ),
    off={
        "use_sliding_window": (False,),
        "logits_scaling": (1,),
        "logit_scale": (1,),
        "residual_multiplier": (1,),
        "embedding_multiplier": (1,),
        "partial_rotary_factor": (1,),
        "rotary_pct": (1,),
        "rope_ratio": (1,),
        "rope_scaling_factor": (1,),
        "num_experts": (0, 1),
        "num_local_experts": (0, 1),
    },
)

GENERATION = Rules(
    without_effect={**_GENERATION, **_NAMES, **_TOKENS, **_OUTPUTS},
    can_change=re.compile(r"loop|recur|depth|_steps|exit|halt"),
)

TOKENIZER_CONFIG = Rules(
    without_effect={
        **_NAMES,
        **_because(
            "of batches and training: padding and truncation never touch a prompt",
            "model_max_length max_length max_len padding padding_side truncation truncation_side truncation_strategy "
            "stride pad_to_multiple_of pad_token_type_id pad_to_max_length model_input_names",
        ),
        **_because(
            "where files lie, or which program reads them",
            "tokenizer_file vocab_file merges_file special_tokens_map_file is_local local_files_only backend "
            "from_slow use_fast tokenizer_type cache_dir errors slow_tokenizer_class revision device_map init_inputs "
            "tokenizer_object torch_dtype",
        ),
        **_because(
            "transformers ignores it for vocabularies of this kind",
            "clean_up_tokenization_spaces spaces_between_special_tokens use_default_system_prompt verbose "
            "response_schema image_token boi_token eoi_token audio_token video_token vision_bos_token vision_eos_token "
            "sp_model_kwargs",
        ),
    },
    can_change=re.compile(
        r"lower|strip|prefix|suffix|split_special|clean|regex|byte|normaliz|accent|dropout|nfk|space"
    ),
    effect="the tokens of a text",
)

SPECIAL_TOKENS_MAP = Rules(without_effect={}, can_change=re.compile(r"^$"), effect=TOKENIZER_CONFIG.effect)

TOKENIZER_JSON = Rules(
    without_effect=_because("the file's own version", "version"),
    can_change=re.compile(r"normaliz|pre_token|post_proc|decod|model|token|byte|dropout"),
    effect=TOKENIZER_CONFIG.effect,
)

TOKENIZER_MODEL = Rules(without_effect={}, can_change=re.compile(""), effect=TOKENIZER_CONFIG.effect)


def gguf_rules(architecture: str) -> Rules:
    """The rules of a GGUF file's metadata."""
    return Rules(
        without_effect={
            **_because(
                "names, authors, licences, versions and how the file was made",
                "general.name general.basename general.finetune general.author general.organization general.version "
                "general.description general.quantized_by general.size_label general.license general.license.* "
                "general.url general.doi general.uuid general.repo_url general.source.* general.base_model.* "
                "general.dataset.* general.datasets general.tags general.languages general.file_type "
                "general.quantization_version general.alignment general.parameter_count "
                "quantize.imatrix.* GGUF.version GGUF.tensor_count GGUF.kv_count split.tensors.count",
            ),
            **_because(
                "tokens that play no part in generation",
                "padding_token_id separator_token_id seperator_token_id cls_token_id mask_token_id fim_pre_token_id "
                "fim_suf_token_id fim_mid_token_id fim_pad_token_id fim_rep_token_id fim_sep_token_id prefix_token_id "
                "suffix_token_id middle_token_id token_type_count add_sep_token scores",
                "tokenizer.ggml.",
            ),
            "tokenizer.huggingface.json": "the same vocabulary once more",
            f"{architecture}.tensor_data_layout": "a name for the order of rows, which the architecture fixes",
            f"{architecture}.rope.scaling.original_context_length": "only scaling reads it",
            f"{architecture}.rope.scaling.finetuned": "only scaling reads it",
        },
        can_change=re.compile(
            rf"^{re.escape(architecture)}\.|^adapter\.|^tokenizer\.(?!chat_template)|"
            r"rope|scal|norm|attention|bias|expert|loop|lora"
        ),
        off={
            f"{architecture}.logit_scale": (1,),
            f"{architecture}.residual_scale": (1,),
            f"{architecture}.embedding_scale": (1,),
            f"{architecture}.attention.causal": (True,),
            f"{architecture}.rope.scaling.attn_factor": (1,),
            f"{architecture}.expert_count": (0, 1),
            f"{architecture}.rope.scale_linear": (0, 1),
            f"{architecture}.rope.scaling.factor": (0, 1),
        },
        effect="what the model computes or how it reads a text",
    )


_OPTIONS = {"temperature": "--temperature", "top_p": "--top-p", "top_k": "--top-k", "min_p": "--min-p"}
# What changes even the likeliest answer, or where it ends, and has no option here.
_CHANGES_ANSWERS = tuple(
    _because(
        "not done here",
        "stop_strings suppress_tokens begin_suppress_tokens bad_words_ids force_words_ids forced_eos_token_id "
        "forced_bos_token_id forced_decoder_ids no_repeat_ngram_size encoder_no_repeat_ngram_size repetition_penalty "
        "encoder_repetition_penalty length_penalty min_length min_new_tokens sequence_bias constraints guidance_scale "
        "penalty_alpha num_beams exponential_decay_length_penalty dola_layers",
    )
)
_NEUTRAL = {"length_penalty": 1.0, "repetition_penalty": 1.0, "encoder_repetition_penalty": 1.0, "num_beams": 1}


def generation_notes(where: str, values: Mapping[str, object]) -> list[str]:
    """What a file asks of generation: its sampling as options of `mobileloop run`, and what those do not do."""
    sampled = [
        f"{option} {value:g}"
        for key, option in _OPTIONS.items()
        if isinstance(value := values.get(key), (int, float)) and value not in (0, 1)
    ]
    asked = [key for key in _CHANGES_ANSWERS if values.get(key) not in (None, False, 0, _NEUTRAL.get(key), [], "", {})]
    notes = []
    # config.json of old models lists defaults of transformers, of which these say nothing.
    if sampled and where.endswith("generation_config.json"):
        notes.append(f"{where} recommends {', '.join(sampled)}; `mobileloop run` samples as its options say")
    if asked:
        notes.append(f"{where} asks for {', '.join(asked)}, which `mobileloop run` does not do")
    return notes
