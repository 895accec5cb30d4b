#include "threads/topology.h"

#include <algorithm>
#include <string_view>
#include <sys/stat.h>
#include <tuple>

#include "bounds.h"
#include "error.h"
#include "threads/quota.h"
#include "threads/sysfs.h"

namespace ml {
namespace {

constexpr uint32_t kMaxCaches = 8; // of one cpu
constexpr uint64_t kMaxCapacity = 1 << 20, kMaxKhz = 100'000'000, kMaxLevel = 16, kMaxCacheBytes = uint64_t{1} << 40;

// "48K", "32M"
uint64_t size_of(const std::string &path) {
    const std::string held = read_file(path);
    std::string_view text = held;
    uint64_t size;
    if (!take_number(text, kMaxCacheBytes, size) || text.size() > 1) return 0;
    const size_t unit = text.empty() ? 0 : std::string_view("KMG").find(text[0]) + 1;
    if (!text.empty() && unit == 0) return 0; // npos + 1
    size <<= 10 * unit;
    return size <= kMaxCacheBytes ? size : 0;
}

// "0-3,8". A list with anything else in it is none; cpus from kMaxCpus on are left out.
Cpus list_of(const std::string &path) {
    const std::string held = read_file(path);
    std::string_view text = held;
    std::vector<bool> listed(kMaxCpus);
    while (!text.empty()) {
        uint64_t first, last;
        if (!take_number(text, UINT32_MAX, first)) return {};
        last = first;
        if (!text.empty() && text[0] == '-') {
            text.remove_prefix(1);
            if (!take_number(text, UINT32_MAX, last)) return {};
        }
        for (uint64_t cpu = first; cpu <= last && cpu < kMaxCpus; cpu++) listed[cpu] = true;
        if (text.empty()) break;
        if (text[0] != ',') return {};
        text.remove_prefix(1);
    }
    Cpus cpus;
    for (uint32_t cpu = 0; cpu < kMaxCpus; cpu++)
        if (listed[cpu]) cpus.push_back(cpu);
    return cpus;
}

std::string folder_of(const std::string &root) { return root + "/sys/devices/system/cpu/"; }

Cpus online_cpus(const std::string &folder) {
    for (const char *name : {"online", "present", "possible"})
        if (Cpus cpus = list_of(folder + name); !cpus.empty()) return cpus;
    Cpus cpus;
    struct stat about;
    for (uint32_t cpu = 0; cpu < kMaxCpus; cpu++)
        if (stat(text(folder, "cpu", cpu).c_str(), &about) == 0) cpus.push_back(cpu);
    return cpus;
}

Cpu read_cpu(const std::string &folder, uint32_t number) {
    const std::string own = text(folder, "cpu", number, "/");
    Cpu cpu;
    cpu.number = number;
    cpu.capacity = static_cast<uint32_t>(number_of(own + "cpu_capacity", kMaxCapacity));
    cpu.max_khz = static_cast<uint32_t>(number_of(own + "cpufreq/cpuinfo_max_freq", kMaxKhz));
    for (const char *name : {"core_cpus_list", "thread_siblings_list"}) { // of newer and of older kernels
        cpu.core = list_of(own + "topology/" + name);
        cpu.core_known = contains(cpu.core, number);
        if (cpu.core_known) return cpu;
    }
    cpu.core = {number};
    return cpu;
}

const char *kind_of(const std::string &type) {
    return type == "Data" ? "data" : type == "Instruction" ? "instruction" : type == "Unified" ? "unified" : nullptr;
}

void read_caches(const std::string &folder, Cpu &cpu, std::vector<Cache> &caches) {
    uint32_t last_level = 0;
    for (uint32_t index = 0; index < kMaxCaches; index++) {
        const std::string own = text(folder, "cpu", cpu.number, "/cache/index", index, "/");
        Cache cache{static_cast<uint32_t>(number_of(own + "level", kMaxLevel)), kind_of(read_file(own + "type")),
                    size_of(own + "size"), list_of(own + "shared_cpu_list")};
        if (cache.level == 0 || !cache.kind || cache.size_bytes == 0) continue;
        if (!contains(cache.cpus, cpu.number)) {
            if (cache.level > 1) continue; // who shares it is not known
            cache.cpus = cpu.core;
        }
        if (cache.kind[0] != 'i') {
            const bool own_core = std::includes(cpu.core.begin(), cpu.core.end(), cache.cpus.begin(), cache.cpus.end());
            if (own_core) {
                cpu.private_cache_bytes = std::max(cpu.private_cache_bytes, cache.size_bytes);
            } else if (cache.level > last_level) {
                last_level = cache.level;
                cpu.shared_cache_bytes = cache.size_bytes;
                cpu.shared_with = cache.cpus;
            }
        }
        const auto same = [&](const Cache &other) {
            return other.level == cache.level && other.kind == cache.kind && other.cpus == cache.cpus;
        };
        if (std::none_of(caches.begin(), caches.end(), same)) caches.push_back(std::move(cache));
    }
}

// What cores are compared by: the scheduler's capacity where it tells any apart, which a kernel without a table of its
// processor does not, else the highest frequency, else nothing. 0 for all cores of a cluster is "not known".
struct Measure {
    uint32_t Cluster::*value = nullptr;
    uint64_t least_share_percent = 0;
};

// LITTLE cores have up to 0.37 of the strongest core's capacity (A510 of the 8 Gen 2: 0.20 or 0.34, by the kernel's
// version; A53 of the RK3399: 0.37) or 0.41 of a middle one's, and keep more back than that where memory is the limit.
// Middle cores have 0.49 to 0.92. Frequencies lie closer together: LITTLE 0.58 to 0.69, middle 0.80 to 0.95.
Measure measure_of(const std::vector<Cluster> &clusters) {
    for (const Measure &measure : {Measure{&Cluster::capacity, 45}, Measure{&Cluster::max_khz, 75}}) {
        bool known = true, differ = false;
        for (const Cluster &cluster : clusters) {
            known = known && cluster.*measure.value > 0;
            differ = differ || cluster.*measure.value != clusters[0].*measure.value;
        }
        if (known && differ) return measure;
    }
    return {};
}

// Rows are shared out evenly, so n threads are as fast as n times the slowest of them: among the clusters that are not
// LITTLE, from the strongest down, the big ones are those with which that product is largest. It takes the four middle
// cores of an 8 Gen 2 along (5 x 0.60 against 1), where a fixed share of the prime core would leave that one alone or
// split the middle cores of an 8 Gen 3; and not the two of a Tensor G1 (4 x 0.49 against 2). That all eight cores of an
// 8 Gen 2 would be slower than five (8 x 0.20 against 5 x 0.60) is what users measured: 30 to 40% lost.
void choose_big(std::vector<Cluster> &clusters) {
    const Measure measure = measure_of(clusters);
    if (!measure.value) return;
    const auto strength = [&](const Cluster &cluster) { return uint64_t{cluster.*measure.value}; };
    std::stable_sort(clusters.begin(), clusters.end(),
                     [&](const Cluster &a, const Cluster &b) { return strength(a) > strength(b); });
    uint64_t cores = 0, best = 0;
    size_t count = 0;
    for (size_t i = 0; i < clusters.size(); i++) {
        cores += clusters[i].cores;
        if (strength(clusters[i]) * 100 < strength(clusters[0]) * measure.least_share_percent) break;
        if (cores * strength(clusters[i]) > best) {
            best = cores * strength(clusters[i]);
            count = i + 1;
        }
    }
    for (size_t i = count; i < clusters.size(); i++) clusters[i].big = false;
}

void make_clusters(Topology &topology) {
    std::vector<Cluster> &clusters = topology.clusters;
    for (const Cpu &cpu : topology.cpus) {
        const auto same = [&](const Cluster &c) { return c.capacity == cpu.capacity && c.max_khz == cpu.max_khz; };
        auto found = std::find_if(clusters.begin(), clusters.end(), same);
        if (found == clusters.end())
            found = clusters.insert(clusters.end(), Cluster{{}, 0, cpu.capacity, cpu.max_khz, true});
        // A core counts once: not where a sibling is here already.
        const auto here = [&](uint32_t sibling) { return contains(found->cpus, sibling); };
        if (std::none_of(cpu.core.begin(), cpu.core.end(), here)) found->cores++;
        found->cpus.push_back(cpu.number);
    }
    std::sort(clusters.begin(), clusters.end(), [](const Cluster &a, const Cluster &b) {
        return std::tie(a.capacity, a.max_khz) > std::tie(b.capacity, b.max_khz);
    });
    choose_big(clusters);
    for (Cpu &cpu : topology.cpus)
        for (uint32_t number = 0; number < clusters.size(); number++)
            if (contains(clusters[number].cpus, cpu.number)) cpu.cluster = number;
    for (const Cluster &cluster : clusters) topology.big_cores += cluster.big ? cluster.cores : 0;
}

// -- JSON ----------------------------------------------------------------------------------------------------------

std::string array(const Cpus &cpus) {
    std::string out = "[";
    for (const uint32_t cpu : cpus) out += (out.size() > 1 ? "," : "") + std::to_string(cpu);
    return out + "]";
}

template <typename Items, typename Write> std::string array(const Items &items, const Write &write) {
    std::string out = "[";
    for (const auto &item : items) out += (out.size() > 1 ? ",{" : "{") + write(item) + "}";
    return out + "]";
}

// By hand, because a process's own locale may write a comma; of a quota, which is below 2^41.
std::string decimal(double value) {
    const auto millionths = static_cast<uint64_t>(value * 1e6 + 0.5);
    std::string fraction = std::to_string(1'000'000 + millionths % 1'000'000);
    fraction[0] = '.';
    return std::to_string(millionths / 1'000'000) + fraction;
}

const char *word(bool holds) { return holds ? "true" : "false"; }

} // namespace

bool contains(const Cpus &cpus, uint32_t cpu) { return std::binary_search(cpus.begin(), cpus.end(), cpu); }

std::string ranges(const Cpus &cpus) {
    std::string out;
    for (size_t i = 0; i < cpus.size(); i++) {
        const size_t first = i;
        while (i + 1 < cpus.size() && cpus[i + 1] == cpus[i] + 1) i++;
        out += text(out.empty() ? "" : ",", cpus[first]);
        if (i > first) out += text("-", cpus[i]);
    }
    return out;
}

Cpus possible_cpus(const std::string &root) { return list_of(folder_of(root) + "possible"); }

Topology read_topology(const std::string &root, const Cpus &usable, bool caches) {
    const std::string folder = folder_of(root);
    Topology topology;
    for (const uint32_t number : usable.empty() ? online_cpus(folder) : usable)
        topology.cpus.push_back(read_cpu(folder, number));
    make_clusters(topology);
    topology.quota = cpu_quota(root);
    if (caches)
        for (Cpu &cpu : topology.cpus) read_caches(folder, cpu, topology.caches);
    return topology;
}

Cpus Topology::big_cpus() const {
    Cpus big;
    for (const Cpu &cpu : cpus)
        if (clusters[cpu.cluster].big) big.push_back(cpu.number);
    return big;
}

uint32_t Topology::default_threads() const {
    if (!quota || big_cores == 0) return big_cores;
    return std::clamp(static_cast<uint32_t>(std::min<double>(*quota, kMaxThreads)), 1u, big_cores);
}

bool Topology::all_big() const { return clusters.empty() || clusters.back().big; }

std::string Topology::json() const {
    return text("{\"cpus\":",
                array(cpus,
                      [](const Cpu &cpu) {
                          return text("\"cpu\":", cpu.number, ",\"cluster\":", cpu.cluster,
                                      ",\"capacity\":", cpu.capacity, ",\"max_khz\":", cpu.max_khz,
                                      ",\"core\":", array(cpu.core_known ? cpu.core : Cpus{}),
                                      ",\"private_cache_bytes\":", cpu.private_cache_bytes,
                                      ",\"shared_cache_bytes\":", cpu.shared_cache_bytes,
                                      ",\"shared_with\":", array(cpu.shared_with));
                      }),
                ",\"clusters\":",
                array(clusters,
                      [](const Cluster &cluster) {
                          return text("\"cpus\":", array(cluster.cpus), ",\"cores\":", cluster.cores,
                                      ",\"capacity\":", cluster.capacity, ",\"max_khz\":", cluster.max_khz,
                                      ",\"big\":", word(cluster.big));
                      }),
                ",\"caches\":",
                array(caches,
                      [](const Cache &cache) {
                          return text("\"level\":", cache.level, ",\"kind\":\"", cache.kind,
                                      "\",\"size_bytes\":", cache.size_bytes, ",\"cpus\":", array(cache.cpus));
                      }),
                ",\"default_threads\":", default_threads(), ",\"cpu_quota\":", quota ? decimal(*quota) : "null", "}");
}

} // namespace ml
