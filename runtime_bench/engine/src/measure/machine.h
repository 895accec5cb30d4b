// The machine a figure was measured on; what cannot be read is unknown, never guessed. The fields are those of the
// Python probe (runtime_bench/mobileloop_bench/machine/probe.py).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "threads/topology.h"

namespace ml {

// Equal caches: `instances` of them, each shared by `shared_by` cpus that this process may run on.
struct CacheGroup {
    uint32_t level = 0;
    std::string kind;
    uint64_t size_bytes = 0;
    int instances = 0, shared_by = 1;
};

struct Machine {
    std::optional<std::string> cpu, architecture, governor, kernel, os, time;
    Topology topology; // of the cpus that this process may run on
    std::optional<int> cores_physical;
    std::vector<CacheGroup> caches;
    std::optional<std::vector<std::string>> instruction_sets;
    std::optional<double> max_mhz, current_mhz;
    std::optional<uint64_t> memory_bytes, page_bytes;
    std::optional<bool> hypervisor, emulated;

    std::optional<uint64_t> last_level_cache_bytes() const;
    std::string json(const std::string &kernels) const;
    // Lines for people: name and value, "unknown" where nothing was found.
    std::string lines(const std::string &kernels) const;
};

Machine probe_machine();

// A size of /proc/self/status in bytes (VmHWM, RssAnon, ...), where the kernel tells.
std::optional<uint64_t> memory_status(const char *name);

// Processor seconds of everything that ran, and what the hypervisor gave away, since the system's start.
struct BusySeconds {
    double busy, stolen;
};
std::optional<BusySeconds> busy_seconds();

} // namespace ml
