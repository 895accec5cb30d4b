#include "threads/placement.h"

#include <algorithm>
#include <atomic>
#include <mutex>

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "bounds.h"
#include "error.h"

namespace ml {

CpuMask CpuMask::of(const Cpus &cpus) {
    CpuMask mask;
    for (const uint32_t cpu : cpus) mask.words[cpu / kBits] |= 1ul << cpu % kBits;
    return mask;
}

Cpus CpuMask::cpus() const {
    Cpus held;
    for (uint32_t cpu = 0; cpu < kMaxCpus; cpu++)
        if (words[cpu / kBits] >> cpu % kBits & 1) held.push_back(cpu);
    return held;
}

// The system calls themselves, because cpu_set_t ends at 1024 cpus and libraries differ in what they offer.
#if defined(__linux__)
bool CpuMask::read() { return syscall(SYS_sched_getaffinity, 0, sizeof words, words.data()) > 0; }
bool CpuMask::apply() const { return syscall(SYS_sched_setaffinity, 0, sizeof words, words.data()) == 0; }
#else
bool CpuMask::read() { return false; }
bool CpuMask::apply() const { return false; }
#endif

Cpus allowed_cpus() {
    CpuMask mask;
    return mask.read() ? mask.cpus() : Cpus{};
}

Topology machine_topology() {
    static std::mutex mutex;
    static Cpus read_for;
    static Topology topology;
    const Cpus allowed = allowed_cpus();
    const std::lock_guard<std::mutex> lock(mutex);
    if (topology.cpus.empty() || allowed != read_for) {
        topology = read_topology("", allowed, false);
        read_for = allowed;
    }
    return topology;
}

uint32_t default_threads() {
    const Topology topology = machine_topology();
    const uint32_t cores = topology.default_threads();
    return std::clamp(cores ? cores : std::thread::hardware_concurrency(), 1u, kMaxThreads);
}

Placement::Placement(ThreadPool &pool, const Topology &topology) : pool_(pool), movable_(maker_.read()) {
    if (!movable_ || topology.all_big() || pool.size() > topology.big_cores) return;
    const Where big{topology.big_cpus(), false};
    if (move(big)) own_ = big;
}

CpuMask Placement::mask_of(const Where &where, uint32_t thread) const {
    if (where.cpus.empty()) return maker_;
    return CpuMask::of(where.each ? Cpus{where.cpus[thread]} : where.cpus);
}

// Moves the workers; thread 0 only tries. Whether the system let all of them.
bool Placement::try_to(const Where &where) {
    std::atomic<bool> moved{true};
    pool_.run(
        [&](uint32_t thread) {
            CpuMask before{};
            if (!before.read() || !mask_of(where, thread).apply()) moved = false;
            if (thread == 0) before.apply();
        },
        pool_.size());
    return moved;
}

// Where the system refuses, all threads stay as they are.
bool Placement::move(const Where &where) {
    if (!try_to(where)) {
        try_to(now_);
        return false;
    }
    now_ = where;
    first_ = mask_of(where, 0);
    return true;
}

void Placement::place(const uint32_t *cpus, uint32_t count) {
    Where wanted = own_;
    if (count > 0) {
        require(movable_, "threads cannot be bound to cpus on this system; leave the list of cpus out");
        require(count <= kMaxCpus, "a list of ", count, " cpus is longer than ", kMaxCpus);
        const Cpus allowed = allowed_cpus(), possible = possible_cpus("");
        std::vector<bool> listed(kMaxCpus);
        for (uint32_t i = 0; i < count; i++) {
            const uint32_t cpu = cpus[i];
            require(possible.empty() || contains(possible, cpu), "cpu ", cpu,
                    " does not exist on this machine, whose cpus are ", ranges(possible));
            require(contains(allowed, cpu), "cpu ", cpu, " is not allowed for this process, which may run on cpus ",
                    ranges(allowed), "; choose among those, or change its affinity");
            require(!listed[cpu], "cpu ", cpu, " is listed twice; list each once");
            listed[cpu] = true;
        }
        wanted = {Cpus(cpus, cpus + count), count == pool_.size()};
    }
    if (!movable_) return;
    require(move(wanted), "the system refuses to run the threads on ",
            wanted.cpus.empty() ? "the cpus they started on" : "cpus " + ranges(wanted.cpus),
            "; some of them may just have been switched off");
}

} // namespace ml
