import json
import re

import pytest
from builders import mixed_schedule, schedules
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mobileloop.errors import MobileloopError, validated
from mobileloop.spec.capabilities import Asked, check_built, check_runs, unbuilt
from mobileloop.spec.halting import Halting
from mobileloop.spec.schedule import KvPolicy, Schedule, Stage


def layout(schedule, loops=None):
    return [(a.index, a.block, a.loop, a.slot) for a in schedule.applications(loops)]


def test_plain_applies_every_block_once():
    assert layout(Schedule.plain(3)) == [(0, 0, 0, 0), (1, 1, 0, 1), (2, 2, 0, 2)]


def test_immediate_gives_each_application_its_own_slot():
    assert layout(Schedule.immediate(2, 2)) == [(0, 0, 0, 0), (1, 0, 1, 1), (2, 1, 0, 2), (3, 1, 1, 3)]


def test_all_over_slots_are_loop_times_blocks_plus_block():
    assert layout(Schedule.repeat_all_over(2, 2)) == [(0, 0, 0, 0), (1, 1, 0, 1), (2, 0, 1, 2), (3, 1, 1, 3)]


def test_slots_stay_where_they_are_with_fewer_loops():
    full = {(a.stage, a.block, a.loop): a.slot for a in Schedule.immediate(3, 4).applications()}
    fewer = {(a.stage, a.block, a.loop): a.slot for a in Schedule.immediate(3, 4).applications(2)}
    assert len(fewer) == 6
    assert all(full[key] == slot for key, slot in fewer.items())


def test_a_session_count_never_exceeds_a_stage_bound():
    schedule = mixed_schedule()
    slots = [a.slot for a in schedule.applications(4)]
    assert len(slots) == len(set(slots)) == 2 * 1 + 4 * 2 + 3 * 1
    assert max(slots) < schedule.num_slots == 2 + 8 + 3
    assert schedule.slot_bases() == [0, 2, 10]


def test_slots_are_distinct_for_every_shape_and_count():
    for schedule in schedules().values():
        for loops in (None, *range(1, schedule.max_loops + 1)):
            slots = [a.slot for a in schedule.applications(loops)]
            assert len(slots) == len(set(slots))
            assert all(0 <= slot < schedule.num_slots for slot in slots)


@pytest.mark.parametrize(
    ("text", "blocks", "slots", "executed"),
    [
        ("plain", 4, 4, [0, 1, 2, 3]),
        ("immediate:2", 2, 4, [0, 0, 1, 1]),
        ("all:3", 2, 6, [0, 1, 0, 1, 0, 1]),
        ("range:1-2:2", 4, 6, [0, 1, 2, 1, 2, 3]),
        ("range:0-0:3:0.5", 2, 4, [0, 0, 0, 1]),
        ("range:0-1:2:1", 2, 4, [0, 1, 0, 1]),
    ],
)
def test_parse(text, blocks, slots, executed):
    schedule = Schedule.parse(text, blocks)
    assert schedule.num_slots == slots
    assert [a.block for a in schedule.applications()] == executed
    check_built(schedule)
    assert Schedule.parse(schedule.name, blocks) == schedule


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("twice", "is not known"),
        ("immediate:", "is not known"),
        ("immediate:0", "outside 1-1024"),
        ("all:1025", "outside 1-1024"),
        ("range:2-1:2", "does not lie inside blocks 0-3"),
        ("range:0-4:2", "does not lie inside blocks 0-3"),
        ("range:0-1:2:0", "damping"),
        ("range:0-1:2:1.5", "damping"),
        ("range:0-1:2:1.2.3", "damping"),
        ("missing.json", "cannot be read"),
    ],
)
def test_parse_refuses(text, words):
    with pytest.raises(MobileloopError, match=words):
        Schedule.parse(text, 4)


def test_parse_reads_json_files(tmp_path):
    path = tmp_path / "schedule.json"
    path.write_text(mixed_schedule().model_dump_json())
    assert Schedule.parse(str(path), 3) == mixed_schedule()
    with pytest.raises(MobileloopError, match="names block 2, but the model has blocks 0-1"):
        Schedule.parse(str(path), 2)
    path.write_text("{")
    with pytest.raises(MobileloopError, match="is not JSON"):
        Schedule.parse(str(path), 3)
    path.write_text("[" * 100_000)
    with pytest.raises(MobileloopError, match="is not JSON"):
        Schedule.parse(str(path), 3)
    path.write_text('{"stages": [{"blocks": [0], "speed": 2}]}')
    with pytest.raises(MobileloopError, match=r"stages\.0\.speed"):
        Schedule.parse(str(path), 3)


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ({}, "either blocks or inner stages"),
        ({"blocks": [0], "stages": [{"blocks": [0]}]}, "either blocks or inner stages"),
        ({"blocks": [-1]}, "start at 0"),
        ({"blocks": [0], "loops": 3, "max_loops": 2}, "beyond max_loops"),
        ({"blocks": [0], "loops": 0}, "loops"),
        ({"blocks": [0], "max_loops": 1025}, "max_loops"),
        ({"blocks": [0], "damping": 0}, "damping"),
        ({"blocks": [0], "damping": 1.01}, "damping"),
        ({"blocks": [0], "injection": "multiply"}, "injection"),
        ({"blocks": [0], "halting": {"rule": "mood"}}, "rule"),
    ],
)
def test_a_wrong_stage_is_refused_by_field(stage, words):
    with pytest.raises(MobileloopError, match=words):
        validated(Schedule, {"stages": [stage]}, "schedule.json")


def test_a_schedule_has_stages():
    with pytest.raises(MobileloopError, match="stages"):
        validated(Schedule, {"stages": []}, "schedule.json")


def test_loop_bounds():
    schedule = Schedule.immediate(2, 4)
    schedule.check_loops(None)
    schedule.check_loops(4)
    for loops in (0, -1, 5):
        with pytest.raises(MobileloopError, match=f"loops {loops} is outside 1-4"):
            schedule.check_loops(loops)


# -- every row of the design's table of systems can be said ----------------------------------------


def huginn():
    return Schedule(
        name="huginn",
        stages=(
            Stage(blocks=(0, 1)),
            Stage(
                blocks=(2, 3, 4, 5),
                loops=32,
                max_loops=64,
                state="s",
                start="noise_input",
                inject=("h",),
                injection="concat_linear",
                loop_end_norm=True,
                halting=Halting(rule="latent_difference", threshold=0.03),
            ),
            Stage(blocks=(6, 7)),
        ),
    )


def hrm():
    low = Stage(blocks=(0, 1), loops=2, max_loops=2, state="z_L", inject=("z_H", "x"), injection="add", causal=False)
    high = Stage(blocks=(2, 3), state="z_H", inject=("z_L",), injection="add", causal=False)
    nested = Stage(stages=(low, high), loops=2, max_loops=2, start="buffer")
    return Schedule(name="hrm", stages=(nested,))


def trm():
    think = Stage(blocks=(0, 1), loops=6, max_loops=6, state="z", inject=("y", "x"), injection="add", causal=False)
    answer = Stage(blocks=(0, 1), state="y", inject=("z",), injection="add", causal=False)
    outer = Stage(stages=(think, answer), loops=3, max_loops=16, halting=Halting(rule="halt_logit"))
    return Schedule(name="trm", stages=(outer,))


def gram():
    stages = trm().stages[0].stages
    noisy = stages[1].model_copy(update={"noise": True})
    return Schedule(name="gram", stages=(Stage(stages=(stages[0], noisy), loops=3, max_loops=3, noise=True),))


def loop_mdm():
    middle = Stage(blocks=(1, 2), loops=4, max_loops=8, causal=False)
    return Schedule(name="loopmdm", stages=(Stage(blocks=(0,), causal=False), middle, Stage(blocks=(3,), causal=False)))


def loop_wm():
    stage = Stage(blocks=(0, 1), loops=4, max_loops=8, inject=("e",), injection="lti", start="zeros")
    return Schedule(name="loopwm", stages=(stage,))


def ouro():
    stage = Stage(
        blocks=(0, 1), loops=4, max_loops=4, loop_end_norm=True, halting=Halting(rule="exit_gate", threshold=0.9)
    )
    return Schedule(name="ouro", stages=(stage,))


def mixture_of_recursions():
    middle = Stage(
        blocks=(1, 2), loops=2, max_loops=2, halting=Halting(rule="router"), kv_policy=KvPolicy(kind="first")
    )
    return Schedule(name="mor", stages=(Stage(blocks=(0,)), middle, Stage(blocks=(3,))))


def relaxed():
    middle = Stage(blocks=(1, 2), loops=2, max_loops=2, low_rank=8)
    return Schedule(name="relaxed", stages=(Stage(blocks=(0,)), middle, Stage(blocks=(3,))))


SYSTEMS = [
    (huginn, 2 + 4 * 64 + 2, "stage 1 needs the injection 'concat_linear'"),
    (hrm, (2 * 2 + 2) * 2, "stage 0 needs nested stages"),
    (trm, (2 * 6 + 2) * 16, "stage 0 needs nested stages"),
    (gram, (2 * 6 + 2) * 3, "stage 0 needs nested stages"),
    (loop_wm, 2 * 8, "stage 0 needs the injection 'lti'"),
    (mixture_of_recursions, 1 + 2 * 2 + 1, "stage 1 needs the halting rule 'router'"),
    (relaxed, 1 + 2 * 2 + 1, "stage 1 needs per-application low-rank deltas"),
]


@pytest.mark.parametrize(("make", "slots", "reason"), SYSTEMS, ids=[make.__name__ for make, _, _ in SYSTEMS])
def test_every_system_can_be_said_and_is_refused_by_name(make, slots, reason):
    schedule = make()
    assert Schedule.model_validate_json(schedule.model_dump_json()) == schedule
    assert Schedule.model_validate(json.loads(schedule.model_dump_json())) == schedule
    assert schedule.num_slots == slots
    assert unbuilt(schedule).startswith(reason)
    with pytest.raises(MobileloopError, match=f"the schedule {schedule.name} cannot run yet"):
        check_built(schedule)


def test_halting_rules_as_text():
    assert Halting.parse("none") == Halting()
    assert Halting.parse("latent_difference:0.03") == Halting(rule="latent_difference", threshold=0.03)
    assert Halting.parse("exit_gate:0.9:2") == Halting(rule="exit_gate", threshold=0.9, min_loops=2)
    assert Halting.parse("cosine:1e-3:1024") == Halting(rule="cosine", threshold=1e-3, min_loops=1024)
    for text in ("", "cosine", "cosine:", "cosine:x", "cosine:-1", "cosine:nan", "cosine:inf", "cosine:1:0",
                 "cosine:1:2:3", "cosine:1:1.5", "cosine:1:1025", "none:1", "router:0.5", "halt_logit:0", "mood:1",
                 "exit_gate:0", "exit_gate:1.1", "COSINE:1"):  # fmt: skip
        with pytest.raises(MobileloopError, match="the halting rule '"):
            Halting.parse(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mood:1", "is not known; write none, latent_difference:THRESHOLD"),
        ("none:1", "is not known; write none,"),
        ("cosine", "has no threshold; write cosine:THRESHOLD[:MIN_LOOPS]."),
        ("cosine:1:2:3", "has too many parts; write cosine:THRESHOLD[:MIN_LOOPS]."),
        ("cosine:", "is not valid: threshold: "),
    ],
)
def test_what_is_wrong_with_a_halting_rule(text, said):
    with pytest.raises(MobileloopError, match=re.escape(f"the halting rule '{text}' {said}")):
        Halting.parse(text)


def test_halting_that_does_not_fit_its_stage():
    for fields, words in (
        ({"halting": {"rule": "cosine", "min_loops": 3}}, "min_loops 3 is beyond max_loops 2"),
        ({"halting": {"rule": "cosine", "threshold": float("nan")}}, "threshold"),
        ({"halting": {"rule": "cosine", "threshold": -1}}, "threshold"),
        ({"halting": {"rule": "exit_gate", "threshold": 0.5}}, "needs loop_end_norm"),
        ({"halting": {"rule": "exit_gate", "threshold": 0}, "loop_end_norm": True}, "outside"),
    ):
        with pytest.raises(ValidationError, match=words):
            Stage.model_validate({"blocks": [0], "loops": 2, "max_loops": 2, **fields})


def test_halting_that_does_not_fit_its_schedule():
    gated, plain = ouro(), Schedule.immediate(2, 3)
    gated.check_halting(None, has_gate=True)
    gated.check_halting(Halting(rule="exit_gate", threshold=0.5, min_loops=4), has_gate=True)
    plain.check_halting(Halting(rule="cosine", threshold=0.5), has_gate=False)
    for schedule, halting, has_gate, words in (
        (gated, None, False, "needs the weights of an exit gate"),
        (gated, Halting(rule="exit_gate", threshold=1), False, "needs the weights of an exit gate"),
        (plain, Halting(rule="exit_gate", threshold=1), True, "has no norm at its loop ends"),
        (plain, Halting(rule="cosine", min_loops=4), True, "least loops 4 of the halting rule are outside 1-3"),
    ):
        with pytest.raises(MobileloopError, match=words):
            schedule.check_halting(halting, has_gate)


def test_what_only_the_engine_runs():
    check_runs("it", "onnx", Asked(Schedule.immediate(2, 3)))
    for schedule, words in ((ouro(), "ouro asks for a halting rule"), (loop_mdm(), "loopmdm asks for full attention")):
        with pytest.raises(MobileloopError, match=f"the schedule {words}, which onnx does not run"):
            check_runs(f"the schedule {schedule.name}", "onnx", Asked(schedule))


def test_the_systems_that_run_now():
    runnable = [
        ouro(),
        Schedule.plain(4),
        Schedule.immediate(4, 2),
        Schedule.repeat_all_over(4, 2, loop_end_norm=True),
        Schedule.damped_range(4, 1, 2, 3, 1 / 3),
        loop_mdm(),
        Schedule(name="middle-cycle", stages=(Stage(blocks=(0,)), Stage(blocks=(1, 2), loops=2, max_loops=2))),
    ]
    for schedule in runnable:
        assert unbuilt(schedule) is None
        assert Schedule.model_validate_json(schedule.model_dump_json()) == schedule


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"start": "zeros"}, "start state 'zeros'"),
        ({"state": "z"}, "second hidden state 'z'"),
        ({"kv_policy": KvPolicy(kind="mod", modulus=2)}, "KV policy 'mod'"),
        ({"inject": ("e",)}, "injection"),
        ({"noise": True}, "noise input"),
    ],
)
def test_each_unbuilt_feature_is_named(change, reason):
    assert reason in unbuilt(Schedule(stages=(Stage(blocks=(0,), **change),)))


@given(st.integers(1, 6), st.integers(1, 5), st.sampled_from(["immediate", "all"]))
def test_counts_of_the_common_shapes(blocks, loops, kind):
    schedule = Schedule.parse(f"{kind}:{loops}", blocks)
    assert schedule.num_slots == len(list(schedule.applications())) == blocks * loops
    assert schedule.max_loops == schedule.default_loops == loops


def test_rows_of_a_table():
    assert Schedule.plain(3).stage_rows() == [("0-2", (0,))]
    assert Schedule.immediate(3, 2).stage_rows() == [("0-2 (each block by itself)", (0, 1, 2))]
    assert Schedule.immediate(1, 2).stage_rows() == [("0", (0,))]
    middle = Schedule.damped_range(6, 1, 4, 2, 0.5)
    assert middle.stage_rows() == [("0", (0,)), ("1-4", (1,)), ("5", (2,))]
    mixed = Schedule(stages=(Stage(blocks=(4, 2)), Stage(blocks=(2,)), Stage(blocks=(0,)), Stage(blocks=(1, 2))))
    assert mixed.stage_rows() == [("4,2", (0,)), ("2,0 (each block by itself)", (1, 2)), ("1-2", (3,))]
    assert Schedule(stages=(Stage(stages=(Stage(blocks=(0,)), Stage(blocks=(1, 2)))),)).stage_rows() == [
        ("0,1-2", (0,))
    ]
