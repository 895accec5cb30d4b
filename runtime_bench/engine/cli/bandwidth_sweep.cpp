// `bandwidth`: GB/s by buffer size and threads, so that each cache level shows.
#include <algorithm>

#include "commands.h"
#include "engine.h"
#include "format/json_writer.h"
#include "kernels/kernels.h"
#include "measure/machine.h"

namespace ml {

const CommandText kBandwidth{
    "bandwidth",
    nullptr,
    "Measure how fast threads read a shared buffer again and again, by its size: from the first cache to memory.",
    {
        {"--threads", "LIST", "Thread counts, such as 1,2 (default: 1 and all big cores)."},
        {"--sizes", "LIST", "Buffer sizes, such as 32K,1M,256M (default: 16K to 256M in steps of 4)."},
        {"--seconds", "X", "Time of each measurement (default 0.2)."},
        {"--json", nullptr, "Print one JSON document."},
    },
    "  mobileloop-engine bandwidth\n"
    "  mobileloop-engine bandwidth --threads 1,2,4 --sizes 512K,2M,8M,256M --json\n",
};

namespace {

uint64_t read_size(std::string given) {
    const std::string whole = given;
    int shift = 0;
    if (!given.empty()) {
        const size_t unit = std::string("KMG").find(given.back());
        if (unit != std::string::npos) {
            shift = static_cast<int>(10 * (unit + 1));
            given.pop_back();
        }
    }
    const bool digits = !given.empty() && given.size() <= 11 &&
                        std::all_of(given.begin(), given.end(), [](char c) { return c >= '0' && c <= '9'; });
    const uint64_t size = digits ? std::strtoull(given.c_str(), nullptr, 10) << shift : 0;
    if (size < 4096 || size > uint64_t{1} << 36)
        throw Mistake(text("--sizes '", whole, "' is not a size from 4K to 64G, such as 512K or 8M"));
    return size;
}

std::vector<uint64_t> sizes_of(const Arguments &arguments) {
    std::vector<uint64_t> sizes;
    for (const std::string &size :
         comma_separated(arguments.value("--sizes").value_or("16K,64K,256K,1M,4M,16M,64M,256M")))
        sizes.push_back(read_size(size));
    return sizes;
}

std::string size_name(uint64_t bytes) {
    return bytes >= 1u << 20 && bytes % (1u << 20) == 0 ? text(bytes >> 20, " MiB")
           : bytes % 1024 == 0                          ? text(bytes >> 10, " KiB")
                                                        : text(bytes, " B");
}

} // namespace

int run_bandwidth(const Arguments &arguments) {
    auto threads = arguments.list("--threads", 1, 256);
    if (threads.empty()) threads = {1, ml_default_threads()};
    threads.erase(std::unique(threads.begin(), threads.end()), threads.end());
    const std::vector<uint64_t> sizes = sizes_of(arguments);
    const double seconds = arguments.number("--seconds", 0.2, 0.001, 600);
    const bool as_json = arguments.has("--json");
    const Machine machine = probe_machine();
    const std::string set = kernels();
    const auto cache = machine.last_level_cache_bytes();
    const auto padded = [](const std::string &cell) {
        return std::string(12 - std::min<size_t>(cell.size(), 12), ' ') + cell;
    };
    std::string header = padded("buffer");
    for (const uint64_t count : threads) header += padded(counted(count, "thread"));
    if (!as_json) print(text(machine.lines(set), "\nGB/s read (10^9 bytes per second)\n", header, "\n"));
    std::vector<JsonObject> found;
    for (const uint64_t size : sizes) {
        std::string row = padded(size_name(size));
        for (const uint64_t count : threads) {
            if (stop_requested) return kInterrupted;
            if (size / count < kReadStep) { // too small for so many threads
                row += padded("-");
                continue;
            }
            const double gbps = bandwidth(static_cast<uint32_t>(count), size, seconds);
            row += padded(fixed(gbps, 1));
            found.push_back(JsonObject()
                                .add("threads", count)
                                .add("size_bytes", size)
                                .add("read_gbps", gbps)
                                .add("beyond_last_level_cache", cache ? std::optional(size > *cache) : std::nullopt));
        }
        if (!as_json) print(row + "\n");
    }
    if (as_json)
        print(JsonObject()
                  .add("schema", "mobileloop.bandwidth/1")
                  .add_raw("machine", machine.json(set))
                  .add("seconds", seconds)
                  .add("bandwidth", found)
                  .str() +
              "\n");
    return 0;
}

} // namespace ml
