// The machine a figure was measured on; what cannot be read is unknown, never guessed. The one probe: Python adds what
// only it knows (runtime_bench/mobileloop_bench/machine/probe.py).
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
    std::optional<uint32_t> cluster; // whose cores have it; none where several share it
    std::optional<uint64_t> ways;    // of a set
};

// What cpufreq says of the cpus of one cluster.
struct Clock {
    std::optional<double> min_mhz, max_mhz, current_mhz; // current: of the fastest cpu, at the moment of the probe
    std::optional<std::string> governor;
};

struct Machine {
    std::optional<std::string> cpu_model; // as /proc/cpuinfo has it
    std::optional<std::string> board;     // of a device tree, where processors have no names
    std::optional<std::string> cpu_part;  // the first one's number
    std::optional<std::string> cpu_id;    // vendor, family, model and stepping of an x86 processor
    std::optional<std::string> architecture, governor, kernel, os, time;
    Topology topology;         // of the cpus that this process may run on
    std::vector<Clock> clocks; // by cluster
    std::optional<int> cores_physical;
    std::vector<CacheGroup> caches;
    std::optional<std::vector<std::string>> instruction_sets;
    std::optional<double> max_mhz, current_mhz;
    std::optional<uint64_t> memory_bytes, memory_available_bytes, page_bytes;
    std::optional<bool> hypervisor, emulated;

    std::optional<std::string> cpu() const; // the best name that there is
    std::optional<uint64_t> last_level_cache_bytes() const;
    std::string json(const std::string &kernels) const;
    // Lines for people: name and value, "unknown" where nothing was found.
    std::string lines(const std::string &kernels) const;
};

// The machine whose proc, sys and etc lie under `root`; "" is this one. All online cpus of another machine count.
Machine probe_machine(const std::string &root = "");

// A size of /proc/self/status in bytes (VmHWM, RssAnon, ...), where the kernel tells.
std::optional<uint64_t> memory_status(const char *name);

// Processor seconds of everything that ran, and what the hypervisor gave away, since the system's start.
struct BusySeconds {
    double busy, stolen;
};
std::optional<BusySeconds> busy_seconds();

} // namespace ml
