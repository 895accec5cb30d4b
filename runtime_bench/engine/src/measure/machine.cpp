#include "measure/machine.h"

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <map>
#include <set>
#include <string_view>
#include <sys/utsname.h>
#include <tuple>
#include <unistd.h>

#include "error.h"
#include "format/json_writer.h"
#include "threads/placement.h"
#include "threads/sysfs.h"

namespace ml {
namespace {

constexpr const char *kInstructionSets[] = {"avx2",     "fma",         "f16c",        "avx_vnni", "avx512f", "avx512bw",
                                            "avx512vl", "avx512_vnni", "avx512_bf16", "amx_int8", "asimd",   "asimdhp",
                                            "asimddp",  "i8mm",        "bf16",        "sve",      "sve2",    "sme"};

constexpr uint64_t kMaxKhz = 100'000'000, kMaxWays = 1'000'000, kMaxLevel = 16;
constexpr uint64_t kMaxKilobytes = uint64_t{1} << 50;
constexpr uint32_t kMaxCaches = 8; // of one cpu

// A file of procfs or sysfs; nothing where it is hidden or empty. That of a machine with hundreds of cpus is long.
std::optional<std::string> read(const std::string &path) {
    std::string held = read_file(path, 1u << 20);
    return held.empty() ? std::nullopt : std::optional(std::move(held));
}

// "2048 kB", in bytes; nothing where it is no such size.
std::optional<uint64_t> kilobytes(const std::optional<std::string> &told) {
    std::string_view rest = told ? *told : std::string_view();
    uint64_t size;
    if (!take_number(rest, kMaxKilobytes, size) || (rest != " kB" && !rest.empty())) return std::nullopt;
    return size * 1024;
}

// The value of `key : value`, at the start of a line, first match.
std::optional<std::string> field(const std::string &text, const std::string &key, char separator = ':') {
    for (size_t at = 0; at < text.size(); at = std::min(text.find('\n', at), text.size() - 1) + 1) {
        if (text.compare(at, key.size(), key) != 0) continue;
        size_t value = at + key.size();
        while (value < text.size() && (text[value] == ' ' || text[value] == '\t')) value++;
        if (value >= text.size() || text[value] != separator) continue;
        value = text.find_first_not_of(" \t\"", value + 1);
        const size_t end = std::min(text.find_first_of("\n\"", std::min(value, text.size())), text.size());
        if (value < end) return text.substr(value, end - value);
    }
    return std::nullopt;
}

std::vector<std::string> words(const std::string &text) {
    std::vector<std::string> found;
    for (size_t at = 0; (at = text.find_first_not_of(' ', at)) != std::string::npos;) {
        const size_t end = std::min(text.find(' ', at), text.size());
        found.push_back(text.substr(at, end - at));
        at = end;
    }
    return found;
}

std::string join(const std::vector<std::string> &parts, const char *between) {
    std::string out;
    for (const std::string &part : parts) out += (out.empty() ? "" : between) + part;
    return out;
}

std::optional<double> max_mhz_of(const Cluster &cluster) {
    return cluster.max_khz ? std::optional(cluster.max_khz / 1000.0) : std::nullopt;
}

// Each of a machine's files under its root.
class Probe {
public:
    explicit Probe(const std::string &root) : root_(root) {}

    Machine all() {
        machine_.topology = read_topology(root_, root_.empty() ? allowed_cpus() : Cpus{}, true);
        if (root_.empty()) {
            this_machine();
        } else {
            machine_.kernel = read("/proc/sys/kernel/osrelease");
            machine_.os = read("/proc/sys/kernel/ostype");
            machine_.architecture = read("/proc/sys/kernel/arch"); // of newer kernels
        }
        if (const auto release = read("/etc/os-release"))
            if (const auto pretty = field(*release, "PRETTY_NAME", '=')) machine_.os = pretty;
        processor(read("/proc/cpuinfo").value_or(""));
        cores();
        caches();
        const std::string memory = read("/proc/meminfo").value_or("");
        machine_.memory_bytes = kilobytes(field(memory, "MemTotal"));
        machine_.memory_available_bytes = kilobytes(field(memory, "MemAvailable"));
        const time_t now = std::time(nullptr);
        struct tm utc{};
        char stamp[40];
        if (gmtime_r(&now, &utc) && std::strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S+00:00", &utc))
            machine_.time = stamp;
        return std::move(machine_);
    }

private:
    std::optional<std::string> read(const std::string &path) const { return ml::read(root_ + path); }

    // What system calls tell, and of this machine alone.
    void this_machine() {
        struct utsname names{};
        if (uname(&names) == 0) {
            machine_.kernel = names.release;
            machine_.os = names.sysname;
            machine_.architecture = names.machine;
        }
        const long page = sysconf(_SC_PAGESIZE);
        if (page > 0) machine_.page_bytes = static_cast<uint64_t>(page);
    }

    std::optional<double> mhz(const std::string &folder, const char *name) const {
        const uint64_t khz = number_of(root_ + folder + name, kMaxKhz);
        return khz ? std::optional(static_cast<double>(khz) / 1000) : std::nullopt;
    }

    void cores() {
        std::set<std::string> governors;
        std::set<Cpus> cores;
        bool all_known = !machine_.topology.cpus.empty();
        for (const Cluster &cluster : machine_.topology.clusters) {
            Clock clock;
            std::set<std::string> own;
            for (const uint32_t cpu : cluster.cpus) {
                const std::string folder = text("/sys/devices/system/cpu/cpu", cpu, "/cpufreq/");
                if (const auto governor = read(folder + "scaling_governor")) own.insert(*governor);
                if (const auto now = mhz(folder, "scaling_cur_freq"))
                    clock.current_mhz = std::max(clock.current_mhz.value_or(0), *now);
                if (const auto least = mhz(folder, "cpuinfo_min_freq"))
                    clock.min_mhz = std::min(clock.min_mhz.value_or(*least), *least);
            }
            clock.max_mhz = max_mhz_of(cluster);
            if (!own.empty()) clock.governor = join({own.begin(), own.end()}, ", ");
            if (clock.max_mhz) machine_.max_mhz = std::max(machine_.max_mhz.value_or(0), *clock.max_mhz);
            if (clock.current_mhz)
                machine_.current_mhz = std::max(machine_.current_mhz.value_or(0), *clock.current_mhz);
            if (clock.governor) governors.insert(*clock.governor);
            machine_.clocks.push_back(std::move(clock));
        }
        for (const Cpu &cpu : machine_.topology.cpus) {
            all_known = all_known && cpu.core_known;
            cores.insert(cpu.core);
        }
        if (all_known) machine_.cores_physical = static_cast<int>(cores.size());
        if (!governors.empty()) machine_.governor = join({governors.begin(), governors.end()}, ", ");
    }

    // Associativity, which the kernels do not need; 0 in sysfs means that it is not told.
    std::optional<uint64_t> ways_of(const Cache &cache) const {
        for (uint32_t index = 0; !cache.cpus.empty() && index < kMaxCaches; index++) {
            const std::string own = text("/sys/devices/system/cpu/cpu", cache.cpus[0], "/cache/index", index, "/");
            std::string kind = read(own + "type").value_or("");
            for (char &c : kind) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
            if (number_of(root_ + own + "level", kMaxLevel) != cache.level || kind != cache.kind) continue;
            const uint64_t ways = number_of(root_ + own + "ways_of_associativity", kMaxWays);
            return ways ? std::optional(ways) : std::nullopt;
        }
        return std::nullopt;
    }

    // Merged where all that is told of them is the same.
    void caches() {
        const auto cluster_of = [&](uint32_t number) -> std::optional<uint32_t> {
            for (const Cpu &cpu : machine_.topology.cpus)
                if (cpu.number == number) return cpu.cluster;
            return std::nullopt;
        };
        using Key = std::tuple<uint32_t, std::string, uint64_t, int, std::optional<uint32_t>, std::optional<uint64_t>>;
        std::map<Key, int> counted;
        for (const Cache &cache : machine_.topology.caches) {
            std::set<uint32_t> clusters;
            int users = 0;
            for (const uint32_t cpu : cache.cpus)
                if (const auto cluster = cluster_of(cpu)) users++, clusters.insert(*cluster);
            const auto only = clusters.size() == 1 ? std::optional(*clusters.begin()) : std::nullopt;
            counted[{cache.level, cache.kind, cache.size_bytes, users, only, ways_of(cache)}]++;
        }
        for (const auto &[key, count] : counted)
            machine_.caches.push_back({std::get<0>(key), std::get<1>(key), std::get<2>(key), count, std::get<3>(key),
                                       std::get<4>(key), std::get<5>(key)});
    }

    void processor(const std::string &cpuinfo) {
        machine_.cpu_model = field(cpuinfo, "model name");
        if (!machine_.cpu_model) machine_.cpu_model = field(cpuinfo, "Hardware");
        machine_.board = read("/sys/firmware/devicetree/base/model");
        machine_.cpu_part = field(cpuinfo, "CPU part");
        const auto vendor = field(cpuinfo, "vendor_id"), family = field(cpuinfo, "cpu family"),
                   model = field(cpuinfo, "model"), stepping = field(cpuinfo, "stepping");
        if (vendor && family && model && stepping)
            machine_.cpu_id = text(*vendor, " family ", *family, " model ", *model, " stepping ", *stepping);
        auto flags = field(cpuinfo, "flags");
        std::optional<bool> flagged;
        if (flags) {
            const auto held = words(*flags);
            flagged = std::count(held.begin(), held.end(), "hypervisor") != 0;
        } else {
            flags = field(cpuinfo, "Features");
        }
        if (flags) {
            machine_.instruction_sets.emplace();
            const auto held = words(*flags);
            for (const char *name : kInstructionSets)
                if (std::count(held.begin(), held.end(), name)) machine_.instruction_sets->push_back(name);
        }
        machine_.hypervisor = flagged ? flagged : virtual_by_its_maker();
        // Newer emulators show a processor of their own in cpuinfo; sysfs is the host's still.
        const auto modalias = read("/sys/devices/system/cpu/modalias");
        const bool x86_host = vendor || (modalias && modalias->find("type:x86") != std::string::npos);
        const bool qemu = cpuinfo.find("QEMU") != std::string::npos || cpuinfo.find("qemu") != std::string::npos;
        const bool arm = machine_.architecture && (machine_.architecture->compare(0, 7, "aarch64") == 0 ||
                                                   machine_.architecture->compare(0, 3, "arm") == 0);
        const char *told = std::getenv("MOBILELOOP_EMULATED");
        if (told && (!std::strcmp(told, "0") || !std::strcmp(told, "1"))) {
            machine_.emulated = *told == '1';
        } else if (qemu || (x86_host && arm)) {
            machine_.emulated = true; // user-mode emulation passes the host's procfs through
        } else if (x86_host && flagged == false) {
            machine_.emulated = false;
        }
    }

    // Arm has no flag for it, and only a virtual machine says what it is.
    std::optional<bool> virtual_by_its_maker() const {
        if (read("/sys/hypervisor/type").value_or("") != "") return true;
        const std::string maker = text(read("/sys/class/dmi/id/sys_vendor").value_or(""), " ",
                                       read("/sys/class/dmi/id/product_name").value_or(""));
        for (const char *name : {"QEMU", "KVM", "VMware", "Virtual", "Xen", "HVM"})
            if (maker.find(name) != std::string::npos) return true;
        return std::nullopt;
    }

    const std::string root_;
    Machine machine_;
};

} // namespace

Machine probe_machine(const std::string &root) { return Probe(root).all(); }

std::optional<std::string> Machine::cpu() const {
    if (cpu_model) return cpu_model;
    if (board && !board->empty()) return board;
    return cpu_part ? std::optional("part " + *cpu_part) : std::nullopt;
}

std::optional<uint64_t> Machine::last_level_cache_bytes() const {
    const CacheGroup *last = nullptr;
    for (const CacheGroup &cache : caches)
        if (cache.kind != "instruction" && (!last || cache.level > last->level)) last = &cache;
    return last ? std::optional(last->size_bytes) : std::nullopt;
}

std::string Machine::json(const std::string &kernels) const {
    std::vector<JsonObject> cluster_list, cache_list;
    for (size_t i = 0; i < topology.clusters.size(); i++) {
        const Cluster &one = topology.clusters[i];
        const Clock clock = i < clocks.size() ? clocks[i] : Clock{};
        cluster_list.push_back(JsonObject()
                                   .add("cpus", one.cpus)
                                   .add("cores", one.cores ? std::optional(one.cores) : std::nullopt)
                                   .add("min_mhz", clock.min_mhz)
                                   .add("max_mhz", clock.max_mhz)
                                   .add("current_mhz", clock.current_mhz)
                                   .add("governor", clock.governor)
                                   .add("capacity", one.capacity ? std::optional<uint64_t>(one.capacity) : std::nullopt)
                                   .add("big", one.big));
    }
    for (const CacheGroup &one : caches)
        cache_list.push_back(JsonObject()
                                 .add("level", one.level)
                                 .add("kind", one.kind)
                                 .add("size_bytes", one.size_bytes)
                                 .add("instances", one.instances)
                                 .add("shared_by", one.shared_by)
                                 .add("cluster", one.cluster)
                                 .add("ways", one.ways));
    const uint32_t threads = topology.default_threads();
    return JsonObject()
        .add("cpu", cpu())
        .add("cpu_model", cpu_model)
        .add("board", board)
        .add("cpu_id", cpu_id)
        .add("architecture", architecture)
        .add_raw("cores_usable", topology.cpus.empty() ? "null" : std::to_string(topology.cpus.size()))
        .add("cores_physical", cores_physical)
        .add("cpu_quota", topology.quota)
        .add("default_threads", threads ? std::optional(threads) : std::nullopt)
        .add("clusters", cluster_list)
        .add("caches", cache_list)
        .add("instruction_sets", instruction_sets)
        .add("max_mhz", max_mhz)
        .add("current_mhz", current_mhz)
        .add("governor", governor)
        .add("memory_bytes", memory_bytes)
        .add("memory_available_bytes", memory_available_bytes)
        .add("page_bytes", page_bytes)
        .add("kernel", kernel)
        .add("os", os)
        .add("hypervisor", hypervisor)
        .add("emulated", emulated)
        .add("mobileloop", ML_VERSION)
        .add("time", time)
        .add("kernels", kernels)
        .str();
}

std::string Machine::lines(const std::string &kernels) const {
    std::vector<std::string> cache_texts, cluster_texts;
    for (const CacheGroup &one : caches)
        cache_texts.push_back(text("L", one.level,
                                   one.kind == "data"          ? "d"
                                   : one.kind == "instruction" ? "i"
                                                               : "",
                                   " ", one.instances, " x ", one.size_bytes >> 10, " KiB"));
    for (const Cluster &one : topology.clusters)
        cluster_texts.push_back(text(ranges(one.cpus), " up to ",
                                     one.max_khz ? text(one.max_khz / 1000, " MHz") : "unknown MHz",
                                     one.big ? "" : " (not big)"));
    const std::string unknown = "unknown";
    const auto or_unknown = [&](const std::string &value) { return value.empty() ? unknown : value; };
    std::string out;
    const auto line = [&](const char *name, const std::string &value) {
        out += text(name, ":", std::string(17 - std::strlen(name) - 1, ' '), or_unknown(value), "\n");
    };
    line("processor", text(cpu().value_or(unknown), ", ", architecture.value_or(unknown)));
    line("cores", text(topology.cpus.size(), " usable, ", cores_physical ? std::to_string(*cores_physical) : unknown,
                       " physical; ", or_unknown(join(cluster_texts, "; "))));
    if (topology.quota) line("cpu quota", text(json_number(*topology.quota), " cores of time"));
    line("caches", join(cache_texts, ", "));
    line("governor", governor.value_or(""));
    line("kernels", kernels);
    line("memory", memory_bytes ? text(*memory_bytes >> 20, " MiB") : "");
    line("system", text(os.value_or(unknown), ", kernel ", kernel.value_or(unknown)));
    if (emulated.value_or(false)) line("emulated", "yes: times say nothing about the hardware");
    return out;
}

std::optional<uint64_t> memory_status(const char *name) {
    return kilobytes(field(read("/proc/self/status").value_or(""), name));
}

std::optional<BusySeconds> busy_seconds() {
    const auto stat = read("/proc/stat");
    unsigned long long user, nice, system, idle, wait, irq, softirq, steal;
    if (!stat || std::sscanf(stat->c_str(), "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &user, &nice, &system, &idle,
                             &wait, &irq, &softirq, &steal) != 8)
        return std::nullopt;
    const double ticks = static_cast<double>(sysconf(_SC_CLK_TCK));
    const double busy = static_cast<double>(user + nice + system + irq + softirq) / ticks;
    if (busy <= 0) return std::nullopt; // sandboxes show zeros
    return BusySeconds{busy, static_cast<double>(steal) / ticks};
}

} // namespace ml
