// Small values and aligned records out of a fuzz input.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>

#include "mobileloop.h"

namespace fuzz {

class Input {
public:
    Input(const uint8_t *data, size_t size) : data_(data), size_(size) {}
    size_t left() const { return size_; }
    uint8_t byte() {
        if (size_ == 0) return 0;
        size_--;
        return *data_++;
    }
    template <typename T> T value() {
        T result{};
        const size_t take = std::min(sizeof result, size_);
        std::memcpy(&result, data_, take);
        data_ += take;
        size_ -= take;
        return result;
    }
    const uint8_t *data() const { return data_; }

private:
    const uint8_t *data_;
    size_t size_;
};

// A copy of exactly these bytes at an aligned place, so that one byte read beyond them is seen.
class Record {
public:
    Record(const uint8_t *data, size_t size) : bytes_(new uint32_t[(size + 3) / 4]), size_(size) {
        if (size) std::memcpy(bytes_.get(), data, size);
    }
    ml_record get() const { return {bytes_.get(), size_}; }

private:
    std::unique_ptr<uint32_t[]> bytes_;
    size_t size_;
};

// What a record's header says, wherever it is true or not; 0 where it is cut short.
inline uint32_t header_field(const uint8_t *data, size_t size, size_t offset) {
    uint32_t value = 0;
    if (offset + sizeof value <= size) std::memcpy(&value, data + offset, sizeof value);
    return value;
}

} // namespace fuzz
