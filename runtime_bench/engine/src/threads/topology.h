// The processor as sysfs describes it: kinds of cores, caches, and which cores are big. Linux and Android.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace ml {

// Numbers of cpus, rising. A cpu is what the system schedules on; a core with SMT is several.
using Cpus = std::vector<uint32_t>;

// "0-3,8"; empty for none.
std::string ranges(const Cpus &cpus);
bool contains(const Cpus &cpus, uint32_t cpu);

struct Cache {
    uint32_t level;
    const char *kind; // "data", "instruction" or "unified"
    uint64_t size_bytes;
    Cpus cpus; // that share it, of the whole machine
};

// What sysfs hides, as Android does with some of it, is 0 or empty.
struct Cpu {
    uint32_t number = 0;
    uint32_t cluster = 0;             // place in Topology::clusters
    uint32_t capacity = 0;            // of the scheduler: 1024 is the strongest
    uint32_t max_khz = 0;             // highest frequency
    Cpus core;                        // cpus of the same core, this one among them
    bool core_known = false;          // else the cpu is taken for a core of its own
    uint64_t private_cache_bytes = 0; // the largest data cache that only its core uses
    uint64_t shared_cache_bytes = 0;  // the last level, where other cores share it
    Cpus shared_with;                 // cpus that share that one, this one among them
};

// Cores of one kind: of the same capacity and highest frequency. Not sysfs's own cluster_id, which numbers the sharers
// of an L2 on x86 and is one for all cores of a phone with a DynamIQ unit.
struct Cluster {
    Cpus cpus;
    uint32_t cores = 0; // SMT siblings are one
    uint32_t capacity = 0, max_khz = 0;
    bool big = true;
};

struct Topology {
    std::vector<Cpu> cpus;         // in rising order
    std::vector<Cluster> clusters; // the strongest first; big ones before others
    std::vector<Cache> caches;     // each once; empty unless asked for
    uint32_t big_cores = 0;        // of the big clusters
    std::optional<double> quota;   // cores' worth of time that the system allows; none: all that there is

    // The big cores, or as many whole ones as a quota pays for: threads that meet all stand still once it is spent.
    uint32_t default_threads() const;

    Cpus big_cpus() const;
    bool all_big() const;
    std::string json() const;
};

// The cpus `usable` (or, where it is empty, all that are online) of the machine whose sysfs lies under root + "/sys".
// Every file may be missing or hold anything. The caches are many more files, so they are read on demand.
Topology read_topology(const std::string &root, const Cpus &usable, bool caches);

// The cpus that the kernel of root + "/sys" could ever bring up; empty where it does not tell.
Cpus possible_cpus(const std::string &root);

} // namespace ml
