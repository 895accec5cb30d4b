// How a measured program speaks to counting_plugin.c: system calls with a number that no kernel knows. Outside the
// emulator they fail and cost nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <unistd.h>

namespace ml {

enum class Mark : long {
    region = 1, // kind, address, bytes: where misses are counted under that kind
    warm = 2,   // caches follow the program from here on
    count = 3,  // instructions, bytes and misses are counted from here on
    report = 4  // one line of JSON, then everything stops
};
enum class Region : long { weights = 1, kv = 2 };

constexpr long kMarkNumber = 0x6D6C; // the plugin has it too

inline void mark(Mark what, long kind = 0, const void *address = nullptr, size_t bytes = 0) {
    syscall(kMarkNumber, static_cast<long>(what), kind, address, bytes);
}
inline void mark(Region kind, const void *address, size_t bytes) {
    mark(Mark::region, static_cast<long>(kind), address, bytes);
}

} // namespace ml
