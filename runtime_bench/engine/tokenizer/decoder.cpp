#include "tokenizer/decoder.h"

#include <algorithm>
#include <string_view>

#include "tokenizer/aligned_text.h"
#include "tokenizer/pieces.h"

namespace ml {
namespace {

constexpr const char *kReplacementText = "\xEF\xBF\xBD";

// The byte of a token such as <0x0A>, or -1. The library also takes one digit behind a plus sign.
int byte_token(const std::string &token) {
    if (token.size() != 6 || token.compare(0, 3, "<0x") != 0 || token[5] != '>') return -1;
    const auto digit = [](char c) {
        const size_t at = std::string_view("0123456789abcdef0123456789ABCDEF").find(c);
        return at == std::string_view::npos ? -1 : static_cast<int>(at % 16);
    };
    const int high = token[3] == '+' ? 0 : digit(token[3]), low = digit(token[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

void replace_all(std::string &text, const Pattern &pattern, const std::string &content) {
    const auto parts = pattern.find(text);
    if (parts.empty()) return;
    check_length(text.size() + parts.size() * content.size());
    std::string out;
    size_t from = 0;
    for (const auto &[begin, end] : parts) {
        out.append(text, from, begin - from);
        out += content;
        from = end;
    }
    text = out.append(text, from, std::string::npos);
}

// Whether the bytes end in a character whose last bytes are missing.
bool ends_inside_a_character(const std::string &bytes) {
    for (size_t count = 1; count <= 3 && count <= bytes.size(); count++) {
        for (const char more : {'\x80', '\xBF'}) {
            const std::string whole = bytes.substr(bytes.size() - count) + std::string(3, more);
            const Character c = character_at(whole, 0);
            if (c.valid && c.bytes > count) return true;
        }
    }
    return false;
}

void strip(std::string &token, const std::string &content, size_t start, size_t stop) {
    size_t begin = 0, end = token.size();
    for (; start > 0 && token.compare(begin, content.size(), content) == 0; start--) begin += content.size();
    for (;
         stop > 0 && end >= begin + content.size() && token.compare(end - content.size(), content.size(), content) == 0;
         stop--)
        end -= content.size();
    token = token.substr(begin, end - begin);
}

// Byte tokens become characters, or each U+FFFD where their run is no text.
void join_bytes(std::vector<std::string> &tokens) {
    std::vector<std::string> out;
    std::string bytes;
    const auto flush = [&] {
        if (bytes.empty()) return;
        if (is_utf8(bytes)) {
            out.push_back(bytes);
        } else {
            out.insert(out.end(), bytes.size(), kReplacementText);
        }
        bytes.clear();
    };
    for (std::string &token : tokens) {
        const int byte = byte_token(token);
        if (byte >= 0) {
            bytes += static_cast<char>(byte);
        } else {
            flush();
            out.push_back(std::move(token));
        }
    }
    flush();
    tokens.swap(out);
}

// The bytes that a token's characters stand for; a token with another character is its own text.
std::string bytes_of(const std::string &token) {
    std::string bytes;
    for (size_t at = 0; at < token.size();) {
        const Character c = character_at(token, at);
        const int byte = c.valid ? byte_of_stand_in(c.code) : -1;
        if (byte < 0) return token;
        bytes += static_cast<char>(byte);
        at += c.bytes;
    }
    return bytes;
}

} // namespace

Decoder::Decoder(const Json &json) : spaced_(json.kind() == Json::Kind::null) {
    if (spaced_) return;
    for_each_part(json, "decoders", "decoder",
                  [&](const Json &part, const std::string &type) { steps_.push_back(step_of(part, type)); });
    bool fused = false;
    for (const Step &step : steps_) {
        // What works on tokens works on the whole text once it is one token.
        const bool stays = step.kind == Step::Kind::fuse || step.kind == Step::Kind::metaspace ||
                           (step.kind == Step::Kind::strip && !step.stop);
        late_ = late_ || (fused && !stays);
        strips_text_ = strips_text_ || (fused && step.kind == Step::Kind::strip && step.start);
        fused = fused || step.kind == Step::Kind::fuse || step.kind == Step::Kind::byte_level;
    }
}

bool Decoder::keeps_open(const std::string &token) const {
    std::vector<std::string> alone{token};
    bool open = late_;
    for (const Step &step : steps_) {
        if (open || step.kind == Step::Kind::metaspace || step.kind == Step::Kind::byte_level) return open;
        apply(step, alone, open);
    }
    return open;
}

Decoder::Step Decoder::step_of(const Json &json, const std::string &type) {
    Step step{};
    if (type == "Replace") {
        step.kind = Step::Kind::replace;
        step.pattern = Pattern(json.at("pattern"));
        step.content = json.at("content").string("content");
    } else if (type == "Metaspace") {
        const Metaspace metaspace(json);
        step.kind = Step::Kind::metaspace;
        step.content = metaspace.replacement;
        step.prefixed = metaspace.scheme != Metaspace::Scheme::never;
    } else if (type == "ByteFallback") {
        step.kind = Step::Kind::byte_fallback;
    } else if (type == "Fuse") {
        step.kind = Step::Kind::fuse;
    } else if (type == "Strip") {
        step.kind = Step::Kind::strip;
        step.content = one_character(json, "content");
        step.start = json.at("start").whole("start", 0, kMaxId);
        step.stop = json.at("stop").whole("stop", 0, kMaxId);
    } else {
        require(type == "ByteLevel", "the tokenizer's decoder ", type, " is not known to this program");
        step.kind = Step::Kind::byte_level;
    }
    return step;
}

Decoder::Text Decoder::decode(std::vector<std::string> tokens) const {
    Text result;
    result.open = late_ && !tokens.empty();
    for (const Step &step : steps_) apply(step, tokens, result.open);
    for (size_t i = 0; i < tokens.size(); i++) {
        if (i && spaced_) result.text += ' ';
        result.text += tokens[i];
    }
    return result;
}

void Decoder::apply(const Step &step, std::vector<std::string> &tokens, bool &open) {
    std::string whole;
    switch (step.kind) {
    case Step::Kind::replace:
        for (std::string &token : tokens) replace_all(token, step.pattern, step.content);
        return;
    case Step::Kind::metaspace:
        for (std::string &token : tokens)
            replace_all(token, Pattern::of(step.content), step.prefixed && &token == &tokens[0] ? "" : " ");
        return;
    case Step::Kind::strip:
        for (std::string &token : tokens) strip(token, step.content, step.start, step.stop);
        return;
    case Step::Kind::byte_fallback:
        open = open || (!tokens.empty() && byte_token(tokens.back()) >= 0);
        return join_bytes(tokens);
    case Step::Kind::fuse:
        for (const std::string &token : tokens) whole += token;
        tokens = {whole};
        return;
    case Step::Kind::byte_level:
        for (const std::string &token : tokens) whole += bytes_of(token);
        open = open || ends_inside_a_character(whole);
        tokens = {lossy_utf8(whole)};
    }
}

} // namespace ml
