#include "tokenizer/pieces.h"

#include <array>
#include <iterator>

#include "error.h"
#include "format/json.h"
#include "tokenizer/unicode.h"

namespace ml {
namespace {

constexpr const char *kGpt2 = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr const char *kWords = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|)";
constexpr const char *kRest = R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

std::array<uint32_t, 256> make_stand_ins() {
    std::array<uint32_t, 256> codes{};
    uint32_t next = 256;
    for (uint32_t byte = 0; byte < 256; byte++) {
        const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
        codes[byte] = printable ? byte : next++;
    }
    return codes;
}

const std::array<uint32_t, 256> kStandIns = make_stand_ins();

// A text as characters, with one more place for where it ends.
struct Characters {
    explicit Characters(const std::string &text) {
        for (size_t at = 0; at < text.size();) {
            const Character c = character_at(text, at);
            codes.push_back(c.code);
            starts.push_back(at);
            at += c.bytes;
        }
        starts.push_back(text.size());
    }
    size_t size() const { return codes.size(); }
    std::vector<uint32_t> codes;
    std::vector<size_t> starts;
};

bool is_line_end(uint32_t code) { return code == '\r' || code == '\n'; }
bool is_sign(uint32_t code) { return !is_space(code) && !is_letter(code) && !is_number(code); }

// The length of a contraction's ending ('s, 't, 're, 've, 'm, 'll, 'd) at `at`, or 0.
size_t contraction(const Characters &text, size_t at, bool any_case) {
    const auto lower = [&](size_t i) -> uint32_t {
        if (i >= text.size()) return 0;
        const uint32_t code = text.codes[i];
        if (any_case && code == 0x17F) return 's'; // the long s is another case of s
        return any_case && code >= 'A' && code <= 'Z' ? code + 32 : code;
    };
    if (text.codes[at] != '\'') return 0;
    const uint32_t first = lower(at + 1), second = lower(at + 2);
    if (first == 's' || first == 't' || first == 'm' || first == 'd') return 2;
    return ((first == 'r' || first == 'v') && second == 'e') || (first == 'l' && second == 'l') ? 3 : 0;
}

template <typename Is> size_t run_end(const Characters &text, size_t at, const Is &is) {
    while (at < text.size() && is(text.codes[at])) at++;
    return at;
}

} // namespace

const std::string &stand_in(uint8_t byte) {
    static const auto texts = [] {
        std::array<std::string, 256> made;
        for (size_t i = 0; i < made.size(); i++) append_utf8(made[i], kStandIns[i]);
        return made;
    }();
    return texts[byte];
}

int byte_of_stand_in(uint32_t code) {
    static const auto bytes = [] {
        std::array<int16_t, 324> made;
        made.fill(-1);
        for (size_t i = 0; i < kStandIns.size(); i++) made[kStandIns[i]] = static_cast<int16_t>(i);
        return made;
    }();
    return code < bytes.size() ? bytes[code] : -1;
}

PreTokenizer::PreTokenizer(const Json &json) { read(json, 0); }

void PreTokenizer::read(const Json &json, int depth) {
    if (json.kind() == Json::Kind::null) return;
    const std::string &type = json.at("type").string("pre_tokenizer type");
    if (type == "Sequence") {
        require(depth < 4, "the tokenizer's sequences of pre-tokenizers nest too deep");
        for (const Json &part : json.at("pretokenizers").array("pretokenizers")) read(part, depth + 1);
    } else if (type == "Digits") {
        Step step{Step::Kind::digits};
        step.individual = json.at("individual_digits").boolean("individual_digits");
        steps_.push_back(step);
    } else if (type == "ByteLevel") {
        Step step{Step::Kind::bytes};
        step.prefix_space = json.at("add_prefix_space").boolean("add_prefix_space");
        if (!json.has("use_regex") || json.at("use_regex").boolean("use_regex")) {
            Step words{Step::Kind::pattern};
            words.prefix_space = step.prefix_space;
            words.pattern = known_pattern(kGpt2);
            step.prefix_space = false;
            steps_.push_back(words);
        }
        steps_.push_back(step);
    } else if (type == "Split") {
        const Json &pattern = json.at("pattern");
        require(pattern.has("Regex"), "the tokenizer splits by a text, which this program does not know");
        require(json.at("behavior").string("behavior") == "Isolated" && !json.at("invert").boolean("invert"),
                "the tokenizer's Split is not the plain isolated one");
        Step step{Step::Kind::pattern};
        step.pattern = known_pattern(pattern.at("Regex").string("Regex"));
        steps_.push_back(step);
    } else {
        throw Error(text("the tokenizer's pre-tokenizer ", type, " is not known to this program"));
    }
}

PreTokenizer::Pattern PreTokenizer::known_pattern(const std::string &regex) {
    Pattern pattern;
    if (regex == kGpt2) {
        pattern.spaced_numbers = true;
        return pattern;
    }
    pattern.any_case = pattern.newline_words = pattern.line_ends = true;
    pattern.number_digits = regex == text(kWords, R"(\p{N}{1,3})", kRest) ? 3 : 1;
    require(pattern.number_digits == 3 || regex == text(kWords, R"(\p{N})", kRest),
            "the tokenizer splits words by a regular expression other than those of GPT-2, Llama 3 and Qwen 2");
    return pattern;
}

std::vector<std::string> PreTokenizer::split(const std::string &whole) const {
    std::vector<std::string> pieces{whole}, cut;
    for (const Step &step : steps_) {
        cut.clear();
        for (std::string &piece : pieces) {
            if (piece.empty()) continue;
            if (step.prefix_space && piece[0] != ' ') piece.insert(0, 1, ' ');
            switch (step.kind) {
            case Step::Kind::digits: split_digits(piece, step.individual, cut); break;
            case Step::Kind::pattern: split_pattern(piece, step.pattern, cut); break;
            case Step::Kind::bytes: {
                std::string mapped;
                for (const char byte : piece) mapped += stand_in(static_cast<uint8_t>(byte));
                cut.push_back(std::move(mapped));
            }
            }
        }
        pieces.swap(cut);
    }
    return pieces;
}

void PreTokenizer::split_digits(const std::string &whole, bool individual, std::vector<std::string> &out) {
    const Characters text(whole);
    for (size_t at = 0; at < text.size();) {
        const bool digit = is_digit(text.codes[at]);
        const size_t end =
            digit && individual ? at + 1 : run_end(text, at, [&](uint32_t code) { return is_digit(code) == digit; });
        out.push_back(whole.substr(text.starts[at], text.starts[end] - text.starts[at]));
        at = end;
    }
}

// The alternatives of the regular expressions, in their order; every character is taken by one of them.
void PreTokenizer::split_pattern(const std::string &whole, const Pattern &pattern, std::vector<std::string> &out) {
    const Characters text(whole);
    const auto word_end = [&](size_t at) -> size_t {
        if (const size_t length = contraction(text, at, pattern.any_case)) return at + length;
        const uint32_t first = text.codes[at];
        const bool more = at + 1 < text.size(), space = first == ' ';
        const uint32_t second = more ? text.codes[at + 1] : 0;
        const bool opener =
            pattern.newline_words ? !is_line_end(first) && !is_letter(first) && !is_number(first) : space;
        if (is_letter(first)) return run_end(text, at, is_letter);
        if (opener && more && is_letter(second)) return run_end(text, at + 1, is_letter);
        const size_t digits = at + (pattern.spaced_numbers && space && more && is_number(second));
        if (is_number(text.codes[digits])) {
            const size_t end = run_end(text, digits, is_number);
            return pattern.number_digits ? std::min(end, digits + pattern.number_digits) : end;
        }
        const size_t signs = at + (space && more && is_sign(second));
        if (is_sign(text.codes[signs])) {
            const size_t end = run_end(text, signs, is_sign);
            return pattern.line_ends ? run_end(text, end, is_line_end) : end;
        }
        const size_t end = run_end(text, at, is_space);
        if (pattern.line_ends)
            for (size_t last = end; last > at; last--)
                if (is_line_end(text.codes[last - 1])) return last;
        return end < text.size() && end - at > 1 ? end - 1 : end; // the last space goes with the next word
    };
    for (size_t at = 0; at < text.size();) {
        const size_t end = word_end(at);
        out.push_back(whole.substr(text.starts[at], text.starts[end] - text.starts[at]));
        at = end;
    }
}

} // namespace ml
