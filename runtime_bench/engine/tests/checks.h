// What the engine's test programs share: a check that counts, and a last line with the exit code.
#pragma once

#include <cstdio>

#include "mobileloop.h"

inline int passed = 0, failed = 0;

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (condition) {                                                                                               \
            passed++;                                                                                                  \
        } else if (++failed <= 20) {                                                                                   \
            std::printf("%s:%d: %s does not hold (last error: '%s')\n", __FILE__, __LINE__, #condition,                \
                        ml_last_error());                                                                              \
        }                                                                                                              \
    } while (false)

inline int outcome() {
    std::printf("%d passed, %d failed\n", passed, failed);
    return failed == 0 ? 0 : 1;
}
