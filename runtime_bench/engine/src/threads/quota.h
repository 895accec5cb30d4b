// Quotas of cpu time, as containers have them.
#pragma once

#include <optional>
#include <string>

namespace ml {

// The cpu time that the control groups around this process allow, in cores: the least quota of its own group and of
// those above it, as far as they are seen from here (cgroup v2 `cpu.max`, v1 `cpu.cfs_quota_us`). None where nothing
// limits it.
std::optional<double> cpu_quota(const std::string &root);

} // namespace ml
