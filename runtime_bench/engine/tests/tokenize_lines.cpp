// Tokenizes texts for tests: SPEC names a file with the `tokenizer` of an artifact's metadata; the standard input holds
// texts, each behind its length and a line end, or lists of ids in JSON where a second word is given. One JSON document
// per text: tokens, decoded text, streamed text, that of the second half behind the first; or the error that refused
// it.
#include <cstdio>
#include <string>

#include "error.h"
#include "format/json.h"
#include "format/json_writer.h"
#include "tokenizer/tokenizer.h"

namespace {

std::string read_all(FILE *file) {
    std::string content;
    char part[1 << 16];
    for (size_t got; (got = std::fread(part, 1, sizeof part, file)) > 0;) content.append(part, got);
    return content;
}

std::string streamed(const ml::Tokenizer &tokenizer, const std::vector<uint32_t> &ids, size_t behind) {
    const auto begin = ids.begin() + static_cast<std::ptrdiff_t>(behind);
    ml::TextStream stream(tokenizer, {ids.begin(), begin});
    std::string pieces;
    for (auto id = begin; id != ids.end(); ++id) pieces += stream.push(*id);
    return pieces + stream.flush();
}

std::string line(const ml::Tokenizer &tokenizer, const std::string &given, bool decode) {
    try {
        std::vector<uint32_t> ids;
        if (decode) {
            const ml::Json list = ml::Json::parse(given);
            for (const ml::Json &id : list.array("ids"))
                ids.push_back(static_cast<uint32_t>(id.whole("an id", 0, UINT32_MAX)));
        } else {
            ids = tokenizer.encode(given);
        }
        return ml::JsonObject()
            .add("ids", ids)
            .add("text", tokenizer.decode(ids))
            .add("streamed", streamed(tokenizer, ids, 0))
            .add("behind", tokenizer.decode({ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(ids.size() / 2)}))
            .add("streamed_behind", streamed(tokenizer, ids, ids.size() / 2))
            .str();
    } catch (const ml::Error &error) {
        return ml::JsonObject().add("error", error.what()).str();
    }
}

} // namespace

int main(int argc, char **argv) {
    FILE *file = argc >= 2 ? std::fopen(argv[1], "rb") : nullptr;
    if (!file) return std::printf("name the file of a tokenizer\n"), 2;
    try {
        const ml::Tokenizer tokenizer(ml::Json::parse(read_all(file)));
        std::fclose(file);
        size_t size = 0;
        while (std::scanf("%zu", &size) == 1 && std::getchar() == '\n') {
            std::string text(size, '\0');
            if (std::fread(text.data(), 1, size, stdin) != size) return 2;
            std::printf("%s\n", line(tokenizer, text, argc > 2).c_str());
        }
    } catch (const ml::Error &error) {
        std::printf("%s\n", ml::JsonObject().add("refused", error.what()).str().c_str());
    }
    return 0;
}
