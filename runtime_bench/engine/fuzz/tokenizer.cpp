// A tokenizer's JSON, a zero byte and a text: read, encoded, decoded, streamed.
#include <cstring>
#include <string>

#include "error.h"
#include "format/json.h"
#include "format/json_writer.h"
#include "targets.h"
#include "tokenizer/tokenizer.h"

using fuzz::must;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const auto *split = size ? static_cast<const uint8_t *>(std::memchr(data, 0, size)) : nullptr;
    const std::string json(reinterpret_cast<const char *>(data), split ? static_cast<size_t>(split - data) : size);
    const std::string text = split ? std::string(split + 1, data + size) : "The 3 caf\xC3\xA9s aren't open.\n";
    const std::string lossy = ml::lossy_utf8(text);
    must(ml::is_utf8(lossy) && (lossy == text) == ml::is_utf8(text), "the mended text is no UTF-8");
    try {
        const ml::Json spec =
            ml::Json::parse(ml::JsonObject().add("json_text", json).add("add_bos", true).add("bos_id", 1).str());
        const ml::Tokenizer tokenizer(spec);
        const auto ids = tokenizer.encode(lossy);
        must(ids == tokenizer.encode(lossy), "two encodings of one text");
        tokenizer.decode(ids);
        ml::TextStream stream(tokenizer);
        for (const uint32_t id : ids) stream.push(id);
    } catch (const ml::Error &) {
    }
    return 0;
}
