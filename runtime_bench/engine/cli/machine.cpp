#include "machine.h"

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <map>
#include <sched.h>
#include <set>
#include <sys/utsname.h>
#include <tuple>
#include <unistd.h>

#include "error.h"
#include "json_writer.h"

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

// "0-3,8" as a set of numbers.
std::set<int> cpu_list(const std::string &list) {
    std::set<int> cpus;
    for (size_t at = 0; at < list.size(); at = std::min(list.find(',', at), list.size() - 1) + 1) {
        int first = 0, last = 0;
        const int got = std::sscanf(list.c_str() + at, "%d-%d", &first, &last);
        for (int cpu = first; got >= 1 && cpu <= std::min(got == 2 ? last : first, first + 4096); cpu++)
            cpus.insert(cpu);
    }
    return cpus;
}

std::optional<uint64_t> cache_size(const std::string &text) {
    char unit = 0;
    unsigned long long size = 0;
    const int got = std::sscanf(text.c_str(), "%llu%c", &size, &unit);
    if (got < 1 || size > (1u << 30)) return std::nullopt;
    return size << (got == 1 ? 0 : unit == 'K' ? 10 : unit == 'M' ? 20 : unit == 'G' ? 30 : 0);
}

std::string cpu_path(int cpu, const char *name) { return text("/sys/devices/system/cpu/cpu", cpu, "/", name); }

std::optional<double> mhz(int cpu, const char *name) {
    const auto khz = number(cpu_path(cpu, name));
    return khz ? std::optional(*khz / 1000) : std::nullopt;
}

void probe_cores(Machine &machine) {
    std::set<std::string> siblings, governors;
    bool all_known = !machine.cpus.empty();
    for (const int cpu : machine.cpus) {
        const auto list = read(cpu_path(cpu, "topology/thread_siblings_list"));
        all_known = all_known && list;
        siblings.insert(list.value_or(""));
        if (const auto governor = read(cpu_path(cpu, "cpufreq/scaling_governor"))) governors.insert(*governor);
        const auto most = mhz(cpu, "cpufreq/cpuinfo_max_freq"), now = mhz(cpu, "cpufreq/scaling_cur_freq");
        const auto capacity = number(cpu_path(cpu, "cpu_capacity"));
        const auto kind = capacity ? std::optional(static_cast<int>(*capacity)) : std::nullopt;
        auto cluster = std::find_if(machine.clusters.begin(), machine.clusters.end(),
                                    [&](const Cluster &one) { return one.max_mhz == most && one.capacity == kind; });
        if (cluster == machine.clusters.end()) cluster = machine.clusters.insert(cluster, {{}, most, kind});
        cluster->cpus.push_back(cpu);
        if (most) machine.max_mhz = std::max(machine.max_mhz.value_or(0), *most);
        if (now) machine.current_mhz = std::max(machine.current_mhz.value_or(0), *now);
    }
    if (all_known) machine.cores_physical = static_cast<int>(siblings.size());
    if (!governors.empty()) machine.governor = join({governors.begin(), governors.end()}, ", ");
}

void probe_caches(Machine &machine) {
    using Key = std::tuple<int, std::string, uint64_t, int>; // level, kind, size, shared by
    std::set<std::tuple<int, std::string, std::string>> seen;
    std::map<Key, int> counted;
    for (const int cpu : machine.cpus) {
        for (int index = 0; index < 16; index++) {
            const std::string folder = cpu_path(cpu, "cache/index") + std::to_string(index) + "/";
            const auto level = number(folder + "level");
            const auto size = cache_size(read(folder + "size").value_or(""));
            if (!level || !size || !*size) continue;
            std::string kind = read(folder + "type").value_or("unknown");
            for (char &c : kind) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
            const std::string shared = read(folder + "shared_cpu_list").value_or(std::to_string(cpu));
            if (!seen.insert({static_cast<int>(*level), kind, shared}).second) continue;
            int usable = 0;
            for (const int other : cpu_list(shared))
                usable += std::count(machine.cpus.begin(), machine.cpus.end(), other) != 0;
            counted[{static_cast<int>(*level), kind, *size, std::max(usable, 1)}]++;
        }
    }
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
    const bool x86_host = field(cpuinfo, "vendor_id").has_value(), qemu = cpuinfo.find("QEMU") != std::string::npos;
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
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) {
        for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
            if (CPU_ISSET(cpu, &set)) machine.cpus.push_back(cpu);
    }
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
    const Cache *last = nullptr;
    for (const Cache &cache : caches)
        if (cache.kind != "instruction" && (!last || cache.level > last->level)) last = &cache;
    return last ? std::optional(last->size_bytes) : std::nullopt;
}

std::string Machine::json(const std::string &kernels) const {
    std::vector<JsonObject> cluster_list, cache_list;
    for (const Cluster &one : clusters)
        cluster_list.push_back(
            JsonObject().add("cpus", one.cpus).add("max_mhz", one.max_mhz).add("capacity", one.capacity));
    for (const Cache &one : caches)
        cache_list.push_back(JsonObject()
                                 .add("level", one.level)
                                 .add("kind", one.kind)
                                 .add("size_bytes", one.size_bytes)
                                 .add("instances", one.instances)
                                 .add("shared_by", one.shared_by));
    return JsonObject()
        .add("cpu", cpu)
        .add("architecture", architecture)
        .add_raw("cores_usable", cpus.empty() ? "null" : std::to_string(cpus.size()))
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
    for (const Cache &one : caches)
        cache_texts.push_back(text("L", one.level,
                                   one.kind == "data"          ? "d"
                                   : one.kind == "instruction" ? "i"
                                                               : "",
                                   " ", one.instances, " x ", one.size_bytes >> 10, " KiB"));
    for (const Cluster &one : clusters)
        cluster_texts.push_back(text(one.cpus.size(), " up to ",
                                     one.max_mhz ? text(static_cast<int>(*one.max_mhz), " MHz") : "unknown MHz"));
    const std::string unknown = "unknown";
    const auto or_unknown = [&](const std::string &value) { return value.empty() ? unknown : value; };
    std::string out;
    const auto line = [&](const char *name, const std::string &value) {
        out += text(name, ":", std::string(17 - std::strlen(name) - 1, ' '), or_unknown(value), "\n");
    };
    line("processor", text(cpu.value_or(unknown), ", ", architecture.value_or(unknown)));
    line("cores", text(cpus.size(), " usable, ", cores_physical ? std::to_string(*cores_physical) : unknown,
                       " physical; ", or_unknown(join(cluster_texts, ", "))));
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
