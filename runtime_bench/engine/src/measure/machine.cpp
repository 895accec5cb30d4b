#include "measure/machine.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <map>
#include <set>
#include <sys/utsname.h>
#include <tuple>
#include <unistd.h>

#include "error.h"
#include "format/json_writer.h"
#include "threads/placement.h"

namespace ml {
namespace {

constexpr const char *kInstructionSets[] = {"avx2",     "fma",         "f16c",        "avx_vnni", "avx512f", "avx512bw",
                                            "avx512vl", "avx512_vnni", "avx512_bf16", "amx_int8", "asimd",   "asimdhp",
                                            "asimddp",  "i8mm",        "bf16",        "sve",      "sve2",    "sme"};

// A small file of procfs or sysfs without the space around it; nothing where it is hidden.
std::optional<std::string> read(const std::string &path) {
    FILE *file = std::fopen(path.c_str(), "rb");
    if (!file) return std::nullopt;
    std::string content;
    char part[4096];
    for (size_t got; (got = std::fread(part, 1, sizeof part, file)) > 0 && content.size() < (1u << 20);)
        content.append(part, got);
    const bool failed = std::ferror(file) != 0;
    std::fclose(file);
    if (failed) return std::nullopt;
    const auto blank = [](char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\0'; };
    while (!content.empty() && blank(content.back())) content.pop_back();
    content.erase(0, static_cast<size_t>(std::find_if_not(content.begin(), content.end(), blank) - content.begin()));
    return content;
}

std::optional<double> number(const std::string &path) {
    const auto text = read(path);
    if (!text || text->empty()) return std::nullopt;
    char *end = nullptr;
    const double value = std::strtod(text->c_str(), &end);
    return *end ? std::nullopt : std::optional(value);
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

std::optional<double> mhz(const std::string &path) {
    const auto khz = number(path);
    return khz ? std::optional(*khz / 1000) : std::nullopt;
}

std::optional<double> max_mhz_of(const Cluster &cluster) {
    return cluster.max_khz ? std::optional(cluster.max_khz / 1000.0) : std::nullopt;
}

void probe_cores(Machine &machine) {
    std::set<std::string> governors;
    std::set<Cpus> cores;
    bool all_known = !machine.topology.cpus.empty();
    for (const Cpu &cpu : machine.topology.cpus) {
        const std::string folder = text("/sys/devices/system/cpu/cpu", cpu.number, "/cpufreq/");
        all_known = all_known && cpu.core_known;
        cores.insert(cpu.core);
        if (const auto governor = read(folder + "scaling_governor")) governors.insert(*governor);
        if (const auto now = mhz(folder + "scaling_cur_freq"))
            machine.current_mhz = std::max(machine.current_mhz.value_or(0), *now);
    }
    for (const Cluster &cluster : machine.topology.clusters)
        if (const auto most = max_mhz_of(cluster)) machine.max_mhz = std::max(machine.max_mhz.value_or(0), *most);
    if (all_known) machine.cores_physical = static_cast<int>(cores.size());
    if (!governors.empty()) machine.governor = join({governors.begin(), governors.end()}, ", ");
}

void probe_caches(Machine &machine) {
    const auto usable = [&](uint32_t cpu) {
        return std::any_of(machine.topology.cpus.begin(), machine.topology.cpus.end(),
                           [&](const Cpu &one) { return one.number == cpu; });
    };
    std::map<std::tuple<uint32_t, std::string, uint64_t, int>, int> counted; // level, kind, size, shared by
    for (const Cache &cache : machine.topology.caches)
        counted[{cache.level, cache.kind, cache.size_bytes,
                 static_cast<int>(std::count_if(cache.cpus.begin(), cache.cpus.end(), usable))}]++;
    for (const auto &[key, count] : counted)
        machine.caches.push_back({std::get<0>(key), std::get<1>(key), std::get<2>(key), count, std::get<3>(key)});
}

void probe_processor(Machine &machine, const std::string &cpuinfo) {
    machine.cpu = field(cpuinfo, "model name");
    if (!machine.cpu) machine.cpu = field(cpuinfo, "Hardware");
    if (!machine.cpu) machine.cpu = read("/sys/firmware/devicetree/base/model");
    if (!machine.cpu) {
        if (const auto part = field(cpuinfo, "CPU part")) machine.cpu = "part " + *part;
    }
    auto flags = field(cpuinfo, "flags");
    if (flags) {
        const auto held = words(*flags);
        machine.hypervisor = std::count(held.begin(), held.end(), "hypervisor") != 0;
    } else {
        flags = field(cpuinfo, "Features");
    }
    if (flags) {
        machine.instruction_sets.emplace();
        const auto held = words(*flags);
        for (const char *name : kInstructionSets)
            if (std::count(held.begin(), held.end(), name)) machine.instruction_sets->push_back(name);
    }
    // Newer emulators show a processor of their own in cpuinfo; sysfs is the host's still.
    const auto modalias = read("/sys/devices/system/cpu/modalias");
    const bool x86_host = field(cpuinfo, "vendor_id") || (modalias && modalias->find("type:x86") != std::string::npos);
    const bool qemu = cpuinfo.find("QEMU") != std::string::npos;
    const char *told = std::getenv("MOBILELOOP_EMULATED");
    if (told && (!std::strcmp(told, "0") || !std::strcmp(told, "1"))) {
        machine.emulated = *told == '1';
    } else if (qemu || (x86_host && machine.architecture && machine.architecture->compare(0, 7, "aarch64") == 0)) {
        machine.emulated = true; // user-mode emulation passes the host's procfs through
    } else if (x86_host && machine.hypervisor == false) {
        machine.emulated = false;
    }
}

} // namespace

Machine probe_machine() {
    Machine machine;
    machine.topology = read_topology("", allowed_cpus(), true);
    struct utsname names{};
    if (uname(&names) == 0) {
        machine.architecture = names.machine;
        machine.kernel = names.release;
        machine.os = names.sysname;
    }
    if (const auto release = read("/etc/os-release"))
        if (const auto pretty = field(*release, "PRETTY_NAME", '=')) machine.os = pretty;
    probe_processor(machine, read("/proc/cpuinfo").value_or(""));
    probe_cores(machine);
    probe_caches(machine);
    if (const auto total = field(read("/proc/meminfo").value_or(""), "MemTotal"))
        machine.memory_bytes = std::strtoull(total->c_str(), nullptr, 10) * 1024;
    const long page = sysconf(_SC_PAGESIZE);
    if (page > 0) machine.page_bytes = static_cast<uint64_t>(page);
    const time_t now = std::time(nullptr);
    struct tm utc{};
    char stamp[40];
    if (gmtime_r(&now, &utc) && std::strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S+00:00", &utc))
        machine.time = stamp;
    return machine;
}

std::optional<uint64_t> Machine::last_level_cache_bytes() const {
    const CacheGroup *last = nullptr;
    for (const CacheGroup &cache : caches)
        if (cache.kind != "instruction" && (!last || cache.level > last->level)) last = &cache;
    return last ? std::optional(last->size_bytes) : std::nullopt;
}

std::string Machine::json(const std::string &kernels) const {
    std::vector<JsonObject> cluster_list, cache_list;
    for (const Cluster &one : topology.clusters)
        cluster_list.push_back(JsonObject()
                                   .add("cpus", one.cpus)
                                   .add("max_mhz", max_mhz_of(one))
                                   .add("capacity", one.capacity ? std::optional<uint64_t>(one.capacity) : std::nullopt)
                                   .add("big", one.big));
    for (const CacheGroup &one : caches)
        cache_list.push_back(JsonObject()
                                 .add("level", one.level)
                                 .add("kind", one.kind)
                                 .add("size_bytes", one.size_bytes)
                                 .add("instances", one.instances)
                                 .add("shared_by", one.shared_by));
    return JsonObject()
        .add("cpu", cpu)
        .add("architecture", architecture)
        .add_raw("cores_usable", topology.cpus.empty() ? "null" : std::to_string(topology.cpus.size()))
        .add("cores_physical", cores_physical)
        .add("clusters", cluster_list)
        .add("caches", cache_list)
        .add("instruction_sets", instruction_sets)
        .add("max_mhz", max_mhz)
        .add("current_mhz", current_mhz)
        .add("governor", governor)
        .add("memory_bytes", memory_bytes)
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
    line("processor", text(cpu.value_or(unknown), ", ", architecture.value_or(unknown)));
    line("cores", text(topology.cpus.size(), " usable, ", cores_physical ? std::to_string(*cores_physical) : unknown,
                       " physical; ", or_unknown(join(cluster_texts, "; "))));
    line("caches", join(cache_texts, ", "));
    line("governor", governor.value_or(""));
    line("kernels", kernels);
    line("memory", memory_bytes ? text(*memory_bytes >> 20, " MiB") : "");
    line("system", text(os.value_or(unknown), ", kernel ", kernel.value_or(unknown)));
    if (emulated.value_or(false)) line("emulated", "yes: times say nothing about the hardware");
    return out;
}

std::optional<uint64_t> memory_status(const char *name) {
    const auto size = field(read("/proc/self/status").value_or(""), name);
    return size ? std::optional<uint64_t>(std::strtoull(size->c_str(), nullptr, 10) * 1024) : std::nullopt;
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
