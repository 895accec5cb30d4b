// The bounds of what the engine takes: what an artifact, a record or a call may say (docs/format.md).
#pragma once

#include <cstdint>

namespace ml {

constexpr uint32_t kMaxExtent = 1u << 24;   // rows and columns; keeps every product of a record in 64 bits
constexpr uint32_t kMaxHidden = 1u << 20;   // of an artifact
constexpr uint32_t kMaxHeads = 4096;        // heads, dimensions of a head, and blocks
constexpr uint32_t kMaxContext = 1u << 20;  // tokens
constexpr uint32_t kMaxLoops = 1024;        // of an artifact's stage
constexpr uint32_t kMaxSlots = 1u << 20;    // KV slots of all applications
constexpr uint32_t kMaxHeader = 100u << 20; // bytes; the safetensors limit
constexpr uint32_t kMaxSequences = 1024;    // of one call, and of one session
constexpr uint32_t kMaxThreads = 256;
constexpr uint32_t kMaxCpus = 1024; // cpus behind it are not looked at
constexpr uint32_t kChunk = 128;    // rows per pass over the weights: bounds scratch memory

} // namespace ml
