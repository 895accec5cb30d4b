// A tokenizer's JSON, which may hold SentencePiece's form too, a zero byte and a text: read, encoded, decoded,
// streamed, and its bytes as ids too.
#include <cstring>
#include <string>

#include "error.h"
#include "format/json.h"
#include "format/json_writer.h"
#include "targets.h"
#include "tokenizer/tokenizer.h"

using fuzz::must;

namespace {

void check_stream(const ml::Tokenizer &tokenizer, std::vector<uint32_t> ids) {
    if (ids.size() > 200) ids.resize(200); // more of them take most of the time and show nothing else
    const auto half = ids.begin() + static_cast<std::ptrdiff_t>(ids.size() / 2);
    ml::TextStream stream(tokenizer), behind(tokenizer, {ids.begin(), half});
    std::string pieces;
    for (const uint32_t id : ids) pieces += stream.push(id);
    must(pieces + stream.flush() == tokenizer.decode(ids), "the pieces of a stream are not the text of all tokens");
    for (auto id = half; id != ids.end(); ++id) behind.push(*id);
    behind.flush();
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const auto *split = size ? static_cast<const uint8_t *>(std::memchr(data, 0, size)) : nullptr;
    const std::string json(reinterpret_cast<const char *>(data), split ? static_cast<size_t>(split - data) : size);
    const std::string text = split ? std::string(split + 1, data + size) : "The 3 caf\xC3\xA9s aren't open.\n";
    const std::string lossy = ml::lossy_utf8(text);
    must(ml::is_utf8(lossy) && (lossy == text) == ml::is_utf8(text), "the mended text is no UTF-8");
    try {
        ml::JsonObject spec;
        spec.add("json_text", json).add("add_bos", true).add("bos_id", 1);
        const ml::Json parsed = ml::Json::parse(json);
        if (parsed.has("sentencepiece")) spec.add("sentencepiece", parsed.at("sentencepiece"));
        const ml::Tokenizer tokenizer(ml::Json::parse(spec.str()));
        std::vector<uint32_t> numbers; // also of no token
        for (const char byte : text) numbers.push_back(static_cast<uint8_t>(byte));
        check_stream(tokenizer, numbers);
        const auto ids = tokenizer.encode(lossy);
        must(ids == tokenizer.encode(lossy), "two encodings of one text");
        check_stream(tokenizer, ids);
    } catch (const ml::Error &) {
    }
    return 0;
}
