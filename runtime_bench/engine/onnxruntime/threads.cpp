#include "threads.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <map>
#include <string>

#include "bounds.h"
#include "error.h"

namespace ml::onnx {
namespace {

constexpr const char *kThreadsKey = "mobileloop.threads";
constexpr const char *kCpusKey = "mobileloop.cpus";

// A configuration entry of the session, empty where it has none.
std::string entry_of(const OrtSessionOptions *options, const char *key) {
    int there = 0;
    ran(ort->HasSessionConfigEntry(options, key, &there));
    if (!there) return {};
    std::array<char, 8192> text{}; // a list of every cpu that the engine knows is shorter
    size_t size = text.size();
    ran(ort->GetSessionConfigEntry(options, key, text.data(), &size));
    return text.data();
}

uint32_t number_of(const std::string &text, const char *key, uint32_t least, uint32_t most) {
    char *end = nullptr;
    const bool digit = !text.empty() && text[0] >= '0' && text[0] <= '9';
    const unsigned long number = digit ? std::strtoul(text.c_str(), &end, 10) : 0;
    require(digit && *end == '\0' && number >= least && number <= most, "the session's ", key, " holds '", text,
            "', which is not a number from ", least, " to ", most);
    return static_cast<uint32_t>(number);
}

} // namespace

Threads threads_of(const OrtSessionOptions *options) {
    Threads threads{ml_default_threads(), {}};
    if (const std::string count = entry_of(options, kThreadsKey); !count.empty())
        threads.count = number_of(count, kThreadsKey, 1, kMaxThreads);
    const std::string list = entry_of(options, kCpusKey);
    for (size_t begin = 0; begin < list.size();) {
        const size_t end = std::min(list.find(',', begin), list.size());
        threads.cpus.push_back(number_of(list.substr(begin, end - begin), kCpusKey, 0, kMaxCpus - 1));
        begin = end + 1;
    }
    return threads;
}

std::shared_ptr<Pool> pool_of(const Threads &threads) {
    static std::mutex mutex;
    static std::map<Threads, std::weak_ptr<Pool>> pools;
    const std::lock_guard<std::mutex> lock(mutex);
    std::shared_ptr<Pool> pool = pools[threads].lock();
    if (!pool) pools[threads] = pool = std::make_shared<Pool>(threads);
    return pool;
}

} // namespace ml::onnx
