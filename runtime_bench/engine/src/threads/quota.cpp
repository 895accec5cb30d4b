#include "threads/quota.h"

#include <algorithm>
#include <cstdint>
#include <string_view>
#include <utility>

#include "error.h"
#include "threads/sysfs.h"

namespace ml {
namespace {

constexpr size_t kMaxGroups = 64; // one above the other
constexpr uint64_t kMaxMicroseconds = uint64_t{1} << 40;

// Cores that a quota and its period come to; none where either is no number, as "max" and -1 are.
std::optional<double> cores_of(std::string_view quota, std::string_view period) {
    uint64_t allowed, of;
    if (!take_number(quota, kMaxMicroseconds, allowed) || !quota.empty() ||
        !take_number(period, kMaxMicroseconds, of) || !period.empty() || allowed == 0 || of == 0)
        return std::nullopt;
    return static_cast<double>(allowed) / static_cast<double>(of);
}

std::optional<double> quota_of_group(const std::string &folder) {
    const std::string held = read_file(folder + "cpu.max"); // "200000 100000"
    const std::string_view both = held;
    const size_t space = both.find(' ');
    if (space != std::string_view::npos) return cores_of(both.substr(0, space), both.substr(space + 1));
    return cores_of(read_file(folder + "cpu.cfs_quota_us"), read_file(folder + "cpu.cfs_period_us"));
}

// The path of this process's group in the hierarchy of the cpu controller, or of version 2 (`unified`). Inside a
// container it is mostly "/".
std::string group_path(const std::string &root, bool unified) {
    const std::string held = read_file(root + "/proc/self/cgroup"); // "4:cpu,cpuacct:/a/b" or "0::/a/b"
    for (size_t at = 0; at < held.size();) {
        const size_t end = std::min(held.find('\n', at), held.size());
        const std::string line = held.substr(at, end - at);
        at = end + 1;
        const size_t first = line.find(':'), second = first == line.npos ? first : line.find(':', first + 1);
        if (second == line.npos) continue;
        const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
        if (unified ? controllers == ",," : controllers.find(",cpu,") != controllers.npos)
            return line.substr(second + 1);
    }
    return "/";
}

} // namespace

std::optional<double> cpu_quota(const std::string &root) {
    std::optional<double> least;
    const std::string groups = root + "/sys/fs/cgroup";
    for (const auto &[hierarchy, unified] :
         {std::pair{"", true}, {"/unified", true}, {"/cpu", false}, {"/cpu,cpuacct", false}}) {
        std::string path = group_path(root, unified);
        if (path.find("..") != path.npos) path = "/"; // a group that is not seen from here
        for (size_t level = 0; level < kMaxGroups; level++) {
            while (!path.empty() && path.back() == '/') path.pop_back();
            const auto quota = quota_of_group(text(groups, hierarchy, path, "/"));
            if (quota && (!least || *quota < *least)) least = quota;
            if (path.empty()) break;
            const size_t above = path.rfind('/');
            path.erase(above == path.npos ? 0 : above);
        }
    }
    return least;
}

} // namespace ml
