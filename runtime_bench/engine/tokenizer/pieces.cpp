#include "tokenizer/pieces.h"

#include <algorithm>
#include <array>
#include <iterator>

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

void to_stand_ins(AlignedText &text) {
    std::vector<AlignedText::Change> changes;
    for (size_t at = 0; at < text.text().size();) {
        const uint32_t bytes = character_at(text.text(), at).bytes;
        for (uint32_t i = 0; i < bytes; i++)
            changes.push_back({kStandIns[static_cast<uint8_t>(text.text()[at + i])], i ? 1 : 0});
        at += bytes;
    }
    text.transform(changes);
}

Metaspace::Metaspace(const Json &json) : replacement(one_character(json, "replacement")) {
    if (!json.absent("prepend_scheme")) {
        const std::string &name = json.at("prepend_scheme").string("prepend_scheme");
        require(name == "always" || name == "first" || name == "never", "the tokenizer's prepend_scheme ", name,
                " is not known to this program");
        scheme = name == "first" ? Scheme::first : name == "never" ? Scheme::never : Scheme::always;
    }
    const bool bare = !json.absent("add_prefix_space") && !json.at("add_prefix_space").boolean("add_prefix_space");
    require(!bare || scheme == Scheme::never, "the tokenizer's add_prefix_space and prepend_scheme contradict each "
                                              "other, which the tokenizers library refuses too");
    if (!json.absent("split")) split = json.at("split").boolean("split");
}

PreTokenizer::PreTokenizer(const Json &json) {
    if (json.kind() == Json::Kind::null) return;
    for_each_part(json, "pretokenizers", "pre-tokenizer",
                  [&](const Json &part, const std::string &type) { read(part, type); });
}

void PreTokenizer::read(const Json &json, const std::string &type) {
    Step step{};
    if (type == "Digits") {
        step.kind = Step::Kind::digits;
        step.individual = json.at("individual_digits").boolean("individual_digits");
    } else if (type == "ByteLevel") {
        Step words{};
        if (json.at("add_prefix_space").boolean("add_prefix_space")) {
            words.kind = Step::Kind::prefix_space;
            steps_.push_back(words);
        }
        if (!json.has("use_regex") || json.at("use_regex").boolean("use_regex")) {
            words.kind = Step::Kind::words;
            known_words(kGpt2, words.words);
            steps_.push_back(words);
        }
        step.kind = Step::Kind::bytes;
    } else if (type == "Split") {
        return read_split(json);
    } else if (type == "WhitespaceSplit") {
        step.kind = Step::Kind::spaces;
    } else if (type == "Whitespace") {
        step.kind = Step::Kind::plain_words;
    } else {
        require(type == "Metaspace", "the tokenizer's pre-tokenizer ", type, " is not known to this program");
        Metaspace metaspace(json);
        step.kind = Step::Kind::metaspace;
        step.scheme = metaspace.scheme;
        step.replacement = std::move(metaspace.replacement);
        step.pattern = Pattern::of(" ");
        step.cuts = metaspace.split;
    }
    steps_.push_back(std::move(step));
}

void PreTokenizer::read_split(const Json &json) {
    const Json &pattern = json.at("pattern");
    const std::string &behavior = json.at("behavior").string("behavior");
    constexpr const char *kNames[] = {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
    const auto name = std::find(std::begin(kNames), std::end(kNames), behavior);
    require(name != std::end(kNames), "the tokenizer splits by the behavior ", behavior,
            ", which this program does not know");
    Step step{};
    step.behavior = static_cast<Behavior>(name - std::begin(kNames));
    step.inverted = json.at("invert").boolean("invert");
    if (pattern.has("Regex") && !Pattern::knows(pattern.at("Regex").string("Regex"))) {
        step.kind = Step::Kind::words;
        require(known_words(pattern.at("Regex").string("Regex"), step.words),
                "the tokenizer splits words by a regular expression other than those of GPT-2, Llama 3 and Qwen 2");
        require(step.behavior == Behavior::isolated || (step.behavior == Behavior::removed && step.inverted),
                "the tokenizer's Split is not the plain isolated one");
    } else {
        step.kind = Step::Kind::pattern;
        step.pattern = Pattern(pattern);
    }
    steps_.push_back(std::move(step));
}

bool PreTokenizer::known_words(const std::string &regex, Words &words) {
    if (regex == kGpt2) {
        words.spaced_numbers = true;
        return true;
    }
    words.any_case = words.newline_words = words.line_ends = true;
    words.number_digits = regex == text(kWords, R"(\p{N}{1,3})", kRest) ? 3 : 1;
    return words.number_digits == 3 || regex == text(kWords, R"(\p{N})", kRest);
}

std::vector<std::string> PreTokenizer::split(const AlignedText &whole) const {
    std::vector<AlignedText> pieces{whole}, cut;
    for (const Step &step : steps_) {
        cut.clear();
        for (AlignedText &piece : pieces)
            if (!piece.empty()) split(step, std::move(piece), cut);
        pieces.swap(cut);
    }
    std::vector<std::string> words;
    for (AlignedText &piece : pieces) words.push_back(std::move(piece).take());
    return words;
}

void PreTokenizer::split(const Step &step, AlignedText piece, std::vector<AlignedText> &out) {
    const auto runs_of = [&](const auto &is) {
        Parts runs;
        const std::string &text = piece.text();
        for (size_t at = 0; at < text.size();) {
            const Character c = character_at(text, at);
            if (is(c.code)) {
                if (runs.empty() || runs.back().second != at) runs.emplace_back(at, at);
                runs.back().second = at + c.bytes;
            }
            at += c.bytes;
        }
        return runs;
    };
    switch (step.kind) {
    case Step::Kind::digits: return split_digits(piece, step.individual, out);
    case Step::Kind::words: return split_words(piece, step.words, out);
    case Step::Kind::pattern:
        return split_by(piece, step.pattern.find(piece.text()), step.behavior, step.inverted, out);
    case Step::Kind::spaces: return split_by(piece, runs_of(is_space), Behavior::removed, false, out);
    case Step::Kind::plain_words: return split_plain_words(piece, out);
    case Step::Kind::prefix_space:
        if (piece.text()[0] != ' ') piece.prepend(" ");
        break;
    case Step::Kind::bytes: to_stand_ins(piece); break;
    case Step::Kind::metaspace:
        piece.replace(step.pattern.find(piece.text()), step.replacement);
        if (piece.text().compare(0, step.replacement.size(), step.replacement) != 0 &&
            (step.scheme == Metaspace::Scheme::always ||
             (step.scheme == Metaspace::Scheme::first && piece.begin() == 0)))
            piece.prepend(step.replacement);
        if (step.cuts)
            return split_by(piece, Pattern::of(step.replacement).find(piece.text()), Behavior::merged_with_next, false,
                            out);
    }
    out.push_back(std::move(piece));
}

// What is found, and what lies between, goes, stays alone or goes to a neighbour.
void PreTokenizer::split_by(const AlignedText &text, const Parts &found, Behavior behavior, bool inverted,
                            std::vector<AlignedText> &out) {
    struct Part {
        size_t begin, end;
        bool match;
    };
    std::vector<Part> parts;
    size_t from = 0;
    const size_t size = text.text().size();
    for (const auto &[begin, end] : found) {
        if (begin > from) parts.push_back({from, begin, inverted});
        parts.push_back({begin, end, !inverted});
        from = end;
    }
    if (size > from) parts.push_back({from, size, inverted});
    std::vector<Part> kept;
    const bool backwards = behavior == Behavior::merged_with_next;
    if (backwards) std::reverse(parts.begin(), parts.end());
    bool last_match = false;
    for (const Part &part : parts) {
        const bool merges = behavior == Behavior::contiguous ? part.match == last_match
                            : behavior == Behavior::removed || behavior == Behavior::isolated
                                ? false
                                : part.match && !last_match;
        last_match = part.match;
        if (merges && !kept.empty()) {
            (backwards ? kept.back().begin : kept.back().end) = backwards ? part.begin : part.end;
        } else if (behavior != Behavior::removed || !part.match) {
            kept.push_back(part);
        }
    }
    if (backwards) std::reverse(kept.begin(), kept.end());
    for (const Part &part : kept) out.push_back(text.slice(part.begin, part.end));
}

void PreTokenizer::split_digits(const AlignedText &whole, bool individual, std::vector<AlignedText> &out) {
    const Characters text(whole.text());
    for (size_t at = 0; at < text.size();) {
        const bool digit = is_digit(text.codes[at]);
        const size_t end =
            digit && individual ? at + 1 : run_end(text, at, [&](uint32_t code) { return is_digit(code) == digit; });
        out.push_back(whole.slice(text.starts[at], text.starts[end]));
        at = end;
    }
}

// Runs of word characters, and runs of signs.
void PreTokenizer::split_plain_words(const AlignedText &whole, std::vector<AlignedText> &out) {
    const Characters text(whole.text());
    const auto kind = [](uint32_t code) { return is_space(code) ? 0 : is_word(code) ? 1 : 2; };
    for (size_t at = 0; at < text.size();) {
        const int first = kind(text.codes[at]);
        const size_t end = run_end(text, at, [&](uint32_t code) { return kind(code) == first; });
        if (first) out.push_back(whole.slice(text.starts[at], text.starts[end]));
        at = end;
    }
}

// The alternatives of the regular expressions, in their order; every character is taken by one of them.
void PreTokenizer::split_words(const AlignedText &whole, const Words &pattern, std::vector<AlignedText> &out) {
    const Characters text(whole.text());
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
        out.push_back(whole.slice(text.starts[at], text.starts[end]));
        at = end;
    }
}

} // namespace ml
