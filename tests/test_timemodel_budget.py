"""What fits a time per token: budgets as people write them, choices, the answer, and the command."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from builders import TINY, packed_model, write_engine

from mobileloop.artifact import ArtifactInfo
from mobileloop.errors import MobileloopError
from mobileloop.packed import shape_costs
from mobileloop.spec.schedule import Schedule
from mobileloop_bench.machine.facts import Cache, Cluster, Machine
from mobileloop_bench.machine.file import EngineCosts, MachineFile
from mobileloop_bench.machine.ladder import Ladder, Step
from mobileloop_bench.timemodel.budget import (
    artifact_options,
    make_budget_plan,
    parse_budget,
    preset_options,
    thread_counts,
)
from mobileloop_bench.timemodel.table import sentences

MB = 1_000_000


def server(**change) -> MachineFile:
    """One thread, a cache that any block of the small presets fits, and every cost known."""
    steps = [
        Step(level="L2", threads=1, up_to_bytes=8 * MB, read_gbps=80),
        Step(level="DRAM", threads=1, read_gbps=10),
    ]
    costs = EngineCosts(
        compute_gbps=20,
        scheme_gbps={"int8": 30},
        region_us={1: 1},
        application_us={1: 1},
        token_us=10,
        attention_ns=5,
        kv_page_us=0,
        overlap=1,
    )
    made = MachineFile(name="a server", machine=Machine(), ladder=Ladder(steps=steps), costs=costs)
    return made.model_copy(update=change)


def phone() -> MachineFile:
    """DRAM alone is known, and the caches' sizes."""
    machine = Machine(caches=[Cache(level=3, kind="unified", size_bytes=8 * MB, instances=1, shared_by=8)])
    return server(machine=machine, ladder=Ladder(steps=[Step(level="DRAM", threads=1, read_gbps=10)]))


def made(machine: MachineFile, budget_ms: float, loops=(1, 2, 4), quantizations=("int4",), threads=(1,)):
    options = preset_options("mobilellm-125m", loops, quantizations)
    return make_budget_plan("mobilellm-125m", options, machine, budget_ms, threads, 0)


@pytest.mark.parametrize(
    ("text", "ms"), [("15ms", 15), ("0.02s", 20), ("60tok/s", 1000 / 60), (".5 ms", 0.5), ("2. s", 2000)]
)
def test_budgets(text, ms):
    assert parse_budget(text) == pytest.approx(ms)


BAD_BUDGETS = ["", "15", "0ms", "-1ms", "1e3ms", "infs", "nan ms", "15msx", "tok/s", "1 minute", "٣ms", "2000000s"]


@pytest.mark.parametrize("text", [*BAD_BUDGETS, "9" * 400 + "ms"])
def test_bad_budgets(text):
    with pytest.raises(MobileloopError, match="is not a time per token; write for example 15ms"):
        parse_budget(text)


def test_a_preset_s_bytes_are_those_of_its_weights():
    for quantization in ("int4", "int4-symmetric", "int8", "none"):
        for config in (TINY, TINY.model_copy(update={"tie_embeddings": False, "exit_gate": True})):
            _, packed = packed_model(config, quantization=quantization)
            assert shape_costs(config, quantization) == packed.costs()


def test_shapes_that_cannot_be_quantized_are_refused():
    with pytest.raises(MobileloopError, match="an input dimension of 72 is not a multiple"):
        shape_costs(TINY.model_copy(update={"intermediate_size": 72}), "int4")


def test_the_deepest_within_the_budget_is_found():
    plan = made(server(), 20.0)
    times = [choice.ms for choice in plan.choices]
    assert times == sorted(times)
    assert [choice.applications for choice in plan.choices] == [30, 60, 120]
    assert [choice.resident for choice in plan.choices] == [None, "L2", "L2"]
    assert [choice.fits for choice in plan.choices] == [time <= 20 for time in times]
    assert plan.deepest == max((c for c in plan.choices if c.fits), key=lambda choice: choice.loops)
    exact = made(server(), times[1])
    assert exact.deepest.loops == 2
    assert made(server(), times[1] * 0.999).deepest.loops == 1


def test_of_two_as_deep_the_faster_is_chosen():
    plan = made(server(), 1000.0, quantizations=("int8", "int4"))
    assert (plan.deepest.quantization, plan.deepest.loops) == ("int4", 4)


def test_nothing_fits():
    plan = made(server(), 0.1)
    assert plan.deepest is None
    assert sentences(plan) == ["No choice keeps 0.100 ms per token."]


def test_an_unknown_cache_makes_a_choice_unknown_between_bounds():
    plan = made(phone(), 1000.0)
    once, twice, _ = plan.choices
    assert once.ms is not None
    assert once.missing is None
    assert (twice.ms, twice.tokens_per_s) == (None, None)
    assert twice.missing == "the read bandwidth of L3 with 1 thread"
    assert twice.resident == "L3"
    assert once.ms < twice.at_least_ms < twice.at_most_ms
    assert plan.deepest.loops == 4  # even as slow as DRAM it fits
    between = made(phone(), (twice.at_least_ms + twice.at_most_ms) / 2)
    assert [choice.fits for choice in between.choices] == [True, None, False]
    assert between.deepest.loops == 1
    assert made(phone(), once.ms * 0.9).deepest is None


def test_an_unknown_cache_does_not_matter_where_arithmetic_decides():
    slow = phone().costs.model_copy(update={"compute_gbps": 5.0, "scheme_gbps": {"int8": 5.0}})
    plan = made(phone().model_copy(update={"costs": slow}), 1000.0)
    assert {choice.missing for choice in plan.choices} == {None}
    assert plan.choices[1].resident == "L3"
    assert plan.choices[1].ms > plan.choices[0].ms


def test_what_a_machine_file_lacks_is_said():
    plan = made(server(ladder=None), 15.0)
    assert {choice.fits for choice in plan.choices} == {None}
    assert sentences(plan) == [
        "Unknown: the read bandwidth of DRAM with 1 thread.",
        "No choice is known to keep 15.0 ms per token.",
    ]
    assert sentences(made(server(costs=None), 15.0))[0].startswith("Unknown: the engine's compute rate of int4 weights")


def test_estimated_costs_are_called_so():
    estimated = server().costs.model_copy(update={"estimated": True})
    assert any("estimated" in line for line in sentences(made(server(costs=estimated), 15.0)))


def test_a_shipped_phone_s_plan_says_what_it_is_made_from(tmp_path):
    arguments = ["mobilellm-125m", "--machine", "snapdragon-8-gen-3", "--budget", "15ms", "--loops", "1,2"]
    done = cli(*arguments)
    assert "predicted from published figures, behind" in done.stdout
    assert "Predicted from published figures and from estimated costs of the engine; nothing" in done.stdout
    plan = json.loads(cli(*arguments, "--json").stdout)
    assert (plan["published"], plan["estimated"]) == (True, True)
    assert (made(server(), 15.0).published, made(server(), 15.0).estimated) == (False, False)
    alone = made(server(sources={"ladder": "a page"}), 15.0)
    assert "Predicted from published figures, not measured by us" in " ".join(sentences(alone))


def test_thread_counts_of_a_machine_file():
    assert thread_counts(server()) == [1]
    clusters = [Cluster(cpus=[0, 1], big=True), Cluster(cpus=[2, 3], big=False)]
    assert thread_counts(server(ladder=None, machine=Machine(clusters=clusters))) == [2]
    assert thread_counts(server(ladder=None)) == [1]


def test_an_artifact_keeps_its_bound():
    checkpoint, packed = packed_model(schedule=Schedule.immediate(3, 2))
    info = ArtifactInfo.describe(checkpoint, packed, 32, 16)
    options = artifact_options(info, [1, 2, 4])
    assert [option.refused is None for option in options] == [True, True, False]
    plan = make_budget_plan("tiny", options, server(), 1000.0, [1], 0)
    assert plan.choices[2].fits is False
    assert plan.choices[2].refused.startswith("loops 4 is outside 1-2")
    assert [line for line in sentences(plan) if "loops 4" in line] == [
        "Refused: loops 4 is outside 1-2, the bound this artifact was exported for; ask for less or export again with "
        "a larger --loops."
    ]
    assert [option.loops for option in artifact_options(info, None)] == [2]


def cli(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "mobileloop.cli", "plan", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def machine_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("machine") / "server.json"
    server().write(path)
    return path


def test_the_command_prints_the_table_and_the_answer(machine_file):
    done = cli("mobilellm-125m", "--machine", machine_file, "--budget", "50tok/s", "--quantize", "int4")
    assert done.returncode == 0, done.stderr
    assert "Deepest within 20.0 ms per token: 4 loops (120 applications), int4, 1 thread" in done.stdout
    assert done.stderr == ""


def test_the_command_s_json_and_exit_code(machine_file):
    done = cli("mobilellm-125m", "--machine", machine_file, "--budget", "1ms", "--json")
    assert done.returncode == 1
    plan = json.loads(done.stdout)
    assert plan["deepest"] is None
    assert len(plan["choices"]) == 8
    assert all(choice["prediction"]["stages"] for choice in plan["choices"])


def test_the_command_plans_an_artifact(machine_file, tmp_path):
    path = tmp_path / "tiny.safetensors"
    write_engine(path, *packed_model(schedule=Schedule.immediate(3, 4), quantization="int4"))
    done = cli(path, "--machine", machine_file, "--budget", "1s", "--loops", "2,4", "--context-depth", "0", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["deepest"]["applications"] == 12


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mobilellm-2m", "--budget", "1ms"], "'mobilellm-2m' is neither an artifact nor a preset"),
        (["nowhere.safetensors", "--budget", "1ms"], "nowhere.safetensors does not exist"),
        (["mobilellm-125m", "--budget", "soon"], "the budget 'soon' is not a time per token"),
        (["mobilellm-125m", "--budget", "1ms", "--quantize", "int3"], "--quantize 'int3' is not known"),
        (["mobilellm-125m", "--budget", "1ms", "--loops", "0"], "--loops '0' holds '0'"),
        (["mobilellm-125m", "--budget", "1ms", "--budget", "2ms"], "--budget is given 2 times"),
        (["mobilellm-125m", "--budget", "1ms", "--machine", "raspberry-pi-5"], "--machine is given 2 times"),
        (["mobilellm-125m", "--budget", "1ms", "--loops", ""], "--loops '' holds ''"),
        (["mobilellm-125m", "--budget", "1ms", "--quantize", ""], "--quantize '' is not known"),
        (["mobilellm-125m", "--budget", "1ms", "--threads", ""], "--threads '' holds ''"),
        (["mobilellm-125m", "--budget", "1ms", "--context-depth", "2048"], "--context-depth 2048 is outside 0-2047"),
    ],
)
def test_mistakes_are_one_sentence(arguments, said, machine_file):
    done = cli(*arguments, "--machine", machine_file)
    assert done.returncode == 2, done.stdout
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert said in done.stderr


def test_a_machine_that_does_not_exist_is_one_sentence():
    done = cli("mobilellm-125m", "--machine", "toaster", "--budget", "1ms")
    assert done.returncode == 2
    assert "there is no machine 'toaster'" in done.stderr
    assert "there is no machine ''" in cli("mobilellm-125m", "--machine", "", "--budget", "1ms").stderr


def test_what_no_machine_or_artifact_can_do_is_refused(machine_file, tmp_path):
    bare, path = tmp_path / "bare.json", tmp_path / "tiny.safetensors"
    server(ladder=None).write(bare)
    write_engine(path, *packed_model(schedule=Schedule.immediate(3, 4), quantization="int4"))
    for arguments, said in (
        (["mobilellm-125m", "--machine", bare], "make one there with mobileloop bandwidth --json M.json"),
        (
            ["mobilellm-125m", "--machine", "raspberry-pi-5", "--threads", "99"],
            "more than the 4 cores of Raspberry Pi 5",
        ),
        ([path, "--machine", machine_file, "--loops", "9"], "loops 9 is outside 1-4"),
    ):
        done = cli(*arguments, "--budget", "1ms")
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr


def test_names_are_completed():
    from mobileloop_bench.commands.options import complete_machines
    from mobileloop_bench.commands.plan import _complete_presets
    from mobileloop_bench.machine.file import shipped

    assert complete_machines("") == shipped()
    assert complete_machines("rasp") == ["raspberry-pi-5"]
    assert "mobilellm-125m-ls" in _complete_presets("mobilellm-1")
