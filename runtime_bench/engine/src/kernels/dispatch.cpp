// Which kernel set runs: the best this processor has, unless the environment or a caller says otherwise.
#include <cstdlib>
#include <mutex>
#include <vector>

#if defined(ML_HAVE_AVX2)
#include <cpuid.h>
#endif
#if defined(ML_HAVE_NEON)
#include <sys/auxv.h>
#endif

#include "error.h"
#include "kernels/kernels.h"

namespace ml {
namespace {

#if defined(ML_HAVE_AVX2)
struct Processor {
    bool avx2 = false; // with FMA and float16 conversion
    bool avxvnni = false;
};

// By CPUID itself, since compilers know its names in part and from different versions on. A system that does not save
// the 256-bit registers of its threads (XCR0, bits 1 and 2) has no AVX, whatever the processor says.
Processor processor() {
    constexpr unsigned kFma = 1u << 12, kOsXsave = 1u << 27, kAvx = 1u << 28, kF16c = 1u << 29; // leaf 1, ECX
    constexpr unsigned kAvx2 = 1u << 5;                                                         // leaf 7, EBX
    constexpr unsigned kAvxVnni = 1u << 4;                                                      // leaf 7.1, EAX
    constexpr unsigned kFirst = kFma | kOsXsave | kAvx | kF16c;
    Processor found;
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & kFirst) != kFirst) return found;
    unsigned saved = 0, upper = 0;
    asm volatile("xgetbv" : "=a"(saved), "=d"(upper) : "c"(0));
    if ((saved & 6u) != 6u || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return found;
    found.avx2 = (b & kAvx2) != 0;
    found.avxvnni = found.avx2 && a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & kAvxVnni) != 0;
    return found;
}
#endif

std::vector<const Kernels *> runnable() { // best first
    std::vector<const Kernels *> sets;
#if defined(ML_HAVE_AVX2)
    const Processor has = processor();
#if defined(ML_HAVE_AVXVNNI)
    if (has.avxvnni) sets.push_back(&avxvnni_kernels());
#endif
    if (has.avx2) sets.push_back(&avx2_kernels());
#endif
#if defined(ML_HAVE_NEON)
    constexpr unsigned long kDotprod = 1ul << 20;        // HWCAP_ASIMDDP of the arm64 Linux interface
    constexpr unsigned long kI8mm = 1ul << 13;           // HWCAP2_I8MM
    const bool dotprod = getauxval(AT_HWCAP) & kDotprod; // which the i8mm kernels use too
    if (dotprod && (getauxval(AT_HWCAP2) & kI8mm)) sets.push_back(&i8mm_kernels());
    if (dotprod) sets.push_back(&dotprod_kernels());
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
