#include "session/kv_memory.h"

#include <cstring>
#include <sys/mman.h>

#include "error.h"
#include "format/check.h"

namespace ml {

KvMemory::KvMemory(const Model &model, uint32_t num_sequences) : kv_heads_(model.kv_heads), context_(model.context) {
    slot_bytes_ = product({model.kv_heads, model.context, kv_vector_bytes(model.kv_type, model.head_dim)});
    cache_bytes_ = product({slot_bytes_, model.num_slots});
    total_bytes_ = product({cache_bytes_, 2, num_sequences});
    void *mapped =
        mmap(nullptr, total_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    require(mapped != MAP_FAILED, "KV caches of ", total_bytes_, " bytes for ", num_sequences,
            " sequences cannot be allocated; export with a smaller --context, or run fewer sequences");
    data_ = static_cast<uint8_t *>(mapped);
}

KvMemory::~KvMemory() { munmap(data_, total_bytes_); }

void KvMemory::copy(uint32_t from, uint32_t from_slot, uint32_t to, uint32_t to_slot, uint32_t tokens) const {
    const uint64_t part = slot_bytes_ / kv_heads_, used = part / context_ * tokens; // of one KV head
    for (uint64_t at = 0; at < slot_bytes_; at += part) {
        std::memcpy(keys(to, to_slot) + at, keys(from, from_slot) + at, used);
        std::memcpy(values(to, to_slot) + at, values(from, from_slot) + at, used);
    }
}

} // namespace ml
