// The tokenizer that an artifact carries.
#pragma once

#include <memory>

#include "error.h"
#include "format/description.h"
#include "tokenizer/tokenizer.h"

namespace ml {

// Throws ml::Error, which names the way out, where there is none or this program does not know it.
inline std::unique_ptr<Tokenizer> read_tokenizer(const Description &about, const char *way_out) {
    require(about.tokenizer() != nullptr, about.path, " carries no tokenizer, because its source had none; ", way_out);
    try {
        return std::make_unique<Tokenizer>(*about.tokenizer());
    } catch (const Error &error) {
        throw Error(text(error.what(), "; use mobileloop run, or ", way_out));
    }
}

} // namespace ml
