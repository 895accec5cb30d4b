// Errors inside the engine: thrown as ml::Error, turned into one sentence at the C interface.
#pragma once

#include <stdexcept>
#include <string>
#include <type_traits>

namespace ml {

struct Error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

template <typename Part> std::string part(const Part &value) {
    if constexpr (std::is_arithmetic_v<Part>) {
        return std::to_string(value);
    } else {
        return std::string(value);
    }
}

template <typename... Parts> std::string text(const Parts &...parts) {
    std::string whole;
    ((whole += part(parts)), ...);
    return whole;
}

template <typename... Parts> void require(bool holds, const Parts &...parts) {
    if (!holds) throw Error(text(parts...));
}

} // namespace ml
