// Which kernel set runs: the best this processor has, unless the environment or a caller says otherwise.
#include <cstdlib>
#include <mutex>
#include <vector>

#if defined(ML_HAVE_AVXVNNI)
#include <cpuid.h>
#endif
#if defined(ML_HAVE_NEON)
#include <sys/auxv.h>
#endif

#include "error.h"
#include "kernels/kernels.h"

namespace ml {
namespace {

#if defined(ML_HAVE_AVXVNNI)
bool has_avxvnni() { // CPUID leaf 7, sub-leaf 1, EAX bit 4; compilers learnt its name late
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & (1u << 4)) != 0;
}
#endif

std::vector<const Kernels *> runnable() { // best first
    std::vector<const Kernels *> sets;
#if defined(ML_HAVE_AVX2)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
#if defined(ML_HAVE_AVXVNNI)
        if (has_avxvnni()) sets.push_back(&avxvnni_kernels());
#endif
        sets.push_back(&avx2_kernels());
    }
#endif
#if defined(ML_HAVE_NEON)
    constexpr unsigned long kDotprod = 1ul << 20; // HWCAP_ASIMDDP of the arm64 Linux interface
    constexpr unsigned long kI8mm = 1ul << 13;    // HWCAP2_I8MM
    if (getauxval(AT_HWCAP2) & kI8mm) sets.push_back(&i8mm_kernels());
    if (getauxval(AT_HWCAP) & kDotprod) sets.push_back(&dotprod_kernels());
    sets.push_back(&neon_kernels());
#endif
    sets.push_back(&scalar_kernels());
    return sets;
}

const Kernels &named(const std::string &name) {
    for (const Kernels *set : runnable())
        if (name == set->name) return *set;
    throw Error(text("the kernel set '", name, "' is not one this processor can run (", available_kernels(), ")"));
}

std::mutex mutex;
const Kernels *chosen = nullptr;

} // namespace

const Kernels &current_kernels() {
    const std::lock_guard<std::mutex> lock(mutex);
    if (!chosen) {
        const char *wanted = std::getenv("MOBILELOOP_KERNELS");
        chosen = wanted && *wanted ? &named(wanted) : runnable().front();
    }
    return *chosen;
}

void use_kernels(const std::string &name) {
    const Kernels &set = named(name);
    const std::lock_guard<std::mutex> lock(mutex);
    chosen = &set;
}

const std::string &available_kernels() {
    static const std::string names = [] {
        std::string joined;
        for (const Kernels *set : runnable()) joined += (joined.empty() ? "" : ",") + std::string(set->name);
        return joined;
    }();
    return names;
}

} // namespace ml
