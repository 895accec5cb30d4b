"""Which cache holds the looped stage, and whether its repeats prove it."""

import pytest
from report_fakes import full_document

from mobileloop_bench.machine.facts import Cache, Machine
from mobileloop_bench.report.residency import ladder_level, nominal_level, residency


def looped(document, threads=2, loops=2):
    return next(
        row
        for row in document.results
        if (row.runtime, row.phase, row.loops, row.threads) == ("engine", "decode", loops, threads)
    )


def test_by_the_ladder_and_the_repeats():
    document = full_document()
    found = residency(looped(document), document)
    assert (found.level, found.measured, found.proved) == ("L2", True, True)
    assert found.sentence() == "the block is resident in L2: its repeats are read at 77.1 GB/s"


def test_repeats_no_faster_than_memory_prove_nothing():
    document = full_document()
    looped(document).median_ms *= 2
    found = residency(looped(document), document)
    assert found.proved is False
    assert "no faster than memory although the block fits L2" in found.sentence()


def test_invalid_times_prove_nothing():
    document = full_document()
    for loops in (1, 2):
        looped(document, loops=loops).valid = False
        found = residency(looped(document), document)
        assert found.proved is None
        assert found.sentence() == (
            "whether the block (2.0 MB) is resident in a cache cannot be told: the times are not valid results"
        )
        looped(document, loops=loops).valid = True


def test_a_read_bandwidth_below_that_of_fewer_threads_proves_nothing():
    document = full_document()
    document.bandwidth[1].read_gbps = 7.37
    for row in document.results:
        row.ceiling_gbps = 7.37 if row.threads == 2 else row.ceiling_gbps
    found = residency(looped(document), document)
    assert (found.ceiling_gbps, found.proved) == (13.0, None)
    assert found.sentence().endswith(
        "cannot be told: the read bandwidth of 2 threads, 7.37 GB/s, was measured below that of 1, 13.0 GB/s"
    )
    assert residency(looped(document, threads=1), document).proved


def test_a_read_bandwidth_that_fewer_threads_reach_too_is_held_against_the_largest():
    document = full_document()
    document.bandwidth[0].read_gbps = 26.5
    found = residency(looped(document), document)
    assert (found.ceiling_gbps, found.proved) == (26.5, True)


def test_without_a_ladder_the_nominal_sizes_are_said_to_be_nominal():
    document = full_document()
    document.ladder = None
    said = residency(looped(document), document).sentence()
    assert said.startswith("the block is resident in a cache (L2, by its nominal size)")
    document.machine = Machine()
    assert residency(looped(document), document).sentence().startswith("the block is resident in a cache: ")
    looped(document).executed_bytes = None
    assert residency(looped(document), document).sentence() == ""


def test_a_block_that_fits_nothing():
    document = full_document()
    looped(document).stage_bytes = 1 << 40
    assert residency(looped(document), document).sentence() == "the block (1,099,512 MB) fits no cache"


@pytest.mark.parametrize(("size", "level"), [(1 << 14, "L1"), (3 << 20, "L2"), (9 << 20, "DRAM")])
def test_levels(size, level):
    assert ladder_level(full_document().ladder, 5 << 20, 2) == "L3"
    assert ladder_level(full_document().ladder, 5 << 20, 7) is None
    caches = [
        Cache(level=1, kind="data", size_bytes=1 << 15, instances=4, shared_by=1),
        Cache(level=1, kind="instruction", size_bytes=1 << 30, instances=4, shared_by=1),
        Cache(level=2, kind="unified", size_bytes=2 << 20, instances=4, shared_by=1),
        Cache(level=3, kind="unified", size_bytes=8 << 20, instances=1, shared_by=4),
    ]
    assert nominal_level(Machine(caches=caches), size, 2) == level
