// Topology from sysfs trees of machines that are not here, hostile ones among them, and threads placed on this one.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <sys/stat.h>
#include <thread>
#include <vector>

#include "bounds.h"
#include "checks.h"
#include "error.h"
#include "format/json.h"
#include "mobileloop.h"
#include "threads/placement.h"
#include "threads/threads.h"
#include "threads/topology.h"

using namespace ml;

namespace {

bool refuses(const std::function<void()> &body, const std::string &words) {
    try {
        body();
    } catch (const Error &error) {
        return std::string(error.what()).find(words) != std::string::npos;
    }
    return false;
}

// -- trees of other machines --------------------------------------------------------------------------

// The /sys of a machine, in a folder that goes with it.
class Tree {
public:
    Tree() {
        std::string name = (std::filesystem::temp_directory_path() / "mobileloop-XXXXXX").string();
        if (!mkdtemp(name.data())) std::abort();
        root_ = name;
        std::filesystem::create_directories(folder());
    }
    ~Tree() { std::filesystem::remove_all(root_); }
    Tree(const Tree &) = delete;
    Tree &operator=(const Tree &) = delete;

    std::string root() const { return root_.string(); }
    std::filesystem::path folder() const { return root_ / "sys/devices/system/cpu"; }
    std::filesystem::path folder(uint32_t cpu) const { return folder() / ("cpu" + std::to_string(cpu)); }

    void put(const std::filesystem::path &file, const std::string &content) const {
        std::filesystem::create_directories(file.parent_path());
        std::ofstream(file) << content << "\n";
    }
    // Cores first .. last; 0 leaves the file out, as phones do.
    void cores(uint32_t first, uint32_t last, uint32_t capacity, uint32_t khz) const {
        for (uint32_t cpu = first; cpu <= last; cpu++) {
            std::filesystem::create_directories(folder(cpu));
            if (capacity) put(folder(cpu) / "cpu_capacity", std::to_string(capacity));
            if (khz) put(folder(cpu) / "cpufreq/cpuinfo_max_freq", std::to_string(khz));
        }
    }
    void siblings(uint32_t cpu, const std::string &list) const {
        put(folder(cpu) / "topology/thread_siblings_list", list);
    }
    void cache(uint32_t cpu, int index, int level, const std::string &type, const std::string &size,
               const std::string &shared) const {
        const auto own = folder(cpu) / "cache" / ("index" + std::to_string(index));
        put(own / "level", std::to_string(level));
        put(own / "type", type);
        put(own / "size", size);
        if (!shared.empty()) put(own / "shared_cpu_list", shared);
    }
    Topology read(bool caches = false) const { return read_topology(root(), {}, caches); }

private:
    std::filesystem::path root_;
};

struct Kind {
    uint32_t first, last, capacity, khz;
};

// Big cpus of a machine with these cores, and its default number of threads.
struct Expected {
    const char *machine;
    std::vector<Kind> kinds;
    const char *big;
    uint32_t threads;
};

// Capacities are what a kernel makes of its device tree: capacity-dmips-mhz x highest frequency, 1024 for the
// strongest. Those of the 8 Gen 2 and 8 Gen 3 were measured anew in 2026; phones have the older ones. No tree of the
// Dimensity and the Tensor G3 is public: their capacities are those of the 8 Gen 2's cores at their own frequencies.
const std::vector<Expected> kMachines{
    // 3 A510, 2 A715 and 2 A710, X3. Five threads are best; from the sixth on an A510 sets the pace.
    {"Snapdragon 8 Gen 2", {{0, 2, 350, 2016000}, {3, 6, 852, 2803200}, {7, 7, 1024, 3187200}}, "3-7", 5},
    {"Snapdragon 8 Gen 2, 2026", {{0, 2, 206, 2016000}, {3, 6, 609, 2803200}, {7, 7, 1024, 3187200}}, "3-7", 5},
    // 2 A520, 3 A720, 2 slower A720, X4.
    {"Snapdragon 8 Gen 3",
     {{0, 1, 379, 2265600}, {2, 4, 923, 3148800}, {5, 6, 867, 2956800}, {7, 7, 1024, 3302400}},
     "2-7",
     6},
    {"Snapdragon 8 Gen 3, 2026",
     {{0, 1, 200, 2265600}, {2, 4, 790, 3148800}, {5, 6, 742, 2956800}, {7, 7, 1024, 3302400}},
     "2-7",
     6},
    // Two kinds of big cores and nothing else.
    {"Snapdragon 8 Elite, frequencies only", {{0, 5, 0, 3532800}, {6, 7, 0, 4320000}}, "0-7", 8},
    // 4 A510, 3 A710, X2.
    {"Dimensity 9000", {{0, 3, 192, 1800000}, {4, 6, 647, 2850000}, {7, 7, 1024, 3050000}}, "4-7", 4},
    // 4 A55, 2 A76, 2 X1: the A76 have less than half the capacity of an X1, so four threads are no faster than two.
    {"Tensor G1", {{0, 3, 157, 1803000}, {4, 5, 498, 2253000}, {6, 7, 1024, 2802000}}, "6-7", 2},
    // 4 A510, 4 A715, X3.
    {"Tensor G3", {{0, 3, 190, 1704000}, {4, 7, 562, 2367000}, {8, 8, 1024, 2914000}}, "4-8", 5},
    // 4 A53, 2 A72.
    {"RK3399", {{0, 3, 381, 1416000}, {4, 5, 1024, 1800000}}, "4-5", 2},
    {"Raspberry Pi 5", {{0, 3, 1024, 2400000}}, "0-3", 4},
    // What a phone hides: without capacities the frequencies decide, more strictly.
    {"Snapdragon 8 Gen 2, frequencies only", {{0, 2, 0, 2016000}, {3, 6, 0, 2803200}, {7, 7, 0, 3187200}}, "3-7", 5},
    {"Snapdragon 8 Gen 3, frequencies only",
     {{0, 1, 0, 2265600}, {2, 4, 0, 3148800}, {5, 6, 0, 2956800}, {7, 7, 0, 3302400}},
     "2-7",
     6},
    {"Dimensity 9000, frequencies only", {{0, 3, 0, 1800000}, {4, 6, 0, 2850000}, {7, 7, 0, 3050000}}, "4-7", 4},
    // A kernel without a table of its processor calls all capacities 1024.
    {"equal capacities", {{0, 3, 1024, 1800000}, {4, 7, 1024, 2850000}}, "4-7", 4},
    // One core tells nothing: nothing is known.
    {"half known", {{0, 0, 0, 0}, {1, 3, 1024, 0}}, "0-3", 4},
    {"everything hidden", {{0, 7, 0, 0}}, "0-7", 8},
    // Cores of a server that may clock a little higher than others are still equal.
    {"favoured cores", {{0, 1, 1024, 5200000}, {2, 7, 1024, 5000000}}, "0-7", 8},
    // 8 E cores at 0.6 of 4 P cores are worth their share.
    {"many middle cores", {{0, 3, 1024, 0}, {4, 11, 614, 0}}, "0-11", 12},
};

void test_big_cores() {
    for (const Expected &expected : kMachines) {
        const Tree tree;
        for (const Kind &kind : expected.kinds) tree.cores(kind.first, kind.last, kind.capacity, kind.khz);
        const uint32_t last = expected.kinds.back().last;
        tree.put(tree.folder() / "online", "0-" + std::to_string(last));
        const Topology topology = tree.read();
        const bool as_expected = ranges(topology.big_cpus()) == expected.big && topology.big_cores == expected.threads;
        CHECK(as_expected);
        if (!as_expected)
            std::printf("%s: cpus %s, %u threads\n", expected.machine, ranges(topology.big_cpus()).c_str(),
                        topology.big_cores);
        CHECK(topology.cpus.size() == last + 1);
        CHECK(topology.all_big() == (topology.big_cpus().size() == last + 1));
        uint32_t cpus = 0;
        for (const Cluster &cluster : topology.clusters) {
            cpus += static_cast<uint32_t>(cluster.cpus.size());
            CHECK(cluster.cores == cluster.cpus.size());
            CHECK(topology.clusters[0].capacity >= cluster.capacity);
        }
        CHECK(cpus == last + 1);
    }
}

// Only the cpus that a process may use count: an app that the system keeps to the LITTLE cores has those.
void test_usable_cpus() {
    const Tree tree;
    tree.cores(0, 2, 350, 2016000);
    tree.cores(3, 6, 852, 2803200);
    tree.cores(7, 7, 1024, 3187200);
    const auto big = [&](const Cpus &usable) { return ranges(read_topology(tree.root(), usable, false).big_cpus()); };
    CHECK(big({0, 1, 2}) == "0-2");
    CHECK(big({0, 1, 2, 3}) == "3");
    CHECK(big({0, 1, 2, 3, 4, 5, 6}) == "3-6");
    CHECK(big({5, 7}) == "5,7");
}

// An x86 with SMT: eight cpus, four cores, an L3.
void test_siblings_and_caches() {
    const Tree tree;
    tree.cores(0, 7, 1024, 4800000);
    tree.put(tree.folder() / "online", "0-7");
    for (uint32_t cpu = 0; cpu < 8; cpu++) {
        const std::string core = text(cpu % 4, ",", cpu % 4 + 4);
        tree.siblings(cpu, core);
        tree.cache(cpu, 0, 1, "Data", "32K", core);
        tree.cache(cpu, 1, 1, "Instruction", "64K", core);
        tree.cache(cpu, 2, 2, "Unified", "1024K", core);
        tree.cache(cpu, 3, 3, "Unified", "16M", "0-7");
    }
    const Topology topology = tree.read(true);
    CHECK(topology.big_cores == 4 && topology.all_big());
    CHECK(topology.clusters.size() == 1 && topology.clusters[0].cores == 4 && topology.clusters[0].cpus.size() == 8);
    CHECK(topology.caches.size() == 4 * 3 + 1);
    for (const Cpu &cpu : topology.cpus) {
        CHECK(cpu.core_known && cpu.core == Cpus({cpu.number % 4, cpu.number % 4 + 4}));
        CHECK(cpu.private_cache_bytes == 1 << 20);
        CHECK(cpu.shared_cache_bytes == 16 << 20 && ranges(cpu.shared_with) == "0-7");
    }
    // One sibling of each core, and one core with both.
    CHECK(read_topology(tree.root(), {0, 1, 2, 6}, false).big_cores == 3);
    // The newer name of the list comes first.
    for (uint32_t cpu = 0; cpu < 8; cpu++) tree.put(tree.folder(cpu) / "topology/core_cpus_list", std::to_string(cpu));
    CHECK(tree.read().big_cores == 8);
}

// Two clusters with an L2 each and nothing behind it, as a Snapdragon 8 Elite; and lists that are missing.
void test_caches_without_a_last_level() {
    const Tree tree;
    tree.cores(0, 3, 0, 0);
    for (uint32_t cpu = 0; cpu < 4; cpu++) {
        tree.cache(cpu, 0, 1, "Data", "96K", "");
        tree.cache(cpu, 1, 2, "Unified", "12288K", cpu < 2 ? "0-1" : cpu == 2 ? "2-3" : "");
    }
    const Topology topology = tree.read(true);
    CHECK(topology.cpus.size() == 4);                                                // found by their folders
    for (const Cpu &cpu : topology.cpus) CHECK(cpu.private_cache_bytes == 96 << 10); // an L1 is its core's own
    CHECK(topology.cpus[0].shared_cache_bytes == 12 << 20 && ranges(topology.cpus[1].shared_with) == "0-1");
    CHECK(topology.cpus[2].shared_cache_bytes == 12 << 20);
    CHECK(topology.cpus[3].shared_cache_bytes == 0); // who shares its L2 is not known
    CHECK(tree.read(false).caches.empty());
}

void test_hostile_trees() {
    const Topology nothing = read_topology("/nonexistent", {}, true);
    CHECK(nothing.cpus.empty() && nothing.clusters.empty() && nothing.big_cores == 0 && nothing.all_big());
    const std::vector<std::string> lists{"0-4294967295",
                                         "0-99999999999999999999",
                                         "18446744073709551616",
                                         "-1",
                                         "3-1",
                                         "0,,1",
                                         "0-",
                                         "0x3",
                                         "0 1",
                                         "1,0-1,",
                                         std::string(100000, '9'),
                                         std::string(100000, ','),
                                         std::string("0\0001", 3),
                                         "\xff\xfe"};
    for (const std::string &list : lists) {
        const Tree tree;
        tree.cores(0, 1, 1024, 0);
        tree.put(tree.folder() / "online", list);
        tree.siblings(0, list);
        tree.cache(0, 0, 2, "Unified", "1M", list);
        const Topology topology = tree.read(true);
        CHECK(topology.cpus.size() >= 1 && topology.cpus.size() <= kMaxCpus);
        CHECK(topology.big_cores >= 1 && topology.big_cores <= kMaxCpus);
        CHECK(Json::parse(topology.json()).at("cpus").array("cpus").size() == topology.cpus.size());
    }
    const std::vector<std::string> numbers{
        "-5", "99999999999999999999", "1e3", "12abc", "K", "1KK", "2T", "0", "1048577M", "1.5M", "", " ",
        "0K", "1152921504606846976K"};
    for (const std::string &number : numbers) {
        const Tree tree;
        tree.cores(0, 0, 0, 0);
        for (const char *name : {"cpu_capacity", "cpufreq/cpuinfo_max_freq"}) tree.put(tree.folder(0) / name, number);
        tree.cache(0, 0, 1, "Data", number, "0");
        tree.cache(0, 1, 77, "Data", "32K", "0");
        tree.cache(0, 2, 2, "Trace", "32K", "0");
        const Topology topology = tree.read(true);
        CHECK(topology.cpus.size() == 1 && topology.caches.empty());
        CHECK(topology.cpus[0].capacity == 0 && topology.cpus[0].max_khz == 0);
    }
    // What is no plain file: a folder, a pipe that nobody writes to, a link to itself.
    const Tree tree;
    std::filesystem::create_directories(tree.folder(0) / "cpu_capacity");
    std::filesystem::create_directories(tree.folder(0) / "cpufreq");
    CHECK(mkfifo((tree.folder(0) / "cpufreq/cpuinfo_max_freq").c_str(), 0600) == 0);
    std::filesystem::create_symlink("online", tree.folder() / "online");
    CHECK(tree.read(true).cpus.size() == 1);
}

// -- this machine -------------------------------------------------------------------------------------

Cpus affinity_of(ThreadPool &pool, uint32_t thread) {
    Cpus cpus;
    pool.run(
        [&](uint32_t number) {
            if (number == thread) cpus = allowed_cpus();
        },
        pool.size());
    return cpus;
}

// A machine of this one's first cpu as a big core and the others as LITTLE ones.
Topology first_is_big(const Tree &tree, const Cpus &allowed) {
    for (const uint32_t cpu : allowed) tree.cores(cpu, cpu, cpu == allowed[0] ? 1024 : 300, 0);
    return read_topology(tree.root(), allowed, false);
}

void test_placement() {
    const Cpus allowed = allowed_cpus();
    if (allowed.size() < 2) return; // nothing to tell apart
    const Tree tree;
    const Cpus first{allowed[0]}, both{allowed[0], allowed[1]};
    ThreadPool pool(2), one(1);
    Placement placement(pool, machine_topology());
    if (machine_topology().all_big()) { // equal cores: nothing is moved
        CHECK(placement.cpus().empty());
        CHECK(affinity_of(pool, 1) == allowed);
    }
    const uint32_t swapped[] = {allowed[1], allowed[0]};
    placement.place(swapped, 2); // one each, in this order
    CHECK(placement.cpus() == Cpus(swapped, swapped + 2));
    CHECK(affinity_of(pool, 1) == first);
    CHECK(allowed_cpus() == allowed); // the caller is moved for a call only
    {
        const Placed placed(placement);
        CHECK(allowed_cpus() == Cpus{allowed[1]});
    }
    CHECK(allowed_cpus() == allowed);
    placement.place(swapped, 1); // fewer than threads: all of them there
    CHECK(affinity_of(pool, 1) == Cpus{allowed[1]});
    CHECK(refuses([&] { placement.place(both.data(), 0x7fffffff); }, "longer than"));
    const uint32_t twice[] = {allowed[0], allowed[0]}, missing[] = {allowed[0], kMaxCpus - 1}, far[] = {UINT32_MAX};
    CHECK(refuses([&] { placement.place(twice, 2); }, "listed twice"));
    CHECK(refuses([&] { placement.place(missing, 2); }, "cpu 1023"));
    CHECK(refuses([&] { placement.place(far, 1); }, "cpu 4294967295"));
    CHECK(affinity_of(pool, 1) == Cpus{allowed[1]}); // a refusal moves nothing
    placement.place(nullptr, 0);
    CHECK(affinity_of(pool, 1) == allowed || !machine_topology().all_big());

    // Where there are LITTLE cores, what fits on the big ones keeps to them, and more threads go anywhere.
    const Topology mixed = first_is_big(tree, allowed);
    CHECK(mixed.big_cores == 1 && mixed.big_cpus() == first);
    Placement kept(one, mixed);
    CHECK(kept.cpus() == first);
    {
        const Placed placed(kept);
        CHECK(allowed_cpus() == first);
    }
    CHECK(allowed_cpus() == allowed);
    kept.place(&allowed[1], 1);
    CHECK(kept.cpus() == Cpus{allowed[1]});
    kept.place(nullptr, 0); // as it was made
    CHECK(kept.cpus() == first);
    ThreadPool two(2);
    CHECK(Placement(two, mixed).cpus().empty());
    CHECK(affinity_of(two, 1) == allowed);

    // A pool whose maker may use one cpu only: its workers get that one back.
    std::thread([&] {
        CHECK(CpuMask::of(first).apply());
        ThreadPool narrow(2);
        Placement own(narrow, machine_topology());
        CHECK(affinity_of(narrow, 1) == first);
        CHECK(refuses([&] { own.place(&allowed[1], 1); }, "not allowed for this process"));
        CHECK(default_threads() == 1);
    }).join();
}

// What a container's control group allows, in the files of both versions.
void test_cpu_quota() {
    struct Quota {
        const char *groups, *file, *content; // /proc/self/cgroup; a file under /sys/fs/cgroup
        double cores;                        // 0: none
        uint32_t threads;
    };
    const std::vector<Quota> cases{
        {"0::/", "cpu.max", "200000 100000", 2, 2},
        {"0::/", "cpu.max", "max 100000", 0, 4},
        {"0::/", "cpu.max", "50000 100000", 0.5, 1},
        {"0::/", "cpu.max", "290000 100000", 2.9, 2},
        {"0::/", "cpu.max", "99900000 100000", 999, 4},
        {"0::/a/b", "a/cpu.max", "100000 100000", 1, 1}, // of a group above
        {"0::/a/b/", "a/b/cpu.max", "300000 100000", 3, 3},
        {"0::/a/b", "a/b/c/cpu.max", "100000 100000", 0, 4}, // of one below
        {"0::/../x", "cpu.max", "100000 100000", 1, 1},
        {"0::a", "cpu.max", "100000 100000", 1, 1},
        {"3:memory:/m\n2:cpu,cpuacct:/docker/x\n1:name=systemd:/s", "cpu,cpuacct/docker/x/cpu.cfs_quota_us", "150000",
         1.5, 1},
        {"2:cpu:/docker/x", "cpu/cpu.cfs_quota_us", "200000", 2, 2},
        {"2:cpuset,memory:/x\n0::/y", "cpu/x/cpu.cfs_quota_us", "100000", 0, 4},
        {"2:cpu:/x", "cpu/x/cpu.cfs_quota_us", "-1", 0, 4},
        {"", "unified/cpu.max", "100000 100000", 1, 1},
        {"0::/", "cpu.max", "100000", 0, 4},
        {"0::/", "cpu.max", "100000 0", 0, 4},
        {"0::/", "cpu.max", "0 100000", 0, 4},
        {"0::/", "cpu.max", "1e5 100000", 0, 4},
        {"0::/", "cpu.max", "99999999999999999999999 1", 0, 4},
    };
    for (const Quota &one : cases) {
        const Tree tree;
        tree.cores(0, 3, 0, 0);
        const std::filesystem::path root = tree.root(), file = root / "sys/fs/cgroup" / one.file;
        tree.put(root / "proc/self/cgroup", one.groups);
        tree.put(file, one.content);
        tree.put(file.parent_path() / "cpu.cfs_period_us", "100000");
        const Topology topology = tree.read();
        CHECK(topology.quota.value_or(0) == one.cores);
        CHECK(topology.default_threads() == one.threads && topology.big_cores == 4);
        const Json told = Json::parse(topology.json());
        CHECK((told.absent("cpu_quota") ? 0 : told.at("cpu_quota").number("quota")) == one.cores);
        CHECK(told.at("default_threads").whole("threads", 0, 4) == one.threads);
    }
    const Tree both; // the least of all levels counts
    both.cores(0, 3, 0, 0);
    const std::filesystem::path root = both.root();
    both.put(root / "proc/self/cgroup", "0::/a/b");
    both.put(root / "sys/fs/cgroup/cpu.max", "400000 100000");
    both.put(root / "sys/fs/cgroup/a/cpu.max", "200000 100000");
    both.put(root / "sys/fs/cgroup/a/b/cpu.max", "300000 100000");
    CHECK(both.read().quota == 2.0);
    CHECK(!Tree().read().quota);
}

// The probe of a machine that lies in a folder.
void test_machine() {
    const Tree tree;
    tree.cores(0, 1, 0, 3000000);
    const std::filesystem::path root = tree.root();
    tree.put(root / "proc/cpuinfo",
             "vendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 143\nmodel name\t: A Processor\n"
             "stepping\t: 8\nflags\t\t: fpu avx2 fma hypervisor");
    tree.put(root / "proc/meminfo", "MemTotal: 2048 kB\nMemAvailable: 1024 kB");
    tree.put(root / "proc/self/cgroup", "0::/");
    tree.put(root / "sys/fs/cgroup/cpu.max", "150000 100000");
    tree.put(root / "proc/sys/kernel/osrelease", "6.1.0-other");
    const auto told_of = [](const char *at) {
        uint64_t needed = 0;
        CHECK(ml_describe_machine(at, nullptr, 0, &needed) == ML_OK && needed > 2);
        std::string json(needed + 64, '\0'); // frequencies have more digits at one time than at another
        CHECK(ml_describe_machine(at, json.data(), json.size(), &needed) == ML_OK);
        json.resize(needed - 1);
        return Json::parse(json);
    };
    const Json told = told_of(tree.root().c_str());
    CHECK(told.at("cpu").string("cpu") == "A Processor" && told.at("cpu_model").string("cpu") == "A Processor");
    CHECK(told.at("cpu_id").string("cpu_id") == "GenuineIntel family 6 model 143 stepping 8");
    CHECK(told.at("cpu_quota").number("quota") == 1.5 && told.at("default_threads").whole("threads", 1, 2) == 1);
    CHECK(told.at("memory_bytes").whole("memory", 0, 1 << 22) == 2048 * 1024);
    CHECK(told.at("hypervisor").boolean("hypervisor") && told.at("cores_usable").whole("cores", 0, 9) == 2);
    CHECK(told.at("clusters").array("clusters").size() == 1);
    CHECK(told.at("kernel").string("kernel") == "6.1.0-other");
    const Tree nothing;
    const Json hidden = told_of(nothing.root().c_str());
    for (const char *key : {"cpu", "cpu_quota", "cores_usable", "cores_physical", "memory_bytes", "instruction_sets",
                            "kernel", "os", "architecture", "page_bytes"}) // this machine's own are not that one's
        CHECK(hidden.absent(key));
    for (const char *size : {"99999999999999999999 kB", "18014398509481984 kB", "-1 kB", "many kB", "12 MB", "kB"}) {
        tree.put(root / "proc/meminfo", std::string("MemTotal: ") + size);
        CHECK(told_of(tree.root().c_str()).absent("memory_bytes"));
    }
    const Json own = told_of(nullptr);
    for (const char *key : {"kernel", "os", "architecture", "page_bytes"}) CHECK(!own.absent(key));
    uint64_t needed = 7;
    CHECK(ml_describe_machine(nullptr, nullptr, 0, nullptr) == ML_FAILED);
    CHECK(ml_describe_artifact(nullptr, nullptr, 0, &needed) == ML_FAILED && needed == 0);
    CHECK(ml_describe_artifact("/nowhere", nullptr, 0, &needed) == ML_FAILED && needed == 0);
}

void test_interface() {
    const Cpus allowed = allowed_cpus();
    uint64_t needed = 0;
    CHECK(ml_topology_json(nullptr, nullptr, 0, &needed) == ML_OK && needed > 2);
    std::string json(needed, '\0');
    CHECK(ml_topology_json(nullptr, json.data(), needed - 1, &needed) == ML_FAILED);
    CHECK(ml_topology_json(nullptr, json.data(), needed, &needed) == ML_OK && json.size() == needed);
    CHECK(ml_topology_json(nullptr, json.data(), needed, nullptr) == ML_FAILED);
    json.resize(needed - 1);
    const Json told = Json::parse(json);
    if (!allowed.empty()) CHECK(told.at("cpus").array("cpus").size() == allowed.size());
    CHECK(ml_default_threads() >= 1 && ml_default_threads() <= kMaxThreads);
    CHECK(told.at("default_threads").whole("threads", 0, kMaxCpus) <= std::max<size_t>(allowed.size(), 1));

    ml_context *context = nullptr;
    CHECK(ml_context_create(2, &context) == ML_OK);
    CHECK(ml_context_place(nullptr, nullptr, 0) == ML_FAILED && ml_session_place(nullptr, nullptr, 0) == ML_FAILED);
    CHECK(ml_context_place(context, nullptr, 1) == ML_FAILED);
    CHECK(ml_context_place(context, nullptr, 0) == ML_OK);
    CHECK(ml_context_cpus(nullptr, nullptr, 0) == 0 && ml_session_cpus(nullptr, nullptr, 0) == 0);
    if (!allowed.empty()) {
        CHECK(ml_context_place(context, allowed.data(), 1) == ML_OK);
        uint32_t cpus[2] = {UINT32_MAX, UINT32_MAX};
        CHECK(ml_context_cpus(context, cpus, 0) == 1 && cpus[0] == UINT32_MAX);
        CHECK(ml_context_cpus(context, cpus, 2) == 1 && cpus[0] == allowed[0] && cpus[1] == UINT32_MAX);
        CHECK(allowed_cpus() == allowed);
    }
    ml_context_destroy(context);
}

// Placing and running in several threads at once, each with a pool of its own.
void test_in_threads() {
    const Cpus allowed = allowed_cpus();
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; i++)
        threads.emplace_back([&] {
            ThreadPool pool(2);
            Placement placement(pool, machine_topology());
            for (uint32_t round = 0; round < 20 && !allowed.empty(); round++) {
                placement.place(&allowed[round % allowed.size()], 1);
                const Placed placed(placement);
                pool.run([&](uint32_t thread) { pool.barrier(thread); }, 2);
            }
        });
    for (std::thread &thread : threads) thread.join();
    CHECK(allowed_cpus() == allowed);
}

} // namespace

int main() {
    test_big_cores();
    test_usable_cpus();
    test_siblings_and_caches();
    test_caches_without_a_last_level();
    test_hostile_trees();
    test_placement();
    test_cpu_quota();
    test_machine();
    test_interface();
    test_in_threads();
    return outcome();
}
