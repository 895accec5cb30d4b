#include "tokenizer/token_model.h"

#include <cstdio>

#include "tokenizer/bpe.h"
#include "tokenizer/steps.h"
#include "tokenizer/unigram.h"

namespace ml {

bool TokenModel::encode_bytes(std::string_view text, std::vector<uint32_t> &out) const {
    const size_t begin = out.size();
    for (const char byte : text) {
        char name[8];
        std::snprintf(name, sizeof name, "<0x%02X>", static_cast<unsigned>(static_cast<uint8_t>(byte)));
        const int64_t token = id(name);
        if (token < 0) {
            out.resize(begin);
            return false;
        }
        out.push_back(static_cast<uint32_t>(token));
    }
    return true;
}

std::unique_ptr<TokenModel> read_model(const Json &json) {
    // Files from before the library wrote types hold BPE where they hold merges.
    const std::string type = !json.absent("type")                           ? json.at("type").string("model type")
                             : json.at("vocab").kind() == Json::Kind::array ? "Unigram"
                                                                            : "BPE";
    require(type == "BPE" || type == "Unigram", "the tokenizer's model is ", type,
            ", and this program knows BPE and Unigram");
    if (type == "BPE") return std::make_unique<Bpe>(json);
    return std::make_unique<Unigram>(json);
}

} // namespace ml
