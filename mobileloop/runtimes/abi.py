"""The C interface as ctypes sees it: the structs and signatures of `mobileloop.h`."""

from __future__ import annotations

import ctypes

ABI_VERSION = 2


HALTING_RULES = {"none": 0, "latent_difference": 1, "cosine": 2, "exit_gate": 3}  # ml_halting_rule


class HaltingArgs(ctypes.Structure):
    """`ml_halting` of mobileloop.h, field by field."""

    _fields_ = (
        ("rule", ctypes.c_uint32),
        ("min_loops", ctypes.c_uint32),
        ("threshold", ctypes.c_double),
        ("gate", ctypes.c_void_p),
        ("gate_bias", ctypes.c_float),
    )


class Record(ctypes.Structure):
    """`ml_record` of mobileloop.h."""

    _fields_ = (("data", ctypes.c_void_p), ("size_bytes", ctypes.c_uint64))


class SequenceArgs(ctypes.Structure):
    """`ml_sequence` of mobileloop.h, field by field."""

    _fields_ = (
        ("key_cache", ctypes.c_void_p),
        ("value_cache", ctypes.c_void_p),
        ("cache_bytes", ctypes.c_uint64),
        ("position", ctypes.c_uint32),
    )


class LoopArgs(ctypes.Structure):
    """`ml_loop_args` of mobileloop.h, field by field."""

    _fields_ = (
        ("blocks", ctypes.POINTER(Record)),
        ("num_blocks", ctypes.c_uint32),
        ("loops", ctypes.c_uint32),
        ("damping", ctypes.c_float),
        ("loop_end_norm", ctypes.c_void_p),
        ("loop_end_norm_eps", ctypes.c_float),
        ("hidden_in", ctypes.c_void_p),
        ("hidden_out", ctypes.c_void_p),
        ("hidden_size", ctypes.c_uint32),
        ("tokens", ctypes.c_uint32),
        ("sequences", ctypes.POINTER(SequenceArgs)),
        ("num_sequences", ctypes.c_uint32),
        ("kv_type", ctypes.c_uint32),
        ("full_attention", ctypes.c_uint32),
        ("num_slots", ctypes.c_uint32),
        ("capacity", ctypes.c_uint32),
        ("next", ctypes.POINTER(Record)),
        ("num_next", ctypes.c_uint32),
        ("halting", HaltingArgs),
        ("filled_loops", ctypes.c_uint32),
        ("applied_loops", ctypes.c_void_p),
    )


class RunArgs(ctypes.Structure):
    """`ml_run_args` of mobileloop.h, field by field."""

    _fields_ = (
        ("sequences", ctypes.c_void_p),
        ("num_sequences", ctypes.c_uint32),
        ("tokens", ctypes.c_void_p),
        ("count", ctypes.c_uint32),
        ("all_logits", ctypes.c_int),
        ("logits", ctypes.c_void_p),
        ("logits_floats", ctypes.c_uint64),
        ("loops", ctypes.c_uint32),
        ("applied_loops", ctypes.c_void_p),
        ("applied_size", ctypes.c_uint64),
    )


def declare(engine: ctypes.CDLL) -> None:
    """The arguments and results of every function."""
    for name in ("ml_last_error", "ml_kernels", "ml_available_kernels", "ml_flush_instruction"):
        getattr(engine, name).restype = ctypes.c_char_p
    for name in ("ml_model_close", "ml_session_destroy", "ml_context_destroy"):
        getattr(engine, name).argtypes = [ctypes.c_void_p]
        getattr(engine, name).restype = None
    engine.ml_context_create.argtypes = [ctypes.c_uint32, ctypes.POINTER(ctypes.c_void_p)]
    engine.ml_loop.argtypes = [ctypes.c_void_p, ctypes.POINTER(LoopArgs)]
    engine.ml_use_kernels.argtypes = [ctypes.c_char_p]
    engine.ml_model_open.argtypes = [ctypes.c_char_p, ctypes.POINTER(ctypes.c_void_p)]
    engine.ml_session_create.argtypes = [
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_uint32,
        ctypes.c_uint32,
        ctypes.POINTER(ctypes.c_void_p),
    ]
    engine.ml_session_run.argtypes = [ctypes.c_void_p, ctypes.POINTER(RunArgs)]
    engine.ml_session_set_halting.argtypes = [ctypes.c_void_p, ctypes.POINTER(HaltingArgs)]
    engine.ml_session_fork.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32]
    engine.ml_session_reset.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    engine.ml_session_reset_sequence.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    engine.ml_session_position.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    engine.ml_session_position.restype = ctypes.c_uint32
    engine.ml_session_stream.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32]
    engine.ml_session_calibrate.argtypes = [
        ctypes.c_void_p,
        ctypes.c_double,
        ctypes.POINTER(ctypes.c_uint32),
        ctypes.POINTER(ctypes.c_uint32),
    ]
    engine.ml_session_place.argtypes = [ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint32), ctypes.c_uint32]
    engine.ml_session_cpus.argtypes = [ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint32), ctypes.c_uint32]
    engine.ml_session_cpus.restype = ctypes.c_uint32
    engine.ml_session_time.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    engine.ml_session_times.argtypes = [ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint64), ctypes.c_uint64]
    engine.ml_session_slow_down.argtypes = [ctypes.c_void_p, ctypes.c_double]
    engine.ml_default_threads.restype = ctypes.c_uint32
    for function in (engine.ml_topology_json, engine.ml_describe_machine):
        function.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_uint64, ctypes.POINTER(ctypes.c_uint64)]
    engine.ml_read_bandwidth.argtypes = [
        ctypes.c_uint32,
        ctypes.c_uint64,
        ctypes.c_double,
        ctypes.POINTER(ctypes.c_double),
    ]
    engine.ml_memory_create.argtypes = [
        ctypes.c_uint64,
        ctypes.c_uint32,
        ctypes.POINTER(ctypes.c_uint32),
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.POINTER(ctypes.c_void_p),
    ]
    engine.ml_memory_destroy.argtypes = [ctypes.c_void_p]
    engine.ml_memory_destroy.restype = None
    engine.ml_memory_arithmetic.argtypes = [
        ctypes.c_void_p,
        ctypes.c_double,
        ctypes.POINTER(ctypes.c_double),
        ctypes.c_uint32,
    ]
    for function in (engine.ml_memory_read, engine.ml_memory_chase):
        function.argtypes = [
            ctypes.c_void_p,
            ctypes.c_uint64,
            ctypes.c_uint32,
            ctypes.c_double,
            ctypes.POINTER(ctypes.c_double),
            ctypes.c_uint32,
            ctypes.POINTER(ctypes.c_uint32),
        ]
